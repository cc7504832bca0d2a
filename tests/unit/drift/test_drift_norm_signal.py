"""Layers and confidence: signals from inside the model, watched without labels."""

import math

import numpy as np
import pytest
import torch

from stream_trainer.drift import NormSignal, NormSignalOptions, build_confidence_signal, build_norm_signal
from stream_trainer.errors import CheckpointError, ConfigError
from stream_trainer.norms import build_norm
from stream_trainer.schema import Target, TargetKind
from stream_trainer.types import Direction, NormDrift


def looks(seed=0, spread=0.3):
    """Strains of a layer at rest: log-normal about 1."""
    rng = np.random.default_rng(seed)
    while True:
        yield NormDrift(math.exp(rng.normal(0.0, spread)), 1.0, 0.0, 0.1, 1.0, 1.0)


def feed(signal, drifts, n, *, times=1.0, batch=1024):
    """`n` looks at one layer whose strain is `times` what the stream says."""
    alarms = []
    for _ in range(n):
        drift = next(drifts)
        alarms += signal.update(batch, lambda drift=drift: {"norms.0": drift._replace(distance=times * drift.distance)})
    return alarms


def test_a_layer_is_told_once_and_again_only_after_it_came_back():
    """A layer that stays away is one event, not one per look."""
    signal, drifts = NormSignal("mlp"), looks()
    calm = feed(signal, drifts, 400)
    [alarm] = feed(signal, drifts, 2, times=30.0)
    back = feed(signal, drifts, 40)
    again = feed(signal, drifts, 2, times=30.0)

    assert [] == calm == back
    assert ("norm", "mlp", None, "norms.0", 401 * 1024) == (
        alarm.signal,
        alarm.model,
        alarm.feature,
        alarm.layer,
        alarm.record,
    )
    assert alarm.detection.direction is Direction.UP
    assert alarm.detection.statistic > alarm.detection.threshold > 3 * alarm.detection.before
    assert [443 * 1024] == [each.record for each in again]


def test_a_layer_that_never_comes_back_becomes_usual():
    """Else the next drift would start from a world that is gone, and never be told."""
    signal, drifts = NormSignal("mlp"), looks()
    feed(signal, drifts, 200)
    assert 1 == len(feed(signal, drifts, 400, times=30.0))

    assert 1 == len(feed(signal, drifts, 4, times=3000.0))


def test_a_look_is_taken_once_in_1024_records_and_asks_only_then():
    """At batches of one, asking every layer after each record would cost more than learning it."""
    signal, asked = NormSignal("mlp"), []
    for _ in range(4000):
        signal.update(1, lambda: asked.append(1) or {})

    assert 4000 // 1024 == len(asked)


def test_no_alarm_while_warming_up_and_none_from_values_that_are_no_numbers():
    """A young network changes more than any stream; a diverged one says NaN."""
    signal, drifts = NormSignal("mlp"), looks()
    assert [] == feed(signal, drifts, 4, times=1.0) + feed(signal, drifts, 4, times=1000.0)
    before = signal.capture().values["layers"]
    assert [] == feed(signal, drifts, 3, times=math.nan) + feed(signal, drifts, 3, times=math.inf)

    assert before == signal.capture().values["layers"]


@pytest.mark.parametrize("stop", [0, 1, 40, 101])
def test_a_restored_norm_signal_goes_on_as_if_never_stopped(stop):
    """Also within the warm-up, where no threshold exists, and within an alarm."""
    going_on, restored, drifts = NormSignal("mlp"), NormSignal("mlp"), looks()
    feed(going_on, drifts, min(stop, 100))
    feed(going_on, drifts, stop - min(stop, 100), times=40.0)
    restored.restore(going_on.capture())
    strains = [next(drifts) for _ in range(60)]
    left, right = (feed(signal, iter(strains), 60, times=40.0, batch=200) for signal in (going_on, restored))

    assert left == right
    assert going_on.capture() == restored.capture()
    assert going_on.scores() == restored.scores()


def test_memory_of_other_norm_settings_is_refused():
    """Its false-alarm rate would be nobody's."""
    with pytest.raises(CheckpointError, match="Start with the settings"):
        build_norm_signal("mlp", sigmas=5.0).restore(NormSignal("mlp").capture())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigmas": 0.0}, "sigmas is 0.0; expected a finite number above 0"),
        ({"half_life_records": math.inf}, "half_life_records is inf"),
        ({"ratio_min": 0.5}, "ratio_min is 0.5; expected a finite number of at least 1"),
        ({"warmup_records": 100}, "warmup_records is 100; expected at least 2048"),
    ],
)
def test_norm_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        NormSignalOptions(**options)


def test_doubt_is_told_when_the_model_becomes_less_sure_and_not_when_it_becomes_surer():
    """A network that learns grows sure; that is no drift."""
    target, rng = Target.binary("late"), np.random.default_rng(0)
    signal = build_confidence_signal("mlp", target)

    def doubts(n, certainty):
        return 1.0 - np.clip(rng.normal(certainty, 0.03, n), 0.5, 1.0)

    learning = [a for i in range(100) for a in signal.update(doubts(100, 0.6 + 0.003 * i))]
    unsure = [a for _ in range(20) for a in signal.update(doubts(100, 0.7))]

    assert [] == learning
    assert [("confidence", "mlp")] == [(alarm.signal, alarm.model) for alarm in unsure]
    assert 10_000 < unsure[0].record <= 10_500


def test_confidence_of_a_number_is_refused_with_the_way_out():
    """Its predictions carry no probability; to watch nothing silently would be worse."""
    with pytest.raises(ConfigError, match=r"carry no probability\. Set drift.confidence to none"):
        build_confidence_signal("mlp", Target(name="delay", kind=TargetKind.NUMBER))


@pytest.mark.parametrize(("norm", "n"), [("batch_renorm", 4), ("batch_renorm", 64), ("adaptive_batch_renorm", 64)])
def test_the_shift_of_a_layer_at_rest_is_one_whatever_the_batch(norm, n):
    """sqrt(m) d is a number of standard errors: it knows how small the batch was."""

    generator = torch.Generator().manual_seed(0)
    options = {"per_record": "none"} if norm == "adaptive_batch_renorm" else {"half_life_records": 2000.0}
    layer = build_norm(norm, 64, **options)
    shifts = []
    for step in range(400):
        layer(torch.randn(n, 64, generator=generator))
        if step >= 200:
            shifts.append(layer.drift().shift)

    assert pytest.approx(1.0, abs=0.25) == np.mean(shifts)
