"""When a race begins, who takes part, and what follows from its verdict.

    suspect: challengers start beside the live model; all learn the same batches and answer together.
        keep        the live model             fresh     a newly built twin, untrained
        rate_up     a copy that learns with a multiple of the rate in the first half of the race; in the second it falls
                    to the base rate, by the same share with every record, or its noise would hide what it has gained
        new_inputs  a copy whose first layer begins anew: where the inputs mean something else now, what the layers
                    above have learned of the classes is still true. It has the same multiple, and the base rate from
                    half-time on: a young layer gains more by that, and without lost two races in five to `fresh`
        earlier_1 to 3, as many as are asked for: what served before the last confirmed drifts
    Then confirm: the winner's state becomes the live model's. Or rollback: none has won, or the old state is the best
    one after all. At the end of the race all others are dropped.
A model without rate and layers, River's for example, races against the arm fresh only. All of it is in the snapshot: a
crash in mid-race resumes the race. Not here: the race itself (race.py).
"""

from collections.abc import Callable

from stream_trainer.contracts import Model
from stream_trainer.engine.desk import Desk, HasInputLayer, HasRate, scale_pull_of, scale_rate_of
from stream_trainer.engine.race import Race, RaceOptions, Verdict
from stream_trainer.types import Batch, Prediction, RaceArm, ReactionEvent, ReactionKind, State

__all__ = ["RaceDesk", "TwinOf"]

TwinOf = Callable[[str, int], Model]
"""(model, number) -> the model as configured, newly built; number 0 has the configured seed, each other its own."""

CONFIRMED_REST = 4  # after a drift that was none the detector is rested so many times as long as after a true one

_EARLIER = (RaceArm.EARLIER_1, RaceArm.EARLIER_2, RaceArm.EARLIER_3)


class RaceDesk(Desk):
    """The races of one model, one after the other, and what is left of them: former winners, and a harder pull."""

    def __init__(self, name: str, model: Model, options: RaceOptions, twin_of: TwinOf) -> None:
        super().__init__(name, model)
        self._options, self._twin_of = options, twin_of
        self._races = 0  # so far: each has its own seed
        self._race: Race | None = None
        self._before: State | None = None  # the live model's when the race began, if earlier winners are kept
        self._earlier: list[State] = []  # newest first
        self._pull_until: int | None = None  # None: the pull is at rest
        self.fresh_margin: float | None = None  # at the end of the last race: None before there was one

    @property
    def active(self) -> bool:
        return self._race is not None

    def predict(self, batch: Batch) -> Prediction:
        return (self._race or self._model).predict(batch)

    def react(self, batch: Batch, suspected: bool) -> list[ReactionEvent]:
        events = super().react(batch, suspected)
        if self._pull_until is not None and self._record - len(batch) >= self._pull_until:
            self._pull_until = None
            scale_pull_of(self._model, 1.0)
        return events

    def _begin(self, batch: Batch) -> list[ReactionEvent]:
        """From the live model as it stands, before it learns the batch of the alarm: all arms learn the same."""
        self._races += 1
        now = self._model.capture()
        challengers = self._challengers()
        for arm, factor in self._raised(progress=0.0):
            if arm in challengers:
                challengers[arm].restore(now)
                scale_rate_of(challengers[arm], factor)
        renewed = challengers.get(RaceArm.NEW_INPUTS)
        if isinstance(renewed, HasInputLayer):
            renewed.renew_input_layer()
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
            self._pull(race, event.kind is ReactionKind.CONFIRM, self._record - len(batch))
        for arm, factor in self._raised(race.progress):
            if arm in race.arms:
                scale_rate_of(race.arms[arm], factor)
        if race.finished:
            self.fresh_margin = race.margin(RaceArm.FRESH, RaceArm.KEEP)
            self._end(race)
        else:
            race.learn(batch)
        return events

    def _raised(self, progress: float) -> list[tuple[RaceArm, float]]:
        """The copies that learn with a multiple of the rate, and what it is by now."""
        factor = self._options.rate_factor
        falling, until_half = factor ** min(1.0, 2 - 2 * progress), factor if progress < 0.5 else 1.0
        return [(RaceArm.RATE_UP, falling), (RaceArm.NEW_INPUTS, until_half)]

    def _look(self, race: Race) -> list[ReactionEvent]:
        verdict = race.verdict()
        if verdict.won:
            race.exchange(verdict.challenger)
            kind = ReactionKind.ROLLBACK if verdict.challenger is RaceArm.KEEP else ReactionKind.CONFIRM
            return [self._told(kind, verdict.challenger, verdict)]
        if race.finished and race.leader is RaceArm.KEEP:
            return [self._told(ReactionKind.ROLLBACK, RaceArm.KEEP, verdict)]
        return []

    def _pull(self, race: Race, confirmed: bool, since: int) -> None:
        """Harder after a confirmed drift, from the batch on that confirmed it, and for the leader only."""
        if self._options.pull_factor > 1:
            self._pull_until = since + self._options.pull_records if confirmed else None
            for arm, model in race.arms.items():
                hard = confirmed and arm is race.leader
                scale_pull_of(model, self._options.pull_factor if hard else 1.0)

    def _end(self, race: Race) -> None:
        confirmed = race.leader is not RaceArm.KEEP
        if self._before is not None and confirmed:
            others = [state for arm, state in zip(_EARLIER, self._earlier) if arm is not race.leader]
            self._earlier = [self._before, *others][: self._options.earlier]
        self._race = self._before = None
        self._rest(self._options.cooldown_records // (CONFIRMED_REST if confirmed else 1))

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
        if isinstance(self._model, HasInputLayer):
            arms[RaceArm.NEW_INPUTS] = self._twin_of(self._name, 0)
        return arms | {arm: self._twin_of(self._name, 0) for arm, _ in zip(_EARLIER, self._earlier)}

    def capture(self) -> State:
        values = {"races": self._races, "pull_until": self._pull_until, "fresh_margin": self.fresh_margin}
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
        self._pull_until, self.fresh_margin = own.values.get("pull_until"), own.values.get("fresh_margin")
        self._earlier = [state.part(name) for name in sorted(state.values) if name.startswith("earlier/")]
        if "before" in state.values:
            self._before = state.part("before")
        if "race" in state.values:
            self._race = Race(self._model, self._challengers(), self._options)
            self._race.restore(state.part("race"))
