"""The disk that fails, and what it found: each of these was lost, or not told, before."""

import os
import random

import pytest

from stream_trainer.checkpoints import BatchJournal, CheckpointDirectory
from stream_trainer.errors import CheckpointError
from stream_trainer.streams.dead_letter_file import FileDeadLetters, read_dead_letters
from stream_trainer.testing.fakes import chunk_of
from stream_trainer.testing.faulty_disk import Crash, Fault, FaultyDisk
from stream_trainer.types import ClosedBy, Counts, RawBatch, Reject, RejectReason, Run, Snapshot, TopicPartition

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "disk"
    root.mkdir()
    return root


def sound(operation, path):
    """Nothing fails."""


def batch(partition, offset):
    chunk = chunk_of([b"{}"], first_offset=offset, partition=partition)
    return RawBatch(chunks=(chunk,), next_offsets={partition: offset + 1}, closed_by=ClosedBy.AGE)


@pytest.mark.parametrize("seed", range(20))
def test_what_fsync_promised_survives_a_power_cut_and_the_rest_may_not(root, seed):
    """Bytes by an fsync of the file, the name by one of its directory."""
    with FaultyDisk(root, sound, random.Random(seed)) as disk:
        for name in ("safe", "unsafe"):
            descriptor = os.open(root / name, os.O_WRONLY | os.O_CREAT)
            os.write(descriptor, b"sure")
            if name == "safe":
                os.fsync(descriptor)
                directory = os.open(root, os.O_RDONLY)
                os.fsync(directory)
                os.close(directory)
            os.write(descriptor, b", perhaps")
            os.close(descriptor)
        disk.recover(power_cut=True)

        assert (root / "safe").read_bytes().startswith(b"sure")


def test_a_rename_that_was_not_synced_can_be_undone(root):
    """Over some seeds both happen: the file under its old name, and under its new one."""
    names = set()
    for seed in range(20):
        disk_root = root / str(seed)
        disk_root.mkdir()
        with FaultyDisk(disk_root, sound, random.Random(seed)) as disk:
            (disk_root / "old").write_bytes(b"")
            directory = os.open(disk_root, os.O_RDONLY)
            os.fsync(directory)
            os.rename(disk_root / "old", disk_root / "new")
            disk.recover(power_cut=True)
        names |= {path.name for path in disk_root.iterdir()}

    assert {"old", "new"} == names


def test_nothing_is_written_after_the_end(root):
    """Whatever a `finally` would still like to do."""
    with FaultyDisk(root, lambda operation, path: Fault.KILL, random.Random(0)) as disk:
        with pytest.raises(Crash):
            (root / "a").write_bytes(b"x")
        with pytest.raises(Crash):
            (root / "b").mkdir()
        disk.recover(power_cut=False)

    assert [] == list(root.iterdir())


@pytest.mark.parametrize("seed", range(8))
def test_the_directory_of_checkpoints_survives_with_what_is_in_it(root, seed):
    """Its own name must be safe before Kafka is told of what it holds."""
    with FaultyDisk(root, sound, random.Random(seed)) as disk:
        saved = CheckpointDirectory(root / "deep" / "state", identity={}, versions={})
        saved.open()
        saved.save(Snapshot(positions={A: 1}, counts=Counts(batches=1), parts={}), saved_at_s=0.0)
        disk.recover(power_cut=True)

        assert {A: 1} == CheckpointDirectory(root / "deep" / "state", identity={}, versions={}).load(1).positions


@pytest.mark.parametrize("seed", range(8))
def test_dead_letters_that_were_flushed_survive_with_the_name_of_their_file(root, seed):
    """`flush` says that they are safe, and a checkpoint relies on it."""
    letter = Reject(
        partition=A, offset=7, timestamp_ms=-1, key=None, value=b"", headers=(), reason=RejectReason.OVERSIZE, detail=""
    )
    with FaultyDisk(root, sound, random.Random(seed)) as disk:
        letters = FileDeadLetters(root / "new" / "dead.jsonl")
        letters.write([letter])
        letters.flush()
        disk.recover(power_cut=True)

    assert [letter] == list(read_dead_letters(root / "new" / "dead.jsonl"))


@pytest.mark.parametrize("seed", range(8))
def test_rows_of_a_killed_run_are_safe_before_the_next_one_relies_on_them(root, seed):
    """The next run cuts by them and saves without writing a row of its own."""
    with FaultyDisk(root, sound, random.Random(seed)) as disk:
        killed = BatchJournal(root / "journal")
        killed.append(1, batch(A, 0), {A: 0})
        disk.recover(power_cut=False)
        BatchJournal(root / "journal").resume(0)
        disk.recover(power_cut=True)
        cuts = list(BatchJournal(root / "journal").cuts()[1]) if (root / "journal").exists() else None

    assert cuts is None or [Run(A, 0, 1)] == [run for cut in cuts for run in cut.runs]


def test_a_disk_that_cannot_keep_the_rows_of_the_last_run_says_so(root):
    """In a sentence, and with our exit code."""
    BatchJournal(root / "journal").append(1, batch(A, 0), {A: 0})
    refuse = lambda operation, path: Fault.SYNC_FAILED if operation == "fsync" else None  # noqa: E731
    with (
        FaultyDisk(root, refuse, random.Random(0)),
        pytest.raises(CheckpointError, match=r"cannot be made safe .* Look at the disk"),
    ):
        BatchJournal(root / "journal").resume(0)


def test_half_a_row_is_never_ended_in_the_next_segment(root):
    """The disk takes a part of a row, then a new partition wants a segment of its own."""
    short = iter([None, None, Fault.SHORT_WRITE])
    decide = lambda operation, path: next(short, None) if operation == "write" else None  # noqa: E731
    with FaultyDisk(root, decide, random.Random(1)):
        journal = BatchJournal(root / "journal")
        journal.append(1, batch(A, 0), {A: 0})
        journal.append(2, batch(A, 1), {A: 1})
        journal.append(3, batch(B, 0), {A: 2})
        journal.close()

    cuts = list(BatchJournal(root / "journal").cuts()[1])
    assert [[Run(A, 0, 1)], [Run(A, 1, 2)], [Run(B, 0, 1)]] == [list(cut.runs) for cut in cuts]
