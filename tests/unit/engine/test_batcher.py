"""Where batches end: every bound, one record included, and that nothing else decides."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_trainer.engine.batcher import Batcher, BatchPolicy, Growth
from stream_trainer.errors import ConfigError
from stream_trainer.types import ClosedBy, RecordChunk, TopicPartition

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


def chunk(first: int, n: int, *, size_bytes: int = 2, partition: TopicPartition = A, next_offset: int | None = None):
    return RecordChunk(
        partition=partition,
        offsets=list(range(first, first + n)),
        timestamps_ms=[0] * n,
        keys=[None] * n,
        values=[b"x" * size_bytes] * n,
        headers=[()] * n,
        next_offset=first + n if next_offset is None else next_offset,
    )


def cut_all(policy: BatchPolicy, chunks: list[RecordChunk]) -> list[tuple[list[int], ClosedBy]]:
    """Offsets and reason of every batch, the rest drained."""
    batcher, batches = Batcher(policy, records_seen=0), []
    for each in chunks:
        batcher.add(each, now_s=0.0)
        while raw := batcher.take(now_s=0.0):
            batches.append(raw)
    while raw := batcher.take(now_s=0.0, drain=True):
        batches.append(raw)
    return [([offset for c in raw.chunks for offset in c.offsets], raw.closed_by) for raw in batches]


def test_one_record_is_a_batch_once_it_is_old_enough():
    """A quiet topic must not make its records wait for company for ever."""
    batcher = Batcher(BatchPolicy(records_max=100, age_s_max=0.5), records_seen=0)
    batcher.add(chunk(0, 1), now_s=10.0)

    assert batcher.take(now_s=10.49) is None
    raw = batcher.take(now_s=10.5)
    assert raw is not None
    assert (1, ClosedBy.AGE) == (len(raw), raw.closed_by)


def test_zero_age_takes_what_is_there():
    """`age_s_max: 0`: the batch is whatever one poll brought."""
    batcher = Batcher(BatchPolicy(records_max=100, age_s_max=0.0), records_seen=0)
    batcher.add(chunk(0, 3), now_s=1.0)

    assert 3 == len(batcher.take(now_s=1.0))


def test_the_source_waits_no_longer_than_the_oldest_record_may():
    """Else age would be bounded by the poll, not by the policy."""
    batcher = Batcher(BatchPolicy(records_max=100, age_s_max=0.5), records_seen=0)

    assert batcher.wait_s(now_s=7.0, wait_s_max=9.0) == 9.0
    batcher.add(chunk(0, 1), now_s=7.0)
    assert batcher.wait_s(now_s=7.2, wait_s_max=9.0) == pytest.approx(0.3)
    assert batcher.wait_s(now_s=8.0, wait_s_max=9.0) == 0.0


def test_the_record_that_crosses_the_byte_bound_comes_along():
    """Otherwise a record larger than the bound could never be learned."""
    policy = BatchPolicy(records_max=100, bytes_max=10, age_s_max=None)

    assert cut_all(policy, [chunk(0, 5, size_bytes=4)]) == [([0, 1, 2], ClosedBy.BYTES), ([3, 4], ClosedBy.DRAIN)]
    assert cut_all(policy, [chunk(0, 2, size_bytes=99)]) == [([0], ClosedBy.BYTES), ([1], ClosedBy.BYTES)]


@settings(deadline=None, max_examples=100)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    records_max=st.integers(1, 12),
    bytes_max=st.integers(1, 60),
)
def test_without_age_the_cut_depends_on_the_records_alone(sizes, records_max, bytes_max):
    """A restart polls in other portions; the batches, and so the model, must not notice."""
    policy = BatchPolicy(records_max=records_max, bytes_max=bytes_max, age_s_max=None)
    portions, first = [], 0
    for size in sizes:
        portions.append(chunk(first, size, size_bytes=3))
        first += size

    assert cut_all(policy, portions) == cut_all(policy, [chunk(0, first, size_bytes=3)])


def test_positions_follow_the_cut_and_skip_gaps():
    """A compacted log has holes: the position after a chunk is the log's word, not the last offset plus one."""
    batcher = Batcher(BatchPolicy(records_max=3, age_s_max=None), records_seen=0)
    batcher.add(chunk(0, 2, partition=B, next_offset=10), now_s=0.0)
    batcher.add(chunk(5, 2), now_s=0.0)
    raw = batcher.take(now_s=0.0)

    assert raw is not None
    assert {B: 10, A: 6} == raw.next_offsets


def test_an_empty_chunk_moves_the_position_at_the_end():
    """Transaction markers after the last record: a run until the end must reach the end."""
    batcher = Batcher(BatchPolicy(records_max=3, age_s_max=None), records_seen=0)
    batcher.add(chunk(12, 0, next_offset=14), now_s=0.0)
    raw = batcher.take(now_s=0.0, drain=True)

    assert raw is not None
    assert (0, {A: 14}) == (len(raw), raw.next_offsets)


def test_age_waits_for_records_min():
    """An optimizer that needs many records is not given few, except at the end."""
    batcher = Batcher(BatchPolicy(records_max=8, records_min=4, age_s_max=0.1), records_seen=0)
    batcher.add(chunk(0, 3), now_s=0.0)

    assert batcher.take(now_s=99.0) is None
    batcher.add(chunk(3, 1), now_s=99.0)
    assert 4 == len(batcher.take(now_s=99.0))


def test_growth_continues_where_a_restart_left_it():
    """The schedule counts records, not batches and not since when the process runs."""
    policy = BatchPolicy(records_max=64, age_s_max=None, growth=Growth(start=4, over_records=100))
    batcher = Batcher(policy, records_seen=50)
    batcher.add(chunk(50, 500), now_s=0.0)

    sizes = [len(batcher.take(now_s=0.0)) for _ in range(4)]
    assert [16, 25, 50, 64] == sizes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"records_max": 0}, "batch.records_max is 0; it must be at least 1."),
        ({"age_s_max": -1.0}, "batch.age_s_max is -1.0; expected 0 to 3600 seconds, or null for no bound."),
        ({"records_min": 9, "records_max": 8}, "batch.records_min is 9; expected 1 to 8, the smallest limit."),
    ],
)
def test_a_policy_that_cannot_work_is_refused_at_birth(options, message):
    """Whoever reads the message should know which key to change."""
    with pytest.raises(ConfigError) as caught:
        BatchPolicy(**options)

    assert message == str(caught.value)
