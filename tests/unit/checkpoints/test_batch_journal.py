"""The journal: every row comes back, a torn end is cut off, damage before it is refused, old segments can go."""

import os
import random
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_trainer.checkpoints import BatchJournal, CheckpointDirectory
from stream_trainer.errors import CheckpointError, CorruptCheckpoint
from stream_trainer.testing.fakes import chunk_of
from stream_trainer.types import ClosedBy, Counts, Cut, RawBatch, Run, Snapshot, TopicPartition

GOLDEN = Path(__file__).parents[2] / "golden" / "journal" / "000000000041.journal"
A, B = TopicPartition("flights-ä", 0), TopicPartition("flights-ä", 7)
START = {A: 1_000, B: 0}


def batch(*runs: Run, closed_by: ClosedBy = ClosedBy.AGE) -> RawBatch:
    """A batch without gaps: every offset of every run is a record."""
    chunks = [chunk_of([b""] * (end - begin), first_offset=begin, partition=tp) for tp, begin, end in runs]
    return RawBatch(chunks=tuple(chunks), next_offsets={tp: end for tp, _, end in runs}, closed_by=closed_by)


def cut_of(step: int, raw: RawBatch, runs: tuple[Run, ...]) -> Cut:
    return Cut(step=step, runs=runs, n_records=len(raw), closed_by=raw.closed_by)


def story(n: int, *, seed: int = 3, first_step: int = 1) -> tuple[list[tuple[int, RawBatch, dict]], list[Cut]]:
    """Batches of up to three runs with the positions before each, and the rows they should give."""
    rng, at = random.Random(seed), dict(START)
    appended, cuts = [], []
    for step in range(first_step, first_step + n):
        before, runs, last = dict(at), [], None
        for _ in range(rng.randint(1, 3)):
            partition = B if last == A else A if last == B else rng.choice([A, B])
            runs.append(Run(partition, at[partition], at[partition] + rng.choice([1, 2, 300])))
            at[partition], last = runs[-1].next_offset, partition
        raw = batch(*runs, closed_by=rng.choice(list(ClosedBy)))
        appended.append((step, raw, before))
        cuts.append(cut_of(step, raw, tuple(runs)))
    return appended, cuts


def write(path: Path, appended, **options) -> BatchJournal:
    journal = BatchJournal(path, **options)
    journal.resume(appended[0][0] - 1)
    for row in appended:
        journal.append(*row)
    journal.close()
    return journal


def read(path: Path, after_step: int = 0):
    positions, cuts = BatchJournal(path).cuts(after_step=after_step)
    return positions, list(cuts)


def test_an_empty_journal_knows_nothing(tmp_path):
    """The first start is no error."""
    assert ({}, []) == read(tmp_path / "none")
    assert ({}, []) == BatchJournal(tmp_path / "none").resume(0)


@pytest.mark.parametrize("rows_max", [1, 3, 1_000])
@pytest.mark.parametrize("after_step", [0, 1, 17, 40])
def test_every_row_after_a_step_comes_back(tmp_path, rows_max, after_step):
    """With the positions right before it, wherever segments begin."""
    appended, cuts = story(40)
    write(tmp_path / "j", appended, rows_max=rows_max)
    positions, found = read(tmp_path / "j", after_step)

    assert cuts[after_step:] == found
    assert (appended[after_step][2] if after_step < 40 else {}) == positions


def test_runs_side_by_side_are_one_and_gaps_belong_to_the_run_behind_them(tmp_path):
    """How the source cut its chunks means nothing; markers and compacted records take offsets."""
    chunks = (
        chunk_of([b""] * 2, first_offset=1_000, partition=A),
        chunk_of([b""] * 3, first_offset=1_010, partition=A),
        chunk_of([], first_offset=1_020, partition=A),
        chunk_of([b""], first_offset=4, partition=B),
        chunk_of([b""], first_offset=1_020, partition=A),
    )
    raw = RawBatch(chunks=chunks, next_offsets={A: 1_021, B: 5}, closed_by=ClosedBy.RECORDS)
    write(tmp_path / "j", [(1, raw, START)])

    runs = (Run(A, 1_000, 1_020), Run(B, 0, 5), Run(A, 1_020, 1_021))
    assert [cut_of(1, raw, runs)] == read(tmp_path / "j")[1]


def test_a_log_that_was_created_again_begins_before(tmp_path):
    """`lost_data: earliest` may take us back; the row says so."""
    first, second = batch(Run(A, 1_000, 1_005)), batch(Run(A, 3, 6))
    write(tmp_path / "j", [(1, first, START), (2, second, {A: 1_005, B: 0})])

    assert (Run(A, 3, 6),) == read(tmp_path / "j")[1][1].runs


