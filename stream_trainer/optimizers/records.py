"""What a batch of n records may do to the weights: the constants and the cut that all of StreamAdamW shares."""

import math

__all__ = ["DECAY_MAX", "EPS", "REFERENCE_RECORDS", "SMALLEST", "cut", "headroom"]

REFERENCE_RECORDS = 16  # the batch size at which `lr` is the step and `beta1` the decay
DECAY_MAX = 0.9999  # with single records a longer memory of g² adds lag and takes no more noise away
SMALLEST = 1e-30  # below this a moment is 0: on its way down it would get stuck among the slow denormal numbers
EPS = 1e-10  # only so that a unit without any gradient divides 0 by something


def headroom(records: int) -> float:
    """How many times as long as usual the mean gradient of so few records may be: max(1, √(16/n)).

    >>> headroom(1), headroom(16), headroom(500)
    (4.0, 1.0, 1.0)
    """
    return math.sqrt(max(1.0, REFERENCE_RECORDS / records))


def cut(rms: float, limit: float) -> float:
    """The factor that takes an update of this root mean square back; nan stays nan."""
    return 1.0 if rms <= limit else max(1.0, limit * limit / rms) / rms
