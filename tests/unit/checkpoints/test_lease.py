"""Who waits for a pulse to stop must not take its own sleep for the silence of the other."""

from stream_trainer.checkpoints.lease import LeaseKeeper, LeaseWatch
from stream_trainer.clock import SystemClock


class Clock:
    now_s = 0.0

    def monotonic_s(self):
        return self.now_s


def silences(watch, clock, times_s):
    found = []
    for clock.now_s in times_s:
        found.append(watch.silent_s())
    return found


def test_silence_is_counted_from_the_last_change(tmp_path):
    """Nobody's clock but our own: the pulse is a number that changes."""
    clock = Clock()
    watch = LeaseWatch(tmp_path, clock)
    (tmp_path / "leases").mkdir()
    pulse = tmp_path / "leases" / "000004"
    pulse.write_text("1")
    before = silences(watch, clock, [0.5, 1.0, 1.5])
    pulse.write_text("2")

    assert [0.0, 0.5, 1.0] == before
    assert [0.0, 0.5] == silences(watch, clock, [2.0, 2.5])


def test_one_that_slept_itself_begins_to_wait_again(tmp_path):
    """A stopped standby would else take over from a healthy active one in the moment in which it wakes up."""
    clock = Clock()
    watch = LeaseWatch(tmp_path, clock)

    assert [0.0, 0.0, 0.5] == silences(watch, clock, [0.0, 60.0, 60.5])


def test_a_keeper_beats_under_its_epoch_and_removes_the_earlier_ones(tmp_path):
    """The newest epoch is the one that is watched."""
    LeaseKeeper(tmp_path, epoch=3, session_timeout_s=60).close()
    LeaseKeeper(tmp_path, epoch=4, session_timeout_s=60).close()

    assert ["000004"] == [path.name for path in (tmp_path / "leases").iterdir()]
    assert LeaseWatch(tmp_path, SystemClock()).silent_s() < 60
