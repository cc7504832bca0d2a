"""Is it alive, is it ready: what the two probes answer with, and the pulse they are judged by.

Alive means that our own loops turn. Whether Kafka can be reached is no part of it: an outage of the broker must not
restart every trainer at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from stream_trainer.clock import Clock

__all__ = ["Health", "Heartbeat", "loops_alive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The answer of a probe; `reasons` says what is wrong, one line each, for the person who reads the 503."""

    ok: bool
    reasons: tuple[str, ...] = ()


class Heartbeat:
    """One loop's pulse: the loop beats once a turn, a probe or a watchdog asks how long ago. Born beating."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last_s = clock.monotonic_s()

    def beat(self) -> None:
        self._last_s = self._clock.monotonic_s()

    def age_s(self) -> float:
        return self._clock.monotonic_s() - self._last_s


def loops_alive(heartbeats: Mapping[str, Heartbeat], *, age_s_max: float) -> Health:
    """Healthy while no loop has been silent for more than `age_s_max`.

    >>> from stream_trainer.clock import SystemClock
    >>> loops_alive({"train": Heartbeat(SystemClock())}, age_s_max=60)
    Health(ok=True, reasons=())
    """
    ages_s = {name: heartbeat.age_s() for name, heartbeat in heartbeats.items()}
    reasons = tuple(
        f"loop {name!r} last turned {age_s:.1f} s ago; at most {age_s_max:g} s are allowed"
        for name, age_s in ages_s.items()
        if age_s > age_s_max
    )
    return Health(ok=not reasons, reasons=reasons)
