"""One state out of the states of several parts, and back."""

from collections.abc import Mapping

from stream_trainer.contracts import Stateful
from stream_trainer.types import State

__all__ = ["capture_parts", "restore_parts"]


def capture_parts(parts: Mapping[str, Stateful]) -> State:
    """Each part's state under its name."""
    return State.join({name: part.capture() for name, part in parts.items()})


def restore_parts(parts: Mapping[str, Stateful], state: State) -> None:
    """What `capture_parts` has taken from parts of the same names."""
    for name, part in parts.items():
        part.restore(state.part(name))
