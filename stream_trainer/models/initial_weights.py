"""The weights that a network began with, left out of its checkpoints: its seed and its factory make them again.

The pull of StreamAdamW needs them for ever, so every checkpoint would hold a second copy of the network. Of what can be
made again only the names and a hash are kept. A factory that does not repeat itself, because it draws from somewhere
else than torch, is found out before anything is left out: its weights stay in the checkpoint.
Refused: a state whose hash the weights made here do not have. The pull would lead elsewhere, and nobody would know.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stream_trainer.errors import CheckpointError

__all__ = ["InitialWeights"]

_SUFFIX = ".initial"  # in the names of `optimizer_memory`: state.<parameter>.initial


class InitialWeights:
    """Takes them out of an optimizer's tensors and puts them back.

    Args:  build: seed -> the network as it begins; its parameters are numbered as the optimizer numbers them.
    """

    def __init__(self, build: Callable[[int], nn.Module]) -> None:
        self._build = build
        # Seed, names and hash of what was found to repeat; hash None: it does not.
        self._known: tuple[int, tuple[str, ...], str | None] | None = None

    def leave_out(self, tensors: Mapping[str, Tensor], seed: int) -> tuple[dict[str, Tensor], Mapping[str, Any] | None]:
        """The tensors to save, and the note to save beside them; None: nothing was left out.

        The first call of a life makes the weights again and hashes both, some 4 ms per million; call it where that
        stands in nobody's way.
        """
        names = tuple(sorted(name for name in tensors if name.endswith(_SUFFIX)))
        if not names:
            return dict(tensors), None
        if self._known is None or self._known[:2] != (seed, names):  # once: these tensors never change
            here = _sha256(tensors[name] for name in names)
            again = self._made(names, seed)
            self._known = seed, names, here if here == _sha256(again.values()) else None
        sha256 = self._known[2]
        if sha256 is None:
            return dict(tensors), None
        left = {name: tensor for name, tensor in tensors.items() if name not in names}
        return left, {"names": list(names), "sha256": sha256}

    def put_back(self, tensors: Mapping[str, Any], note: Mapping[str, Any] | None, seed: int) -> dict[str, Any]:
        """The inverse. Raises: CheckpointError: what the seed makes here is something else."""
        self._known = None
        if note is None:
            return dict(tensors)
        names = tuple(note["names"])
        made = self._made(names, seed)
        found = _sha256(made.values())
        if found != note["sha256"]:
            raise CheckpointError(
                f"torch model: the initial weights made from seed {seed} have sha256 {found[:12]}, the checkpoint says "
                f"{note['sha256'][:12]}. The network's factory, or torch on this kind of processor, draws other "
                "numbers than where it was saved. Start with what it was saved with, or from a fresh checkpoint "
                "directory."
            )
        self._known = seed, names, found
        return {**tensors, **made}

    def _made(self, names: Iterable[str], seed: int) -> dict[str, Tensor]:
        parameters = [parameter.detach() for parameter in self._build(seed).parameters()]
        return {name: parameters[int(name.split(".")[1])] for name in names}


def _sha256(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{flat.dtype} {list(tensor.shape)} ".encode() + flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
