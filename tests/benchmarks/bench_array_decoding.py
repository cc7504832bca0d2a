"""How many images a second are decoded, as nested lists and as base64 of their bytes?

The product's JSON decoder on 256 random images of 28 x 28 bytes, CPU time of one process, the forms in turn, median of
15 rounds.

    python tests/benchmarks/bench_array_decoding.py --out tests/benchmarks/array_decoding_DATE.md
"""

import argparse
import base64
import json
import time
from datetime import date
from pathlib import Path

import numpy as np
from resumable import describe_machine

from stream_trainer.decoding import JsonDecoder
from stream_trainer.schema import ArrayBytes, ArrayFeature, Schema, Target, TargetKind
from stream_trainer.types import ClosedBy, RawBatch, RecordChunk, TopicPartition

RECORDS, SHAPE, ROUNDS, SEED = 256, (28, 28), 15, 0
FORMS = {
    "nested lists": (None, lambda image: image.tolist()),
    "base64 of uint8": (ArrayBytes.UINT8, lambda image: base64.b64encode(image).decode()),
    "base64 of float32": (ArrayBytes.FLOAT32, lambda image: base64.b64encode(image.astype("<f4")).decode()),
}


def raw_batch(values: list[bytes]) -> RawBatch:
    chunk = RecordChunk(
        partition=TopicPartition("images", 0),
        offsets=range(len(values)),
        timestamps_ms=[0] * len(values),
        keys=[None] * len(values),
        values=values,
        headers=[()] * len(values),
        next_offset=len(values),
    )
    return RawBatch(chunks=(chunk,), next_offsets={}, closed_by=ClosedBy.RECORDS)


def measure() -> list[tuple[str, int, float]]:
    """Form, bytes of a record, records per second of CPU."""
    images = np.random.default_rng(SEED).integers(0, 256, size=(RECORDS, *SHAPE)).astype(np.uint8)
    target = Target(name="label", kind=TargetKind.CLASSES, classes=tuple("0123456789"))
    work = {}
    for form, (element, encode) in FORMS.items():
        values = [json.dumps({"image": encode(i), "label": 3}, separators=(",", ":")).encode() for i in images]
        schema = Schema(arrays=(ArrayFeature(name="image", shape=SHAPE, bytes=element),), target=target)
        work[form] = JsonDecoder(schema), raw_batch(values), len(values[0])
    rates: dict[str, list[float]] = {form: [] for form in work}
    for _ in range(ROUNDS):
        for form, (decoder, raw, _) in work.items():
            repeats = 1 if form == "nested lists" else 5
            started = time.process_time()
            for _ in range(repeats):
                assert not decoder.decode(raw).rejects
            rates[form].append(repeats * RECORDS / (time.process_time() - started))
    return [(form, n_bytes, float(np.median(rates[form]))) for form, (_, _, n_bytes) in work.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = measure()
    lines = [
        f"# Decoding images, {date.today()}",
        "",
        f"`bench_array_decoding.py`: {RECORDS} random images of {SHAPE[0]} x {SHAPE[1]} bytes a batch, median of "
        f"{ROUNDS} rounds, seed {SEED}, CPU time, {describe_machine()}.",
        "",
        "| form | bytes a record | records/s | of nested lists |",
        "|---|---|---|---|",
        *(f"| {form} | {size:,} | {rate:,.0f} | {rate / rows[0][2]:.1f} |" for form, size, rate in rows),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
