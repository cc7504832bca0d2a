"""Leaving when told to, and leaving when stuck.

First SIGTERM or SIGINT: finish the batch, save, commit, leave; after `stop_s_max` leave whatever happens. Second one:
leave at once; the last checkpoint stands. A loop turn longer than `turn_s_max` cannot be interrupted from inside, so
the process ends: a supervisor starts it again, and the checkpoint makes that harmless. A process that was frozen, or
whose machine slept, is not stuck: its loop gets its time again.
"""

import faulthandler
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from stream_trainer.errors import Stalled
from stream_trainer.telemetry.health import Heartbeat

__all__ = ["Watch", "leave_when_stuck", "stop_on_signals"]

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_on_signals(request_stop: Callable[[], None], *, stop_s_max: float) -> Iterator[None]:
    """Within the block the first signal calls `request_stop`. Only from the main thread."""
    signalled = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal signalled
        if signalled:
            _leave("second signal: leaving at once; the last checkpoint stands", 1)
        signalled = True
        log.info("%s: finishing the batch, then saving; again to leave at once", signal.Signals(number).name)
        deadline = threading.Timer(stop_s_max, _leave, (f"not done within limits.stop_s_max = {stop_s_max:g} s", 1))
        deadline.daemon = True
        deadline.start()
        request_stop()

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Watch:
    """Tells a loop that hangs from a process that was frozen: the thread that looks slept through the same time.

    >>> watch = Watch(turn_s_max=60.0, look_s=5.0)
    >>> watch.is_stuck(1.0, now_s=0.0), watch.is_stuck(501.0, now_s=500.0), watch.is_stuck(62.0, now_s=505.0)
    (False, False, False)
    """

    def __init__(self, *, turn_s_max: float, look_s: float) -> None:
        self.look_s, self._turn_s_max = look_s, turn_s_max
        self._looked_s, self._awake_s = math.inf, -math.inf  # the last look; since when nothing was slept through

    def is_stuck(self, age_s: float, *, now_s: float) -> bool:
        """At a look now: has the loop not turned for `age_s`, more than it may, all of it awake?"""
        if now_s - self._looked_s > self._turn_s_max / 2:  # a look is due every `look_s`, a quarter of it at most
            self._awake_s = now_s
        self._looked_s = now_s
        return min(age_s, now_s - self._awake_s) > self._turn_s_max


@contextmanager
def leave_when_stuck(heartbeat: Heartbeat, *, turn_s_max: float) -> Iterator[None]:
    """Within the block a thread watches the loop's pulse and ends the process with Stalled's exit code."""
    done = threading.Event()
    watched = Watch(turn_s_max=turn_s_max, look_s=min(turn_s_max / 4, 5.0))

    def watch() -> None:
        while not done.wait(watched.look_s):
            if watched.is_stuck(heartbeat.age_s(), now_s=time.monotonic()):
                faulthandler.dump_traceback(sys.stderr)
                _leave(f"the loop has not turned for {heartbeat.age_s():.0f} s: stuck, leaving", Stalled.exit_code)

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _leave(why: str, exit_code: int) -> NoReturn:
    """Without finally blocks or exit handlers: they may be what hangs."""
    log.critical(why)
    logging.shutdown()
    os._exit(exit_code)
