"""The pulse of the one who writes, for those who wait to take its place.

    DIRECTORY/leases/000004    a number that the writer of epoch 4 raises several times per session

A dead writer is seen by its lock, which dies with it; one that was stopped, or whose machine hangs, by a pulse that
stands still. Only the watcher's own clock is used: "unchanged for so long, as I have seen it". That may be wrong about
a writer that is merely slow, and that is safe: it is the fence (fence.py) that keeps two from writing, not this.
"""

import logging
import os
import threading
from pathlib import Path

from stream_trainer.clock import Clock

__all__ = ["LeaseKeeper", "LeaseWatch"]

log = logging.getLogger(__name__)
BEATS = 4  # per session: one may be late without harm


class LeaseKeeper:
    """Beats in a thread of its own until it is closed: a long step is no death, the watchdog judges that."""

    def __init__(self, directory: Path, *, epoch: int, session_timeout_s: float) -> None:
        self._path = _folder(directory) / f"{epoch:06d}"
        self._every_s = session_timeout_s / BEATS
        self._closing = threading.Event()
        self._path.parent.mkdir(exist_ok=True, mode=0o700)
        for earlier in self._path.parent.iterdir():
            if earlier.name < self._path.name:
                earlier.unlink(missing_ok=True)
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        beat = 0
        while True:
            beat += 1
            try:
                self._path.write_text(f"{beat} process {os.getpid()} on {os.uname().nodename}\n")
            except OSError as error:  # a full disk: then we are taken for dead, and fenced
                log.error("%s: %s", self._path, error)
            if self._closing.wait(self._every_s):
                return


class LeaseWatch:
    """How long the pulse of the newest writer has stood still."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._folder, self._clock = _folder(directory), clock
        self._seen: tuple[str, str] | None = None
        self._looked_s = self._changed_s = clock.monotonic_s()

    def silent_s(self) -> float:
        """As seen by whoever calls this regularly."""
        now_s = self._clock.monotonic_s()
        seen = self._newest()
        # We may have been asleep ourselves: what happened meanwhile is not known, so the wait begins again.
        if seen != self._seen or now_s - self._looked_s > 1.0:
            self._seen, self._changed_s = seen, now_s
        self._looked_s = now_s
        return now_s - self._changed_s

    def _newest(self) -> tuple[str, str]:
        try:
            name = max(os.listdir(self._folder), default="")
            return name, (self._folder / name).read_text() if name else ""
        except FileNotFoundError:
            return "", ""


def _folder(directory: Path) -> Path:
    return directory / "leases"
