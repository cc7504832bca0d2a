"""The compiled kernel: whether it is there, which instructions it uses, and what it can be given.

`_kernel.c` is built on installation where there is a C compiler; without it, or with STREAM_TRAINER_KERNEL=off, the
layers take torch's operations. Both compute the same formulas, but not the same last bits: nor do two instruction sets.
To compute a saved state again bit for bit, take the path it was computed on; the manifest of a checkpoint names it.

    STREAM_TRAINER_KERNEL   auto (default): the best that this machine runs; avx2; portable; off
"""

import os
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from stream_trainer.errors import ConfigError

__all__ = ["KERNEL_PATHS", "compiled", "kernel_in_use", "kernel_takes", "use_kernel"]

KERNEL_PATHS = ("avx2", "portable", "off")  # best first
VARIABLE = "STREAM_TRAINER_KERNEL"
CALLS = 8  # signatures and formulas of _kernel.c that are relied upon here; one built from other sources is not touched


def _built() -> Any:
    try:
        built: Any = import_module("stream_trainer.norms._kernel")
    except ImportError:
        return None
    if built.CALLS != CALLS:
        return None
    built.introduce(Tensor, torch.float32, increment_version, torch.get_num_threads)
    return built


compiled: Any = _built()
"""The functions of _kernel.c; None where it was not built."""

_path = "off"


def use_kernel(wanted: str) -> str:
    """Take this path for every layer from now on, "auto" for the best there is. Returns the one taken.

    Raises: ConfigError: no such path, or it cannot be had here.

    >>> before = kernel_in_use()
    >>> use_kernel("off"), use_kernel(before) == before
    ('off', True)
    """
    global _path
    candidates = KERNEL_PATHS if wanted == "auto" else (wanted,)
    for path in candidates:
        if path == "off" or (compiled is not None and compiled.use(path)):
            _path = path
            return path
    why = (
        f"known: auto, {', '.join(KERNEL_PATHS)}"
        if wanted not in KERNEL_PATHS
        else "the kernel was not built: install again where there is a C compiler"
        if compiled is None
        else "this processor does not have the instructions"
    )
    raise ConfigError(f"{VARIABLE} is {wanted!r}; {why}. Leave it out to take the best there is.")


def kernel_in_use() -> str:
    """What batch_renorm and adaptive_batch_renorm compute with: "avx2", "portable", or "off" for torch's operations."""
    return _path


def kernel_takes(x: Tensor, weight: Tensor | None, bias: Tensor | None, moments: nn.Module) -> bool:
    """Whether the kernel can work on these: plain float32 tensors on the CPU, contiguous, and not only being traced."""
    if _path == "off" or torch.compiler.is_compiling():
        return False
    takes: bool = compiled.takes(x, weight, bias, moments._buffers)
    return takes


use_kernel(os.environ.get(VARIABLE, "auto"))