def test_a_partition_found_later_begins_a_segment_that_knows_it(tmp_path):
    """Topics grow while we run; the positions of the loop do not know it yet."""
    appended = [(1, batch(Run(A, 1_000, 1_001)), {A: 1_000}), (2, batch(Run(B, 5, 7)), {A: 1_001})]
    write(tmp_path / "j", appended)

    assert [(Run(A, 1_000, 1_001),), (Run(B, 5, 7),)] == [cut.runs for cut in read(tmp_path / "j")[1]]
    assert {A: 1_001, B: 5} == read(tmp_path / "j", after_step=1)[0]


def test_a_batch_cut_again_is_not_written_again(tmp_path):
    """After a crash the same steps come by a second time."""
    appended, cuts = story(9)
    write(tmp_path / "j", appended[:6])
    journal = BatchJournal(tmp_path / "j")
    _, again = journal.resume(2)
    for row in appended[2:]:
        journal.append(*row)
    journal.close()

    assert cuts[2:6] == again
    assert cuts == read(tmp_path / "j")[1]


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 9])
def test_rows_that_cannot_be_cut_again_make_room_for_others(tmp_path, step):
    """The log lost their records and the operator goes on: the journal must name the batches that were learned."""
    appended, cuts = story(8)
    write(tmp_path, appended, rows_max=3)
    journal = BatchJournal(tmp_path, rows_max=3)
    journal.resume(0)
    journal.begin_anew(step - 1)
    others, other_cuts = story(3, seed=8, first_step=step)
    for row in others:
        journal.append(*row)
    journal.close()

    found = read(tmp_path)[1]
    assert (cuts[: step - 1], [cut.step for cut in other_cuts]) == (
        found[: step - 1],
        [cut.step for cut in found[step - 1 :]],
    )
    assert [cut.n_records for cut in other_cuts] == [cut.n_records for cut in found[step - 1 :]]


def test_the_bytes_of_format_1_stay_what_they_are(tmp_path):
    """A journal outlives the version that wrote it. Made by story(30, seed=5, first_step=41)."""
    appended, cuts = story(30, seed=5, first_step=41)
    write(tmp_path / "j", appended)

    assert GOLDEN.read_bytes() == (tmp_path / "j" / "000000000041-000001.journal").read_bytes()
    assert (START, cuts) == read(GOLDEN.parent, after_step=40)


def test_a_torn_end_is_cut_off_at_every_byte(tmp_path):
    """kill -9 and power cuts stop a write anywhere; every whole row before it counts, and writing goes on."""
    appended, cuts = story(12)
    write(tmp_path / "j", appended[:4])
    whole = (tmp_path / "j" / "000000000001-000001.journal").read_bytes()
    sizes = [len(whole)]  # with 4, 3, ... rows
    for n in (3, 2, 1):
        write(tmp_path / f"j{n}", appended[:n])
        sizes.append((tmp_path / f"j{n}" / "000000000001-000001.journal").stat().st_size)
    for size in range(len(whole)):
        n_whole = sum(size >= s for s in sizes) and 4 - next(i for i, s in enumerate(sizes) if size >= s)
        for rest in (b"", b"\0" * 20):
            path = tmp_path / f"{size}-{len(rest)}"
            path.mkdir()
            (path / "000000000001.journal").write_bytes(whole[:size] + rest)
            journal = BatchJournal(path)

            assert cuts[:n_whole] == list(BatchJournal(path).cuts()[1]), size  # a reader beside the writer
            assert cuts[:n_whole] == journal.resume(0)[1], size
            for row in appended[n_whole:]:
                journal.append(*row)
            journal.close()
            assert cuts == read(path)[1], size


