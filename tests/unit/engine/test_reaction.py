"""What follows an alarm: scripted models for the policies, real ones for the crash in mid-race."""

import numpy as np
import pytest
from reaction_helpers import SCHEMA, Scripted, ScriptedWithRate, alarm, batch

from stream_trainer.engine.boost import BoostOptions
from stream_trainer.engine.drift_monitor import DriftMonitor, DriftOptions
from stream_trainer.engine.race import RaceOptions
from stream_trainer.engine.reaction import Reaction
from stream_trainer.engine.snapshot import capture, restore
from stream_trainer.engine.trainer import Trainer
from stream_trainer.errors import CheckpointError, ConfigError
from stream_trainer.evaluation import Prequential
from stream_trainer.models import RiverModel, RiverOptions, TorchModel, TorchOptions, state_sha256
from stream_trainer.types import Batch, Counts, Direction, RaceArm, ReactionKind

RACE = RaceOptions(records=1024, cooldown_records=1000)
S, C, R, B = ReactionKind.SUSPECT, ReactionKind.CONFIRM, ReactionKind.ROLLBACK, ReactionKind.BOOST


def race_of(live, fresh_quality, options=RACE):
    """A reaction over one model, whose fresh twins have the given quality and are named by their number."""
    built = []

    def twin_of(name, number):
        twin = type(live)(f"twin {number}", *([fresh_quality] * (2 if isinstance(live, ScriptedWithRate) else 1)))
        built.append(number)
        return twin

    return Reaction({"m": live}, options, twin_of), built


def play(reaction, live, n_records, *, alarms_at=(), size=64, start=0):
    """The trainer's part, one batch after the other; alarms come with the batch that begins at a given record."""
    events, predictions = [], []
    for at in range(start, start + n_records, size):
        records = batch(size)
        predictions.append(float(reaction.predict("m", records)[0, 1]))
        events += reaction.react(records, [alarm()] if at in alarms_at else [])
        live.learn(records)
    return events, predictions


def kinds(events):
    return [event.kind for event in events]


# ---------------------------------------------------------------- race


def test_a_better_fresh_model_takes_the_place_of_the_live_one():
    """At the first look, after 256 records, and in place: whoever holds the live model holds the winner then.

    It is heard before that, and alone once the race is over.
    """
    live = Scripted("live", 0.6)
    reaction, _ = race_of(live, 0.9)
    events, served = play(reaction, live, 64 * 20, alarms_at=[0])

    assert [(S, RaceArm.KEEP, 64), (C, RaceArm.FRESH, 64 * 5)] == [(e.kind, e.arm, e.record) for e in events]
    assert events[1].margin == pytest.approx(1 - np.log(0.9) / np.log(0.6))
    assert [0.6] == served[:1]
    assert pytest.approx(0.9, abs=0.01) == served[5]
    assert [0.9] * 3 == served[17:]
    assert "twin 1" == live.name
    assert {"m": False} == reaction.racing()


FALLING = [5.0 ** (i / 8) for i in range(8, 0, -1)]  # in the second eight of sixteen batches


def test_a_raised_rate_falls_in_the_second_half_of_a_race():
    """With it a model learns fast and errs a little more: at the end it shows what it has gained."""
    live = ScriptedWithRate("live", 0.6, raised_quality=0.6)
    reaction, _ = race_of(live, 0.5)
    factors = []
    for at in range(0, 64 * 20, 64):
        play(reaction, live, 64, alarms_at=[0], start=at)
        race = reaction._desks["m"]._race
        factors.append(race.arms[RaceArm.RATE_UP].factor if race else None)

    assert [5.0] * 8 + FALLING + [None] * 4 == factors


def test_a_winner_with_a_raised_rate_has_the_base_rate_again_after_the_race():
    """It is the live model then, and its rate falls as it would have fallen beside it."""
    live = ScriptedWithRate("live", 0.6, raised_quality=0.9)
    reaction, _ = race_of(live, 0.5)
    factors, events = [], []
    for at in range(0, 64 * 20, 64):
        events += play(reaction, live, 64, alarms_at=[0], start=at)[0]
        factors.append(live.factor)

    assert [(S, RaceArm.KEEP), (C, RaceArm.RATE_UP)] == [(e.kind, e.arm) for e in events]
    assert [1.0] * 4 + [5.0] * 4 + FALLING + [1.0] * 4 == factors


class Layered(ScriptedWithRate):
    """Good once its first layer has begun anew."""

    def renew_input_layer(self):
        self.quality = self.raised_quality = 0.9


