"""A mean against its own past: silent where it wanders by itself, loud where it leaves that."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_trainer.drift import build_confidence_signal, build_detector
from stream_trainer.drift.own_past import OwnPast, OwnPastOptions
from stream_trainer.errors import CheckpointError, ConfigError
from stream_trainer.schema import Target

SMALL = OwnPastOptions(look_records=64, warmup_records=512, half_life_records=1024)


def wandering(n, seed, *, half_life_records=100):
    """Doubt about alike records: stretches of some hundred are easier or harder, and none of it means anything."""
    rng, keep = np.random.default_rng(seed), 0.5 ** (1 / half_life_records)
    level, levels = 0.0, np.empty(n)
    for i, shock in enumerate(rng.normal(0.0, 0.05 * math.sqrt(1 - keep * keep), n).tolist()):
        level = keep * level + shock
        levels[i] = level
    return np.clip(0.2 + levels + rng.normal(0.0, 0.05, n), 0.0, 0.5)


def fed(detector, values_N, sizes=()):
    """Fed in batches of `sizes`, then the rest: the record and the numbers of each detection."""
    stops = [0, *np.cumsum(sizes, dtype=int).clip(max=len(values_N)).tolist(), len(values_N)]
    return [
        (start + found.index, found.before, found.after, found.threshold)
        for start, stop in pairwise(stops)
        for found in detector.update(values_N[start:stop])
    ]


def test_what_wanders_by_itself_is_not_told_and_a_change_beyond_it_is():
    """The case it exists for: a test for any change of the mean tells the wandering itself, here 20 times and more."""
    values_N = wandering(100_000, seed=1)
    values_N[80_000:] += 0.15

    assert len(fed(build_detector("weighted_adwin"), values_N[:80_000])) > 20
    [(record, before, after, threshold)] = fed(OwnPast(), values_N)
    assert 80_000 < record < 82_000
    assert (0.2, 0.35) == (pytest.approx(before, abs=0.02), pytest.approx(after, abs=0.05))
    assert after - before > threshold


def test_the_rule_is_that_of_the_module_by_hand():
    """Two looks of warm-up; then above mean + margin is told once, and enters the past as the threshold."""
    options = OwnPastOptions(look_records=2, warmup_records=4, half_life_records=1e9, sigmas=1.0, min_effect=0.5)
    means = [0.0, 1.0, 2.0, 2.0, 0.5, 3.0]
    told = fed(OwnPast(options), np.repeat(means, 2))

    # Past 0, 1: mean .5, margin .5, so 2 is told as 1 and enters so. Past 0, 1, 1: 2 was told. The fifth comes back.
    usual = np.array([0.0, 1.0, 1.0, 2 / 3 + 0.5, 0.5])
    assert [5, 11] == [record for record, *_ in told]
    assert (0.5, 2.0, 0.5) == pytest.approx(told[0][1:])
    assert (usual.mean(), 3.0, max(usual.std(), 0.5)) == pytest.approx(told[1][1:])


def test_falls_are_not_told():
    """A network that learns becomes surer; that is no drift."""
    assert [] == fed(OwnPast(SMALL), np.repeat([0.4, 0.3, 0.1, 0.0], 2000))


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 300), max_size=30), stop=st.integers(0, 6000), seed=st.integers(0, 5))
def test_neither_cut_nor_restart_changes_anything(sizes, stop, seed):
    """The same stream gives the same alarms, to the last bit, and the same memory."""
    values_N = np.random.default_rng(seed).beta(2, 8, 6000) + np.repeat([0.0, 0.3, 0.0], 2000)
    whole, first, second = OwnPast(SMALL), OwnPast(SMALL), OwnPast(SMALL)
    expected = fed(whole, values_N)
    told = fed(first, values_N[:stop], sizes)
    second.restore(first.capture())
    told += [(stop + record, *numbers) for record, *numbers in fed(second, values_N[stop:], sizes)]

    assert expected
    assert expected == told
    assert whole.capture().values == second.capture().values
    assert np.array_equal(whole.capture().arrays["pending"], second.capture().arrays["pending"])
    assert whole.evidence() == second.evidence()


def test_confidence_can_be_watched_by_it_and_shows_where_it_stands():
    """`drift: {confidence: own_past}`: the doubt, and from where on it is told."""
    signal = build_confidence_signal("mlp", Target.binary("late"), "own_past")
    doubt_N = wandering(20_000, seed=3)
    assert [] == signal.update(doubt_N)

    statistic, threshold = signal.scores()[""]
    assert 0.1 < statistic < threshold < 0.5
    told = signal.update(np.full(2048, 0.5))
    assert [("confidence", "mlp", 20_480)] == [(alarm.signal, alarm.model, alarm.record) for alarm in told]


def test_before_the_first_look_nothing_can_be_told():
    detector = OwnPast()
    assert [] == detector.update(np.ones(1000))
    assert (0.0, math.inf) == detector.evidence()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigmas": 0}, "sigmas is 0; expected a finite number above 0"),
        ({"half_life_records": math.inf}, "half_life_records is inf; expected a finite number above 0"),
        ({"min_effect": -1}, "min_effect is -1; expected a finite number, 0 or more"),
        ({"warmup_records": 1024}, "look_records is 1024 and warmup_records 1024; expected at least 1, and two looks"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        OwnPastOptions(**options)


def test_memory_of_other_settings_is_refused():
    with pytest.raises(CheckpointError, match="holds options"):
        OwnPast().restore(OwnPast(SMALL).capture())
