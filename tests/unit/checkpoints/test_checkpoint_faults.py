"""Real misfortune: a full disk, a directory that may not be written, a tear at every place, bits that flip."""

import errno
import json
import logging
import os
import random
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from test_batch_journal import story
from test_checkpoint_directory import IDENTITY, snapshot

from stream_trainer.checkpoints import CheckpointDirectory
from stream_trainer.errors import CheckpointError
from stream_trainer.types import Snapshot, State

TOPIC_IDS = {"t-1": "000102030405060708090a0b0c0d0e0f"}


def at(place, **options) -> CheckpointDirectory:
    return CheckpointDirectory(place, identity=IDENTITY, versions={"x": "1"}, **{"trusted": True, **options})


def told(loaded: Snapshot) -> str:
    """Everything a snapshot says, as text: two that say the same are the same."""
    arrays = [
        (part, name, str(array.dtype), array.tolist())
        for part, state in sorted(loaded.parts.items())
        for name, array in sorted(state.arrays.items())
    ]
    rest = [(part, state.values, state.pickles) for part, state in sorted(loaded.parts.items())]
    return repr((sorted(loaded.positions.items()), loaded.counts, arrays, rest, loaded.topic_ids))


@pytest.fixture
def saved(tmp_path, caplog):
    """One checkpoint with everything a manifest may hold."""
    caplog.set_level(logging.CRITICAL)  # thousands of refusals, each a line
    directory = at(tmp_path / "c")
    directory.open()
    directory.save(replace(snapshot(5), topic_ids=TOPIC_IDS), saved_at_s=1.0)
    directory.close()
    (info,) = directory.infos(verify=True)
    return directory, sorted(path for path in Path(info.path).rglob("*") if path.is_file())


def test_no_flipped_bit_of_more_than_a_thousand_loads_anything_else(saved):
    """In every byte of the manifest and all over the other files: what loads is what was saved, or nothing loads."""
    directory, files = saved
    sound = told(directory.load_newest())
    rng, flips, refused = random.Random(3), 0, 0
    for path in files:
        content = path.read_bytes()
        bits = (
            [8 * byte + rng.randrange(8) for byte in range(len(content))]
            if path.name == "manifest.json"
            else [rng.randrange(8 * len(content)) for _ in range(100)]
        )
        for bit in bits:
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            flips += 1
            try:
                assert sound == told(directory.load_newest()), (path.name, bit)
                assert path.name == "manifest.json"
                assert json.loads(flipped) == json.loads(content), "harmless only in white space"
            except CheckpointError:
                refused += 1
        path.write_bytes(content)

    assert flips > 1_000
    assert refused > 0.8 * flips, "most of the manifest is no white space"
    assert sound == told(directory.load_newest())


def test_every_field_of_the_manifest_is_guarded(saved):
    """Not only bits: another number, another word, a field more or less."""
    directory, files = saved
    path = next(path for path in files if path.name == "manifest.json")
    manifest = json.loads(path.read_text())
    fields = list(_fields(manifest["body"]))
    for field in fields:
        for change in (lambda value: None, lambda value: [value], lambda value: f"{value}x"):
            edited = json.loads(json.dumps(manifest))
            place = edited["body"]
            for key in field[:-1]:
                place = place[key]
            place[field[-1]] = change(place[field[-1]])
            path.write_text(json.dumps(edited))
            with pytest.raises(CheckpointError):
                directory.load_newest()
    named = {field[0] for field in fields}

    assert {"format", "epoch", "counts", "positions", "topic_ids", "files", "identity", "pickles", "tensors"} <= named


def _fields(value, path=()):
    """Every place in a JSON value, leaves and branches."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from _fields(child, (*path, key))


def test_a_tear_anywhere_in_any_file_is_noticed(saved):
    """Power cuts leave a file short, or filled up with zeros."""
    directory, files = saved
    for path in files:
        content = path.read_bytes()
        near_the_ends = {*range(16), *range(len(content) - 16, len(content))} & {*range(len(content))}
        for size in sorted({*near_the_ends, *range(0, len(content), 11)}):
            for rest in (b"", b"\0" * (len(content) - size)):
                if content == content[:size] + rest:
                    continue
                path.write_bytes(content[:size] + rest)
                with pytest.raises(CheckpointError):
                    directory.load_newest()
        path.write_bytes(content)

    assert directory.load_newest() is not None


def test_a_flipped_bit_in_a_claim_hides_no_checkpoint(saved):
    """A claim says which ones are late; one that cannot be believed says nothing."""
    directory, _ = saved
    directory.open()
    directory.close()
    (claim,) = (Path(directory.address) / "epochs").iterdir()
    content = claim.read_bytes()
    for bit in range(0, 8 * len(content), 5):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        claim.write_bytes(flipped)

        assert 5 == directory.load_newest().counts.batches


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 256 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", path], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount a small tmpfs: run as root")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def fill_up(path: Path) -> None:
    """Until the disk takes no byte more."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 512)


def test_a_full_disk_costs_one_checkpoint_and_nothing_else(small_disk):
    """The old ones stay sound, the half-written one goes and gives its room back, rows wait; then all is written."""
    directory = at(small_disk / "c")
    directory.open()
    directory.journal.resume(0)
    appended, cuts = story(30)
    for row in appended[:10]:
        directory.journal.append(*row)
    directory.save(snapshot(10), saved_at_s=1.0)
    ballast = small_disk / "ballast"
    fill_up(ballast)
    for row in appended[10:20]:
        directory.journal.append(*row)
    for _ in range(3):
        with pytest.raises(OSError, match=r"No space|not written") as failure:
            directory.save(snapshot(20), saved_at_s=2.0)
        assert errno.ENOSPC == failure.value.errno
    assert [] == list(Path(directory.address).glob("tmp-*"))
    assert 10 == at(directory.address).load_newest().counts.batches

    ballast.unlink()
    for row in appended[20:]:
        directory.journal.append(*row)
    directory.save(snapshot(30), saved_at_s=3.0)
    directory.close()
    assert 30 == at(directory.address).load_newest().counts.batches
    assert cuts == list(at(directory.address).journal.cuts()[1])


def test_a_disk_that_is_full_at_the_start_is_refused(small_disk):
    """A writer that cannot even say that it is there must not begin."""
    directory = at(small_disk / "c")
    directory.open()
    directory.close()
    fill_up(small_disk / "ballast")
    with pytest.raises(CheckpointError, match=r"cannot be written \(No space left on device\)"):
        directory.open()


def test_a_snapshot_larger_than_the_disk_leaves_no_trace(small_disk):
    """Torn in the middle of the arrays, where it takes longest."""
    directory = at(small_disk)
    directory.open()
    directory.save(snapshot(1), saved_at_s=1.0)
    large = replace(snapshot(2), parts={"m": State(pickles={"p": os.urandom(300_000)})})
    with pytest.raises(OSError, match="No space left"):
        directory.save(large, saved_at_s=2.0)
    directory.save(snapshot(3), saved_at_s=3.0)
    directory.close()

    assert [3, 1] == [info.step for info in at(small_disk).infos(verify=True)]
    assert [] == list(small_disk.glob("tmp-*"))


def test_a_directory_that_may_not_be_written_is_refused_at_the_start(small_disk):
    """Remounted read-only, as a kernel does after an error: even root may not write, and everybody may still read."""
    directory = at(small_disk)
    directory.open()
    directory.save(snapshot(1), saved_at_s=1.0)
    directory.close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(CheckpointError, match=r"cannot be written \(Read-only file system\)"):
        directory.open()

    assert 1 == directory.load_newest().counts.batches