def test_a_flipped_bit_before_the_end_is_damage_and_names_the_step(tmp_path):
    """Rows behind it were promised: to cut them off would be to forget them."""
    appended, cuts = story(4)
    write(tmp_path / "j", appended)
    path = tmp_path / "j" / "000000000001-000001.journal"
    whole = path.read_bytes()
    write(tmp_path / "j3", appended[:3])
    rows_at, last_row_at = whole.index(b"\n") + 1, (tmp_path / "j3" / path.name).stat().st_size
    found = []
    for bit in range(last_row_at * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            found.append((bit, BatchJournal(tmp_path / "j").resume(0)[1]))
        except CorruptCheckpoint as error:
            found.append((bit, str(error)))

    assert all("the row of step" in what for bit, what in found if bit >= rows_at * 8)
    unharmed = [what for _, what in found if not isinstance(what, str)]
    assert [cuts] * len(unharmed) == unharmed
    assert len(unharmed) <= 2, "\\u00e4 and \\u00E4 are the same letter, once for each partition"


def test_a_missing_segment_and_a_journal_that_begins_later_are_refused(tmp_path):
    """Batches that nobody can name cannot be cut again."""
    appended, _ = story(9)
    write(tmp_path / "j", appended, rows_max=3)
    (tmp_path / "j" / "000000000004-000001.journal").unlink()
    with pytest.raises(CorruptCheckpoint, match="begins with step 7, expected 4: the rows between are missing"):
        read(tmp_path / "j")
    (tmp_path / "j" / "000000000001-000001.journal").unlink()
    with pytest.raises(CheckpointError, match="begins with step 7; expected one that has step 3"):
        read(tmp_path / "j", after_step=2)


def test_another_format_is_refused(tmp_path):
    """Guessing at bytes would cut other batches."""
    appended, _ = story(2)
    write(tmp_path / "j", appended)
    path = tmp_path / "j" / "000000000001-000001.journal"
    body = '{"format": 2}'
    path.write_text(f'{{"body": {body}, "crc32": {crc32(body.encode())}}}\n')
    with pytest.raises(CheckpointError, match="format 2, this version reads format 1"):
        read(tmp_path / "j")


def test_segments_go_only_when_large_and_needed_by_no_checkpoint(tmp_path):
    """A disk is bounded; what a kept checkpoint needs to go on from it is not touched."""
    appended, cuts = story(30)
    write(tmp_path / "j", appended, rows_max=3)
    size = sum(path.stat().st_size for path in (tmp_path / "j").iterdir())

    BatchJournal(tmp_path / "j").forget(up_to_step=30)
    BatchJournal(tmp_path / "j", bytes_max=size).forget(up_to_step=30)
    assert cuts == read(tmp_path / "j")[1]
    BatchJournal(tmp_path / "j", bytes_max=size - 1).forget(up_to_step=30)
    assert cuts[3:] == read(tmp_path / "j", after_step=3)[1]
    BatchJournal(tmp_path / "j", bytes_max=0).forget(up_to_step=14)
    assert "000000000013-000001.journal" == min(path.name for path in (tmp_path / "j").iterdir())


def test_a_full_disk_delays_rows_and_loses_none(tmp_path, monkeypatch):
    """Learning goes on; the next checkpoint fails and says why; then the rows follow, none torn."""
    appended, cuts = story(10)
    journal = BatchJournal(tmp_path / "j")
    journal.resume(0)
    journal.append(*appended[0])
    real, room = os.write, [5]

    def full(file, content):
        if not room:
            raise OSError(28, "No space left on device")
        return real(file, content[: room.pop()])

    monkeypatch.setattr(os, "write", full)
    for row in appended[1:5]:
        journal.append(*row)
    with pytest.raises(OSError, match="bytes of the journal are not written"):
        journal.sync()
    monkeypatch.setattr(os, "write", real)
    for row in appended[5:]:
        journal.append(*row)
    journal.sync()
    journal.close()

    assert cuts == read(tmp_path / "j")[1]


def test_the_directory_saves_the_journal_first(tmp_path, monkeypatch):
    """A checkpoint whose batches are unknown could be loaded, but never rebuilt."""
    directory = CheckpointDirectory(tmp_path, identity={}, versions={})
    directory.open()
    monkeypatch.setattr(directory.journal, "sync", lambda: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        directory.save(Snapshot(positions={}, counts=Counts(batches=1), parts={}), saved_at_s=0.0)
    directory.close()

    assert [] == list(tmp_path.glob("checkpoint-*"))


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from([A, B]), st.integers(0, 2**40)), min_size=1, max_size=9),
        min_size=1,
        max_size=9,
    )
)
def test_any_batches_come_back(tmp_path_factory, batches):
    """Offsets of any size, partitions in any order."""
    at, rows, expected = dict(START), [], []
    for step, steps in enumerate(batches, 1):
        before, chunks, runs = dict(at), [], []
        for partition, length in steps:
            chunks.append(chunk_of([], first_offset=at[partition] + length, partition=partition))
            first = runs.pop().first_offset if runs and runs[-1].partition == partition else at[partition]
            runs.append(Run(partition, first, at[partition] + length))
            at[partition] += length
        raw = RawBatch(chunks=tuple(chunks), next_offsets={c.partition: 0 for c in chunks}, closed_by=ClosedBy.DRAIN)
        rows.append((step, raw, before))
        expected.append(cut_of(step, raw, tuple(runs)))
    path = tmp_path_factory.mktemp("any")
    write(path, rows)

    assert expected == read(path)[1]
