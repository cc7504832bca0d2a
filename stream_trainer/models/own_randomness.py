"""A model's own random numbers: a function of its seed and of the records it has learned, and of nothing else.

Dropout then repeats after a restart and in a rebuilt run, whatever else in the process draws from torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["own_randomness"]


@contextmanager
def own_randomness(seed: int, records: int) -> Iterator[None]:
    """Whatever draws from torch inside repeats with the seed and the record, and nobody outside notices that it drew.

    A restored state brings its seed along, so it goes on alike in whichever twin.
    """
    generator = torch.default_generator
    outside = generator.get_state()
    generator.manual_seed((seed * 0x9E3779B1 + records) % 2**32)  # all that torch's CPU takes
    try:
        yield
    finally:
        generator.set_state(outside)
