"""Batches that the tests of models share: a learnable stream, seeded, in any cut."""

from collections.abc import Iterator, Sequence

import numpy as np

from stream_trainer.schema import ArrayFeature, CategoryFeature, NumberFeature, Schema, Target, TargetKind
from stream_trainer.types import Batch

NUMBERS = Schema(numbers=tuple(NumberFeature(name=f"x{i}") for i in range(4)), target=Target.binary("y"))
MIXED = Schema(
    numbers=(NumberFeature(name="a"), NumberFeature(name="b", optional=True), NumberFeature(name="c")),
    categories=(CategoryFeature(name="k", buckets=6, optional=True), CategoryFeature(name="l", buckets=3)),
    arrays=(ArrayFeature(name="image", shape=(2, 3)),),
    target=Target(name="y", kind=TargetKind.CLASSES, classes=("red", "green", "blue")),
)
REGRESSION = Schema(
    numbers=tuple(NumberFeature(name=f"x{i}") for i in range(4)),
    categories=(CategoryFeature(name="k", buckets=5),),
    target=Target(name="price", kind=TargetKind.NUMBER),
)


def records(schema: Schema, n: int, seed: int = 0) -> Batch:
    """n records whose target depends on the numbers and on the categories."""
    rng = np.random.default_rng(seed)
    n_numbers = len(schema.numbers)
    missing_NF = None
    x_NF = (rng.normal(size=(n, n_numbers)) * 10.0 ** np.arange(n_numbers) + 5.0).astype(np.float32)
    if schema.optional_numbers:
        missing_NF = np.zeros((n, n_numbers), dtype=bool)
        missing_NF[:, list(schema.optional_numbers)] = rng.random((n, len(schema.optional_numbers))) < 0.3
        x_NF[missing_NF] = 0.0
    category_NC = np.stack(
        [rng.integers(feature.width, size=n) for feature in schema.categories] or [np.zeros(n)], axis=1
    )[:, : len(schema.categories)].astype(np.int64)
    score_N = (x_NF[:, 0] - 5.0) + 0.1 * rng.normal(size=n)
    if schema.categories:
        score_N = score_N + category_NC[:, 0] - 2.0
    if schema.target.kind is TargetKind.NUMBER:
        y_N = (1000.0 + 50.0 * score_N).astype(np.float32)
    else:
        cuts = np.linspace(-0.7, 0.7, len(schema.target.classes) + 1)[1:-1]
        y_N = np.digitize(score_N, cuts).astype(np.int64)
    arrays = {feature.name: rng.normal(size=(n, *feature.shape)).astype(np.float32) for feature in schema.arrays}
    return Batch(
        x_NF=x_NF,
        missing_NF=missing_NF,
        category_NC=category_NC,
        y_N=y_N,
        arrays=arrays,
        timestamp_ms_N=np.full(n, -1, dtype=np.int64),
    )


def part(batch: Batch, start: int, stop: int) -> Batch:
    """Records start to stop, as a batch of their own."""
    return batch.rows(slice(start, stop))


def cut(batch: Batch, sizes: Sequence[int]) -> Iterator[Batch]:
    """The records of `batch` in batches of these sizes, over and over until they are used up."""
    start, turn = 0, 0
    while start < len(batch):
        stop = start + sizes[turn % len(sizes)]
        yield part(batch, start, stop)
        start, turn = stop, turn + 1
