"""Parts of the house that are compiled where there is a C compiler, and computed by numpy or torch elsewhere.

A part is an extension module beside the code that calls it. drift/_kernel.c and evaluation/_kernel.c give what numpy
gives, to the last bit, in a fraction of the time; so a state does not tell on which path it was computed, and a run may
change it. optimizers/_kernel.c has last bits of its own, and a checkpoint names it; so have the norm layers, which
moreover choose between instruction sets and are looked after in norms/kernel.py.

    STREAM_TRAINER_KERNEL   off: numpy, torch; whatever else it may be: compiled, if built
"""

import os
from importlib import import_module
from typing import Any

__all__ = ["CompiledPart", "use_compiled_parts"]

VARIABLE = "STREAM_TRAINER_KERNEL"

_wanted = os.environ.get(VARIABLE) != "off"


class CompiledPart:
    """The functions of one extension module.

    Args: module: its full name. calls: its number of signatures, which counts up whenever one changes; a module that
          was built from other sources is not touched.

    >>> CompiledPart("stream_trainer._never_built", calls=1)() is None
    True
    """

    def __init__(self, module: str, *, calls: int) -> None:
        try:
            built: Any = import_module(module)
        except ImportError:
            built = None
        self.built = built if built is not None and built.CALLS == calls else None  # switched off or not

    def __call__(self) -> Any:
        """The functions; None: not built, or switched off."""
        return self.built if _wanted else None

    @property
    def in_use(self) -> str:
        """ "compiled", or "off" for numpy or torch."""
        return "off" if self() is None else "compiled"


def use_compiled_parts(wanted: bool) -> bool:
    """From now on, compiled where built, or by numpy; for tests and comparisons. Returns what was chosen before.

    >>> before = use_compiled_parts(False)
    >>> use_compiled_parts(before)
    False
    """
    global _wanted
    before, _wanted = _wanted, wanted
    return before
