"""Saving beside learning: one thread, at most one save in flight.

The snapshot is a copy, so learning goes on while it is written; copies of large arrays are made here, too, unless the
loop needs the originals first. A save that fails is reported, not raised: the positions it would have promised are
simply not committed, and the next save tries.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stream_trainer.types import Snapshot

__all__ = ["BackgroundWriter", "Saved"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """How a save ended: `error` is None if it is on disk."""

    snapshot: Snapshot
    size_bytes: int
    seconds: float
    error: Exception | None


class BackgroundWriter:
    """Runs `save` in a thread; `collect` tells, once, how it ended.

    Args:
        save: writes a snapshot and returns its size in bytes.
        monotonic_s: the clock that times it.
        make_thread: threading.Thread, or what tests step through in its place.
    """

    def __init__(
        self,
        save: Callable[[Snapshot], int],
        monotonic_s: Callable[[], float],
        make_thread: Callable[..., Any] = threading.Thread,
    ) -> None:
        self._save, self._monotonic_s, self._make_thread = save, monotonic_s, make_thread
        self._thread: threading.Thread | None = None
        self._saved: Saved | None = None

    @property
    def busy(self) -> bool:
        """A save is under way, or has ended and was not collected yet."""
        return self._thread is not None

    def start(self, snapshot: Snapshot) -> None:
        assert not self.busy, "one save at a time"
        self._thread = self._make_thread(target=self._run, args=(snapshot,), name="checkpoint-writer", daemon=True)
        self._thread.start()

    def collect(self, *, wait: bool = False) -> Saved | None:
        """The save that ended since the last call, if any; with `wait`, the one under way too."""
        if self._thread is None or (self._thread.is_alive() and not wait):
            return None
        self._thread.join()
        self._thread = None
        saved, self._saved = self._saved, None
        return saved

    def _run(self, snapshot: Snapshot) -> None:
        started_s = self._monotonic_s()
        size_bytes, failure = 0, None
        try:
            snapshot.finish()
            size_bytes = self._save(snapshot)
        except Exception as error:  # whatever it is, the loop must hear of it
            failure = error
        seconds = self._monotonic_s() - started_s
        self._saved = Saved(snapshot=snapshot, size_bytes=size_bytes, seconds=seconds, error=failure)
