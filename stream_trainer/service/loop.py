"""The one endless loop: poll, cut, decode, test, train, save.

Everything here happens on one thread, at our own pace; nothing calls us. A crash between any two lines loses no record
and teaches none twice, because positions are saved only together with what was learned up to them. What was learned
after the last save is learned again in the same batches, because a journal holds how they were cut.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from stream_trainer.checkpoints import BackgroundWriter, CheckpointDirectory, Saved
from stream_trainer.clock import Clock
from stream_trainer.contracts import DeadLetters, Decoder, Source
from stream_trainer.engine.bad_records import BadRecordLimit
from stream_trainer.engine.batcher import Batcher
from stream_trainer.engine.lifecycle import Lifecycle, LifecycleState
from stream_trainer.engine.recut import Recut
from stream_trainer.engine.snapshot import capture, restore
from stream_trainer.engine.trainer import Trainer
from stream_trainer.errors import CheckpointError, DataLost, DeadLettersWait, Fenced, StreamTrainerError
from stream_trainer.service.observers import Observer
from stream_trainer.telemetry.health import Health
from stream_trainer.types import (
    Alarm,
    Counts,
    Cut,
    ModelReport,
    Positions,
    RawBatch,
    ReactionEvent,
    Snapshot,
    StepReport,
)

__all__ = ["Service"]

log = logging.getLogger(__name__)

POLL_WAIT_S_MAX = 0.25  # how long silence may keep us from noticing a signal
RETRY_S_MAX = 10.0  # after a save that failed; `checkpoint.every_s` may be an hour
POLL_RECORDS_MAX = 10_000  # bounds what waits in memory; far above any batch


class Service:
    """One run: from the last checkpoint until told to stop, or until the source is exhausted.

    Args:
        checkpoints: None keeps nothing: fine for a replay, warned of elsewhere.
        checkpoint_failures_max: so many failed saves in a row, and the run ends. None: it learns on and tries for ever.
        observers: told of every step and save, on this thread; they must be quick and must not raise.
        make_thread: of the thread that saves; a simulation hands in one that it steps.
    """

    def __init__(
        self,
        *,
        source: Source,
        decoder: Decoder,
        batcher: Batcher,
        trainer: Trainer,
        checkpoints: CheckpointDirectory | None,
        checkpoint_every_s: float,
        checkpoint_failures_max: int | None = None,
        dead_letters: DeadLetters,
        bad_records: BadRecordLimit,
        observers: Sequence[Observer],
        clock: Clock,
        make_thread: Callable[..., Any] = threading.Thread,
    ) -> None:
        self.source, self.decoder, self.trainer = source, decoder, trainer
        self.batcher: Batcher | Recut = batcher
        self.checkpoints, self.dead_letters, self.bad_records = checkpoints, dead_letters, bad_records
        self.observers, self.clock = observers, clock
        self.lifecycle = Lifecycle()
        self.positions: Positions = {}
        self.counts = Counts()
        self._cuts: Iterable[Cut] = ()
        self._topic_ids: Mapping[str, str] = {}  # of the logs that `positions` speak of
        self._every_s, self._failures_max = checkpoint_every_s, checkpoint_failures_max
        self._failures = 0  # saves that failed since one succeeded
        self._writer = BackgroundWriter(self._save, clock.monotonic_s, make_thread)
        self._saved_at_s = clock.monotonic_s()
        self._saved_batches = 0
        self._stop_requested = False
        self._mid_batch = False

    # ------------------------------------------------------------ the whole life

    def run(self) -> None:
        """Start, learn, save, leave. Raises StreamTrainerError; what was learned before is saved then, too."""
        try:
            self._start()
            self._enter(LifecycleState.RUNNING)
            while not (self._stop_requested or self.source.exhausted):
                self._turn()
            self._enter(LifecycleState.DRAINING)
            if not self._stop_requested:
                self._learn_what_is_left()
            self._save_and_wait()
            self._enter(LifecycleState.STOPPED)
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._close()

    def request_stop(self) -> None:
        """Finish the batch, save, commit, leave. Records that wait for their batch will be read again."""
        self._stop_requested = True

    def readiness(self) -> Health:
        """Ready once the checkpoint is loaded and every partition has a position. Asked from another thread."""
        state = self.lifecycle.state
        ready = state in (LifecycleState.RUNNING, LifecycleState.PAUSED)
        return Health(ok=ready, reasons=() if ready else (f"the service is {state.value}",))

    def resume(self, snapshot: Snapshot | None, positions: Positions, cuts: Iterable[Cut]) -> None:
        """Before `run`: become what was saved, then cut as it was cut before; `positions` are those before `cuts`."""
        self.positions, self._cuts = dict(positions), cuts
        if snapshot:
            restore(self.trainer.parts(), snapshot)
            self.positions.update(snapshot.positions)
            self.counts, self._saved_batches = snapshot.counts, snapshot.counts.batches
            self._topic_ids = snapshot.topic_ids
            log.info("continuing after %d batches, %d records", self.counts.batches, self.counts.consumed)

    def _start(self) -> None:
        if self.checkpoints:
            self._open_checkpoints()
            snapshot = self.checkpoints.load_newest()
            self.resume(snapshot, *self.checkpoints.journal.resume(snapshot.counts.batches if snapshot else 0))
        started = self.source.start(self.positions or None, self._topic_ids)
        # A log that begins again behind our back: its offsets are not those that the journal names.
        now = self.source.topic_ids
        others = {topic for topic, was in self._topic_ids.items() if now.get(topic, was) != was}
        replaced = [tp for tp, at in started.items() if at < self.positions.get(tp, at) or tp.topic in others]
        self._topic_ids = now
        topics = {tp.topic for tp in started}  # what the source did not take of these is gone for good
        self.positions = {tp: at for tp, at in self.positions.items() if tp.topic not in topics} | started
        assert isinstance(self.batcher, Batcher)
        self.batcher.records_seen = self.counts.consumed
        if self._cuts:
            self.batcher = Recut(
                self._cuts,
                self.batcher,
                positions=self.positions,
                ends=self.source.end_offsets(),
                replaced=replaced,
                on_lost=self._give_up_cuts,
            )
        for observer in self.observers:
            observer.started(self.positions, self.counts)

    def _give_up_cuts(self, cut: Cut, error: DataLost) -> None:
        """What the log no longer holds cannot be cut again; what is cut instead takes its place in the journal."""
        self.source.accept_loss(error)
        if self.checkpoints:
            self.checkpoints.journal.begin_anew(cut.step - 1)

    def _open_checkpoints(self) -> None:
        assert self.checkpoints is not None
        self.checkpoints.open()

    def _turn(self) -> None:
        now_s = self.clock.monotonic_s()
        wait_s = self.batcher.wait_s(now_s=now_s, wait_s_max=POLL_WAIT_S_MAX)
        for chunk in self.source.poll(wait_s, POLL_RECORDS_MAX):
            self.batcher.add(chunk, now_s=self.clock.monotonic_s())
        if self.source.topic_ids != self._topic_ids:
            self._enter_new_logs()
        # Not by truth value: a batch without records, of transaction markers alone, still moves the position.
        while not self._stop_requested and (raw := self.batcher.take(now_s=self.clock.monotonic_s())) is not None:
            self._learn(raw)
            self._between_batches()
        self.source.pause(self.batcher.enough())
        self._between_batches()
        for observer in self.observers:
            observer.turned()

    def _enter_new_logs(self) -> None:
        """A topic was created again, and the last thing that waits moves our position into its new log.

        No save may come before that is done: it would give positions in the old log the id of the new one.
        """
        self._learn_what_is_left()
        self._topic_ids = self.source.topic_ids

    # ------------------------------------------------------------ one batch

    def _learn(self, raw: RawBatch) -> None:
        """Steps 2 to 4 of a record's journey. Between start and end the state is of no position: never saved."""
        if self.checkpoints:
            self.checkpoints.journal.append(self.counts.batches + 1, raw, self.positions)
        self._mid_batch = True
        started_s = self.clock.monotonic_s()
        decoded = self.decoder.decode(raw)
        if decoded.rejects:
            self.dead_letters.write(decoded.rejects)
        models: dict[str, ModelReport] = {}
        alarms: tuple[Alarm, ...] = ()
        events: tuple[ReactionEvent, ...] = ()
        if len(decoded.batch):  # a batch of rejects alone still moves the position
            models, alarms, events = self.trainer.step(decoded.batch)
        self.positions.update(raw.next_offsets)
        self.counts = Counts(
            batches=self.counts.batches + 1,
            consumed=self.counts.consumed + len(raw),
            learned=self.counts.learned + len(decoded.batch),
            dead_lettered=self.counts.dead_lettered + len(decoded.rejects),
            skipped=self.counts.skipped + decoded.n_tombstones,
        )
        self._mid_batch = False
        report = StepReport(
            batch_records=len(decoded.batch),
            batch_bytes=sum(len(value) for chunk in raw.chunks for value in chunk.values if value),
            closed_by=raw.closed_by,
            rejects=decoded.rejects,
            n_tombstones=decoded.n_tombstones,
            next_offsets=self.positions,
            timestamp_ms_N=decoded.batch.timestamp_ms_N,
            models=models,
            alarms=alarms,
            counts=self.counts,
            events=events,
        )
        step_s = self.clock.monotonic_s() - started_s
        for observer in self.observers:
            observer.stepped(report, step_s)
        self.bad_records.observe(records=len(raw), rejected=len(decoded.rejects))

    def _learn_what_is_left(self) -> None:
        while (raw := self.batcher.take(now_s=self.clock.monotonic_s(), drain=True)) is not None:
            self._learn(raw)

    # ------------------------------------------------------------ saving

    def _between_batches(self) -> None:
        """The state is that of a position here."""
        self._checkpoint_if_due()

    def _checkpoint_if_due(self) -> None:
        """Make what was learned durable. A crash between any two steps loses no record and teaches none twice."""
        if saved := self._writer.collect():
            self._committed(saved)
        every_s = min(self._every_s, RETRY_S_MAX) if self._failures else self._every_s
        due = self.clock.monotonic_s() - self._saved_at_s >= every_s
        if self.checkpoints and due and not self._writer.busy and self.counts.batches > self._saved_batches:
            self._save_unless_letters_wait()

    def _save_unless_letters_wait(self) -> None:
        """Their topic may be away while ours is not: that is a save that failed, not the end of learning."""
        try:
            self._start_save()
        except DeadLettersWait as error:
            self._saved_at_s = self.clock.monotonic_s()
            here = Snapshot(positions=dict(self.positions), counts=self.counts, parts={})
            self._committed(Saved(snapshot=here, size_bytes=0, seconds=0.0, error=error))

    def _start_save(self) -> None:
        self.dead_letters.flush()  # 1. before we promise never to read those records again
        # 2. state and positions, together
        snapshot = capture(self.trainer.parts(), self.positions, self.counts, self._topic_ids)
        self._writer.start(snapshot)  # 3. in a thread: files, fsync, rename; the truth changes there, at once
        self._saved_at_s = self.clock.monotonic_s()

    def _committed(self, saved: Saved) -> None:
        if saved.error is None:
            self._saved_batches, self._failures = saved.snapshot.counts.batches, 0
            self.source.commit(saved.snapshot.positions)  # 4. Kafka's copy, for lag tools; we seek from the snapshot
        else:
            self._failures += 1
            log.error("checkpoint not saved, %d in a row: %s", self._failures, saved.error)
        for observer in self.observers:
            observer.saved(saved)  # 5. last, so that no gauge claims what is not on disk
        if isinstance(saved.error, Fenced):
            raise saved.error
        if self._failures_max is not None and self._failures >= self._failures_max:
            assert self.checkpoints is not None
            raise CheckpointError(
                f"{self.checkpoints.address}: {self._failures} checkpoints in a row could not be saved, as many as "
                f"checkpoint.failures_max allows ({saved.error}). The last one saved is intact; after a restart the "
                "records since are read and learned again."
            ) from saved.error

    def _save(self, snapshot: Snapshot) -> int:
        assert self.checkpoints is not None
        return self.checkpoints.save(snapshot, saved_at_s=self.clock.wall_s())

    def _save_and_wait(self) -> None:
        if saved := self._writer.collect(wait=True):
            self._committed(saved)
        if self.checkpoints and self.counts.batches > self._saved_batches:
            self._start_save()
            if saved := self._writer.collect(wait=True):
                self._committed(saved)
                if saved.error:
                    raise CheckpointError(
                        f"{self.checkpoints.address}: the last checkpoint could not be saved ({saved.error}). The one "
                        "before is intact; after a restart the records since are read and learned again."
                    ) from saved.error
        self.dead_letters.flush()

    # ------------------------------------------------------------ the end

    def _fail(self, error: BaseException) -> None:
        """Save if the state is that of a position: a refusal from outside must not cost what was learned."""
        if (
            isinstance(error, StreamTrainerError)
            and not isinstance(error, Fenced)  # somebody else goes on from the last checkpoint
            and not self._mid_batch
            and self.lifecycle.state is LifecycleState.RUNNING
        ):
            try:
                self._save_and_wait()
            except Exception as second:
                log.error("could not save while failing: %s", second)
        self._enter(LifecycleState.FAILED)

    def _enter(self, state: LifecycleState) -> None:
        self.lifecycle.enter(state)
        for observer in self.observers:
            observer.entered(state)

    def _close(self) -> None:
        for close in (
            self.source.close,
            self.dead_letters.close,
            *([self.checkpoints.close] if self.checkpoints else []),
        ):
            try:
                close()
            except Exception:
                log.exception("while closing")
