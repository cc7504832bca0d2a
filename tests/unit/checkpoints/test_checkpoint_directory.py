"""Snapshots on disk: whole or not at all, verified before believed, one writer."""

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from stream_trainer.checkpoints import BackgroundWriter, CheckpointDirectory
from stream_trainer.errors import CheckpointError, CorruptCheckpoint, Fenced
from stream_trainer.types import Counts, Snapshot, State, TopicPartition

IDENTITY = {"schema": "a1", "models.mlp": "b2"}


def snapshot(step: int) -> Snapshot:
    state = State(
        arrays={"weight": np.full((3, 2), step, np.float32), "moment": torch.arange(4, dtype=torch.float64) + step},
        values={"rate": 0.1 + step, "nested": {"big": 2**60 + 1, "nan": float("nan")}, "name": "ä"},
        pickles={"estimator": bytes([step % 256]) * 9},
    )
    counts = Counts(batches=step, consumed=10 * step, learned=9 * step, dead_lettered=step)
    parts = {"models/mlp": state, "scores": State()}
    positions = {TopicPartition("t-1", 0): step, TopicPartition("u", 3): 7}
    return Snapshot(positions=positions, counts=counts, parts=parts, topic_ids={"t-1": "0a1b"})


@pytest.fixture
def directory(tmp_path):
    opened = CheckpointDirectory(tmp_path / "c", identity=IDENTITY, versions={"x": "1"}, keep=3)
    opened.open()
    yield opened
    opened.close()


def test_what_is_saved_comes_back_exactly(directory):
    """Every bit of every kind of value, positions and counts with it."""
    saved = snapshot(5)
    directory.save(saved, saved_at_s=1.0)
    loaded = directory.load_newest()

    assert (saved.positions, saved.counts) == (loaded.positions, loaded.counts)
    assert {"t-1": "0a1b"} == loaded.topic_ids
    ours, theirs = saved.parts["models/mlp"], loaded.parts["models/mlp"]
    assert isinstance(theirs.arrays["weight"], np.ndarray)
    assert np.array_equal(ours.arrays["weight"], theirs.arrays["weight"])
    assert torch.equal(ours.arrays["moment"], theirs.arrays["moment"])
    assert theirs.arrays["moment"].dtype == torch.float64
    assert (5.1, 2**60 + 1, "ä") == (theirs.values["rate"], theirs.values["nested"]["big"], theirs.values["name"])
    assert np.isnan(theirs.values["nested"]["nan"])
    assert ours.pickles == theirs.pickles


def test_an_empty_directory_has_nothing(directory):
    """The first start is no error."""
    assert directory.load_newest() is None


def test_the_newest_wins_and_the_oldest_go(directory):
    """`keep` bounds the disk."""
    for step in (1, 2, 3, 4, 10):
        directory.save(snapshot(step), saved_at_s=float(step))

    assert [10, 4, 3] == [info.step for info in directory.infos(verify=True)]
    assert 10 == directory.load_newest().counts.batches


def test_every_flipped_bit_is_noticed(directory):
    """safetensors and torch load a flipped bit without a word: the checksums are ours, the manifest's own included."""
    directory.save(snapshot(1), saved_at_s=1.0)
    rng = random.Random(3)
    (path,) = (info.path for info in directory.infos(verify=False))
    files = sorted(p for p in Path(path).rglob("*") if p.is_file())
    for _ in range(300):
        victim = rng.choice(files)
        sound = victim.read_bytes()
        broken = bytearray(sound)
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        victim.write_bytes(broken)

        (info,) = directory.infos(verify=True)
        # a flip in the manifest's white space changes nothing that it says
        unchanged = victim.name == "manifest.json" and _same_json(sound, bytes(broken))
        assert unchanged or info.problem is not None, victim
        victim.write_bytes(sound)


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


@pytest.mark.parametrize("damage", ["torn", "missing", "no manifest"])
def test_a_damaged_newest_is_passed_over_and_its_step_can_be_saved_again(directory, damage):
    """The one before is intact; learning the lost batches again reaches the same step and must be kept then."""
    directory.save(snapshot(1), saved_at_s=1.0)
    directory.save(snapshot(2), saved_at_s=2.0)
    newest = Path(directory.address) / "checkpoint-000001-000000000002"
    victim = newest / ("manifest.json" if damage == "no manifest" else "arrays.safetensors")
    if damage == "torn":
        os.truncate(victim, victim.stat().st_size - 1)
    else:
        victim.unlink()

    assert 1 == directory.load_newest().counts.batches
    assert 1 == directory.corrupt_found
    directory.save(snapshot(2), saved_at_s=3.0)
    assert 2 == directory.load_newest().counts.batches


