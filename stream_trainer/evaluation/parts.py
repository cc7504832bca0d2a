"""One state out of the states of several parts, and back."""

from collections.abc import Mapping

from stream_trainer.contracts import Stateful
from stream_trainer.types import State

__all__ = ["capture_parts", "restore_parts"]


def capture_parts(parts: Mapping[str, Stateful]) -> State:
    """Every key is prefixed with the name of its part and a slash."""
    states = {name: part.capture() for name, part in parts.items()}
    return State(
        arrays={f"{name}/{key}": array for name, state in states.items() for key, array in state.arrays.items()},
        values={f"{name}/{key}": value for name, state in states.items() for key, value in state.values.items()},
    )


def restore_parts(parts: Mapping[str, Stateful], state: State) -> None:
    """What `capture_parts` has taken from parts of the same names."""
    for name, part in parts.items():
        prefix = f"{name}/"
        part.restore(
            State(
                arrays={key.removeprefix(prefix): a for key, a in state.arrays.items() if key.startswith(prefix)},
                values={key.removeprefix(prefix): v for key, v in state.values.items() if key.startswith(prefix)},
            )
        )
