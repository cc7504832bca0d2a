"""The source over Apache Kafka, with positions that are ours: assigned partitions, no group, nothing committed early.

What it stands up to: records that are no longer in the log (`lost_data`), brokers that go away and come back (waited
out), batches that arrive damaged (fetched again), a client that silently stops fetching (noticed, replaced, at last
reported), partitions that are added. Only bytes leave it. Not here: group membership; the decoder's work.

The decisions are in files of their own, without I/O: kafka_start.py where to begin and what to do about lost data,
kafka_silence.py what is a stall; kafka_seam.py leads to the lean reader, kafka_connect.py to the brokers.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import kafka
from kafka import errors as kafka_errors

from stream_trainer.clock import Clock
from stream_trainer.errors import ConfigError, Stalled, StreamTrainerError
from stream_trainer.streams.kafka_batch import CorruptBatch
from stream_trainer.streams.kafka_connect import check_codecs, connect, is_auth_error
from stream_trainer.streams.kafka_display import ProgressDisplay
from stream_trainer.streams.kafka_options import KafkaOptions, warn_if_readable
from stream_trainer.streams.kafka_seam import columns_of, install
from stream_trainer.streams.kafka_silence import SilenceWatch
from stream_trainer.streams.kafka_start import LostData, first_positions
from stream_trainer.types import Positions, RecordChunk, TopicPartition

__all__ = ["KafkaOptions", "KafkaSource"]

log = logging.getLogger(__name__)

ASK_S_MAX = 5.0  # for one question to the brokers; the loop waits meanwhile
TOPIC_S_MAX = 3.0  # a topic that was just created needs a moment to be known everywhere
CORRUPT_FETCHES_MAX = 3  # the network may damage a batch once; three times it is damaged in the log
CLOSE_S_MAX = 5.0


class KafkaSource:
    """Implements `contracts.Source`. For metrics: `rebuilds`, `retriable_errors`, `corrupt_fetches`, `lost_resets`."""

    def __init__(
        self, options: KafkaOptions, clock: Clock, *, make_consumer: Callable[..., Any] = kafka.KafkaConsumer
    ) -> None:
        self.rebuilds = 0
        self.retriable_errors = 0
        self.corrupt_fetches = 0
        self._options = options
        self._clock = clock
        self._make_consumer = make_consumer
        self._consumer: Any = None
        self._display: ProgressDisplay | None = None
        self._next: Positions = {}  # handed out up to here
        self._ends: Positions = {}  # as last asked
        self._silence = SilenceWatch(options.stall_s_max, options.rebuilds_max)
        self._lost = LostData(options.lost_data)
        self._corrupt_at: tuple[TopicPartition, int, int] | None = None  # partition, offset, times in a row
        self._discovered_s = 0.0

    @property
    def lost_resets(self) -> int:
        """How often `lost_data` moved a position."""
        return self._lost.resets

    # ------------------------------------------------------------ the contract

    @property
    def exhausted(self) -> bool:
        """Never: there may always be another record."""
        return False

    def start(self, positions: Positions | None) -> Positions:
        check_codecs()
        warn_if_readable(self._options)
        self._open()
        partitions = self._find_partitions()
        begins, self._ends = self._log_range(partitions)
        saved = {tp: at for tp, at in (positions or {}).items() if tp.topic in self._options.topics}
        saved = self._lost.without_vanished(saved, partitions)
        known_topics = {tp.topic for tp in saved}
        # A partition that the checkpoint does not know, of a topic that it knows, was added since: all of it is new.
        start = dict(begins)
        fresh = [tp for tp in partitions if tp.topic not in known_topics]
        if fresh:
            start |= self._first_positions(fresh, begins)
        for tp, offset in saved.items():
            start[tp] = self._lost.inside_log(tp, offset, begins[tp], self._ends[tp])
        self._assign(start)
        self._discovered_s = self._clock.monotonic_s()
        if self._options.group_id is not None:
            self._display = ProgressDisplay(self._options, self._make_consumer)
        return dict(start)

    def poll(self, wait_s: float, records_max: int) -> Sequence[RecordChunk]:
        if self._consumer is None and not self._reopen(wait_s):
            return ()
        before_s = self._clock.monotonic_s()
        try:
            fetched = self._consumer.poll(timeout_ms=round(wait_s * 1000), max_records=records_max)
            chunks = self._chunks(fetched)
            if not chunks:
                chunks = self._moved_without_records()
        except Exception as error:
            return self._after(error)
        self._corrupt_at = None if chunks else self._corrupt_at
        now_s = self._clock.monotonic_s()
        self._watch_silence(chunks, now_s - before_s)
        if now_s - self._discovered_s >= self._options.discover_s:
            self._discovered_s = now_s
            chunks += self._added_partitions()
        return chunks

    def end_offsets(self) -> Positions:
        if self._consumer is None and not self._reopen(ASK_S_MAX):
            raise Stalled(f"No Kafka broker of {self._options.bootstrap_servers} says where the log ends.")
        self._ends = self._log_ends(self._next)
        return dict(self._ends)

    def lags(self) -> Positions:
        heard = {tp: self._highwater(tp) for tp in self._next}
        return {tp: max(0, heard[tp] - next_offset) for tp, next_offset in self._next.items()}

    def commit(self, positions: Positions) -> None:
        if self._display is not None:
            self._display.show(positions)

    def close(self) -> None:
        """Within about `CLOSE_S_MAX` seconds, whatever the brokers do."""
        if self._display is not None:
            self._display.close(CLOSE_S_MAX)
            self._display = None
        self._drop_consumer()

    # ------------------------------------------------------------ where to start

    def _find_partitions(self) -> list[TopicPartition]:
        deadline_s = self._clock.monotonic_s() + TOPIC_S_MAX
        while True:
            found = {topic: self._consumer.partitions_for_topic(topic) for topic in self._options.topics}
            missing = [topic for topic, partitions in found.items() if not partitions]
            if not missing:
                return [TopicPartition(topic, p) for topic, partitions in found.items() for p in sorted(partitions)]
            if self._clock.monotonic_s() >= deadline_s:
                raise ConfigError(
                    f"source.kafka.topics: {', '.join(missing)} not found on {self._options.bootstrap_servers}, or "
                    f"this user may not read it. It sees: {', '.join(sorted(self._consumer.topics())[:20])}."
                )
            time.sleep(0.1)

    def _first_positions(self, partitions: list[TopicPartition], begins: Positions) -> Positions:
        def find_time(time_ms: int) -> dict[TopicPartition, int | None]:
            asked = dict.fromkeys(_theirs(partitions), time_ms)
            found = self._ask(lambda: self._consumer.offsets_for_times(asked, timeout_ms=_ms(ASK_S_MAX)))
            return {TopicPartition(*tp): None if at is None else at.offset for tp, at in found.items()}

        begins, ends = ({tp: offsets[tp] for tp in partitions} for offsets in (begins, self._ends))
        return first_positions(self._options.start, begins, ends, find_time)

    # ------------------------------------------------------------ what a poll brought

    def _chunks(self, fetched: Mapping[Any, Iterable[Any]]) -> list[RecordChunk]:
        chunks = []
        for partition, entries in fetched.items():
            tp = TopicPartition(*partition)
            for columns in columns_of(entries):
                chunks.append(
                    RecordChunk(
                        partition=tp,
                        offsets=columns.offsets,
                        timestamps_ms=columns.timestamps_ms,
                        keys=columns.keys,
                        values=columns.values,
                        headers=columns.headers,
                        next_offset=columns.next_offset,
                    )
                )
                self._next[tp] = columns.next_offset
        return chunks

    def _moved_without_records(self) -> list[RecordChunk]:
        """Markers and compacted records take offsets too; without this "until the end" would never get there."""
        moved = []
        for tp, next_offset in self._next.items():
            position = self._consumer.position(kafka.TopicPartition(*tp), timeout_ms=0)
            if position is not None and position != next_offset:
                moved.append(_empty_chunk(tp, position))
        self._next |= {chunk.partition: chunk.next_offset for chunk in moved}
        return moved

    def _added_partitions(self) -> list[RecordChunk]:
        added = [
            TopicPartition(topic, partition)
            for topic in self._options.topics
            for partition in sorted(self._consumer.partitions_for_topic(topic))
            if (topic, partition) not in self._next
        ]
        if not added:
            return []
        try:
            begins, ends = self._log_range(added)
        except Stalled as error:
            self._count_retriable(error)
            return []
        log.warning("New partitions, read from their earliest record: %s.", ", ".join(map(str, added)))
        self._ends |= ends
        self._assign(self._next | begins)
        return [_empty_chunk(tp, begins[tp]) for tp in added]

    # ------------------------------------------------------------ what can go wrong

    def _after(self, error: Exception) -> Sequence[RecordChunk]:
        """What an exception of the client means: fatal ones are raised, others leave us ready for the next poll."""
        if isinstance(error, StreamTrainerError):
            raise error
        if is_auth_error(error):
            raise self._not_allowed(error) from error
        if isinstance(error, kafka_errors.OffsetOutOfRangeError):
            return self._resolve_lost(_ours_of(error.args[0]), "these records are gone")
        if isinstance(error, kafka_errors.LogTruncationError):
            return self._resolve_lost(_ours_of(error.divergent_offsets), "the log was cut off by a failed broker")
        if isinstance(error, CorruptBatch | kafka_errors.CorruptRecordError):
            return self._resolve_corrupt(error)
        self._count_retriable(error)
        if not isinstance(error, kafka_errors.RetriableError):
            # The client was not built to be called again after these: see the defects that kafka_records.py names.
            self._drop_consumer()
        return ()

    def _count_retriable(self, error: Exception) -> None:
        self.retriable_errors += 1
        log.warning("Kafka: %s: %s. Trying again.", type(error).__name__, error)

    def _resolve_lost(self, partitions: Iterable[TopicPartition], what: str) -> Sequence[RecordChunk]:
        lost = list(partitions)
        try:
            begins, ends = self._log_range(lost)
        except Stalled as error:
            self._count_retriable(error)
            return ()
        moved = []
        for tp in lost:
            go_on = self._lost.move(tp, self._next[tp], begins[tp], ends[tp], what)
            self._consumer.seek(kafka.TopicPartition(*tp), go_on)
            self._next[tp] = go_on
            moved.append(_empty_chunk(tp, go_on))
        return moved

    def _resolve_corrupt(self, error: Exception) -> Sequence[RecordChunk]:
        self.corrupt_fetches += 1
        log.warning("A batch of records cannot be read: %s. Fetching it again.", error)
        self._drop_consumer()
        if not isinstance(error, CorruptBatch):
            return ()
        tp = TopicPartition(*error.partition)
        if error.codec_missing:
            raise ConfigError(
                f"{tp} at offset {error.offset}: compressed with a codec that cannot be read here ({error.detail}). "
                "Install it (snappy: pip install python-snappy) or change compression.type of the topic."
            )
        times = self._corrupt_at[2] + 1 if self._corrupt_at and self._corrupt_at[:2] == (tp, error.offset) else 1
        self._corrupt_at = (tp, error.offset, times)
        if times < CORRUPT_FETCHES_MAX:
            return ()
        self._corrupt_at = None
        self._next[tp] = self._lost.skip(tp, error.offset, error.next_offset, f"{error.detail}, {times} times")
        return [_empty_chunk(tp, self._next[tp])]

    # ------------------------------------------------------------ silence

    def _watch_silence(self, chunks: Sequence[RecordChunk], polled_s: float) -> None:
        """Silence is explained where the log ends at our position, or the brokers do not answer; else it is a stall."""
        suspects = self._silence.suspects(self._next, [chunk.partition for chunk in chunks], polled_s)
        if not suspects:
            return
        try:
            ends = self._log_ends(suspects)
        except Stalled as error:
            self._count_retriable(error)
            return
        self._ends |= ends
        if self._silence.must_rebuild(suspects, self._next, ends):
            self.rebuilds += 1
            self._drop_consumer()

    # ------------------------------------------------------------ the client

    def _open(self, wait_s: float | None = None) -> None:
        self._consumer = connect(self._options, self._make_consumer, wait_s=wait_s)
        install(self._consumer)

    def _reopen(self, wait_s: float) -> bool:
        """A new consumer where the last one stood; the brokers may be away, then it is tried again at the next poll."""
        try:
            self._open(max(wait_s, 1.0))
        except ConfigError as error:
            self._count_retriable(error)
            return False
        self._assign(self._next)
        return True

    def _assign(self, start: Positions) -> None:
        self._consumer.assign(_theirs(start))
        for tp, offset in start.items():
            self._consumer.seek(kafka.TopicPartition(*tp), offset)
        self._next = dict(start)

    def _drop_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close(autocommit=False, timeout_ms=_ms(1.0))

    def _log_range(self, partitions: Iterable[TopicPartition]) -> tuple[Positions, Positions]:
        asked = _theirs(partitions)
        begins = self._ask(lambda: self._consumer.beginning_offsets(asked, timeout_ms=_ms(ASK_S_MAX)))
        return _ours(begins), self._log_ends(partitions)

    def _log_ends(self, partitions: Iterable[TopicPartition]) -> Positions:
        asked = _theirs(partitions)
        return _ours(self._ask(lambda: self._consumer.end_offsets(asked, timeout_ms=_ms(ASK_S_MAX))))

    def _ask(self, question: Callable[[], Any]) -> Any:
        """Raises: Stalled: no answer; ConfigError: not allowed to know."""
        try:
            return question()
        except kafka_errors.KafkaError as error:
            if is_auth_error(error):
                raise self._not_allowed(error) from error
            raise Stalled(
                f"Kafka at {self._options.bootstrap_servers} does not say what its log holds: "
                f"{type(error).__name__}: {error}."
            ) from error

    def _not_allowed(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"Not allowed to read {', '.join(self._options.topics)}: {type(error).__name__}: {error}. "
            "The user needs the rights Read and Describe on the topic."
        )

    def _highwater(self, tp: TopicPartition) -> int:
        heard = self._consumer.highwater(kafka.TopicPartition(*tp)) if self._consumer is not None else None
        return max(heard or 0, self._ends.get(tp, 0))


def _theirs(partitions: Iterable[TopicPartition]) -> list[Any]:
    return [kafka.TopicPartition(*tp) for tp in partitions]


def _ours(offsets: Mapping[Any, int]) -> Positions:
    return {TopicPartition(*partition): offset for partition, offset in offsets.items()}


def _ours_of(partitions: Iterable[Any]) -> list[TopicPartition]:
    return [TopicPartition(*partition) for partition in partitions]


def _empty_chunk(tp: TopicPartition, next_offset: int) -> RecordChunk:
    return RecordChunk(
        partition=tp, offsets=(), timestamps_ms=(), keys=(), values=(), headers=(), next_offset=next_offset
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
