"""A network's and an optimizer's memory as tensors and JSON values, without pickle.

`torch.optim.Optimizer.state_dict` mixes both: tensors go under "state.<parameter>.<name>", those of a list with their
place behind it, everything else into one JSON mapping. Settings of the groups (the rate among them: a reaction to drift
may have changed it) are part of it.
"""

from collections.abc import Mapping
from typing import Any

import torch

from stream_trainer.errors import CheckpointError

__all__ = ["check_same_tensors", "optimizer_memory", "restore_optimizer", "under"]


def optimizer_memory(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors themselves by name, to be copied by whoever keeps them, and the numbers beside them."""
    state = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, memory in state["state"].items():
        numbers[str(index)] = {}
        for name, value in memory.items():
            if isinstance(value, torch.Tensor):
                tensors[f"state.{index}.{name}"] = value
            elif isinstance(value, list):  # the history of L-BFGS: tensors, or None where there is none yet
                numbers[str(index)][name] = [None] * len(value)
                entries = ((i, entry) for i, entry in enumerate(value) if entry is not None)
                tensors |= {f"state.{index}.{name}.{i}": entry for i, entry in entries}
            else:
                numbers[str(index)][name] = value
    groups = [{k: list(v) if isinstance(v, tuple) else v for k, v in g.items()} for g in state["param_groups"]]
    return tensors, {"state": numbers, "groups": groups}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """The inverse, into an optimizer built alike. Raises CheckpointError if it was not.

    Settings that our optimizer has had only since the checkpoint was made stay as they are at birth.
    """
    groups, added = optimizer.state_dict()["param_groups"], set(getattr(optimizer, "settings_added", ()))
    if [set(group) - added for group in groups] != [set(group) - added for group in values["groups"]] or any(
        ours["params"] != theirs["params"] for ours, theirs in zip(groups, values["groups"])
    ):
        raise CheckpointError(
            f"optimizer: the checkpoint has groups with other settings or parameters than {type(optimizer).__name__} "
            "as configured. Start with the optimizer it was saved with."
        )
    for ours, theirs in zip(groups, values["groups"]):  # JSON has no tuples; betas are one
        ours.update({k: tuple(v) if isinstance(ours[k], tuple) else v for k, v in theirs.items()})
    state: dict[int, dict[str, Any]] = {
        int(index): {name: list(v) if isinstance(v, list) else v for name, v in memory.items()}
        for index, memory in values["state"].items()
    }
    for key, tensor in tensors.items():
        _, index, name, *place = key.split(".")
        memory = state[int(index)]
        if place:
            memory[name][int(place[0])] = torch.as_tensor(tensor).clone()
        else:
            memory[name] = torch.as_tensor(tensor).clone()
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def under(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What was joined under `prefix`, by its own names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def check_same_tensors(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> None:
    """Raises: CheckpointError: another name or shape."""
    shapes = {name: list(tensor.shape) for name, tensor in expected.items()}
    found_shapes = {name: list(tensor.shape) for name, tensor in found.items()}
    if shapes != found_shapes:
        name = sorted(k for k in {*shapes, *found_shapes} if shapes.get(k) != found_shapes.get(k))[0]
        raise CheckpointError(
            f"torch model: tensor {name!r} has shape {found_shapes.get(name)} in the checkpoint and {shapes.get(name)} "
            "in the configured network. Start with the network it was saved with."
        )
