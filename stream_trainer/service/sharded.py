"""One member of a sharded group: the loop, with partitions that come and go between two batches.

Kafka's assignment is a wish (streams/kafka_group.py), a claim on the shared disk is the truth (checkpoints/claims.py).
Whatever is wished away is saved first, then released; whatever is wished is taken when its holder has released it, or
was fenced. A member that was fenced itself leaves with exit code 6 and goes on from its last checkpoint when it is
started again: what it had not saved is learned by the new holders.

After a crash the batches that no checkpoint holds are cut as before if the member gets its partitions back as it left
them; if they were moved meanwhile, they are cut anew. What was saved can be rebuilt from the journal either way.

A member whose newest checkpoint is damaged falls back to the one before. What it learned between the two in partitions
that others have now is in nobody's model then: it learns just those records again, or ends with data lost (code 3).
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from stream_trainer.checkpoints import CheckpointDirectory
from stream_trainer.checkpoints.claims import Missing, PartitionClaims
from stream_trainer.checkpoints.journal import BatchJournal
from stream_trainer.checkpoints.members import MemberLife
from stream_trainer.engine.batcher import Batcher, BatchPolicy
from stream_trainer.engine.recut import Recut
from stream_trainer.errors import CheckpointError, DataLost, StreamTrainerError
from stream_trainer.service.loop import POLL_RECORDS_MAX, POLL_WAIT_S_MAX, Service
from stream_trainer.streams.kafka_group import KafkaGroupSource
from stream_trainer.telemetry.health import Health
from stream_trainer.types import Cut, Positions, RawBatch, Snapshot, TopicPartition

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
        self._policy: BatchPolicy = service["batcher"].policy

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
        self.resume(snapshot, {}, self.checkpoints.journal.resume(snapshot.counts.batches if snapshot else 0)[1])
        # A partition that went on to others has a later position there; those that did not must stay in every save.
        self.positions = {tp: at for tp, at in self.positions.items() if self.claims.is_mine(tp)}
        self.source.start(None, self.claims.log_ids(self.group_source.topics))
        self._topic_ids = self.source.topic_ids
        self.claims.note_log_ids(self._topic_ids)
        for topic in self.group_source.topics:
            self._first |= self.claims.first_positions(topic, lambda: self.group_source.first_positions(topic))  # noqa: B023  called at once
        for observer in self.observers:
            observer.started(self.positions, self.counts)
        self.group_source.join()
        self._learn_again([tp for topic in self.group_source.topics for tp in self.claims.partitions(topic)])

    def _turn(self) -> None:
        self.life.check()
        super()._turn()

    def _learn(self, raw: RawBatch) -> None:
        """A life that is over has no folder to begin a journal in."""
        try:
            super()._learn(raw)
        except CheckpointError:
            self.life.check()
            raise

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
            self._save_and_wait()  # 5. the rows of the journal behind the newest save are of one assignment ...
            if not self._learn_again(taken):  # 6. ... and it tells what we should know of them from before, and do not
                return
            self.owned |= taken.keys()
            self.positions |= taken
            self._begin_batches()  # 7. what was read and not learned is read again by whoever holds it now

    def _take(self, partitions: frozenset[TopicPartition]) -> Positions:
        first = self._first | self.group_source.earliest(partitions - self._first.keys())  # these were added since
        found = {tp: self.claims.take(tp, first=first[tp]) for tp in sorted(partitions)}
        return {tp: at for tp, at in found.items() if at is not None}

    def _release(self, partitions: frozenset[TopicPartition]) -> None:
        for tp in sorted(partitions):
            self.claims.release(tp, self.positions.pop(tp))
        self.owned -= partitions

    def _begin_batches(self) -> None:
        """Read what is ours, from where it is ours; after a crash cut as before, if it is as it was before."""
        cuts, self._cuts = list(self._cuts), ()
        begins = {tp: self.positions[tp] for tp in self.owned}
        self._read(begins)
        if cuts and _lead_on_from(self.positions, cuts):
            assert isinstance(self.batcher, Batcher)
            self.batcher = Recut(
                cuts,
                self.batcher,
                positions=begins,
                ends=self.source.end_offsets(),
                on_lost=self._give_up_cuts,
            )
        else:
            self._journal.begin_anew(self.counts.batches)
        log.info("learning %s", ", ".join(f"{tp} from {self.positions[tp]}" for tp in sorted(self.owned)) or "nothing")

    def _read(self, positions: Positions) -> None:
        self.batcher = Batcher(self._policy, records_seen=self.counts.consumed)
        self.positions |= self.group_source.read(positions)

    @property
    def _journal(self) -> BatchJournal:
        assert self.checkpoints is not None
        assert isinstance(self.checkpoints.journal, BatchJournal)
        return self.checkpoints.journal

    # ------------------------------------------------------------ after a checkpoint was lost

    def _learn_again(self, partitions: Iterable[TopicPartition]) -> bool:
        """What we alone should know of these, and do not: from the log. False: told to stop before the end of it.

        The positions say how far we are, so that any save on the way is as good as the end of it.
        """
        gaps = self.claims.missing(partitions)
        if not gaps:
            return True
        self._cuts = ()  # of another state
        self.positions |= {gap.partition: gap.begin for gap in reversed(gaps)}
        for gap in gaps:
            self._learn_gap(gap)
            if self._stop_requested:
                return False
        for tp in {gap.partition for gap in gaps}:
            if not self.claims.is_mine(tp):
                del self.positions[tp]
        return True

    def _learn_gap(self, gap: Missing) -> None:
        tp, begin, end = gap
        log.warning("%s: records %d to %d are learned again: the checkpoint that held them is gone", tp, begin, end - 1)
        self._journal.begin_anew(self.counts.batches)
        log_begin = self.group_source.earliest([tp])[tp]
        if log_begin > begin:
            self.source.accept_loss(_lost(tp, begin, min(log_begin, end) - 1))
        self.positions[tp] = begin = min(max(begin, log_begin), end)
        self._read({tp: begin})
        log_end = self.source.end_offsets()[tp]
        if log_end < end:
            self.source.accept_loss(_lost(tp, log_end, end - 1))
        reached, end = begin, min(end, log_end)
        while self.positions[tp] < end and not self._stop_requested:
            for chunk in self.source.poll(POLL_WAIT_S_MAX, POLL_RECORDS_MAX):
                self.batcher.add(chunk.before(end), now_s=self.clock.monotonic_s())
                reached = chunk.next_offset
            while (raw := self.batcher.take(now_s=self.clock.monotonic_s(), drain=reached >= end)) is not None:
                self._learn(raw)
            for observer in self.observers:
                observer.turned()


def _lead_on_from(positions: Positions, cuts: Iterable[Cut]) -> bool:
    """Whether these cuts name the records right behind `positions`, without a gap."""
    at = dict(positions)
    for cut in cuts:
        for partition, first_offset, next_offset in cut.runs:
            if at.get(partition) != first_offset:
                return False
            at[partition] = next_offset
    return True


def _lost(tp: TopicPartition, first: int, last: int) -> DataLost:
    return DataLost(
        f"{tp}: records {first} to {last} were learned by this member and by no other, the checkpoint that held them "
        "is damaged or gone, and the log no longer has them. Restore that checkpoint from a backup, or set "
        "source.kafka.lost_data to go on without them."
    )
