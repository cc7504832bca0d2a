"""One writer at a time, told apart by epochs: the later one wins, and what the earlier one finishes late is nothing."""

import shutil

import pytest
from test_checkpoint_directory import IDENTITY, snapshot

from stream_trainer.checkpoints import CheckpointDirectory
from stream_trainer.errors import Fenced


def at(place, **options) -> CheckpointDirectory:
    return CheckpointDirectory(place, identity=IDENTITY, versions={}, trusted=True, **options)


def opened(place, *, take_over=False) -> CheckpointDirectory:
    directory = at(place)
    directory.open(take_over=take_over)
    return directory


@pytest.fixture
def overtaken(place):
    """The first has saved step 5 and still lives; the second has taken over."""
    first = opened(place)
    first.save(snapshot(5), saved_at_s=1.0)
    second = opened(place, take_over=True)
    yield first, second
    first.close()
    second.close()


def steps_of(place) -> list[tuple[int, int, bool]]:
    return [(info.epoch, info.step, info.problem is None) for info in at(place).infos(verify=True)]


def test_every_start_takes_the_next_epoch(place):
    """Recorded where every later start sees it, even if nothing was saved."""
    epochs = []
    for _ in range(3):
        directory = opened(place)
        epochs.append(directory.epoch)
        directory.close()

    assert [1, 2, 3] == epochs


def test_the_epoch_goes_on_from_checkpoints_and_journals_when_the_claims_are_gone(place, remove):
    """Somebody copied the checkpoints alone, or removed the claims: an old epoch must not come back."""
    directory = opened(place)
    directory.close()
    directory.open()
    directory.save(snapshot(5), saved_at_s=1.0)
    directory.close()
    remove("epochs")
    directory.open()

    assert 3 == directory.epoch
    directory.close()


def test_one_that_was_overtaken_saves_nothing_and_says_by_whom(place, overtaken):
    """A process that was stopped wakes up with its lock in its hand: the epoch is what tells it."""
    first, second = overtaken
    second.save(snapshot(6), saved_at_s=2.0)
    with pytest.raises(Fenced, match=r"was taken over by process \d+ on .* \(epoch 2, ours is 1\)"):
        first.save(snapshot(9), saved_at_s=3.0)

    assert [(2, 6, True), (1, 5, True)] == steps_of(place)
    second.save(snapshot(7), saved_at_s=4.0)


@pytest.mark.parametrize("moment", ["before the manifest", "after it"])
def test_one_that_is_overtaken_in_mid_save_is_fenced(place, moment, monkeypatch):
    """Between any two lines of the save somebody may take over; there are two more looks."""
    first = opened(place)
    first.save(snapshot(5), saved_at_s=1.0)
    real, looks = first.check_fence, []
    later = []

    def look():
        looks.append(None)
        if len(looks) == (2 if moment == "before the manifest" else 3):
            later.append(opened(place, take_over=True))
        real()

    monkeypatch.setattr(first._fence, "check", look)
    real = type(first._fence).check.__get__(first._fence)
    with pytest.raises(Fenced):
        first.save(snapshot(9), saved_at_s=2.0)

    # taken over after it had become true: the later one saw it when it began, so it stays
    assert (9 if moment == "after it" else 5) == later[0].load_newest().counts.batches
    for directory in (first, *later):
        directory.close()


@pytest.mark.parametrize("second_saved", [False, True])
def test_a_late_checkpoint_is_never_loaded_and_goes_at_the_next_start(place, overtaken, monkeypatch, second_saved):
    """Stopped after its last look, awake again, killed before the next: the worst moment. Its step is the highest."""
    first, second = overtaken
    if second_saved:
        second.save(snapshot(6), saved_at_s=2.0)
    monkeypatch.setattr(first._fence, "check", lambda: None)
    first.save(snapshot(9), saved_at_s=3.0)

    newest = 6 if second_saved else 5
    assert newest == at(place).load_newest().counts.batches
    assert (1, 9, False) in steps_of(place)
    third = opened(place, take_over=True)
    assert newest == third.load_newest().counts.batches
    assert (1, 9) not in [found[:2] for found in steps_of(place)]
    third.close()


def test_a_late_checkpoint_of_a_step_that_was_saved_again_does_not_stand_in_its_place(place, overtaken, monkeypatch):
    """The same step in two epochs is two states: batches cut by age are not cut the same way twice."""
    first, second = overtaken
    monkeypatch.setattr(first._fence, "check", lambda: None)
    first.save(snapshot(6), saved_at_s=3.0)

    assert second.save(snapshot(6), saved_at_s=4.0) > 0
    assert 2 == next(at(place).infos(verify=True)).epoch


def test_a_torn_claim_is_passed_over(place, put):
    """Killed while it wrote its claim: the next start goes above it, and nothing is taken for late."""
    directory = opened(place)
    directory.save(snapshot(5), saved_at_s=1.0)
    directory.close()
    put("epochs/000002", b'{"body": {"epo')
    directory.open()

    assert 3 == directory.epoch
    assert 5 == directory.load_newest().counts.batches
    directory.close()


def test_after_a_takeover_the_lock_is_the_new_ones(tmp_path):
    """On a disk a third instance is refused at once, although the lock that the old one holds was never released."""
    first = opened(tmp_path)
    second = opened(tmp_path, take_over=True)
    with pytest.raises(Fenced, match="is in use by process"):
        opened(tmp_path)
    first.close()
    with pytest.raises(Fenced, match="is in use by process"):
        opened(tmp_path)
    second.close()
    opened(tmp_path).close()


def test_a_standby_reads_without_becoming_a_writer(place):
    """It follows the one that writes, and disturbs nothing."""
    first = opened(place)
    standby = at(place)
    assert standby.load_newest() is None
    first.save(snapshot(5), saved_at_s=1.0)
    assert 5 == standby.load_newest().counts.batches
    first.check_fence()
    standby.open(take_over=True)

    assert (1, 2) == (first.epoch, standby.epoch)
    with pytest.raises(Fenced):
        first.check_fence()
    first.close()
    standby.close()


def test_removing_the_claims_while_it_runs_fences_it(place, remove):
    """Nobody can tell any more who may write: the one who writes must not guess."""
    directory = opened(place)
    remove("epochs")
    with pytest.raises(Fenced):
        directory.save(snapshot(1), saved_at_s=1.0)
    directory.close()


def test_removing_the_claims_makes_late_checkpoints_good_again(place, overtaken, monkeypatch, remove):
    """The way out for whoever put an old checkpoint back on purpose."""
    first, second = overtaken
    monkeypatch.setattr(first._fence, "check", lambda: None)
    first.save(snapshot(9), saved_at_s=3.0)
    first.close()
    second.close()
    remove("epochs")

    assert 9 == at(place).load_newest().counts.batches


def test_a_backup_of_the_folder_is_a_whole_directory(tmp_path):
    """Claims, checkpoints and journal lie together."""
    first = opened(tmp_path / "one")
    first.save(snapshot(5), saved_at_s=1.0)
    first.close()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    second = opened(tmp_path / "two")

    assert (2, 5) == (second.epoch, second.load_newest().counts.batches)
    second.close()
