"""What follows an alarm: nothing, a louder rate for a while, or a race that only a better model can win.

An alarm counts if it is about the errors of a model and they got worse. No policy ever wipes a model blindly: a reset
on a false alarm costs more than most drifts (measured: tests/benchmarks/drift_reaction_*.md).
    boost   the live model learns with a multiple of its rate, for a number of records
    race    suspect: challengers start beside the live model; all learn the same batches and answer together.
                keep     the live model             fresh     a newly built twin, untrained
                rate_up  a copy that learns with a multiple of the rate in the first half of the race; in the second
                         it has the base rate, or its noise would hide what it has gained
                earlier_1 to 3, if asked for: what served before the last confirmed drifts
            Then confirm: the winner's state becomes the live model's. Or rollback: none has won, or the old state is
            the best one after all. At the end of the race all others are dropped.
During a boost or a race, and for a cool-down after it, alarms of that model are not acted upon. A function of the
batches and nothing else; all of it is in the snapshot, so a crash in mid-race resumes the race.
Refused: `boost` changes nothing for a model without a rate, River's for example; its race has the arm fresh only.
Not here: the race itself (race.py), detection (drift_monitor.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from stream_trainer.contracts import Model
from stream_trainer.engine.race import Race, RaceOptions, Verdict
from stream_trainer.errors import CheckpointError, ConfigError
from stream_trainer.types import Alarm, Batch, Direction, Prediction, RaceArm, ReactionEvent, ReactionKind, State

__all__ = ["REACTIONS", "BoostOptions", "HasPull", "HasRate", "Reaction", "ReactionOptions", "TwinOf"]

TwinOf = Callable[[str, int], Model]
"""(model, number) -> the model as configured, newly built; number 0 has the configured seed, each other its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoostOptions:
    """How much faster, and for how long."""

    records: int = 4096  # 60 batches of 64, as in the measurement that favoured it
    rate_factor: float = 5.0
    cooldown_records: int = 4096  # so that half of all records at most are learned with the high rate

    def __post_init__(self) -> None:
        if self.records < 1 or self.cooldown_records < 0 or not 0 < self.rate_factor < 1e6:
            raise ConfigError(
                f"drift.reaction.boost has records {self.records}, cooldown_records {self.cooldown_records}, "
                f"rate_factor {self.rate_factor}; expected at least 1, at least 0, more than 0."
            )


ReactionOptions = BoostOptions | RaceOptions

REACTIONS: dict[str, type[ReactionOptions] | None] = {
    "none": None,
    "alert": None,
    "boost": BoostOptions,
    "race": RaceOptions,
}
"""drift.reaction -> its options; None: a policy that leaves the models alone."""


_EARLIER = (RaceArm.EARLIER_1, RaceArm.EARLIER_2, RaceArm.EARLIER_3)


@runtime_checkable
class HasRate(Protocol):
    """A model that can be told to learn faster."""

    def scale_rate(self, factor: float) -> None: ...


@runtime_checkable
class HasPull(Protocol):
    """A model that is pulled to its initial weights, and can be told how hard."""

    def scale_pull(self, factor: float) -> None: ...


class Reaction:
    """Acts on the alarms of every model of a run, each for itself.

    Args:
        models: the live ones; changed in place, never exchanged, so that whoever holds one holds the right one.
        twin_of: builds the challengers.
    """

    def __init__(self, models: Mapping[str, Model], options: ReactionOptions, twin_of: TwinOf) -> None:
        self._policy = "race" if isinstance(options, RaceOptions) else "boost"
        self._desks: dict[str, _Desk] = {
            name: _RaceDesk(name, model, options, twin_of)
            if isinstance(options, RaceOptions)
            else _BoostDesk(name, model, options)
            for name, model in models.items()
        }

    def predict(self, name: str, batch: Batch) -> Prediction:
        """Whoever serves for the model of this name: itself, or in a race all arms together."""
        return self._desks[name].predict(batch)

    def react(self, batch: Batch, alarms: Sequence[Alarm]) -> tuple[ReactionEvent, ...]:
        """One batch, after it was predicted and before the live models learn it. Challengers learn it in here."""
        suspected = {alarm.model for alarm in alarms if _is_worse(alarm)}
        events: list[ReactionEvent] = []
        for name, desk in self._desks.items():
            events += desk.react(batch, name in suspected)
        return tuple(events)

    def racing(self) -> dict[str, bool]:
        """Per model: is there a race?"""
        return {name: isinstance(desk, _RaceDesk) and desk.active for name, desk in self._desks.items()}

    def capture(self) -> State:
        desks = {f"models/{name}": desk.capture() for name, desk in self._desks.items()}
        return State.join({"own": State(values={"policy": self._policy}), **desks})

    def restore(self, state: State) -> None:
        """A race that the snapshot does not hold is over, and one that it holds goes on.

        Raises: CheckpointError: it is of another policy.
        """
        found = state.part("own").values["policy"]
        if found != self._policy:
            raise CheckpointError(
                f"drift.reaction: the checkpoint is of a run with {found}, this run has {self._policy}. "
                "Start with the policy of the checkpoint, or from a fresh checkpoint directory."
            )
        for name, desk in self._desks.items():
            desk.restore(state.part(f"models/{name}"))