def test_nothing_sound_left_is_an_error_not_a_fresh_start(directory):
    """To begin again silently would forget everything learned."""
    directory.save(snapshot(1), saved_at_s=1.0)
    (Path(directory.address) / "checkpoint-000001-000000000001" / "state.json").write_text("{}")

    with pytest.raises(CorruptCheckpoint, match="none of its 1 checkpoints verifies"):
        directory.load_newest()


def test_a_save_that_dies_leaves_no_trace(directory, monkeypatch):
    """Disk full in mid-save: the directory is as before, and the next save works."""
    directory.save(snapshot(1), saved_at_s=1.0)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("stream_trainer.checkpoints.files.tensor_chunks", full)
        with pytest.raises(OSError, match="No space left"):
            directory.save(snapshot(2), saved_at_s=2.0)
    assert [] == list(Path(directory.address).glob("tmp-*"))
    assert 1 == directory.load_newest().counts.batches
    directory.save(snapshot(2), saved_at_s=3.0)
    assert 2 == directory.load_newest().counts.batches


def test_leftovers_of_a_killed_save_are_removed_at_start(tmp_path):
    """kill -9 in mid-save leaves a folder that nobody will ever finish."""
    (tmp_path / "tmp-0123" / "pickles").mkdir(parents=True)
    directory = CheckpointDirectory(tmp_path, identity={}, versions={})
    directory.open()

    assert [] == list(tmp_path.glob("tmp-*"))
    directory.close()


def test_a_second_writer_is_fenced(directory):
    """Two writers would teach records twice."""
    second = CheckpointDirectory(directory.address, identity=IDENTITY, versions={})

    with pytest.raises(Fenced, match=rf"in use by process {os.getpid()} on "):
        second.open()
    directory.close()
    second.open()
    second.close()


def test_another_configuration_is_refused_by_name(directory):
    """Weights of another network must not be loaded because the shapes happen to fit."""
    directory.save(snapshot(1), saved_at_s=1.0)
    directory.close()
    other = CheckpointDirectory(directory.address, identity={"schema": "a1", "models.mlp": "c3"}, versions={})
    other.open()

    with pytest.raises(CheckpointError, match=r"another configuration: models\.mlp differ"):
        other.load_newest()
    other.close()


def test_pickles_are_loaded_only_from_a_directory_that_nobody_else_can_write(directory):
    """Loading a pickle runs code."""
    directory.save(snapshot(1), saved_at_s=1.0)
    Path(directory.address).chmod(0o770)
    with pytest.raises(CheckpointError, match="loading a pickle runs code"):
        directory.load_newest()

    Path(directory.address).chmod(0o700)
    assert directory.load_newest() is not None


def test_a_later_format_is_refused_with_the_version_that_wrote_it(directory, monkeypatch):
    """Reading it as ours would be guessing."""
    monkeypatch.setattr("stream_trainer.checkpoints.files.FORMAT", 2)
    directory.save(snapshot(1), saved_at_s=1.0)
    monkeypatch.undo()

    with pytest.raises(CheckpointError, match="format 2, this version reads format 1"):
        directory.load_newest()


def test_the_background_writer_reports_a_failure_once():
    """The loop must learn of it, and go on."""

    def save(_snapshot):
        raise OSError("disk gone")

    writer = BackgroundWriter(save, lambda: 0.0)
    writer.start(snapshot(1))
    saved = writer.collect(wait=True)

    assert "disk gone" == str(saved.error)
    assert writer.collect() is None
    assert not writer.busy


def test_a_snapshot_written_elsewhere_can_be_moved(directory, tmp_path):
    """A backup is a copy of the folder: no absolute path inside."""
    directory.save(snapshot(1), saved_at_s=1.0)
    shutil.copytree(directory.address, tmp_path / "moved", ignore=shutil.ignore_patterns("lock"))
    moved = CheckpointDirectory(tmp_path / "moved", identity=IDENTITY, versions={})

    assert 1 == moved.load_newest().counts.batches
