"""What follows an alarm: nothing, a louder rate for a while, or a race that only a better model can win.

An alarm counts if it is about the errors of a model and they got worse. No policy ever wipes a model blindly: a reset
on a false alarm costs more than most drifts (measured: tests/benchmarks/drift_reaction_*.md). Each model is served by a
desk of its own: boost.py or race_desk.py. A function of the batches and nothing else, all of it in the snapshot.
Not here: detection (drift_monitor.py).
"""

from collections.abc import Mapping, Sequence

from stream_trainer.contracts import Model
from stream_trainer.engine.boost import BoostDesk, BoostOptions
from stream_trainer.engine.desk import Desk
from stream_trainer.engine.race import RaceOptions
from stream_trainer.engine.race_desk import RaceDesk, TwinOf
from stream_trainer.errors import CheckpointError
from stream_trainer.types import Alarm, Batch, Direction, Prediction, ReactionEvent, State

__all__ = ["REACTIONS", "Reaction", "ReactionOptions"]

ReactionOptions = BoostOptions | RaceOptions

REACTIONS: dict[str, type[ReactionOptions] | None] = {
    "none": None,
    "alert": None,
    "boost": BoostOptions,
    "race": RaceOptions,
}
"""drift.reaction -> its options; None: a policy that leaves the models alone."""


class Reaction:
    """Acts on the alarms of every model of a run, each for itself.

    Args:
        models: the live ones; changed in place, never exchanged, so that whoever holds one holds the right one.
        twin_of: builds the challengers.
    """

    def __init__(self, models: Mapping[str, Model], options: ReactionOptions, twin_of: TwinOf) -> None:
        self._policy = "race" if isinstance(options, RaceOptions) else "boost"
        self._desks: dict[str, Desk] = {
            name: RaceDesk(name, model, options, twin_of)
            if isinstance(options, RaceOptions)
            else BoostDesk(name, model, options)
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
        return {name: isinstance(desk, RaceDesk) and desk.active for name, desk in self._desks.items()}

    def fresh_margins(self) -> dict[str, float]:
        """Per model that has raced: the share of the old model's loss that a new network saved at the race's end.

        After a false alarm the two learned the same and the old one far more. Above 0 it learns worse than a network
        that knows nothing, so it has lost its plasticity, or what it knows stands in its way.
        """
        desks = {name: desk for name, desk in self._desks.items() if isinstance(desk, RaceDesk)}
        return {name: desk.fresh_margin for name, desk in desks.items() if desk.fresh_margin is not None}

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
