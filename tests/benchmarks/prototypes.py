"""A made-up task whose inputs can change places: 64 inputs around one of 40 prototypes, four to each of ten classes."""

from collections.abc import Iterator

import numpy as np

from stream_trainer.schema import ArrayFeature, Schema, Target, TargetKind
from stream_trainer.types import Batch

__all__ = ["INPUTS", "SCHEMA", "batches_around", "draw_prototypes"]

INPUTS, PROTOTYPES, NOISE = 64, 40, 1.5
CLASSES = tuple("0123456789")
SCHEMA = Schema(
    arrays=(ArrayFeature(name="image", shape=(INPUTS,)),),
    target=Target(name="class", kind=TargetKind.CLASSES, classes=CLASSES),
)


def draw_prototypes(rng: np.random.Generator) -> np.ndarray:
    """(40, 64), for all tasks of one stream."""
    return rng.normal(size=(PROTOTYPES, INPUTS))


def batches_around(
    prototypes: np.ndarray, order: np.ndarray, rng: np.random.Generator, *, batch: int, batches: int
) -> Iterator[Batch]:
    """Batches of `batch` records whose inputs stand in this order."""
    for _ in range(batches):
        chosen = rng.integers(len(prototypes), size=batch)
        noise = rng.normal(scale=NOISE, size=(batch, INPUTS))
        yield Batch(
            x_NF=np.zeros((batch, 0), np.float32),
            missing_NF=None,
            category_NC=np.zeros((batch, 0), np.int64),
            y_N=chosen % len(CLASSES),
            arrays={"image": (prototypes[chosen] + noise)[:, order].astype(np.float32)},
            timestamp_ms_N=np.full(batch, -1, np.int64),
        )
