"""River's detectors behind our contract: same records found, exact restore, our own counts."""

import numpy as np
import pytest
from river import drift as river_drift
from river.drift.binary import DDM, HDDMA, HDDMW

from stream_trainer.contracts import DriftDetector
from stream_trainer.drift import DETECTORS, build_detector
from stream_trainer.drift.river_detectors import RiverAdwin, RiverAdwinOptions, RiverKswinOptions
from stream_trainer.errors import CheckpointError, ConfigError
from stream_trainer.types import Direction

RIVER = {
    "adwin": river_drift.ADWIN,
    "kswin": lambda: river_drift.KSWIN(seed=0),
    "page_hinkley": river_drift.PageHinkley,
    "ddm": DDM,
    "hddm_a": HDDMA,
    "hddm_w": HDDMW,
}


def errors(*pieces, seed=0):
    """Bernoulli errors: pieces of (records, error rate)."""
    rng = np.random.default_rng(seed)
    return np.concatenate([(rng.random(n) < p).astype(np.float64) for n, p in pieces])


def story(name):
    """Up, down and up again; short for KSWIN, which is a thousand times slower than the others."""
    return (
        errors((300, 0.1), (300, 0.9), (200, 0.1)) if name == "kswin" else errors((3000, 0.1), (3000, 0.6), (2000, 0.1))
    )


def run(detector, values_N, cuts):
    """Feed in batches; detections with their record in the stream."""
    found, start = [], 0
    for size in cuts:
        found += [(start + d.index, d) for d in detector.update(values_N[start : start + size])]
        start += size
    return found + [(start + d.index, d) for d in detector.update(values_N[start:])]


@pytest.mark.parametrize("name", sorted(RIVER))
def test_the_records_found_are_those_of_river_itself(name):
    """We add a contract, not an opinion."""
    values_N, river, expected = story(name), RIVER[name](), []
    for record, value in enumerate(values_N.tolist()):
        river.update(value)
        if river.drift_detected:
            expected.append(record)

    assert expected == [record for record, _ in run(build_detector(name), values_N, [1, 7, 100])]
    assert expected


@pytest.mark.parametrize("name", sorted(RIVER))
@pytest.mark.parametrize("stop", [0, 150, 399])
def test_a_restored_detector_goes_on_as_if_never_stopped(name, stop):
    """A restart in mid-window must neither lose evidence nor invent it."""
    values_N = story(name)
    going_on, restored = build_detector(name), build_detector(name)
    going_on.update(values_N[:stop])
    state = going_on.capture()
    expected = going_on.update(values_N[stop:])
    restored.restore(state)

    assert expected == restored.update(values_N[stop:])
    assert not state.pickles
    left, right = going_on.capture(), restored.capture()
    assert left.values == right.values
    assert all(np.array_equal(left.arrays[key], right.arrays[key], equal_nan=True) for key in left.arrays)


@pytest.mark.parametrize("name", sorted(RIVER))
def test_a_restore_right_at_a_detection_starts_river_from_nothing_like_river_does(name):
    """The flag "drift at the last record" is memory too: River resets itself on the record after it."""
    values_N = story(name)
    first = run(build_detector(name), values_N, [])[0][0]
    going_on, restored = build_detector(name), build_detector(name)
    going_on.update(values_N[: first + 1])
    restored.restore(going_on.capture())

    assert going_on.update(values_N[first + 1 :]) == restored.update(values_N[first + 1 :])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adwin", {}),
        ("kswin", {}),
        ("page_hinkley", {"threshold": 20.0}),
        ("hddm_a", {"two_sided_test": True}),
        ("hddm_w", {"two_sided_test": True}),
    ],
)
def test_direction_says_whether_errors_rose_or_fell(name, options):
    """An alarm on recovery must not be taken for trouble."""
    values_N = errors((300, 0.1), (300, 0.9), (300, 0.05))
    (rise, up), *_more, (fall, down) = run(build_detector(name, **options), values_N, [])

    assert (up.direction, down.direction) == (Direction.UP, Direction.DOWN)
    assert up.before < 0.2 < up.after
    assert down.after < 0.5 < down.before
    assert 300 <= rise < 600 <= fall


@pytest.mark.parametrize("name", ["ddm", "hddm_a", "hddm_w"])
def test_binary_detectors_see_only_worse_and_take_any_error_as_at_most_one(name):
    """Their bounds are for shares: a squared error of 9 would ask DDM for the root of a negative number."""
    detector = build_detector(name)
    (_, found), *_ = run(detector, 9 * errors((500, 0.1), (500, 0.7)), [])

    assert Direction.UP is found.direction
    assert found.before < 0.2 < 0.4 < found.after <= 1.0
    assert found.statistic > found.threshold


def test_counts_survive_rivers_reset_and_our_restore():
    """River's n_detections returns to 0 after each alarm: a Prometheus counter must not."""
    detector = RiverAdwin()
    values_N = errors((2000, 0.1), (2000, 0.8), (2000, 0.1), (2000, 0.8))
    detector.update(values_N)
    twin = RiverAdwin()
    twin.restore(detector.capture())

    assert twin.n_records == 8000
    assert {Direction.UP: 2, Direction.DOWN: 1} == detector.n_detections == twin.n_detections


def test_memory_of_other_settings_or_of_another_river_is_refused():
    """A window gathered under one delta has another false-alarm rate under the next."""
    state = RiverAdwin().capture()
    with pytest.raises(CheckpointError, match="delta"):
        RiverAdwin(RiverAdwinOptions(delta=0.5)).restore(state)
    with pytest.raises(CheckpointError, match=r"river.*0\.1"):
        RiverAdwin().restore(type(state)(arrays=state.arrays, values={**state.values, "river": "0.1"}))


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_an_empty_batch_changes_nothing(name):
    """A batch of rejects alone has no errors to tell."""
    detector = build_detector(name)
    before = detector.capture().values

    assert isinstance(detector, DriftDetector)
    assert list(detector.update(np.zeros(0))) == []
    assert before == detector.capture().values


def test_wrong_names_and_options_are_answered_with_the_right_ones():
    with pytest.raises(ConfigError, match=r"known detectors: .*adwin.*none"):
        build_detector("adwim")
    with pytest.raises(ConfigError, match=r"drift detector adwin: unknown option dleta; known options: delta, clock"):
        build_detector("adwin", dleta=0.1)
    with pytest.raises(ConfigError, match="mode is 'sideways'"):
        build_detector("page_hinkley", mode="sideways")
    with pytest.raises(ConfigError, match="stat_size is 80 and window_size 100"):
        RiverKswinOptions(stat_size=80)