def _is_worse(alarm: Alarm) -> bool:
    return alarm.signal == "error" and alarm.detection.direction is Direction.UP


class _Desk(ABC):
    """One model: counts its records, and knows until when no alarm is acted upon."""

    def __init__(self, name: str, model: Model, cooldown_records: int) -> None:
        self._name, self._model, self._cooldown_records = name, model, cooldown_records
        self._record = 0
        self._quiet_until = 0

    def predict(self, batch: Batch) -> Prediction:
        return self._model.predict(batch)

    def react(self, batch: Batch, suspected: bool) -> list[ReactionEvent]:
        self._record += len(batch)
        if self.active:
            return self._go_on(batch)
        # Nearly always this is all: a look at two flags.
        return self._begin(batch) if suspected and self._record > self._quiet_until else []

    @property
    @abstractmethod
    def active(self) -> bool: ...

    @abstractmethod
    def _begin(self, batch: Batch) -> list[ReactionEvent]: ...

    @abstractmethod
    def _go_on(self, batch: Batch) -> list[ReactionEvent]: ...

    def _rest(self) -> None:
        self._quiet_until = self._record + self._cooldown_records

    def capture(self) -> State:
        return State(values={"record": self._record, "quiet_until": self._quiet_until})

    def restore(self, state: State) -> None:
        self._record, self._quiet_until = state.values["record"], state.values["quiet_until"]


class _BoostDesk(_Desk):
    def __init__(self, name: str, model: Model, options: BoostOptions) -> None:
        super().__init__(name, model, options.cooldown_records)
        self._options = options
        self._until: int | None = None  # None: no boost

    @property
    def active(self) -> bool:
        return self._until is not None

    def _begin(self, batch: Batch) -> list[ReactionEvent]:
        if not isinstance(self._model, HasRate):
            return []
        self._model.scale_rate(self._options.rate_factor)
        self._until = self._record - len(batch) + self._options.records
        return [ReactionEvent(model=self._name, kind=ReactionKind.BOOST, record=self._record, arm=RaceArm.RATE_UP)]

    def _go_on(self, batch: Batch) -> list[ReactionEvent]:
        """The boost holds for every batch that begins before its end; this one has not been learned yet."""
        assert self._until is not None
        assert isinstance(self._model, HasRate)
        if self._record - len(batch) >= self._until:
            self._model.scale_rate(1.0)
            self._until = None
            self._rest()
        return []

    def capture(self) -> State:
        return State(values={**super().capture().values, "until": self._until})

    def restore(self, state: State) -> None:
        super().restore(state)
        self._until = state.values["until"]


