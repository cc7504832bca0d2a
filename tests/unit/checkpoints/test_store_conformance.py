"""What every place for checkpoints must do, asked of a disk and of two object stores alike."""

import numpy as np
import pytest
import torch
from test_batch_journal import batch, story
from test_checkpoint_directory import IDENTITY, snapshot

from stream_trainer.checkpoints import CheckpointDirectory
from stream_trainer.checkpoints.store import open_store
from stream_trainer.errors import CheckpointError, ConfigError, CorruptCheckpoint
from stream_trainer.types import ClosedBy, Counts, RawBatch, Run, Snapshot, State, TopicPartition


def at(place, **options) -> CheckpointDirectory:
    return CheckpointDirectory(place, identity=IDENTITY, versions={}, **{"trusted": True, **options})


@pytest.fixture
def directory(place):
    opened = at(place, keep=3)
    opened.open()
    yield opened
    opened.close()


def steps(directory) -> list[int]:
    return [info.step for info in directory.infos(verify=True) if info.problem is None]


def test_bytes_come_back_and_absence_is_an_error(store):
    """The least one can ask."""
    store.open(take_over=False)
    store.write("a/b", [b"one", memoryview(b"two")])

    assert (b"onetwo", 6, ["b"]) == (store.read("a/b"), store.size_bytes("a/b"), store.names("a"))
    assert [] == store.names("nowhere")
    with pytest.raises(FileNotFoundError):
        store.read("a/c")
    store.delete("a/c")
    store.delete("a")
    assert [] == store.names("a")
    store.close()


def test_only_one_creates(store):
    """Two claims of one epoch would be two writers."""
    store.open(take_over=False)
    store.create("epochs/000001", b"mine")
    with pytest.raises(FileExistsError):
        store.create("epochs/000001", b"yours")

    assert b"mine" == store.read("epochs/000001")
    store.close()


def test_every_kind_of_value_comes_back_exactly(directory, place):
    """Bit for bit, empty arrays and odd dtypes among them, and the ids of the topics."""
    arrays = {
        "half": torch.tensor([1.5, -0.0], dtype=torch.bfloat16),
        "none": torch.empty(0, 7),
        "one": torch.tensor(3, dtype=torch.int64),
        "yes": np.array([[True], [False]]),
        "nan": np.array([np.nan, np.inf], np.float64),
        "turned": torch.arange(6).reshape(2, 3).T,
    }
    counts = Counts(batches=1)
    parts = {"m": State(arrays=arrays)}
    ids = {"t": "00ff"}
    directory.save(Snapshot(positions={}, counts=counts, parts=parts, topic_ids=ids), saved_at_s=0.0)
    loaded = at(place).load_newest()

    assert ids == loaded.topic_ids
    for name, array in arrays.items():
        found = loaded.parts["m"].arrays[name]
        assert type(array) is type(found)
        same = torch.equal if isinstance(array, torch.Tensor) else np.array_equal
        assert (array.dtype, True) == (found.dtype, same(array, found) or name == "nan")
    assert arrays["nan"].tobytes() == loaded.parts["m"].arrays["nan"].tobytes()


@pytest.mark.parametrize("after_files", [0, 1, 2, 3])
def test_a_save_that_dies_after_any_file_is_no_checkpoint(directory, place, keys, after_files, monkeypatch):
    """kill -9 in mid-save: what is there is not seen, and the next start removes it."""

    class Killed(BaseException):
        pass

    directory.save(snapshot(1), saved_at_s=1.0)
    real, written = directory._store.write, []

    def write(key, chunks):
        if len(written) == after_files:
            raise Killed
        written.append(key)
        real(key, chunks)

    monkeypatch.setattr(directory._store, "write", write)
    monkeypatch.setattr(directory._store, "delete", lambda key: None)  # the dead do not tidy up
    monkeypatch.setattr("shutil.rmtree", lambda *_args, **_kwargs: None)
    with pytest.raises(Killed):
        directory.save(snapshot(2), saved_at_s=2.0)
    monkeypatch.undo()

    assert [1] == steps(at(place))
    directory.close()
    directory.open()
    assert 1 == directory.load_newest().counts.batches
    assert not [key for key in keys() if "tmp-" in key or "000000000002" in key]


