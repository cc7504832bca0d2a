"""The source over Apache Kafka, with positions that are ours: assigned partitions, no group, nothing committed early.

What it stands up to: records that are no longer in the log (`lost_data`), brokers that go away and come back (waited
out), batches that arrive damaged (fetched again), a client that silently stops fetching (noticed, replaced, at last
reported), partitions that are added. Only bytes leave it. Not here: the decoder's work.

Which partitions are read is decided in two places, nowhere else: `start` takes all of the topics, `_added_partitions`
those that came since. Where each begins: `_where_to_begin`. What was handed out of each: `_next`, whose keys are the
assignment; a replaced client is put back there.

The decisions are in files of their own, without I/O: kafka_start.py where to begin and what to do about lost data,
kafka_topic_ids.py what is another log (kafka_fetch_ids.py keeps it from being read), kafka_silence.py what is a stall;
kafka_log.py is the client, in our words.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import kafka
from kafka import errors as kafka_errors

from stream_trainer.clock import Clock
from stream_trainer.errors import ConfigError, DataLost, Stalled, StreamTrainerError
from stream_trainer.streams.kafka_batch import CorruptBatch
from stream_trainer.streams.kafka_codecs import check_codecs
from stream_trainer.streams.kafka_connect import is_auth_error
from stream_trainer.streams.kafka_display import ProgressDisplay
from stream_trainer.streams.kafka_log import ASK_S_MAX, KafkaLog, empty_chunk
from stream_trainer.streams.kafka_options import KafkaOptions, warn_if_readable
from stream_trainer.streams.kafka_silence import SilenceWatch
from stream_trainer.streams.kafka_start import LostData, first_positions
from stream_trainer.streams.kafka_topic_ids import TopicIds
from stream_trainer.types import Positions, RecordChunk, TopicPartition

__all__ = ["KafkaOptions", "KafkaSource"]

log = logging.getLogger(__name__)

CLOSE_S_MAX = 5.0


class KafkaSource:
    """Implements `contracts.Source`.

    For metrics: `rebuilds`, `retriable_errors`, `corrupt_fetches`, `lost_resets`, and `silent_s`: waited since anything
    came.
    """

    def __init__(
        self, options: KafkaOptions, clock: Clock, *, make_consumer: Callable[..., Any] = kafka.KafkaConsumer
    ) -> None:
        self.rebuilds = 0
        self.retriable_errors = 0
        self.corrupt_fetches = 0
        self.silent_s = 0.0
        self._options = options
        self._clock = clock
        self._make_consumer = make_consumer
        self._log = KafkaLog(options, make_consumer)
        self._display: ProgressDisplay | None = None
        self._next: Positions = {}  # handed out up to here
        self._ends: Positions = {}  # as last asked
        self._ids = TopicIds()  # of the logs that `_next` speaks of
        self._compared: Mapping[str, str] = {}  # the ids, as last heard, that are those
        self._silence = SilenceWatch(options.stall_s_max, options.rebuilds_max)
        self._lost = LostData(options.lost_data)
        self._discovered_s = 0.0

    # ------------------------------------------------------------ the contract

    @property
    def exhausted(self) -> bool:
        """Never: there may always be another record."""
        return False

    @property
    def lost_resets(self) -> int:
        """How often `lost_data` moved a position."""
        return self._lost.resets

    @property
    def topic_ids(self) -> Mapping[str, str]:
        return self._ids.kept

    def start(self, positions: Positions | None, topic_ids: Mapping[str, str] | None = None) -> Positions:
        check_codecs()
        warn_if_readable(self._options)
        self._log.open()
        partitions = self._log.find_all_partitions(self._clock)
        saved = {tp: at for tp, at in (positions or {}).items() if tp.topic in self._options.topics}
        self._ids.keep(topic_ids or {})
        saved = self._lost.without_vanished(saved, partitions)
        ids = self._log.topic_ids()  # before any offset is asked for: a log that comes after these is another one
        begin = self._where_to_begin(partitions, saved, ids)
        self._ids.keep(ids)
        self._assign(begin)
        self._discovered_s = self._clock.monotonic_s()
        if self._options.group_id is not None:
            self._display = ProgressDisplay(self._options, self._make_consumer)
        return dict(self._next)

    def poll(self, wait_s: float, records_max: int) -> Sequence[RecordChunk]:
        if not self._log.is_open and not self._reopen(wait_s):
            return ()
        before_s = self._clock.monotonic_s()
        try:
            chunks = self._log.poll(wait_s, records_max) or self._moved_without_records()
            if (ids := self._log.topic_ids()) is not self._compared:
                if recreated := self._ids.recreated(ids):
                    return self._follow(recreated, ids, chunks)
                self._compared = ids
            self._next |= {chunk.partition: chunk.next_offset for chunk in chunks}
        except Exception as error:
            return self._after(error)
        if chunks:
            self._lost.forget_damage()
        now_s = self._clock.monotonic_s()
        self.silent_s = 0.0 if chunks else self.silent_s + now_s - before_s
        self._watch_silence(chunks, now_s - before_s)
        if now_s - self._discovered_s >= self._options.discover_s:
            self._discovered_s = now_s
            chunks += self._added_partitions()
        return chunks

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self._log.pause(frozenset(partitions) & self._next.keys())

    def accept_loss(self, error: DataLost) -> None:
        self._lost.accept(error)

    def end_offsets(self) -> Positions:
        if not self._log.is_open and not self._reopen(ASK_S_MAX):
            raise Stalled(f"No Kafka broker of {self._options.bootstrap_servers} says where the log ends.")
        self._ends = self._log.ends(self._next)
        return dict(self._ends)

    def lags(self) -> Positions:
        heard = {tp: max(self._log.highwater(tp), self._ends.get(tp, 0)) for tp in self._next}
        return {tp: max(0, heard[tp] - next_offset) for tp, next_offset in self._next.items()}

    def commit(self, positions: Positions) -> None:
        if self._display is not None:
            self._display.show(positions)

    def close(self) -> None:
        """Within about `CLOSE_S_MAX` seconds, whatever the brokers do."""
        if self._display is not None:
            self._display.close(CLOSE_S_MAX)
            self._display = None
        self._log.drop()

    # ------------------------------------------------------------ where to start

    def _where_to_begin(
        self, partitions: Iterable[TopicPartition], saved: Positions, ids: Mapping[str, str]
    ) -> Positions:
        """At `saved`, else where a first run begins; but a partition that was added since `saved` is new throughout."""
        partitions = list(partitions)
        begins, ends = self._log.begins(partitions), self._log.ends(partitions)
        self._ends |= ends
        known_topics = {tp.topic for tp in saved}
        recreated = self._ids.recreated(ids)
        fresh = [tp for tp in partitions if tp.topic not in known_topics]
        start = dict(begins)
        if fresh:
            start |= first_positions(
                self._options.start,
                {tp: begins[tp] for tp in fresh},
                {tp: ends[tp] for tp in fresh},
                lambda time_ms: self._log.first_since(fresh, time_ms),
            )
        for tp in partitions:
            if tp in saved and tp.topic in recreated:
                start[tp] = self._lost.move(tp, saved[tp], begins[tp], ends[tp], recreated[tp.topic])
            elif tp in saved:
                start[tp] = self._lost.inside_log(tp, saved[tp], begins[tp], ends[tp])
        return start

    # ------------------------------------------------------------ what a poll brought

    def _moved_without_records(self) -> list[RecordChunk]:
        """Markers and compacted records take offsets too; without this "until the end" would never get there."""
        positions = {tp: self._log.position(tp) for tp in self._next}
        return [
            empty_chunk(tp, position)
            for tp, position in positions.items()
            if position is not None and position != self._next[tp]
        ]

    def _added_partitions(self) -> list[RecordChunk]:
        added = [tp for tp in self._log.partitions() if tp not in self._next]
        if not added:
            return []
        try:
            begins, ends = self._log.begins(added), self._log.ends(added)
        except Stalled as error:
            self._count_retriable(error)
            return []
        log.warning("New partitions, read from their earliest record: %s.", ", ".join(map(str, added)))
        self._ends |= ends
        self._assign(self._next | begins)
        return [empty_chunk(tp, begins[tp]) for tp in added]

    # ------------------------------------------------------------ another log under the same name

    def _follow(
        self, recreated: Mapping[str, str], ids: Mapping[str, str], chunks: Sequence[RecordChunk]
    ) -> Sequence[RecordChunk]:
        """Go on in the new logs as the policy says; if nobody answers, nothing of them is read until somebody does.

        Of `chunks` only those of other topics are handed out: a broker that is asked by name has read from the new log.
        """
        sound = [chunk for chunk in chunks if chunk.partition.topic not in recreated]
        self._next |= {chunk.partition: chunk.next_offset for chunk in sound}
        moved: list[RecordChunk] = []
        for topic, what in recreated.items():
            ours = {tp: at for tp, at in self._next.items() if tp.topic == topic}
            left = self._lost.without_vanished(ours, self._log.partitions())
            found = self._resolve_lost(left, what)
            if found:
                self._ids.keep({topic: ids[topic]})
                self._next = {tp: at for tp, at in self._next.items() if tp in left or tp not in ours}
            moved += found
        if moved:
            self._log.drop()  # what it has fetched, and what it asks for, is of the logs before
        return [*sound, *moved]

    # ------------------------------------------------------------ what can go wrong

    def _after(self, error: Exception) -> Sequence[RecordChunk]:
        """What an exception of the client means: fatal ones are raised, others leave us ready for the next poll."""
        if isinstance(error, StreamTrainerError):
            raise error
        if is_auth_error(error):
            raise self._log.not_allowed(error) from error
        if isinstance(error, kafka_errors.OffsetOutOfRangeError):
            return self._resolve_lost(error.args[0], "these records are gone")
        if isinstance(error, kafka_errors.LogTruncationError):
            return self._resolve_lost(error.divergent_offsets, "the log was cut off by a failed broker")
        if isinstance(error, CorruptBatch | kafka_errors.CorruptRecordError):
            return self._resolve_corrupt(error)
        self._count_retriable(error)
        if not isinstance(error, kafka_errors.RetriableError):
            # The client was not built to be called again after these: see the defects that kafka_records.py names.
            self._log.drop()
        return ()

    def _count_retriable(self, error: Exception) -> None:
        self.retriable_errors += 1
        log.warning("Kafka: %s: %s. Trying again.", type(error).__name__, error)

    def _resolve_lost(self, partitions: Iterable[Any], what: str) -> Sequence[RecordChunk]:
        lost = [TopicPartition(*tp) for tp in partitions]
        try:
            begins, ends = self._log.begins(lost), self._log.ends(lost)
        except Stalled as error:
            self._count_retriable(error)
            return ()
        for tp in lost:
            self._next[tp] = self._lost.move(tp, self._next[tp], begins[tp], ends[tp], what)
            self._log.seek(tp, self._next[tp])
        return [empty_chunk(tp, self._next[tp]) for tp in lost]

    def _resolve_corrupt(self, error: Exception) -> Sequence[RecordChunk]:
        self.corrupt_fetches += 1
        log.warning("A batch of records cannot be read: %s. Fetching it again.", error)
        self._log.drop()
        if not isinstance(error, CorruptBatch):
            return ()
        tp = TopicPartition(*error.partition)
        if error.codec_missing:
            raise ConfigError(
                f"{tp} at offset {error.offset}: compressed with a codec that cannot be read here ({error.detail}). "
                "Change compression.type of the topic, or update stream-trainer."
            )
        go_on = self._lost.damaged(tp, error.offset, error.next_offset, error.detail)
        if go_on is None:
            return ()
        self._next[tp] = go_on
        return [empty_chunk(tp, go_on)]

    # ------------------------------------------------------------ silence

    def _watch_silence(self, chunks: Sequence[RecordChunk], polled_s: float) -> None:
        """Silence is explained where the log ends at our position, or the brokers do not answer; else it is a stall."""
        awaited = [tp for tp in self._next if tp not in self._log.paused]
        suspects = self._silence.suspects(awaited, [chunk.partition for chunk in chunks], polled_s)
        if not suspects:
            return
        existing = set(self._log.partitions())
        if gone := [tp for tp in suspects if tp not in existing]:
            self._lost.wait_for(gone)
            return
        try:
            ends = self._log.ends(suspects)
        except Stalled as error:
            self._count_retriable(error)
            return
        self._ends |= ends
        if self._silence.must_rebuild(suspects, self._next, ends):
            self.rebuilds += 1
            self._log.drop()

    # ------------------------------------------------------------ the client

    def _reopen(self, wait_s: float) -> bool:
        """A new consumer where the last one stood; the brokers may be away, then it is tried again at the next poll."""
        try:
            self._log.open(max(wait_s, 1.0))
        except (ConfigError, Stalled) as error:
            self._count_retriable(error)
            return False
        self._assign(self._next)
        return True

    def _assign(self, positions: Positions) -> None:
        self._log.assign(positions, self._ids.kept)
        self._next = dict(positions)
