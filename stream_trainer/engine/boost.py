"""After an alarm the live model learns with a multiple of its rate, for a number of records.

Simple, and the best of the simple answers at a low base rate; at a high one, or on a false alarm, it costs more than it
saves (tests/benchmarks/drift_reaction_*.md). Changes nothing for a model without a rate, River's for example.
"""

from dataclasses import dataclass

from stream_trainer.contracts import Model
from stream_trainer.engine.desk import Desk, HasRate
from stream_trainer.errors import ConfigError
from stream_trainer.types import Batch, RaceArm, ReactionEvent, ReactionKind, State

__all__ = ["BoostDesk", "BoostOptions"]


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


class BoostDesk(Desk):
    """Turns the rate of one model up, and down again."""

    def __init__(self, name: str, model: Model, options: BoostOptions) -> None:
        super().__init__(name, model)
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
            self._rest(self._options.cooldown_records)
        return []

    def capture(self) -> State:
        return State(values={**super().capture().values, "until": self._until})

    def restore(self, state: State) -> None:
        super().restore(state)
        self._until = state.values["until"]