@pytest.mark.parametrize("damage", ["torn", "missing"])
def test_a_damaged_newest_is_passed_over(directory, place, keys, put, remove, damage):
    """The one before is loaded, and the damaged one is no checkpoint any more."""
    directory.save(snapshot(1), saved_at_s=1.0)
    directory.save(snapshot(2), saved_at_s=2.0)
    victim = next(key for key in keys() if "000000000002" in key and key.endswith("state.json"))
    put(victim, b'{"models') if damage == "torn" else remove(victim)

    assert 1 == directory.load_newest().counts.batches
    assert 1 == directory.corrupt_found
    directory.save(snapshot(2), saved_at_s=3.0)
    assert [2, 1] == steps(directory)


def test_nothing_sound_left_is_an_error(directory, keys, put):
    """To begin again silently would forget everything learned."""
    directory.save(snapshot(1), saved_at_s=1.0)
    put(next(key for key in keys() if key.endswith("manifest.json")), b"{}")
    with pytest.raises(CorruptCheckpoint, match="none of its 1 checkpoints verifies"):
        directory.load_newest()


def test_a_renamed_checkpoint_is_refused(directory, place, keys, put):
    """Its name says which is the newest: a wrong one would take us back without a word."""
    directory.save(snapshot(1), saved_at_s=1.0)
    for key in keys():
        if key.startswith("checkpoint-"):
            content = directory._store.read(key)
            put(key.replace("000000000001", "000000000007"), content)
    newest = next(at(place).infos(verify=False))

    assert 7 == newest.step
    assert "its manifest is that of epoch 1, step 1: the folder was renamed" in newest.problem


def test_the_last_few_one_of_every_so_many_and_the_pinned_stay(place):
    """Thinning twice is thinning once, whatever the order of saves and pins."""
    directory = at(place, keep=2, keep_every_steps=10)
    directory.open()
    for step in range(1, 40, 2):
        directory.save(snapshot(step), saved_at_s=float(step))
        if step == 5:
            at(place).pin(5)  # another process

    assert [39, 37, 31, 21, 11, 5, 1] == steps(directory)
    assert [5] == [info.step for info in directory.infos(verify=False) if info.pinned]
    at(place).unpin(5)
    directory.save(snapshot(41), saved_at_s=41.0)
    assert [41, 39, 31, 21, 11, 1] == steps(directory)
    with pytest.raises(CheckpointError, match="no checkpoint of step 6; there are: 41, 39, 31, 21, 11, 1"):
        directory.pin(6)
    directory.close()


def test_the_journal_of_what_was_saved_comes_back(directory, place):
    """On a disk each row is there at once; in an object store with the checkpoint that needs it."""
    appended, cuts = story(30)
    directory.journal.resume(0)
    for row in appended:
        directory.journal.append(*row)
        if row[0] % 7 == 0:
            directory.save(snapshot(row[0]), saved_at_s=1.0)
    directory.close()
    again = at(place)
    again.open()
    _, found = again.journal.resume(28)

    assert (cuts[28:] if "://" not in place else []) == found
    _, found = at(place).journal.cuts()
    assert cuts[:28] == list(found)[:28]
    for row in appended[28:]:
        again.journal.append(*row)
    again.save(snapshot(30), saved_at_s=2.0)
    again.close()
    assert cuts == list(at(place).journal.cuts()[1])


