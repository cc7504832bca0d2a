"""Time, handed in. Only the service and the sources read a clock; the learning core is given numbers.

Units are seconds. `monotonic_s` measures waits and ages, `wall_s` dates things for people and for Prometheus.
"""

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """What the service asks for; tests hand in one that they move themselves."""

    def monotonic_s(self) -> float: ...

    def wall_s(self) -> float: ...


class SystemClock:
    """The clock of this machine.

    >>> clock = SystemClock()
    >>> clock.monotonic_s() <= clock.monotonic_s()
    True
    """

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_s(self) -> float:
        return time.time()
