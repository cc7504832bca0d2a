"""The batches of the journal again, whatever the source makes of them this time."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_trainer.engine import recut as recut_module
from stream_trainer.engine.batcher import Batcher, BatchPolicy, Growth
from stream_trainer.engine.recut import Recut
from stream_trainer.errors import DataLost
from stream_trainer.testing.fakes import chunk_of
from stream_trainer.types import ClosedBy, Cut, RecordChunk, Run, TopicPartition

A, B, C = (TopicPartition("t", i) for i in range(3))
START = {A: 0, B: 0, C: 0}


def cut(step, *runs, n_records=None, closed_by=ClosedBy.AGE) -> Cut:
    n_records = n_records if n_records is not None else sum(run.next_offset - run.first_offset for run in runs)
    return Cut(step=step, runs=tuple(runs), n_records=n_records, closed_by=closed_by)


def recut(*cuts, policy=None, ends=None, positions=START, **options) -> Recut:
    batcher = Batcher(policy or BatchPolicy(records_max=2, age_s_max=None), records_seen=0)
    return Recut(cuts, batcher, positions=positions, ends=ends or {}, **options)


def piece(partition, first, end) -> RecordChunk:
    """Every value says which record it is."""
    values = [f"{partition}@{offset}".encode() for offset in range(first, end)]
    return chunk_of(values, first_offset=first, partition=partition)


def values(batch) -> list[bytes]:
    return [value for chunk in batch.chunks for value in chunk.values]


def test_runs_come_in_the_order_of_the_journal_not_of_arrival():
    """Order decides: models learn record by record."""
    recutter = recut(cut(1, Run(B, 0, 1), Run(A, 0, 2), Run(B, 1, 2)))
    recutter.add(piece(A, 0, 2), now_s=0.0)
    assert recutter.take(now_s=0.0) is None
    recutter.add(piece(B, 0, 2), now_s=0.0)
    batch = recutter.take(now_s=0.0)

    assert [b"t-1@0", b"t-0@0", b"t-0@1", b"t-1@1"] == values(batch)
    assert ({A: 2, B: 2}, ClosedBy.AGE) == (batch.next_offsets, batch.closed_by)


def test_what_lies_beyond_goes_to_the_batcher_in_order_of_arrival_with_its_age():
    """A record waits for company since it arrived, not since the journal ended."""
    policy = BatchPolicy(records_max=100, age_s_max=5.0)
    recutter = recut(cut(1, Run(A, 0, 1), Run(B, 0, 1)), policy=policy)
    for now_s, chunk in enumerate([piece(A, 0, 3), piece(C, 0, 1), piece(B, 0, 2), piece(A, 3, 4)]):
        recutter.add(chunk, now_s=float(now_s))
    recutter.take(now_s=3.0)

    assert recutter.take(now_s=4.9) is None
    assert 0.5 == recutter.wait_s(now_s=4.5, wait_s_max=9.0)
    assert [b"t-0@1", b"t-0@2", b"t-2@0", b"t-1@1", b"t-0@3"] == values(recutter.take(now_s=5.0))


def test_the_growth_of_batches_goes_on_from_the_records_of_the_journal():
    """The limit is a function of records seen, in this life or an earlier one."""
    policy = BatchPolicy(records_max=64, age_s_max=None, growth=Growth(start=1, over_records=10))
    recutter = recut(cut(1, Run(A, 0, 10)), policy=policy)
    recutter.add(piece(A, 0, 74), now_s=0.0)

    assert [10, 64] == [len(recutter.take(now_s=0.0)) for _ in range(2)]


def test_a_compacted_record_is_absent_and_told(caplog):
    """The position passed it: it will not come any more, and nobody waits for it."""
    recutter = recut(cut(1, Run(A, 0, 4)), cut(2, Run(A, 4, 6)), cut(3, Run(A, 6, 8)))
    gone = chunk_of([], first_offset=6, partition=A)  # 4 and 5
    for chunk in (piece(A, 0, 1), piece(A, 3, 4), gone, piece(A, 6, 8)):
        recutter.add(chunk, now_s=0.0)
    with caplog.at_level(logging.WARNING):
        batches = [recutter.take(now_s=0.0) for _ in range(3)]

    assert [[b"t-0@0", b"t-0@3"], [], [b"t-0@6", b"t-0@7"]] == [values(batch) for batch in batches]
    assert {A: 6} == batches[1].next_offsets
    assert [
        "step 1: the log holds 2 of the 4 records that this batch had when it was cut first",
        "step 2: the log holds 0 of the 2 records that this batch had when it was cut first",
    ] == caplog.messages


def test_a_source_that_begins_behind_a_run_is_not_waited_for():
    """Retention passed us and the operator said to go on: `lost_data: earliest`."""
    recutter = recut(cut(1, Run(A, 0, 4)), positions={A: 9})

    assert [] == values(recutter.take(now_s=0.0))


def test_a_log_that_ends_before_the_journal_has_lost_data():
    """To wait for offsets that were taken back would be to wait for ever."""
    with pytest.raises(DataLost, match=r"t-0: the journal names offsets up to 4 \(step 1\), its log ends at 3: "):
        recut(cut(1, Run(A, 0, 4)), ends={A: 3})
    recutter = recut(cut(1, Run(A, 0, 4)))
    recutter.add(piece(A, 0, 3), now_s=0.0)
    with pytest.raises(DataLost, match="its log ends at 3"):
        recutter.take(now_s=0.0, drain=True)


def test_the_end_of_the_source_drains_journal_and_rest():
    """A file is read in one go: what is complete is cut as before, the rest by the batcher."""
    recutter = recut(cut(1, Run(A, 0, 3)), policy=BatchPolicy(records_max=9, age_s_max=None))
    recutter.add(piece(A, 0, 4), now_s=0.0)
    batches = [recutter.take(now_s=0.0, drain=True) for _ in range(3)]

    assert (3, 1, None) == (len(batches[0]), len(batches[1]), batches[2])
    assert (ClosedBy.AGE, ClosedBy.DRAIN) == (batches[0].closed_by, batches[1].closed_by)


class Losses(list):
    """Of an operator who goes on: which cut was given up, and why."""

    def __call__(self, cut, error):
        self.append((cut.step, str(error)))


def test_an_operator_who_goes_on_gets_what_is_left_cut_anew():
    """The cuts before stay exact; nothing that still is in the log is dropped with those that are not."""
    losses = Losses()
    recutter = recut(cut(1, Run(A, 0, 3)), cut(2, Run(A, 3, 9)), cut(3, Run(B, 0, 2)), ends={A: 5}, on_lost=losses)
    for chunk in (piece(A, 0, 5), piece(B, 0, 2)):
        recutter.add(chunk, now_s=0.0)
    batches = [values(batch) for batch in iter(lambda: recutter.take(now_s=0.0, drain=True), None)]

    assert [2] == [step for step, _ in losses]
    assert "t-0: the journal names offsets up to 9 (step 2), its log ends at 5" in losses[0][1]
    assert [[b"t-0@0", b"t-0@1", b"t-0@2"], [b"t-0@3", b"t-0@4"], [b"t-1@0", b"t-1@1"]] == batches


def test_the_end_of_the_source_gives_up_what_can_never_come():
    """Where nobody knew the end before: standard input, for example."""
    losses = Losses()
    recutter = recut(cut(1, Run(A, 0, 4)), on_lost=losses)
    recutter.add(piece(A, 0, 1), now_s=0.0)

    assert recutter.take(now_s=0.0) is None
    assert [b"t-0@0"] == values(recutter.take(now_s=0.0, drain=True))
    assert [1] == [step for step, _ in losses]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_offsets_of_another_log_are_not_cut_as_the_journal_says(when):
    """All that is new would land in one batch: the journal's run ends where the old log had its end."""
    losses = Losses()
    cuts = cut(1, Run(A, 5, 7)), cut(2, Run(A, 7, 9))
    positions = {A: 0 if when == "before" else 5}
    recutter = recut(*cuts, positions=positions, replaced=[A] if when == "before" else [], on_lost=losses)
    recutter.add(piece(A, 0, 4), now_s=0.0)

    assert [2, 2] == [len(recutter.take(now_s=0.0)) for _ in range(2)]
    assert [(1, True)] == [(step, "of a log that is no more" in why) for step, why in losses]


