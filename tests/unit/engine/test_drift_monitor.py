"""The monitor of a whole run: which signals there are, what they see of real models, when references are renewed."""

import numpy as np
import pytest

from stream_trainer.engine.drift_monitor import DriftMonitor, DriftOptions
from stream_trainer.engine.trainer import Trainer
from stream_trainer.errors import ConfigError
from stream_trainer.evaluation import Prequential
from stream_trainer.models import TorchModel, TorchOptions
from stream_trainer.models.digest import state_sha256
from stream_trainer.schema import NumberFeature, Schema, Target, TargetKind
from stream_trainer.types import Batch, RaceArm, ReactionEvent, ReactionKind

SCHEMA = Schema(numbers=(NumberFeature(name="heat"), NumberFeature(name="load")), target=Target.binary("y"))
ALL = DriftOptions(predictions=True, labels=True, confidence="weighted_adwin", norms="strain")


def batch_of(rng, n=256, *, heat=0.0):
    x_NF = rng.normal(size=(n, 2)).astype(np.float32)
    return Batch(
        x_NF=x_NF + np.float32([heat, 0.0]),
        missing_NF=None,
        category_NC=np.zeros((n, 0), np.int64),
        y_N=(x_NF[:, 0] > 0).astype(np.int64),
        timestamp_ms_N=np.full(n, -1, np.int64),
    )


class Confirming:
    """A reaction that confirms a drift of `model` at its n-th batch."""

    def __init__(self, model, at):
        self.model, self.at, self.seen, self.models = model, at, 0, {}

    def predict(self, name, batch):
        return self.models[name].predict(batch)

    def react(self, batch, alarms):
        self.seen += 1
        event = ReactionEvent(model=self.model, kind=ReactionKind.CONFIRM, record=0, arm=RaceArm.FRESH)
        return (event,) if self.seen == self.at else ()


def trainer(options=ALL, reaction=None):
    models = {
        "mlp": TorchModel(SCHEMA, TorchOptions(hidden=(16, 16), norm="adaptive_batch_renorm", seed=1)),
        "plain": TorchModel(SCHEMA, TorchOptions(hidden=(8,), norm="none", seed=2)),
    }
    monitor = DriftMonitor(options, SCHEMA, list(models))
    if reaction is not None:
        reaction.models = models
    return Trainer(models, Prequential(SCHEMA.target, list(models)), monitor, lambda: 0.0, reaction)


def test_a_jump_of_an_input_is_seen_by_the_first_layer_of_the_network_that_has_layers():
    """With the name of the layer; a network without norms has nothing to tell."""
    built, rng = trainer(DriftOptions(features="none", norms="strain")), np.random.default_rng(0)
    calm = [alarm for _ in range(60) for alarm in built.step(batch_of(rng))[1]]
    moved = [alarm for _ in range(8) for alarm in built.step(batch_of(rng, heat=8.0))[1] if alarm.signal == "norm"]

    assert [] == calm
    assert {"mlp"} == {alarm.model for alarm in moved}
    assert {alarm.layer for alarm in moved} <= set(built.models["mlp"].norm_drift())
    assert 64 * 256 == moved[0].record  # layers are asked every 1,024 records
    assert {} == built.models["plain"].norm_drift()


def test_every_signal_has_a_score_and_a_name_that_is_announced():
    """Labels of a metric are announced at start; a signal that is not would be dropped."""
    built, rng = trainer(), np.random.default_rng(0)
    for _ in range(20):
        built.step(batch_of(rng))

    assert ("error", "feature", "prediction", "label", "confidence", "norm") == built.drift.signals
    assert {("confidence", "mlp", ""), ("norm", "mlp", ""), ("feature", "", "heat")} <= built.drift.scores().keys()
    assert ("norm", "plain", "") not in built.drift.scores()
    assert {"heat", "load"} == built.drift.rates().keys()
    assert {} == DriftMonitor(DriftOptions(features="none"), SCHEMA, ["m"]).rates()


@pytest.mark.parametrize("stop", [1, 59])
def test_a_restart_changes_no_alarm_of_any_signal(stop):
    """Bit for bit, the layers' numbers too: they are taken after learning, so that no batch before a stop is needed."""
    going_on, restored, rng = trainer(), trainer(), np.random.default_rng(1)
    batches = [batch_of(rng, 200, heat=6.0 * (i >= 60)) for i in range(75)]
    for batch in batches[:stop]:
        going_on.step(batch)
    for name, part in restored.parts().items():
        part.restore(going_on.parts()[name].capture())
    expected = [going_on.step(batch)[1] for batch in batches[stop:]]

    assert expected == [restored.step(batch)[1] for batch in batches[stop:]]
    assert {"feature", "norm"} <= {alarm.signal for alarms in expected for alarm in alarms}
    assert state_sha256(going_on.drift.capture()) == state_sha256(restored.drift.capture())


def test_a_confirmed_drift_renews_the_references():
    """What was confirmed is the world now; measured against the one before, every feature would stay far for ever."""
    built, rng = trainer(reaction=Confirming("mlp", at=40)), np.random.default_rng(2)
    for i in range(39):
        built.step(batch_of(rng, heat=3.0 * (i >= 30)))
    far = built.drift.scores()["feature", "", "heat"]
    for _ in range(31):
        built.step(batch_of(rng, heat=3.0))
    renewed = built.drift.scores()["feature", "", "heat"]
    back = [alarm.feature for _ in range(4) for alarm in built.step(batch_of(rng))[1] if alarm.signal == "feature"]

    assert far.statistic > far.threshold
    assert renewed.statistic < renewed.threshold
    assert ["heat"] == back


def test_signals_that_cannot_be_are_refused_with_the_known_ones():
    """When the configuration is read, not when the run starts."""
    with pytest.raises(ConfigError, match=r"drift\.norms is 'psi'; known: none, strain"):
        DriftOptions(norms="psi")
    with pytest.raises(ConfigError, match="known detectors"):
        DriftOptions(confidence="psi")
    number = Schema(numbers=SCHEMA.numbers, target=Target(name="y", kind=TargetKind.NUMBER))
    with pytest.raises(ConfigError, match="carry no probability"):
        DriftMonitor(DriftOptions(confidence="weighted_adwin"), number, ["m"])


def test_signals_that_are_not_asked_for_leave_no_trace_in_the_state():
    """Checkpoints from before there were such signals are loaded as ever."""
    built = DriftMonitor(DriftOptions(), SCHEMA, ["m"])

    assert {"error.m", "feature.", "own"} == built.capture().values.keys()
