"""What every part that remembers does alike: say whose memory it is, and refuse another's.

Not here: how the memory is written to disk (checkpoints); these are only the checks between two objects in memory.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from stream_trainer.errors import CheckpointError
from stream_trainer.types import State

__all__ = ["identity", "part_of", "refuse_stranger"]


def identity(owner: str, options: Any) -> dict[str, Any]:
    """Whose memory this is: the name of the part and its options, as JSON values.

    Args: owner: name of the part. options: the dataclass instance that it was built from.
    """
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(options).items()}
    return {"owner": owner, "options": plain}


def refuse_stranger(state: State, expected: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless `state` was captured by a part of the same name and options.

    A detector that goes on with the memory of other settings is neither the one nor the other: its false-alarm rate
    would be nobody's.
    """
    for key, ours in expected.items():
        theirs = state.values.get(key)
        if theirs != ours:
            raise CheckpointError(
                f"drift: the checkpoint holds {key} {theirs!r}, this run has {ours!r}. "
                "Start with the settings of the checkpoint, or with a fresh directory to forget what was learned."
            )


def part_of(state: State, name: str) -> State:
    """What was joined under `name`. Raises CheckpointError if nothing was."""
    if name not in state.values:
        raise CheckpointError(
            f"drift: the checkpoint holds {', '.join(sorted(state.values)) or 'nothing'}; expected {name} among it. "
            "Start with the settings of the checkpoint, or with a fresh directory to forget what was learned."
        )
    return state.part(name)
