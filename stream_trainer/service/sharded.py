"""One member of a sharded group: the loop, with partitions that come and go between two batches.

Kafka's assignment is a wish (streams/kafka_group.py), a claim on the shared disk is the truth (checkpoints/claims.py).
Whatever is wished away is saved first, then released; whatever is wished is taken when its holder has released it, or
was fenced. A member that was fenced itself leaves with exit code 6 and goes on from its last checkpoint when it is
started again: what it had not saved is learned by the new holders.

Cuts are not repeated after a crash, since the partitions may be others by then; no record depends on it.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stream_trainer.checkpoints import CheckpointDirectory
from stream_trainer.checkpoints.claims import PartitionClaims
from stream_trainer.checkpoints.journal import BatchJournal
from stream_trainer.checkpoints.members import MemberLife
from stream_trainer.engine.batcher import Batcher
from stream_trainer.errors import StreamTrainerError
from stream_trainer.service.loop import Service
from stream_trainer.streams.kafka_group import KafkaGroupSource
from stream_trainer.telemetry.health import Health
from stream_trainer.types import Positions, Snapshot, TopicPartition

__all__ = ["ShardedService"]

log = logging.getLogger(__name__)


class ShardedService(Service):
    """A `Service` for the partitions that its group leaves to it.

    Args:
        source: reads what it is told to, and hears what the group wants.
        life: whose claims they are; opened by `run`.
        claims: made for `life`.
        checkpoints_in: the checkpoints in the folder of this life.
    """

    def __init__(
        self,
        *,
        source: KafkaGroupSource,
        life: MemberLife,
        claims: PartitionClaims,
        checkpoints_in: Callable[[Path], CheckpointDirectory],
        **service: Any,
    ) -> None:
        super().__init__(source=source, checkpoints=None, **service)
        self.group_source, self.life, self.claims = source, life, claims
        self.owned: frozenset[TopicPartition] = frozenset()
        self._checkpoints_in = checkpoints_in
        self._first: Positions = {}

    def readiness(self) -> Health:
        """Ready once every partition that the group wants us to learn is ours."""
        health = super().readiness()
        if not health.ok:
            return health
        try:
            wanted = self.group_source.wanted
        except StreamTrainerError as error:
            return Health(ok=False, reasons=(str(error),))
        if wanted is None:
            return Health(ok=False, reasons=("Kafka has assigned no partitions yet",))
        waiting = sorted(wanted - self.owned)
        return Health(ok=not waiting, reasons=tuple(f"{tp} is not handed over yet" for tp in waiting))

    # ------------------------------------------------------------ the life, where it differs

    def _start(self) -> None:
        self.checkpoints = self._checkpoints_in(self.life.open())
        self.checkpoints.open()
        snapshot = self.checkpoints.load_newest()
        self.resume(snapshot, {}, ())
        # A partition that went on to others has a later position there; those that did not must stay in every save.
        self.positions = {tp: at for tp, at in self.positions.items() if self.claims.is_mine(tp)}
        self.source.start(None)
        for topic in self.group_source.topics:
            self._first |= self.claims.first_positions(topic, lambda: self.group_source.first_positions(topic))  # noqa: B023  called at once
        self._begin_batches()
        for observer in self.observers:
            observer.started(self.positions, self.counts)

    def _turn(self) -> None:
        self.life.check()
        super()._turn()

    def _between_batches(self) -> None:
        self._follow_the_group()
        super()._between_batches()

    def _save(self, snapshot: Snapshot) -> int:
        """What was saved under the name of a life that is over counts for nobody."""
        try:
            n_bytes = super()._save(snapshot)
        finally:
            self.life.check()
        return n_bytes

    def _close(self) -> None:
        """Release what is saved, so that nobody has to wait for it; a member that failed unsaved is waited for."""
        try:
            saved = self.checkpoints is not None and self.counts.batches == self._saved_batches
            if saved and not self._mid_batch and not self.life.is_over:
                self._release(self.owned)
        except Exception:
            log.exception("while releasing partitions")
        super()._close()
        self.life.close()

    # ------------------------------------------------------------ partitions come and go

    def _follow_the_group(self) -> None:
        """Between two batches. A crash between any two lines leaves each record to exactly one model."""
        wanted = self.group_source.wanted
        if wanted is None or wanted == self.owned:
            return
        unwanted = self.owned - wanted
        if unwanted:
            self._save_and_wait()  # 1. what we know of them is on disk ...
            self.life.check()  # 2. ... where it counts: had we been fenced, it would not, and another position be true
            self._release(unwanted)  # 3. from here on somebody else may begin, right there
        taken = self._take(wanted - self.owned)  # 4. where the one before us, whoever it was, has saved
        if unwanted or taken:
            self._save_and_wait()  # 5. the journal begins anew behind a save: the rows before it are void otherwise
            self.owned |= taken.keys()
            self.positions |= taken
            self._begin_batches()  # 6. what was read and not learned is read again by whoever holds it now

    def _take(self, partitions: frozenset[TopicPartition]) -> Positions:
        first = self._first | self.group_source.earliest(partitions - self._first.keys())  # these were added since
        found = {tp: self.claims.take(tp, first=first[tp]) for tp in sorted(partitions)}
        return {tp: at for tp, at in found.items() if at is not None}

    def _release(self, partitions: frozenset[TopicPartition]) -> None:
        for tp in sorted(partitions):
            self.claims.release(tp, self.positions.pop(tp))
        self.owned -= partitions

    def _begin_batches(self) -> None:
        assert self.checkpoints is not None
        assert isinstance(self.checkpoints.journal, BatchJournal)
        self.checkpoints.journal.begin_anew(self.counts.batches)
        self.batcher = Batcher(self._policy, records_seen=self.counts.consumed)
        self.positions |= self.group_source.read({tp: self.positions[tp] for tp in self.owned})
        log.info("learning %s", ", ".join(f"{tp} from {self.positions[tp]}" for tp in sorted(self.owned)) or "nothing")

    @property
    def _policy(self) -> Any:
        assert isinstance(self.batcher, Batcher)
        return self.batcher.policy
