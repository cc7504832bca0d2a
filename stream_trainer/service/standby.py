"""One model, several processes: one learns, the others wait with everything loaded, and one of them takes its place.

The checkpoint directory elects, not Kafka: what matters is who may save, and that is decided there. A standby becomes
the active one when the lock is free (the other ended or died: at once), or when its pulse has stood still for
`session_timeout_s` (stopped, hanging, cut off: lease.py). Either way it claims the next epoch, which fences the other:
if that one was only asleep, it hears so within a quarter of a session or at its next save, and leaves with code 6;
what it had not saved was learned again by its follower, from the same checkpoint and the same journal.

Needs a file system that all of them see, with locks that work over it (a local one, NFS 4, CephFS).
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stream_trainer.checkpoints import CheckpointDirectory
from stream_trainer.checkpoints.lease import BEATS, LeaseKeeper, LeaseWatch
from stream_trainer.contracts import DeadLetters
from stream_trainer.engine.snapshot import restore
from stream_trainer.errors import CorruptCheckpoint, Fenced
from stream_trainer.service.loop import Service
from stream_trainer.telemetry.health import Health

__all__ = ["StandbyService"]

log = logging.getLogger(__name__)
LOOK_S = 0.2  # how late a standby hears of a death


class StandbyService(Service):
    """A `Service` that learns once it is the active one.

    Args:
        directory: of `checkpoints`, on a file system.
        session_timeout_s: a pulse that stands still for so long is that of a dead process.
        open_dead_letters: called when it becomes active: until then they belong to another.
    """

    def __init__(
        self,
        *,
        checkpoints: CheckpointDirectory,
        directory: Path,
        session_timeout_s: float,
        open_dead_letters: Callable[[], DeadLetters],
        **service: Any,
    ) -> None:
        super().__init__(checkpoints=checkpoints, **service)
        self.role = "standby"
        self.fences = 0  # living ones that we took over from
        self._directory, self._session_timeout_s = directory, session_timeout_s
        self._open_dead_letters = open_dead_letters
        self._own_checkpoints = checkpoints
        self._lease: LeaseKeeper | None = None
        self._followed = ""  # the checkpoint that is loaded while we wait
        self._checked_s = self.clock.monotonic_s()

    def readiness(self) -> Health:
        """A standby is ready, to take over: it is not what a roll-out should wait for."""
        if self.role == "standby" and self._followed and not self._stop_requested:
            return Health(ok=True, reasons=(f"standby, follows {self._followed}",))
        return super().readiness()

    # ------------------------------------------------------------ the life, where it differs

    def _start(self) -> None:
        watch = LeaseWatch(self._directory, self.clock)
        while not self._is_our_turn(watch):
            if self._stop_requested:
                return  # never active: nothing to save, nothing to release
            self._follow()
            for observer in self.observers:
                observer.turned()  # the watchdog should know that we live
            time.sleep(LOOK_S)
        assert self._own_checkpoints.epoch is not None
        self._lease = LeaseKeeper(
            self._directory, epoch=self._own_checkpoints.epoch, session_timeout_s=self._session_timeout_s
        )
        self.role = "active"
        log.info("active, epoch %d", self._own_checkpoints.epoch)
        self.dead_letters = self._open_dead_letters()
        super()._start()

    def _open_checkpoints(self) -> None:
        pass  # they are ours since it is our turn

    def _between_batches(self) -> None:
        """Nothing depends on looking here: an overtaken save is void. But why learn for nobody."""
        now_s = self.clock.monotonic_s()
        if now_s - self._checked_s >= self._session_timeout_s / BEATS:
            self._checked_s = now_s
            self._own_checkpoints.check_fence()
        super()._between_batches()

    def _close(self) -> None:
        if self._lease is not None:
            self._lease.close()
        super()._close()

    # ------------------------------------------------------------ waiting

    def _is_our_turn(self, watch: LeaseWatch) -> bool:
        """The checkpoints are open for writing afterwards, under an epoch of ours."""
        silent_s = watch.silent_s()
        try:
            self._own_checkpoints.open()
            return True
        except Fenced:
            if silent_s < self._session_timeout_s:
                if not self._followed:
                    log.info("waiting as standby: another process is active in %s", self._directory)
                    self._followed = "nothing yet"
                return False
        log.warning("the pulse of the active one has stood still for %.1f s", silent_s)
        self._own_checkpoints.open(take_over=True)
        self.fences += 1
        return True

    def _follow(self) -> None:
        """Load what the active one saves, so that all that can go wrong with it goes wrong now."""
        newest = next((info.path for info in self._own_checkpoints.infos(verify=False) if info.problem is None), "")
        if not newest or newest == self._followed:
            return
        try:
            if snapshot := self._own_checkpoints.load_newest():
                restore(self.trainer.parts(), snapshot)
                self._followed = newest
        except CorruptCheckpoint as error:  # or it was dropped while we read it: the next one will tell
            log.warning("standby: %s", error)
