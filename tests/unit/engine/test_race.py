"""A race is won by the better model only, whatever the cut of the batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reaction_helpers import Scripted, batch, probabilities

from stream_trainer.engine.race import Race, RaceOptions, losses
from stream_trainer.errors import ConfigError
from stream_trainer.types import RaceArm, State

SHORT = RaceOptions(records=1024)


class Noisy(Scripted):
    """Its probabilities are given, one after the other, whatever it learns."""

    def __init__(self, p_N):
        super().__init__("noisy", 0.0)
        self.p_N, self.place = p_N, 0

    def predict(self, batch):
        self.place += len(batch)
        return probabilities(self.p_N[self.place - len(batch) : self.place])


def run(race, live, n=1024, size=64):
    """Without looks in between: the verdict after all records."""
    for start in range(0, n, size):
        records = batch(min(size, n - start))
        race.score(records, live.predict(records))
        race.learn(records)
    return race.verdict()


def test_the_better_challenger_wins():
    """Of two that are both better, the one that saves more."""
    race = Race({RaceArm.FRESH: Scripted("fresh", 0.8), RaceArm.RATE_UP: Scripted("up", 0.9)}, SHORT)
    verdict = run(race, Scripted("keep", 0.6))

    assert (RaceArm.RATE_UP, True) == (verdict.challenger, verdict.won)
    assert 1 - np.log(0.9) / np.log(0.6) == pytest.approx(verdict.margin)


@pytest.mark.parametrize("quality", [0.59, 0.6, 0.602])
def test_a_challenger_that_is_worse_equal_or_hardly_better_loses(quality):
    """An exchange costs what the live model still knows; a hundredth of the loss does not pay for it."""
    verdict = run(Race({RaceArm.FRESH: Scripted("fresh", quality)}, SHORT), Scripted("keep", 0.6))

    assert not verdict.won


def test_a_bad_beginning_is_forgiven():
    """A new network is bad before it can be good: only the second half decides."""
    late = Noisy(np.repeat([0.1, 0.9], 512))
    verdict = run(Race({RaceArm.FRESH: late}, SHORT), Scripted("keep", 0.6))

    assert verdict.won


def test_luck_wins_less_than_one_race_in_a_hundred():
    """300 races of two equally good models that err at different records; at 3 standard errors 1 or 2 are expected."""
    rng = np.random.default_rng(4)
    options = RaceOptions(records=2048, margin_min=0.0)
    won = sum(
        run(
            Race({RaceArm.FRESH: Noisy(rng.uniform(0.2, 1.0, 2048))}, options), Noisy(rng.uniform(0.2, 1.0, 2048)), 2048
        ).won
        for _ in range(300)
    )

    assert won <= 3


def test_a_large_gain_on_a_few_records_is_not_significant():
    """One block in which the live model was wrong for once must not cost it its place."""
    keep = np.full(1024, 0.8)
    keep[900:960] = 0.01
    verdict = run(Race({RaceArm.FRESH: Scripted("fresh", 0.8)}, SHORT), Noisy(keep))

    assert verdict.margin > SHORT.margin_min
    assert not verdict.won


def test_a_challenger_without_finite_predictions_never_wins():
    """Five times the rate may be too much; the other one still can win."""
    wild = Noisy(np.full(1024, np.nan))
    verdict = run(Race({RaceArm.RATE_UP: wild, RaceArm.FRESH: Scripted("f", 0.9)}, SHORT), Scripted("keep", 0.6))

    assert (RaceArm.FRESH, True) == (verdict.challenger, verdict.won)
    assert not run(Race({RaceArm.RATE_UP: Noisy(np.full(1024, np.nan))}, SHORT), Scripted("keep", 0.6)).won


@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_the_cut_of_the_batches_changes_no_verdict(sizes, seed):
    """Blocks are counted in records: the same losses in another cut are the same bits."""
    rng = np.random.default_rng(seed)
    keep, other = rng.uniform(0.05, 1.0, (2, 1100))
    verdicts = []
    for cut in ([1100], sizes):
        race, live, start, turn = Race({RaceArm.FRESH: Noisy(other)}, SHORT), Noisy(keep), 0, 0
        while start < 1100:
            records = batch(min(cut[turn % len(cut)], 1100 - start))
            race.score(records, live.predict(records))
            start, turn = start + len(records), turn + 1
        verdicts.append(race.verdict())

    assert verdicts[0] == verdicts[1]


def test_huge_batches_do_not_end_a_race_before_anyone_could_learn():
    """Sixteen batches at least: within one batch all predictions come before all learning."""
    race, live = Race({RaceArm.FRESH: Scripted("f", 0.9)}, SHORT), Scripted("keep", 0.6)
    run(race, live, n=15 * 2000, size=2000)
    assert not race.finished
    run(race, live, n=2000, size=2000)
    assert race.finished


def test_a_restored_race_goes_on():
    """Half-way through a block too; a challenger that the captured race did not have drops out."""
    p_N = np.random.default_rng(0).uniform(0.05, 1.0, 1024)
    whole = Race({RaceArm.FRESH: Scripted("f", 0.7)}, SHORT)
    expected = run(whole, Noisy(p_N), size=50)
    first, live = Race({RaceArm.FRESH: Scripted("f", 0.7)}, SHORT), Noisy(p_N)
    run(first, live, n=450, size=50)
    state = first.capture()
    second = Race({RaceArm.FRESH: Scripted("?", 0.1), RaceArm.RATE_UP: Scripted("?", 0.99)}, SHORT)
    second.restore(State(arrays=state.arrays, values=state.values, pickles=state.pickles))

    assert expected == run(second, live, n=574, size=50)
    assert [RaceArm.FRESH] == list(second.challengers)
    assert whole.challengers[RaceArm.FRESH].learned == second.challengers[RaceArm.FRESH].learned


def test_the_loss_of_a_number_is_its_absolute_error():
    """In the unit of the target; the margin is a share, so the unit does not matter."""
    assert [0.5, 2.0] == losses(np.array([1.0, -1.0], np.float32), np.array([1.5, 1.0])).tolist()


@pytest.mark.parametrize(
    "wrong", [{"records": 200}, {"rate_factor": 1.0}, {"margin_min": 1.0}, {"statistic_min": 0.0}, {"batches_min": 0}]
)
def test_an_option_out_of_range_is_named(wrong):
    """By its path in the configuration."""
    with pytest.raises(ConfigError, match=rf"drift\.reaction\.race\.{next(iter(wrong))} is"):
        RaceOptions(**wrong)
