"""A loop that hangs ends the process; a process that was frozen goes on."""

from stream_trainer.service.guard import Watch


def looks(*ages_and_times):
    watch = Watch(turn_s_max=60.0, look_s=5.0)
    return [watch.is_stuck(age_s, now_s=now_s) for age_s, now_s in ages_and_times]


def test_a_loop_that_hangs_is_stuck_as_soon_as_it_may_be_said():
    """Every five seconds somebody looks; the loop last turned at 0."""
    answers = looks(*((float(s), float(s)) for s in range(0, 80, 5)))

    assert [False] * 13 + [True] * 3 == answers


def test_a_process_that_was_frozen_is_not_stuck():
    """It was stopped for 543 s in the middle of a batch, and went on: the guard ended it at once."""
    assert [False, False, False] == looks((1.0, 100.0), (544.0, 643.0), (0.5, 648.0))


def test_a_loop_that_hangs_after_the_frost_is_stuck_a_whole_turn_later():
    """What was slept through is excused, no more."""
    answers = looks((1.0, 100.0), *((544.0 + s, 643.0 + s) for s in range(0, 80, 5)))

    assert [False] * 14 + [True] * 3 == answers
