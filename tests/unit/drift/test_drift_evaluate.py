"""The judge: its counting by hand, its streams as they say, and rows that show what a table means."""

import math

import numpy as np
import pytest

from stream_trainer.contracts import DriftDetector
from stream_trainer.drift import DETECTORS, NoDetector, build_detector
from stream_trainer.drift.adwin import WeightedAdwin
from stream_trainer.drift.evaluate import (
    EveryK,
    Oracle,
    Stream,
    WorseOnly,
    autocorrelated_errors,
    errors_with_changes,
    judge,
    losses_with_changes,
    pooled,
    seasonal_errors,
    told_at,
)
from stream_trainer.types import Direction

FLAT = Stream(name="flat", values_N=np.zeros(1000, dtype=np.float32), changes=(400, 700))


def test_counting_is_that_of_the_rules_by_hand():
    """Every 150 records, horizon 100, batches of 50: 449 is for 400, 749 for 700; 149, 299, 599, 899 are false."""
    verdict = judge(lambda stream: EveryK(150), [FLAT], batch_records=50, horizon_records=100)

    assert (50, 50) == verdict.delays
    assert (0, 4, 800) == (verdict.n_missed, verdict.n_false, verdict.stable_records)
    assert verdict.normalised_detection_time == 0.5
    assert verdict.false_per_100k == 500.0
    assert verdict.run_length_records == 200.0
    assert verdict.run_length_hours(200.0) == pytest.approx(1 / 3600)


def test_later_alarms_inside_a_horizon_are_neither_hits_nor_false():
    """Counting repeats as hits rewards the detector that cries most."""
    verdict = judge(lambda stream: EveryK(10), [FLAT], batch_records=1, horizon_records=300)

    assert (10, 10) == verdict.delays
    assert 40 == verdict.n_false


def test_a_horizon_ends_at_the_next_change():
    verdict = judge(lambda stream: Oracle((650, 720)), [FLAT], batch_records=1, horizon_records=500)

    assert (251, 21) == verdict.delays
    assert (0, 400) == (verdict.n_false, verdict.stable_records)


def test_never_fire_and_oracle_are_the_ends_of_the_scale():
    never = judge(lambda stream: NoDetector(), [FLAT], batch_records=64, horizon_records=100)
    oracle = judge(lambda stream: Oracle(stream.changes), [FLAT], batch_records=1, horizon_records=100)

    assert (2, 0, 1.0, math.inf) == (
        never.n_missed,
        never.n_false,
        never.normalised_detection_time,
        never.run_length_records,
    )
    assert math.isnan(never.delay_median)
    assert math.isnan(never.delay_p95)
    assert (1, 1) == oracle.delays
    assert oracle.n_false == 0


def test_a_detection_counts_when_its_batch_has_arrived():
    """A detector cannot say inside a batch what it is told at its end."""
    assert [127, 255, 319] == told_at(EveryK(100), Stream(name="", values_N=np.zeros(320)), 64)[:3]
    assert [419] == told_at(Oracle((400,)), Stream(name="", values_N=np.zeros(420)), 64)


@pytest.mark.parametrize("detector", [EveryK(7), Oracle((5, 90)), NoDetector(), WorseOnly(EveryK(7))])
def test_baselines_keep_the_contract(detector):
    """They stand in the same tables, so they are fed and saved in the same way."""
    values_N, state = np.zeros(100), detector.capture()
    expected = [d.index for d in detector.update(values_N)]
    detector.restore(state)
    found = [start + d.index for start in range(0, 100, 9) for d in detector.update(values_N[start : start + 9])]

    assert isinstance(detector, DriftDetector)
    assert expected == found