def test_rows_of_one_that_was_overtaken_are_void(place):
    """It goes on cutting until its next save; the later one cuts the same records its own way."""
    appended, cuts = story(20)
    first = at(place)
    first.open()
    first.journal.resume(0)
    for row in appended[:10]:
        first.journal.append(*row)
    first.save(snapshot(10), saved_at_s=1.0)
    second = at(place)
    second.open(take_over=True)
    assert [] == second.journal.resume(10)[1]
    for row in appended[10:15]:
        first.journal.append(*row)  # it does not know yet
    partition, position = TopicPartition("flights-ä", 0), 5_000
    for step in range(11, 14):
        other = batch(Run(partition, position, position + step), closed_by=ClosedBy.BYTES)
        second.journal.append(step, other, {partition: position})
        position += step
    second.save(snapshot(13), saved_at_s=2.0)
    for row in appended[15:]:
        first.journal.append(*row)
    first.close()
    second.close()
    _, found = at(place).journal.cuts()
    found = list(found)

    assert cuts[:10] == found[:10]
    assert [(11, 11), (12, 12), (13, 13)] == [(cut.step, cut.n_records) for cut in found[10:]]


def test_old_segments_go_when_the_journal_is_too_large(place):
    """Those that a kept checkpoint needs stay."""
    directory = at(place, keep=1, journal_bytes_max=200)
    directory.journal._rows_max = 5
    directory.open()
    directory.journal.resume(0)
    appended, cuts = story(60)
    for row in appended:
        directory.journal.append(*row)
        if row[0] % 10 == 0:
            directory.save(snapshot(row[0]), saved_at_s=1.0)
    directory.close()
    first = min(name.first_step for name in directory.journal._live())

    assert 1 < first <= 61
    assert cuts[first - 1 :] == list(at(place).journal.cuts(after_step=first - 1)[1])


def test_a_torn_journal_object_hides_nothing_that_a_checkpoint_needs(tmp_path):
    """A store that shows half-written objects, as a share does after a crash."""
    place = f"file://{tmp_path}"
    directory = at(place)
    directory.open()
    directory.journal.resume(0)
    appended, cuts = story(9)
    for row in appended:
        directory.journal.append(*row)
        if row[0] == 6:
            directory.save(snapshot(6), saved_at_s=1.0)
    sound = (tmp_path / "journal" / "000000000001-000001-000000000006.journal").read_bytes()
    directory.journal.sync()
    directory.close()
    (tmp_path / "journal" / "000000000001-000001-000000000006.journal").write_bytes(sound)
    torn = tmp_path / "journal" / "000000000001-000001-000000000009.journal"
    torn.write_bytes(torn.read_bytes()[:60])
    again = at(place)
    again.open()

    assert [] == again.journal.resume(6)[1]
    again.close()
    assert cuts[:6] == list(at(place).journal.cuts()[1])


def test_pickles_in_an_object_store_need_a_word_of_trust(place):
    """Nobody can tell who may write there; of a disk the rights are read."""
    directory = at(place, trusted="auto")
    directory.open()
    directory.save(snapshot(1), saved_at_s=1.0)
    if "://" in place:
        with pytest.raises(CheckpointError, match="loading a pickle runs code"):
            directory.load_newest()
    else:
        assert directory.load_newest() is not None
    directory.close()


def test_a_store_that_nobody_knows_is_refused():
    """At start, with the name."""
    with pytest.raises(ConfigError, match="nosuch://x"):
        open_store("nosuch://x")


def test_a_batch_of_nothing_keeps_its_row(place):
    """Markers alone move the position, in every kind of journal."""
    directory = at(place)
    directory.open()
    directory.journal.resume(0)
    raw = RawBatch(chunks=(), next_offsets={}, closed_by=ClosedBy.AGE)
    directory.journal.append(1, raw, {TopicPartition("t", 0): 3})
    directory.save(snapshot(1), saved_at_s=1.0)
    directory.close()

    assert [(1, 0)] == [(cut.step, cut.n_records) for cut in at(place).journal.cuts()[1]]
