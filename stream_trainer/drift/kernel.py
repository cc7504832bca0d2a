"""The compiled part of the drift signals: whether it is there.

`_kernel.c` is built on installation where there is a C compiler; without it, or with STREAM_TRAINER_KERNEL=off, numpy
does all of it, several times slower on batches. Alarms and states are the same, to the last bit: the kernel counts in
the order in which numpy counts, and beyond that only proves that nothing is to be told. So a state is computed again
on either path, and a run may change it.

    STREAM_TRAINER_KERNEL   off: numpy; whatever else it may be: the kernel. The choice for norm layers, too.
"""

import os
from importlib import import_module
from typing import Any

__all__ = ["drift_kernel_in_use", "kernel", "use_drift_kernel"]

VARIABLE = "STREAM_TRAINER_KERNEL"
CALLS = 1  # the signatures in _kernel.c that are called here; one built from other sources is not touched


def _built() -> Any:
    try:
        built: Any = import_module("stream_trainer.drift._kernel")
    except ImportError:
        return None
    return built if built.CALLS == CALLS else None


_compiled = _built()
_wanted = os.environ.get(VARIABLE) != "off"


def kernel() -> Any:
    """The functions of _kernel.c; None: numpy has to do it."""
    return _compiled if _wanted else None


def drift_kernel_in_use() -> str:
    """ "compiled", or "off" for numpy alone."""
    return "off" if kernel() is None else "compiled"


def use_drift_kernel(wanted: bool) -> bool:
    """From now on, with the kernel or without; for tests and comparisons. Returns whether it is in use.

    >>> before = drift_kernel_in_use() == "compiled"
    >>> use_drift_kernel(False), use_drift_kernel(before) == before
    (False, True)
    """
    global _wanted
    _wanted = wanted
    return kernel() is not None
