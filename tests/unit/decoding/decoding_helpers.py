"""What the tests of decoders share."""

from collections.abc import Sequence

import numpy as np

from stream_trainer.schema import ArrayFeature, CategoryFeature, NumberFeature, Schema, Target
from stream_trainer.types import ClosedBy, Decoded, RawBatch, RecordChunk, TopicPartition

SCHEMA = Schema(
    numbers=(NumberFeature(name="distance"), NumberFeature(name="wind", optional=True)),
    categories=(CategoryFeature(name="carrier", buckets=32), CategoryFeature(name="route", buckets=8, optional=True)),
    target=Target.binary("delayed"),
)
SCHEMA_WITH_ARRAY = Schema(
    numbers=SCHEMA.numbers,
    categories=SCHEMA.categories,
    arrays=(ArrayFeature(name="image", shape=(2, 3)),),
    target=SCHEMA.target,
)


def chunk_of(values: Sequence[bytes | None], *, partition: int = 0, first_offset: int = 0) -> RecordChunk:
    n = len(values)
    return RecordChunk(
        partition=TopicPartition("flights", partition),
        offsets=range(first_offset, first_offset + n),
        timestamps_ms=[1_000 + first_offset + i for i in range(n)],
        keys=[f"key {first_offset + i}".encode() for i in range(n)],
        values=list(values),
        headers=[(("trace", b"%d" % i),) for i in range(n)],
        next_offset=first_offset + n,
    )


def raw_batch(*chunks: RecordChunk) -> RawBatch:
    return RawBatch(
        chunks=chunks, next_offsets={c.partition: c.next_offset for c in chunks}, closed_by=ClosedBy.RECORDS
    )


def decode(decoder, *values: bytes | None) -> Decoded:
    return decoder.decode(raw_batch(chunk_of(values)))


def assert_accounts_for_all(decoded: Decoded, n_records: int) -> None:
    """Every record is in exactly one place, and what a model will see is finite and consistent."""
    batch = decoded.batch
    assert n_records == len(batch) + len(decoded.rejects) + decoded.n_tombstones
    assert len(batch) == len(batch.x_NF) == len(batch.category_NC) == len(batch.timestamp_ms_N)
    for column in (batch.x_NF, *batch.arrays.values()):
        assert np.float32 == column.dtype
        assert np.isfinite(column).all()
    for reject in decoded.rejects:
        assert reject.detail.isprintable(), repr(reject.detail)
        assert len(reject.detail) < 400


def assert_same(left: Decoded, right: Decoded) -> None:
    assert left.n_tombstones == right.n_tombstones
    assert left.rejects == right.rejects
    for name in ("x_NF", "category_NC", "y_N", "timestamp_ms_N", "missing_NF"):
        np.testing.assert_array_equal(getattr(left.batch, name), getattr(right.batch, name), err_msg=name)