def test_a_copy_with_a_new_first_layer_races_and_wins_where_the_inputs_changed():
    """It is the live model's copy, and has the raised rate until half-time."""
    live = Layered("live", 0.5, raised_quality=0.5)
    reaction = Reaction({"m": live}, RACE, lambda name, number: Layered(f"twin {number}", 0.4, 0.4))
    factors, events = [], []
    for at in range(0, 64 * 20, 64):
        events += play(reaction, live, 64, alarms_at=[0], start=at)[0]
        race = reaction._desks["m"]._race
        factors.append(race.arms[RaceArm.NEW_INPUTS].factor if race else None)

    assert [(S, RaceArm.KEEP), (C, RaceArm.NEW_INPUTS)] == [(e.kind, e.arm) for e in events]
    assert ("live", 0.9, 1.0) == (live.name, live.quality, live.factor)
    assert [5.0] * 8 + [1.0] * 8 + [None] * 4 == factors


def test_models_without_layers_race_without_that_arm():
    live = ScriptedWithRate("live", 0.6, raised_quality=0.6)
    reaction, _ = race_of(live, 0.5)
    play(reaction, live, 64, alarms_at=[0])

    assert {RaceArm.KEEP, RaceArm.FRESH, RaceArm.RATE_UP} == reaction._desks["m"]._race.arms.keys()


class Late(ScriptedWithRate):
    """A twin becomes good only after 600 records; whoever is named live becomes good after 700 more."""

    late_live = 0.0

    def predict(self, batch):
        if "twin" in self.name and self.learned > 600:
            self.quality = 0.8
        if "live" in self.name and self.factor == 1.0 and self.learned > 1300:
            self.quality = max(self.quality, self.late_live)
        return super().predict(batch)


def test_the_others_race_on_against_a_winner():
    """A raised rate leads first; the fresh model, slower to be good, is the best in the end."""
    live = Late("live", 0.5, raised_quality=0.7)
    reaction = Reaction({"m": live}, RaceOptions(records=2048), lambda name, number: Late(f"twin {number}", 0.1, 0.1))
    events, _ = play(reaction, live, 64 * 40, alarms_at=[0])

    assert [(S, RaceArm.KEEP), (C, RaceArm.RATE_UP), (C, RaceArm.FRESH)] == [(e.kind, e.arm) for e in events]
    assert ("twin 1", 1.0) == (live.name, live.factor)


def test_an_exchange_is_taken_back_when_the_old_model_is_better_after_all():
    """It raced on as the arm keep, and comes back with all that it learned meanwhile."""

    class Recovering(Late):
        late_live = 0.95

    live = Recovering("live", 0.5, raised_quality=0.5)
    reaction = Reaction(
        {"m": live}, RaceOptions(records=4096), lambda name, number: Recovering(f"twin {number}", 0.8, 0.8)
    )
    events, _ = play(reaction, live, 64 * 70, alarms_at=[0])

    assert [(S, RaceArm.KEEP), (C, RaceArm.FRESH), (R, RaceArm.KEEP)] == [(e.kind, e.arm) for e in events]
    assert ("live", 64 * 70) == (live.name, live.learned)