class _RaceDesk(_Desk):
    def __init__(self, name: str, model: Model, options: RaceOptions, twin_of: TwinOf) -> None:
        super().__init__(name, model, options.cooldown_records)
        self._options, self._twin_of = options, twin_of
        self._races = 0  # so far: each has its own seed
        self._race: Race | None = None
        self._before: State | None = None  # the live model's when the race began, if earlier winners are kept
        self._earlier: list[State] = []  # newest first
        self._pull_until: int | None = None  # None: the pull is at rest

    @property
    def active(self) -> bool:
        return self._race is not None

    def predict(self, batch: Batch) -> Prediction:
        return (self._race or self._model).predict(batch)

    def react(self, batch: Batch, suspected: bool) -> list[ReactionEvent]:
        events = super().react(batch, suspected)
        if self._pull_until is not None and self._record - len(batch) >= self._pull_until:
            self._pull_until = None
            _scale_pull(self._model, 1.0)
        return events

    def _begin(self, batch: Batch) -> list[ReactionEvent]:
        """From the live model as it stands, before it learns the batch of the alarm: all arms learn the same."""
        self._races += 1
        now = self._model.capture()
        challengers = self._challengers()
        if RaceArm.RATE_UP in challengers:
            challengers[RaceArm.RATE_UP].restore(now)
            _scale_rate(challengers[RaceArm.RATE_UP], self._options.rate_factor)
        for arm, state in zip(_EARLIER, self._earlier):
            challengers[arm].restore(state)
        self._before = now if self._options.earlier else None
        self._race = Race(self._model, challengers, self._options)
        self._race.learn(batch)
        return [ReactionEvent(model=self._name, kind=ReactionKind.SUSPECT, record=self._record, arm=RaceArm.KEEP)]

    def _go_on(self, batch: Batch) -> list[ReactionEvent]:
        """The batch is not learned yet: whoever wins now learns it next, as the live model."""
        race = self._race
        assert race is not None
        race.score(batch)
        events = self._look(race) if race.look_due else []
        for event in events:
            self._pull(event.kind is ReactionKind.CONFIRM, self._record - len(batch))
        if not race.practising and RaceArm.RATE_UP in race.arms:
            _scale_rate(race.arms[RaceArm.RATE_UP], 1.0)
        if race.finished:
            self._end(race)
        else:
            race.learn(batch)
        return events

    def _look(self, race: Race) -> list[ReactionEvent]:
        verdict = race.verdict()
        if verdict.won:
            race.exchange(verdict.challenger)
            kind = ReactionKind.ROLLBACK if verdict.challenger is RaceArm.KEEP else ReactionKind.CONFIRM
            return [self._told(kind, verdict.challenger, verdict)]
        if race.finished and race.leader is RaceArm.KEEP:
            return [self._told(ReactionKind.ROLLBACK, RaceArm.KEEP, verdict)]
        return []

    def _pull(self, confirmed: bool, since: int) -> None:
        """Harder after a confirmed drift, from the batch on that confirmed it; the state that came in was at rest."""
        if self._options.pull_factor > 1:
            self._pull_until = since + self._options.pull_records if confirmed else None
            _scale_pull(self._model, self._options.pull_factor if confirmed else 1.0)

    def _end(self, race: Race) -> None:
        if self._before is not None and race.leader is not RaceArm.KEEP:
            others = [state for arm, state in zip(_EARLIER, self._earlier) if arm is not race.leader]
            self._earlier = [self._before, *others][: self._options.earlier]
        self._race = self._before = None
        self._rest()

    def _told(self, kind: ReactionKind, arm: RaceArm, verdict: Verdict) -> ReactionEvent:
        return ReactionEvent(
            model=self._name,
            kind=kind,
            record=self._record,
            arm=arm,
            challenger=verdict.challenger,
            margin=verdict.margin,
            statistic=verdict.statistic,
        )

    def _challengers(self) -> dict[RaceArm, Model]:
        """Newly built for the race of this number."""
        arms: dict[RaceArm, Model] = {RaceArm.FRESH: self._twin_of(self._name, self._races)}
        if isinstance(self._model, HasRate):
            arms[RaceArm.RATE_UP] = self._twin_of(self._name, 0)
        return arms | {arm: self._twin_of(self._name, 0) for arm, _ in zip(_EARLIER, self._earlier)}

    def capture(self) -> State:
        values = {"races": self._races, "pull_until": self._pull_until}
        parts = {"own": State(values={**super().capture().values, **values})}
        parts |= {f"earlier/{i}": state for i, state in enumerate(self._earlier)}
        if self._race is not None:
            parts["race"] = self._race.capture()
        if self._before is not None:
            parts["before"] = self._before
        return State.join(parts)

    def restore(self, state: State) -> None:
        own = state.part("own")
        super().restore(own)
        self._races, self._race, self._before = own.values["races"], None, None
        self._pull_until = own.values.get("pull_until")
        self._earlier = [state.part(name) for name in sorted(state.values) if name.startswith("earlier/")]
        if "before" in state.values:
            self._before = state.part("before")
        if "race" in state.values:
            self._race = Race(self._model, self._challengers(), self._options)
            self._race.restore(state.part("race"))


def _scale_rate(model: Model, factor: float) -> None:
    if isinstance(model, HasRate):
        model.scale_rate(factor)


def _scale_pull(model: Model, factor: float) -> None:
    if isinstance(model, HasPull):
        model.scale_pull(factor)