def test_streams_hold_what_they_promise():
    """Exact change points, and controls whose mean is the same at both ends."""
    errors = errors_with_changes((20_000, 0.1), (10_000, 0.4), (10_000, 0.2), seed=1)
    losses = losses_with_changes((20_000, 1.0), (20_000, 3.0), seed=1)
    wandering = autocorrelated_errors(400_000, rate=0.1, spread=0.02, seed=1)
    seasonal = seasonal_errors(400_000, rate=0.1, amplitude=0.05, seed=1)

    assert (20_000, 30_000) == errors.changes
    assert [0.1, 0.4, 0.2] == pytest.approx(
        [part.mean() for part in np.split(errors.values_N, errors.changes)], abs=0.02
    )
    assert 3.0 == pytest.approx(losses.values_N[20_000:].mean() / losses.values_N[:20_000].mean(), rel=0.05)
    assert () == wandering.changes == seasonal.changes
    assert 0.1 == pytest.approx(seasonal.values_N.mean(), abs=0.003)
    assert 0.14 < seasonal.values_N[15_000:35_000].mean() < 0.16
    assert 0.1 == pytest.approx(wandering.values_N.mean(), abs=0.01)
    steady, wander = 0.3 / math.sqrt(5000), wandering.values_N.reshape(-1, 5000).mean(axis=1).std()
    assert 2 * steady < wander < 0.03
    assert "errors 0.1→0.4→0.2 after 20,000" == errors.name


def test_weighted_adwin_is_silent_on_the_controls_and_finds_the_changes():
    """The table of the benchmark in small."""
    controls = [autocorrelated_errors(300_000, rate=0.1, seed=2), seasonal_errors(300_000, rate=0.1, seed=2)]
    changes = [errors_with_changes((5000, 0.1), (5000, 0.2), seed=seed) for seed in range(8)]
    calm = judge(lambda stream: WeightedAdwin(), controls, batch_records=256, horizon_records=5000)
    found = judge(lambda stream: WeightedAdwin(), changes, batch_records=256, horizon_records=5000)

    assert calm.n_false <= 1
    assert (0, 0) == (found.n_missed, found.n_false)
    assert found.delay_median <= found.delay_p95 < 1500


def named(detector, stream, size):
    """The records that a detector names, fed in batches of `size`."""
    starts = range(0, len(stream.values_N), size)
    return [start + found.index for start in starts for found in detector.update(stream.values_N[start : start + size])]


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_a_detector_names_the_same_records_however_the_stream_is_cut(name):
    """So batches cost at most the wait for their end, and record by record can be judged from longer stretches."""
    n = {"kswin": 200, "own_past": 9000}.get(name, 7000)  # slow; warms up for 8,192
    stream = errors_with_changes((n, 0.1), (n // 2, 0.5), (n // 2, 0.9), seed=3)
    whole, in_ones, cut = (named(build_detector(name), stream, size) for size in (2 * n, 1, 77))
    detector, by_batch = build_detector(name), []
    for start in range(0, 2 * n, 256):
        batch_N = stream.values_N[start : start + 256]
        by_batch += [start + len(batch_N) - 1] * len(detector.update(batch_N))

    assert whole == in_ones == cut == told_at(build_detector(name), stream, 1)
    assert by_batch == told_at(build_detector(name), stream, 256)
    assert name == "none" or whole


def test_worse_only_hears_a_detector_when_values_rise():
    """Two-sided detectors tell recovery, too; the tables show what is left of them without."""
    values_N = errors_with_changes((5000, 0.4), (5000, 0.1), (5000, 0.4), seed=1).values_N
    both, rising = build_detector("adwin"), WorseOnly(build_detector("adwin"))

    assert {Direction.UP, Direction.DOWN} == {found.direction for found in both.update(values_N)}
    found = rising.update(values_N[:12_000])
    assert {Direction.UP} == {detection.direction for detection in found}
    again = WorseOnly(build_detector("adwin"))
    again.restore(rising.capture())
    assert rising.update(values_N[12_000:]) == again.update(values_N[12_000:])


def test_pooled_verdicts_count_as_if_they_had_been_one():
    """A table has a line for each case and one for all of them."""
    one = judge(lambda stream: EveryK(150), [FLAT], batch_records=50, horizon_records=100)
    two = judge(lambda stream: EveryK(150), [FLAT, FLAT], batch_records=50, horizon_records=100)

    assert two == pooled([one, one])
    assert 4 == two.n_changes