@pytest.mark.parametrize(("fresh_quality", "rested"), [(0.9, 250), (0.5, 1000)], ids=["confirmed", "a false alarm"])
def test_after_a_confirmed_drift_the_next_alarm_is_heard_sooner(fresh_quality, rested):
    """Alarms with every batch: one that was right is believed again after a quarter of the cool-down."""
    live = Scripted("live", 0.6)
    reaction, _ = race_of(live, fresh_quality)
    events, _ = play(reaction, live, 16 * 200, alarms_at=range(0, 16 * 200, 16), size=16)
    begun = [event.record for event in events if event.kind is S]
    ended = 16 + 1024  # the race begins with the batch of the alarm and scores from the next one on

    assert [16, ended + (rested // 16 + 1) * 16] == begun[:2]


def test_a_former_winner_races_again_when_its_concept_returns():
    """Two concepts take turns; what was good before the first confirmed drift wins at the second, untaught."""
    live = Scripted("first", 0.6)
    options = RaceOptions(records=1024, cooldown_records=0, earlier=1)
    reaction = Reaction({"m": live}, options, lambda name, number: Scripted(f"twin {number}", 0.8))
    play(reaction, live, 64 * 20, alarms_at=[0])
    live.quality = 0.1  # the first concept returns: what serves knows nothing of it
    first = reaction._desks["m"]._earlier[0]
    first.values["quality"] = 0.95
    resumed_live = Scripted("?", 0.0)
    resumed = Reaction({"m": resumed_live}, options, lambda name, number: Scripted(f"twin {number}", 0.8))
    resumed_live.restore(live.capture())
    resumed.restore(reaction.capture())
    for one, served in ((reaction, live), (resumed, resumed_live)):
        later, _ = play(one, served, 64 * 20, alarms_at=[64 * 20], start=64 * 20)

        assert [(S, RaceArm.KEEP), (C, RaceArm.EARLIER_1)] == [(e.kind, e.arm) for e in later]
        assert "first" == served.name
        assert 0.1 == one._desks["m"]._earlier[0].values["quality"]  # the one that served until now waits in its place
    assert state_sha256(reaction.capture()) == state_sha256(resumed.capture())


class Pulled(Scripted):
    """Knows how hard it is pulled."""

    def __init__(self, name, quality):
        super().__init__(name, quality)
        self.pull = 1.0

    def scale_pull(self, factor):
        self.pull = factor


@pytest.mark.parametrize("fresh_quality", [0.9, 0.3])
def test_a_confirmed_drift_shortens_the_horizon_of_the_pull_for_its_records(fresh_quality):
    """From the confirming batch on, then at rest again; a false alarm leaves it alone."""
    live = Pulled("live", 0.6)
    options = RaceOptions(records=1024, pull_factor=10.0, pull_records=640)
    reaction = Reaction({"m": live}, options, lambda name, number: Pulled("twin", fresh_quality))
    pulls = []
    for at in range(0, 64 * 20, 64):
        play(reaction, live, 64, alarms_at=[0], start=at)
        pulls.append(live.pull)
        resumed = Reaction({"m": live}, options, lambda name, number: Pulled("twin", fresh_quality))
        resumed.restore(reaction.capture())  # at every batch: where it ends is in the snapshot
        reaction = resumed

    assert ([1.0] * 4 + [10.0] * 10 + [1.0] * 6 if fresh_quality == 0.9 else [1.0] * 20) == pulls


def test_who_loses_the_lead_loses_the_harder_pull_too():
    """It races on as the others do; pulled hard to the end of the race, it could not show what it is worth."""

    class LatePulled(Late):
        pull = 1.0

        def scale_pull(self, factor):
            self.pull = factor

    live = LatePulled("live", 0.5, raised_quality=0.7)
    options = RaceOptions(records=4096, pull_factor=10.0, pull_records=4096)
    reaction = Reaction({"m": live}, options, lambda name, number: LatePulled(f"twin {number}", 0.1, 0.1))
    events, _ = play(reaction, live, 64 * 40, alarms_at=[0])
    race = reaction._desks["m"]._race

    assert [RaceArm.RATE_UP, RaceArm.FRESH] == [e.arm for e in events if e.kind is C]
    assert {RaceArm.FRESH: 10.0, RaceArm.RATE_UP: 1.0, RaceArm.KEEP: 1.0} == {a: m.pull for a, m in race.arms.items()}


@pytest.mark.parametrize("fresh_quality", [0.9, 0.3])
def test_what_a_new_network_saves_at_the_end_of_a_race_is_kept(fresh_quality):
    """Against the old model whoever won: above 0 a network that knows nothing learns better. It survives a restart."""
    live = Scripted("live", 0.6)
    reaction, _ = race_of(live, fresh_quality)
    play(reaction, live, 64 * 16, alarms_at=[0])
    assert {} == reaction.fresh_margins()
    play(reaction, live, 64, start=64 * 16)
    resumed, _ = race_of(Scripted("live", 0.6), fresh_quality)
    resumed.restore(reaction.capture())

    assert {"m": pytest.approx(1 - np.log(fresh_quality) / np.log(0.6))} == resumed.fresh_margins()


def test_after_a_false_alarm_everything_is_as_before():
    """The challengers are worse: they are dropped, and the live model never noticed."""
    live, undisturbed = Scripted("live", 0.8), Scripted("live", 0.8)
    reaction, _ = race_of(live, 0.6)
    events, _ = play(reaction, live, 64 * 20, alarms_at=[0])
    play(Reaction({}, RACE, lambda name, number: live), undisturbed, 0)
    for _ in range(20):
        undisturbed.learn(batch(64))

    assert [S, R] == kinds(events)
    assert RaceArm.KEEP is events[1].arm
    assert events[1].margin < 0 > events[1].statistic
    assert [RaceArm.FRESH] == [event.challenger for event in events[1:]]
    assert vars(undisturbed) == vars(live)


def test_only_a_worse_error_of_that_model_is_suspicious():
    """Better errors, a moved feature and another model's trouble are no reason to race this one."""
    live = Scripted("live", 0.6)
    reaction, built = race_of(live, 0.9)
    records = batch(64)
    harmless = [alarm(Direction.DOWN), alarm(signal="feature", model=None), alarm(model="other"), alarm(signal="label")]
    events = reaction.react(records, harmless)

    assert ((), []) == (events, built)


def test_there_is_no_race_of_a_race_and_none_while_it_cools_down():
    """1,024 records of race and 1,000 of cool-down: of an alarm with every batch, every 32nd opens one."""
    live = Scripted("live", 0.8)
    reaction, built = race_of(live, 0.6)
    events, _ = play(reaction, live, 64 * 70, alarms_at=range(0, 64 * 70, 64))

    assert [S, R, S, R, S] == kinds(events)
    assert [64, 64 * 17, 64 * 33, 64 * 49, 64 * 65] == [event.record for event in events]
    assert [1, 2, 3] == built  # each fresh twin has a seed of its own


def test_each_model_has_its_own_race():
    """One model's drift is no reason to train copies of the others."""
    models = {"m": Scripted("m", 0.6), "n": Scripted("n", 0.6)}
    reaction = Reaction(models, RACE, lambda name, number: Scripted("twin", 0.9))
    records = batch(64)
    reaction.react(records, [alarm(model="n")])

    assert {"m": False, "n": True} == reaction.racing()


def test_a_race_in_batches_of_one_takes_as_many_records():
    """Its length is counted in records; the record of the alarm itself is learned and not scored."""
    live = Scripted("live", 0.6)
    reaction, _ = race_of(live, 0.9)
    events, _ = play(reaction, live, 1100, alarms_at=[0], size=1)

    assert [(S, 1), (C, 257)] == [(event.kind, event.record) for event in events]


# ---------------------------------------------------------------- boost


def test_a_boost_holds_for_its_records_and_is_not_stacked():
    """Every batch that begins before its end is learned faster; then comes the base rate, and a pause."""
    live = ScriptedWithRate("live", 0.6, 0.6)
    reaction = Reaction({"m": live}, BoostOptions(records=640, cooldown_records=640), lambda name, number: live)
    factors = []
    events = []
    for at in range(0, 64 * 24, 64):
        records = batch(64)
        events += reaction.react(records, [alarm()] if at != 64 * 10 else [])
        factors.append(live.factor)

    assert [5.0] * 10 + [1.0] * 11 + [5.0] * 3 == factors
    assert [(B, RaceArm.RATE_UP)] * 2 == [(event.kind, event.arm) for event in events]


def test_a_model_without_a_rate_is_not_boosted():
    """And nothing is told that did not happen."""
    live = Scripted("live", 0.6)
    reaction = Reaction({"m": live}, BoostOptions(), lambda name, number: live)
    events, _ = play(reaction, live, 640, alarms_at=[0])

    assert [] == events


def test_a_boost_survives_a_restart():
    """How long it still holds is part of the snapshot, and so is the rate, with the model."""
    live = ScriptedWithRate("live", 0.6, 0.6)
    options = BoostOptions(records=640)
    first = Reaction({"m": live}, options, lambda name, number: live)
    play(first, live, 320, alarms_at=[0])
    twin = ScriptedWithRate("other", 0.1, 0.1)
    second = Reaction({"m": twin}, options, lambda name, number: twin)
    twin.restore(live.capture())
    second.restore(first.capture())
    play(second, twin, 320, start=320)

    assert 5.0 == twin.factor
    play(second, twin, 64, start=640)
    assert 1.0 == twin.factor


# ---------------------------------------------------------------- survive


class AlarmsAt(DriftMonitor):
    """One alarm, at a given record."""

    def __init__(self, record):
        super().__init__(DriftOptions(features="none"), SCHEMA, ["m"])
        self.record, self.seen = record, 0

    def observe(self, batch, verdicts):
        self.seen += len(batch)
        return (alarm(),) if self.seen - len(batch) < self.record <= self.seen else ()


def stream(n=3000, size=25):
    """A class that the sign of x tells, and from record 700 on the opposite."""
    rng = np.random.default_rng(1)
    x_NF = rng.normal(size=(n, 1)).astype(np.float32)
    y_N = (x_NF[:, 0] > 0) ^ (np.arange(n) >= 700)
    for start in range(0, n, size):
        part = slice(start, start + size)
        yield Batch(
            x_NF=x_NF[part],
            missing_NF=None,
            category_NC=np.zeros((size, 0), np.int64),
            y_N=y_N[part].astype(np.int64),
            timestamp_ms_N=np.full(size, -1, np.int64),
        )


def torch_twin(name, number):
    return TorchModel(SCHEMA, TorchOptions(hidden=(8,), dropout=0.1, seed=number))


def river_twin(name, number):
    """An estimator that never forgets: it needs the fresh one."""
    return RiverModel(SCHEMA, RiverOptions(estimator="river.naive_bayes.GaussianNB", seed=number))


def trainer_of(twin_of, at=800):
    live = twin_of("m", 0)
    return Trainer(
        {"m": live}, Prequential(SCHEMA.target, ["m"]), AlarmsAt(at), lambda: 0.0, Reaction({"m": live}, RACE, twin_of)
    )


def digest(trainer):
    return {name: state_sha256(part.capture()) for name, part in trainer.parts().items()}


@pytest.mark.parametrize("twin_of", [torch_twin, river_twin], ids=["torch", "river"])
@pytest.mark.parametrize("crash_at", [36, 41])
def test_a_crash_in_mid_race_changes_nothing(twin_of, crash_at):
    """The race is on at both places; a run restored there is, event for event and bit for bit, the one without."""
    batches = list(stream())
    whole, events = trainer_of(twin_of), []
    for records in batches:
        events += whole.step(records)[2]
    crashed = trainer_of(twin_of)
    for records in batches[:crash_at]:
        crashed.step(records)
    snapshot = capture(crashed.parts(), {}, Counts())
    crashed.step(batches[crash_at])  # learned in vain: nobody saved it
    resumed, resumed_events = trainer_of(twin_of), []
    restore(resumed.parts(), snapshot)
    resumed.drift.seen = crash_at * 25
    assert {"m": True} == resumed.reaction.racing()
    for records in batches[crash_at:]:
        resumed_events += resumed.step(records)[2]

    assert {S, C} == set(kinds(events))
    assert events[1:] == resumed_events
    assert digest(whole) == digest(resumed)


def test_a_snapshot_without_a_race_ends_the_one_that_runs():
    """Whoever goes back to an older state goes back to one without challengers."""
    live = Scripted("live", 0.6)
    before, _ = race_of(live, 0.9)
    play(before, live, 64)
    state = before.capture()
    reaction, _ = race_of(live, 0.9)
    play(reaction, live, 640, alarms_at=[0])
    assert {"m": True} == reaction.racing()
    reaction.restore(state)

    assert {"m": False} == reaction.racing()
    assert state_sha256(state) == state_sha256(reaction.capture())


def test_the_memory_of_another_policy_is_refused():
    """A boost cannot go on as a race."""
    live = ScriptedWithRate("live", 0.6, 0.6)
    boost = Reaction({"m": live}, BoostOptions(), lambda name, number: live)
    race, _ = race_of(live, 0.9)

    with pytest.raises(CheckpointError, match="the checkpoint is of a run with race, this run has boost"):
        boost.restore(race.capture())


# ---------------------------------------------------------------- configuration


def test_every_policy_can_be_named():
    """With options where it has some."""
    assert [None, None] == [DriftOptions(reaction=name).reaction_options() for name in ("none", "alert")]
    assert BoostOptions() == DriftOptions(reaction="boost").reaction_options()
    chosen = DriftOptions(reaction={"race": {"records": 2048}})
    assert ("race", RaceOptions(records=2048)) == (chosen.reaction_policy, chosen.reaction_options())


@pytest.mark.parametrize(
    ("reaction", "told"),
    [
        ("reset", "drift.reaction is 'reset'; known: none, alert, boost, race."),
        ({"alert": {"loud": True}}, "drift.reaction.alert has the options {'loud': True}; it takes none."),
        ({"race": {"length": 3}}, "drift.reaction.race: .*length"),
        ({"boost": {"records": 0}}, "drift.reaction.boost has records 0"),
    ],
)
def test_a_policy_that_is_none_is_refused_by_name(reaction, told):
    """Before anything starts."""
    with pytest.raises(ConfigError, match=told):
        DriftOptions(reaction=reaction)
