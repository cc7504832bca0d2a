"""Signals: the right name, the right record, told once, and the same after a restart."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from stream_trainer.drift import ErrorSignal, build_detector, build_error_signal, build_feature_signal
from stream_trainer.drift.signals import FeatureSignal, LabelSignal, PredictionSignal, Score
from stream_trainer.errors import CheckpointError, ConfigError
from stream_trainer.schema import CategoryFeature, NumberFeature, Schema, Target, TargetKind
from stream_trainer.types import Batch

ELEC2 = Path(__file__).parents[4] / "shared" / "data" / "elec2.csv.gz"
SCHEMA = Schema(
    numbers=(NumberFeature(name="heat"), NumberFeature(name="load", optional=True)),
    categories=(CategoryFeature(name="shop", buckets=100),),
    target=Target(name="late", kind=TargetKind.CLASSES, classes=("no", "maybe", "yes")),
)


def batch_of(x_NF, category_NC=None, missing_NF=None):
    n = len(x_NF)
    return Batch(
        x_NF=x_NF.astype(np.float32),
        missing_NF=missing_NF,
        category_NC=np.zeros((n, 0), dtype=np.int64) if category_NC is None else category_NC,
        y_N=np.zeros(n, dtype=np.int64),
        timestamp_ms_N=np.full(n, -1),
    )


def shop_batch(rng, n, *, heat=0.0, missing=0.05, shops=(0, 50)):
    return batch_of(
        rng.normal(size=(n, 2)) + np.array([heat, 0.0]), rng.integers(*shops, (n, 1)), rng.random((n, 2)) < [0, missing]
    )


def test_error_alarm_carries_model_and_record_of_the_run():
    """The record, not the batch, is what one looks up in the log."""
    signal = ErrorSignal("mlp", build_detector("weighted_adwin"))
    rng = np.random.default_rng(0)
    alarms = []
    for start in range(0, 12_000, 100):
        alarms += signal.update((rng.random(100) < (0.1 if start < 10_000 else 0.6)).astype(float))
    [alarm] = alarms

    assert (alarm.signal, alarm.model, alarm.feature) == ("error", "mlp", None)
    assert 10_000 < alarm.record < 10_200
    assert (alarm.record - 1) % 100 == alarm.detection.index


@pytest.mark.parametrize(("kind", "value_max"), [(TargetKind.CLASSES, 1.0), (TargetKind.NUMBER, None)])
def test_errors_of_a_number_are_judged_on_their_own_scale(kind, value_max):
    """Clipped at 1, minutes of delay would all count as 1 and nothing would ever change."""
    target = Target(name="y", kind=kind, classes=("a", "b") if kind is TargetKind.CLASSES else ())

    assert value_max == build_error_signal("m", target).detector.options.value_max
    assert build_error_signal("m", target, value_max=5.0).detector.options.value_max == 5.0
    assert build_error_signal("m", target, "adwin").detector.name == "adwin"


def test_errors_that_are_no_numbers_are_left_out_and_the_index_still_fits():
    """A model gone wild says NaN for a while; one NaN would poison every sum for ever."""
    values_N = np.concatenate([np.zeros(2000), np.ones(96)])
    place = np.sort(np.random.default_rng(0).permutation(3000)[: len(values_N)])
    torn_N = np.full(3000, np.nan)
    torn_N[place] = values_N
    [expected] = ErrorSignal("mlp", build_detector("weighted_adwin")).update(values_N)
    signal = ErrorSignal("mlp", build_detector("weighted_adwin"))
    [alarm] = signal.update(torn_N)

    assert place[expected.detection.index] == alarm.detection.index == alarm.record - 1
    assert all(np.isfinite(array).all() for array in signal.capture().arrays.values())


def test_scores_show_statistic_and_threshold_before_anything_fires():
    """An alert rule needs the distance to the limit, not only the limit being passed."""
    signal = ErrorSignal("mlp", build_detector("weighted_adwin"))
    signal.update(np.tile([0.0, 1.0], 4000))
    score = signal.scores()[""]

    assert abs(score.statistic) < score.threshold < 0.2
    assert {} == ErrorSignal("mlp", build_detector("adwin")).scores()


@pytest.mark.parametrize(
    ("change", "feature"), [({"heat": 1.0}, "heat"), ({"missing": 0.5}, "load"), ({"shops": (25, 75)}, "shop")]
)
def test_only_the_feature_that_changed_is_named_and_only_once(change, feature):
    """One bad sensor must not look like forty."""
    signal, rng = FeatureSignal(SCHEMA), np.random.default_rng(1)
    calm = [alarm for _ in range(80) for alarm in signal.update(shop_batch(rng, 128))]
    alarms = [alarm for _ in range(40) for alarm in signal.update(shop_batch(rng, 128, **change))]

    assert not calm
    assert [("feature", feature)] == [(alarm.signal, alarm.feature) for alarm in alarms]
    assert 80 * 128 < alarms[0].record <= 80 * 128 + 400
    assert alarms[0].detection.statistic > alarms[0].detection.threshold > alarms[0].detection.before
    assert list(signal.scores()) == ["heat", "load", "shop"]


def test_rates_name_missing_and_unseen():
    signal, rng = FeatureSignal(SCHEMA), np.random.default_rng(1)
    for _ in range(50):
        signal.update(shop_batch(rng, 128))
    for _ in range(30):
        signal.update(shop_batch(rng, 128, heat=100.0, missing=0.5, shops=(60, 64)))
    rates = signal.rates()

    assert [0.0, pytest.approx(0.5, abs=0.05), 0.0] == [rates[name].missing for name in ("heat", "load", "shop")]
    assert [rates[name].unseen > 0.9 for name in ("heat", "load", "shop")] == [True, False, True]


def test_after_renewal_the_new_world_is_the_reference():
    """On a confirmed drift the old reference would cry for ever."""
    signal, rng = FeatureSignal(SCHEMA), np.random.default_rng(2)
    for _ in range(40):
        signal.update(shop_batch(rng, 128))
    assert signal.update(shop_batch(rng, 512, heat=2.0))
    signal.renew()
    alarms = [alarm for _ in range(60) for alarm in signal.update(shop_batch(rng, 128, heat=2.0))]

    assert not alarms
    assert [alarm.feature for alarm in signal.update(shop_batch(rng, 512, heat=0.0))] == ["heat"]


@pytest.mark.parametrize(
    ("build", "update"),
    [
        (lambda: FeatureSignal(SCHEMA), lambda s, rng, late: s.update(shop_batch(rng, 100, heat=2.0 * late))),
        (
            lambda: ErrorSignal("m", build_detector("weighted_adwin")),
            lambda s, rng, late: s.update((rng.random(100) < 0.1 + 0.5 * late).astype(float)),
        ),
        (
            lambda: PredictionSignal("m", SCHEMA.target),
            lambda s, rng, late: s.update(rng.dirichlet([1, 1, 1 + 3 * late], 100).argmax(axis=1)),
        ),
        (lambda: LabelSignal(SCHEMA.target), lambda s, rng, late: s.update(rng.integers(0, 2 + late, 100))),
    ],
    ids=["feature", "error", "prediction", "label"],
)
def test_a_restored_signal_goes_on_as_if_never_stopped(build, update):
    """Also the running record count and what was already told."""
    for stop in (7, 49, 61):
        rng = np.random.default_rng(3)
        going_on, restored = build(), build()
        for n in range(stop):
            update(going_on, rng, int(n > 50))
        restored.restore(going_on.capture())
        twin = np.random.default_rng()
        twin.bit_generator.state = rng.bit_generator.state
        expected = [alarm for n in range(stop, 90) for alarm in update(going_on, rng, int(n > 50))]

        assert expected == [alarm for n in range(stop, 90) for alarm in update(restored, twin, int(n > 50))]
        assert going_on.scores() == restored.scores()
        assert (stop < 60) == bool(expected)


def test_memory_of_another_signal_is_refused():
    with pytest.raises(CheckpointError, match="expected numbers among it"):
        FeatureSignal(SCHEMA).restore(LabelSignal(SCHEMA.target).capture())


def test_prediction_and_label_shares_of_numbers_and_classes():
    """The tenths of a number, the shares of classes: one signal for both kinds of target."""
    rng = np.random.default_rng(4)
    number = Target(name="delay", kind=TargetKind.NUMBER)
    prediction, label = PredictionSignal("tree", number), LabelSignal(number)
    calm = [prediction.update(rng.normal(size=512)) + label.update(rng.normal(size=512)) for _ in range(20)]
    moved = prediction.update(np.append(rng.normal(size=511) + 3.0, np.inf)) + label.update(rng.normal(size=512) - 3.0)

    assert not any(calm)
    assert [(alarm.signal, alarm.model) for alarm in moved] == [("prediction", "tree"), ("label", None)]
    assert isinstance(label.scores()[""], Score)


@pytest.mark.skipif(not ELEC2.exists(), reason="no elec2: put it at ../shared/data/elec2.csv.gz")
@pytest.mark.parametrize("records", [1, 64, 257])
def test_elec2_names_exactly_the_three_inputs_that_come_alive(records):
    """Row 17,424 of the real data: vicprice, vicdemand and transfer stop being constant."""
    with gzip.open(ELEC2, "rt") as file:
        names, *rows = list(csv.reader(file))
    x_NF = np.array([row[:-1] for row in rows[:18_000]], dtype=np.float32)
    schema = Schema(numbers=tuple(NumberFeature(name=name) for name in names[:-1]), target=Target.binary("class"))
    signal, alarms = FeatureSignal(schema), []
    for start in range(0, len(x_NF), records):
        alarms += signal.update(batch_of(x_NF[start : start + records]))
    near = [alarm for alarm in alarms if 17_424 - 500 <= alarm.record <= 17_424 + 500]

    assert {"vicprice", "vicdemand", "transfer"} == {alarm.feature for alarm in near}
    assert 3 == len(near)
    assert all(alarm.record > 17_424 for alarm in near)


def test_wrong_distances_and_options_are_answered_with_the_right_ones():
    with pytest.raises(ConfigError, match="known distances: jensen_shannon, psi, total_variation, wasserstein"):
        build_feature_signal(SCHEMA, "kl")
    with pytest.raises(ConfigError, match="drift features: unknown option half_life; known options: distance"):
        build_feature_signal(SCHEMA, half_life=3)