def test_while_too_much_waits_only_what_the_next_cut_misses_is_read(monkeypatch):
    """One partition came in full, another not at all: its backlog must not fill the memory."""
    monkeypatch.setattr(recut_module, "WAITING_BYTES_MAX", 500)
    recutter = recut(cut(1, Run(A, 0, 1), Run(B, 0, 1)), cut(2, Run(C, 0, 1)))
    asked = [recutter.enough()]
    recutter.add(piece(A, 0, 4), now_s=0.0)
    asked.append(recutter.enough())
    recutter.add(piece(B, 0, 1), now_s=0.0)
    recutter.take(now_s=0.0)
    asked.append(recutter.enough())
    recutter.add(piece(C, 0, 1), now_s=0.0)
    recutter.take(now_s=0.0)
    asked.append(recutter.enough())

    assert [frozenset(), {A, C}, {A, B}, frozenset()] == asked


@st.composite
def stories(draw):
    """A journal over three partitions, the log behind it, and an order in which its pieces arrive.

    Now and then a partition was away for some records, learned by another member of a group."""
    at, cuts = dict(START), []
    for step in range(1, draw(st.integers(1, 8)) + 1):
        runs = []
        for partition in draw(st.lists(st.sampled_from([A, B, C]), min_size=1, max_size=4)):
            if runs and runs[-1].partition == partition:
                continue
            away = draw(st.sampled_from([0, 0, 4])) if partition not in {run.partition for run in runs} else 0
            runs.append(Run(partition, at[partition] + away, at[partition] + away + draw(st.integers(1, 5))))
            at[partition] = runs[-1].next_offset
        cuts.append(cut(step, *runs, closed_by=draw(st.sampled_from(ClosedBy))))
    ends = {partition: offset + draw(st.integers(0, 6)) for partition, offset in at.items()}
    left, pieces = dict(START), []
    while open_ones := [p for p in (A, B, C) if left[p] < ends[p]]:
        partition = draw(st.sampled_from(open_ones))
        end = min(ends[partition], left[partition] + draw(st.integers(1, 7)))
        pieces.append(piece(partition, left[partition], end))
        left[partition] = end
    return cuts, pieces, ends


