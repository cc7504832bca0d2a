"""Leaving when told to, and leaving when stuck.

First SIGTERM or SIGINT: finish the batch, save, commit, leave; after `stop_s_max` leave whatever happens. Second one:
leave at once; the last checkpoint stands. A loop turn longer than `turn_s_max` cannot be interrupted from inside, so
the process ends: a supervisor starts it again, and the checkpoint makes that harmless.
"""

import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from stream_trainer.errors import Stalled
from stream_trainer.telemetry.health import Heartbeat

__all__ = ["leave_when_stuck", "stop_on_signals"]

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


@contextmanager
def leave_when_stuck(heartbeat: Heartbeat, *, turn_s_max: float) -> Iterator[None]:
    """Within the block a thread watches the loop's pulse and ends the process with Stalled's exit code."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(min(turn_s_max / 4, 5.0)):
            if heartbeat.age_s() > turn_s_max:
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
