"""A race is won by the better model only, whatever the cut of the batches."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reaction_helpers import Scripted, batch, probabilities

from stream_trainer.engine.race import Race, RaceOptions, losses
from stream_trainer.errors import ConfigError
from stream_trainer.models import state_sha256
from stream_trainer.types import RaceArm, State

SHORT = RaceOptions(records=1024)
LONG = RaceOptions(records=100_000)


class Noisy(Scripted):
    """Its probabilities are given, one after the other, whatever it learns."""

    def __init__(self, p_N):
        super().__init__("noisy", 0.0)
        self.p_N, self.place = p_N, 0

    def predict(self, batch):
        self.place += len(batch)
        return probabilities(self.p_N[self.place - len(batch) : self.place])


class Wavering(Scripted):
    """Its script is a list, so that it can be saved; whoever takes its state takes its place in it."""

    def __init__(self, p_N):
        super().__init__("wavering", 0.0)
        self.script = p_N.tolist()

    def predict(self, batch):
        return probabilities(np.array(self.script[self.learned : self.learned + len(batch)]))


def race_of(live, options=SHORT, **challengers):
    return Race(live, {RaceArm(name): model for name, model in challengers.items()}, options)


def run(race, n=1024, size=64):
    """Without looks in between: the verdict after all records."""
    for start in range(0, n, size):
        records = batch(min(size, n - start))
        race.predict(records)
        race.score(records)
        race.learn(records)
    return race.verdict()


def test_the_better_challenger_wins():
    """Of two that are both better, the one that saves more."""
    verdict = run(race_of(Scripted("keep", 0.6), fresh=Scripted("fresh", 0.8), rate_up=Scripted("up", 0.9)))

    assert (RaceArm.RATE_UP, True) == (verdict.challenger, verdict.won)
    assert 1 - np.log(0.9) / np.log(0.6) == pytest.approx(verdict.margin)


@pytest.mark.parametrize("quality", [0.59, 0.6, 0.602])
def test_a_challenger_that_is_worse_equal_or_hardly_better_loses(quality):
    """An exchange costs what the live model still knows; a hundredth of the loss does not pay for it."""
    verdict = run(race_of(Scripted("keep", 0.6), fresh=Scripted("fresh", quality)))

    assert not verdict.won


def test_a_bad_beginning_is_forgiven():
    """A new network is bad before it can be good: only the second half decides."""
    late = Noisy(np.repeat([0.1, 0.9], 512))
    verdict = run(race_of(Scripted("keep", 0.6), fresh=late))

    assert verdict.won


def test_luck_wins_less_than_one_race_in_a_hundred():
    """300 races of two equally good models that err at different records, looked at before their end."""
    rng = np.random.default_rng(4)
    options = RaceOptions(margin_min=0.0)
    quality = rng.uniform(0.2, 1.0, (300, 2, 2048))
    won = sum(run(race_of(Noisy(keep), options, fresh=Noisy(fresh)), 2048).won for keep, fresh in quality)

    assert won <= 3


def test_a_large_gain_on_a_few_records_is_not_significant():
    """One block in which the live model was wrong for once must not cost it its place."""
    keep = np.full(1024, 0.8)
    keep[900:960] = 0.01
    verdict = run(race_of(Noisy(keep), LONG, fresh=Scripted("fresh", 0.8)))

    assert verdict.margin > LONG.margin_min
    assert not verdict.won


def test_a_challenger_without_finite_predictions_never_wins():
    """Five times the rate may be too much; the other one still can win."""
    wild = Noisy(np.full(1024, np.nan))
    verdict = run(race_of(Scripted("keep", 0.6), rate_up=wild, fresh=Scripted("f", 0.9)))

    assert (RaceArm.FRESH, True) == (verdict.challenger, verdict.won)
    assert not run(race_of(Scripted("keep", 0.6), rate_up=Noisy(np.full(1024, np.nan)))).won


@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_the_cut_of_the_batches_changes_no_verdict(sizes, seed):
    """Blocks are counted in records: the same losses in another cut are the same bits."""
    rng = np.random.default_rng(seed)
    keep, other = rng.uniform(0.05, 1.0, (2, 1100))
    verdicts = []
    for cut in ([1100], sizes):
        race, start, turn = race_of(Noisy(keep), LONG, fresh=Noisy(other)), 0, 0
        while start < 1100:
            records = batch(min(cut[turn % len(cut)], 1100 - start))
            race.score(records)
            start, turn = start + len(records), turn + 1
        verdicts.append(race.verdict())

    assert verdicts[0] == verdicts[1]


def test_huge_batches_do_not_end_a_race_before_anyone_could_learn():
    """Sixteen batches at least: within one batch all predictions come before all learning."""
    race = race_of(Scripted("keep", 0.6), fresh=Scripted("f", 0.9))
    run(race, n=7 * 2000, size=2000)
    assert race.progress == 7 / 16
    run(race, n=8 * 2000, size=2000)
    assert not race.finished
    run(race, n=2000, size=2000)
    assert race.finished


# ------------------------------------------------------------ answering together


def test_whoever_does_well_is_heard_before_anything_is_proved():
    """Before the first look the answer is nearly the better model's; no one waits for significance."""
    race = race_of(Scripted("keep", 0.3), fresh=Scripted("f", 0.9))
    told = []
    for _ in range(4):
        records = batch(64)
        told.append(race.predict(records)[0, 1])
        race.score(records)
    race.predict(batch(1))

    assert told[0] < 0.31  # at first the live model alone is trusted
    assert told == sorted(told)
    assert told[3] > 0.89


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), arms=st.integers(2, 4))
def test_the_answer_costs_hardly_more_than_that_of_the_best_arm(seed, arms):
    """The bound of the aggregating strategy, plus what the handicap and forgetting add: 20 nats over 1,024 records."""
    p_AN = np.clip(np.random.default_rng(seed).beta(2, 1, (arms, 1)) + np.zeros((1, 1024)), 0.06, 0.99)
    keep, *others = [Scripted("m", float(p_N[0])) for p_N in p_AN]
    names = ["fresh", "rate_up", "earlier_1"]
    race = race_of(keep, LONG, **dict(zip(names, others)))
    cost = 0.0
    for _ in range(64):
        records = batch(16)
        cost += float(losses(records.y_N, race.predict(records)).sum())
        race.score(records)

    assert cost <= float(-np.log(p_AN).sum(axis=1).min()) + 20.0