@given(stories(), st.booleans())
def test_any_arrival_gives_the_batches_of_the_journal_then_all_the_rest(story, take_often):
    """P3: the cut is a function of the journal; and no record of the rest is lost or out of order."""
    cuts, pieces, ends = story
    recutter = recut(*cuts, ends=ends)
    batches = []
    for chunk in pieces:
        recutter.add(chunk, now_s=0.0)
        while take_often and (batch := recutter.take(now_s=0.0)):
            batches.append(batch)
    while batch := recutter.take(now_s=0.0, drain=True):
        batches.append(batch)
    assert 0 == recutter.bytes_waiting

    journalled, others = batches[: len(cuts)], batches[len(cuts) :]
    expected = [
        [f"{partition}@{i}".encode() for partition, first, end in c.runs for i in range(first, end)] for c in cuts
    ]
    assert expected == [values(batch) for batch in journalled]
    assert [c.closed_by for c in cuts] == [batch.closed_by for batch in journalled]
    reached = {run.partition: run.next_offset for c in cuts for run in c.runs}
    rest = [f"{p.partition}@{i}".encode() for p in pieces for i in p.offsets if i >= reached.get(p.partition, 0)]
    assert rest == [value for batch in others for value in values(batch)]
    assert all(len(batch) <= 2 for batch in others)


def test_what_another_member_learned_while_a_partition_was_away_is_dropped(monkeypatch):
    """A member of a group gave it away and got it back; and as soon as that is known nothing of it waits in memory."""
    monkeypatch.setattr(recut_module, "WAITING_BYTES_MAX", 500)
    recutter = recut(cut(1, Run(A, 0, 2), Run(B, 0, 1)), cut(2, Run(A, 6, 8)))
    recutter.add(piece(A, 0, 5), now_s=0.0)
    recutter.add(piece(B, 0, 1), now_s=0.0)
    first = recutter.take(now_s=0.0)
    waiting = [recutter.bytes_waiting]
    recutter.add(piece(A, 5, 6), now_s=0.0)
    waiting.append(recutter.bytes_waiting)
    recutter.add(piece(A, 6, 9), now_s=0.0)

    assert [b"t-0@0", b"t-0@1", b"t-1@0"] == values(first)
    assert [0, 0] == waiting
    assert [b"t-0@6", b"t-0@7"] == values(recutter.take(now_s=0.0))
    assert [b"t-0@8"] == values(recutter.take(now_s=0.0, drain=True))


def test_a_gap_behind_the_last_cut_still_moves_the_position():
    """A chunk may reach beyond the run that takes all its records: over markers, to the end of the log."""
    whole = piece(A, 0, 2)
    chunk = RecordChunk(**{name: getattr(whole, name) for name in whole.__slots__} | {"next_offset": 5})
    recutter = recut(cut(1, Run(A, 0, 2)))
    recutter.add(chunk, now_s=0.0)

    assert {A: 2} == recutter.take(now_s=0.0).next_offsets
    assert {A: 5} == recutter.take(now_s=0.0, drain=True).next_offsets
