"""One model and its alarms: which of them are listened to, and what may be turned on a model.

While something is being done about an alarm, and for a cool-down after it, further alarms of that model are not acted
upon: an excited detector must not have all records spent on reactions. All of it is counted in records.
Not here: what is done (boost.py, race_desk.py), whose alarm it is (reaction.py).
"""

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

from stream_trainer.contracts import Model
from stream_trainer.types import Batch, Prediction, ReactionEvent, State

__all__ = ["Desk", "HasInputLayer", "HasPull", "HasRate", "scale_pull_of", "scale_rate_of"]


@runtime_checkable
class HasRate(Protocol):
    """A model that can be told to learn faster."""

    def scale_rate(self, factor: float) -> None: ...


@runtime_checkable
class HasInputLayer(Protocol):
    """A model of layers, the first of which can begin anew while those above it keep what they know."""

    def renew_input_layer(self) -> None: ...


@runtime_checkable
class HasPull(Protocol):
    """A model that is pulled to its initial weights, and can be told how hard."""

    def scale_pull(self, factor: float) -> None: ...


def scale_rate_of(model: Model, factor: float) -> None:
    if isinstance(model, HasRate):
        model.scale_rate(factor)


def scale_pull_of(model: Model, factor: float) -> None:
    if isinstance(model, HasPull):
        model.scale_pull(factor)


class Desk(ABC):
    """One model: counts its records, and knows until when no alarm is acted upon."""

    def __init__(self, name: str, model: Model) -> None:
        self._name, self._model = name, model
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

    def _rest(self, records: int) -> None:
        self._quiet_until = self._record + records

    def capture(self) -> State:
        return State(values={"record": self._record, "quiet_until": self._quiet_until})

    def restore(self, state: State) -> None:
        self._record, self._quiet_until = state.values["record"], state.values["quiet_until"]