def test_an_answer_that_is_not_finite_is_not_heard():
    """From the first record of the race on; nor is anybody else silenced by it."""
    race = race_of(Scripted("keep", 0.6), rate_up=Noisy(np.full(1024, np.nan)), fresh=Scripted("f", 0.8))
    answers = []
    for _ in range(8):
        records = batch(64)
        answers.append(race.predict(records))
        race.score(records)

    assert np.isfinite(answers).all()
    assert answers[-1][0, 1] > 0.7


def test_values_are_weighted_whatever_their_unit():
    """A number is answered alike in metres and in kilometres."""

    class Value(Scripted):
        def predict(self, batch):
            return np.full(len(batch), self.quality)

    told = []
    for unit in (1.0, 1000.0):
        race = race_of(Value("keep", 3.0 * unit), fresh=Value("f", 1.5 * unit))
        records = batch(40)
        records = replace(records, y_N=np.full(40, unit, np.float32))
        for _ in range(5):
            told.append(race.predict(records)[0] / unit)
            race.score(records)

    assert told[:5] == pytest.approx(told[5:])
    assert told[0] > 2.9
    assert told[4] < 1.6


# ------------------------------------------------------------ the lead, and a restart


def test_an_exchange_swaps_states_and_can_be_taken_back():
    """The live model stays the object that everybody holds."""
    live, fresh = Scripted("keep", 0.6), Scripted("fresh", 0.9)
    race = race_of(live, fresh=fresh)
    race.exchange(RaceArm.FRESH)

    assert ("fresh", "keep", RaceArm.FRESH) == (live.name, fresh.name, race.leader)
    race.learn(batch(5))
    assert (0, 5) == (live.learned, fresh.learned)  # the live model learns outside
    assert RaceArm.KEEP is run(race).challenger
    race.exchange(RaceArm.KEEP)
    assert ("keep", "fresh", RaceArm.KEEP) == (live.name, fresh.name, race.leader)


@pytest.mark.parametrize("exchanged", [[], ["fresh"], ["fresh", "rate_up"], ["rate_up", "keep"]], ids=str)
def test_a_restored_race_goes_on(exchanged):
    """Half-way through a block, whoever leads: who is live decides who is captured with the race."""
    size, p_N = 50, np.random.default_rng(0).uniform(0.05, 1.0, 1100)
    live = Wavering(p_N)
    race = race_of(live, fresh=Wavering(p_N[::-1]), rate_up=Wavering(p_N**0.5))
    run(race, n=450, size=size)
    for name in exchanged:
        race.exchange(RaceArm(name))
    state, live_state = race.capture(), live.capture()
    twin = Wavering(p_N)
    twin.restore(live_state)
    resumed = race_of(twin, fresh=Wavering(p_N), rate_up=Wavering(p_N), earlier_1=Wavering(p_N))
    resumed.restore(state)

    assert list(race.arms) == list(resumed.arms)
    assert twin is resumed.arms[race.leader]
    assert state_sha256(state) == state_sha256(resumed.capture())
    assert run(race, n=574, size=size) == run(resumed, n=574, size=size)


def test_a_race_of_an_older_version_goes_on():
    """Its state knows no leader and no weights; an arm that had won and left is not among the challengers."""
    race = race_of(Scripted("keep", 0.6), fresh=Scripted("f", 0.7))
    run(race, n=500)
    state = race.capture()
    own = state.part("own")
    old = {key: value for key, value in own.values.items() if key not in ("leader", "lately_records")}
    arrays = {key: array for key, array in own.arrays.items() if key != "lately"}
    old_state = State.join({"own": State(arrays=arrays, values=old | {"exchanges": 0}), "fresh": state.part("fresh")})
    resumed = race_of(Scripted("keep", 0.6), rate_up=Scripted("?", 0.1), fresh=Scripted("?", 0.1))
    resumed.restore(old_state)

    assert [RaceArm.KEEP, RaceArm.FRESH] == list(resumed.arms)
    assert run(race, n=524) == run(resumed, n=524)


def test_the_loss_of_a_number_is_its_absolute_error():
    """In the unit of the target; the margin is a share, so the unit does not matter."""
    assert [0.5, 2.0] == losses(np.array([1.0, -1.0], np.float32), np.array([1.5, 1.0])).tolist()


@pytest.mark.parametrize(
    "wrong",
    [
        {"records": 200},
        {"rate_factor": 1.0},
        {"margin_min": 1.0},
        {"statistic_min": 0.0},
        {"batches_min": 0},
        {"earlier": 4},
        {"pull_factor": 0.5},
    ],
)
def test_an_option_out_of_range_is_named(wrong):
    """By its path in the configuration."""
    with pytest.raises(ConfigError, match=rf"drift\.reaction\.race\.{next(iter(wrong))} is"):
        RaceOptions(**wrong)
