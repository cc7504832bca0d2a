"""The log as the brokers hold it, in our words: one client of kafka-python, which may be lost and replaced.

In and out go our `TopicPartition`s, offsets and `RecordChunk`s. A question ("where does the log end?") is answered
within `ASK_S_MAX` or raises; what `poll` raises is the client's own exception. Not here: which partitions are read and
from where, and what an exception means (kafka.py).
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import kafka
from kafka import errors as kafka_errors

from stream_trainer.clock import Clock
from stream_trainer.errors import ConfigError, Stalled
from stream_trainer.streams.kafka_connect import connect, is_auth_error
from stream_trainer.streams.kafka_fetch_ids import FetchById
from stream_trainer.streams.kafka_options import KafkaOptions
from stream_trainer.streams.kafka_seam import columns_of, install, known_partitions, known_topic_ids, topic_id
from stream_trainer.types import Positions, RecordChunk, TopicPartition

__all__ = ["ASK_S_MAX", "KafkaLog", "empty_chunk"]

ASK_S_MAX = 5.0  # for one question to the brokers; the loop waits meanwhile
TOPIC_S_MAX = 3.0  # a topic that was just created needs a moment to be known everywhere
DROP_S_MAX = 1.0  # for the last words of a client that is replaced


class KafkaLog:
    """A connection to the topics of `options`; closed at first, and after `drop`."""

    def __init__(self, options: KafkaOptions, make_consumer: Callable[..., Any]) -> None:
        self._options = options
        self._make_consumer = make_consumer
        self._consumer: Any = None
        self._fetches: FetchById | None = None
        self._paused: frozenset[TopicPartition] = frozenset()
        self._heard: object = None  # what `topic_ids` was worked out from ...
        self._topic_ids: dict[str, str] = {}  # ... and its answer

    # ------------------------------------------------------------ the client

    @property
    def is_open(self) -> bool:
        return self._consumer is not None

    def open(self, wait_s: float | None = None) -> None:
        """A new client, without partitions. Raises: ConfigError: refused; Stalled: no answer within `wait_s`."""
        self._consumer = connect(self._options, self._make_consumer, wait_s=wait_s)
        self._fetches = install(self._consumer)

    def drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close(autocommit=False, timeout_ms=_ms(DROP_S_MAX))

    # ------------------------------------------------------------ read

    def assign(self, positions: Positions, topic_ids: Mapping[str, str]) -> None:
        """Read these partitions of these logs, from there, and no others. Who was paused stays so.

        Args: topic_ids: of all our topics; where one is missing, or brokers are older than 3.1, names are asked for.
        """
        if self._fetches is not None:
            self._fetches.pin(topic_ids, frozenset(self._options.topics))
        self._consumer.assign(_theirs(positions))
        for tp, offset in positions.items():
            self.seek(tp, offset)
        paused, self._paused = self._paused, frozenset()
        self.pause(paused & positions.keys())

    def pause(self, partitions: frozenset[TopicPartition]) -> None:
        """Let these wait with the brokers, and the others come."""
        if partitions == self._paused:
            return
        if self.is_open:
            self._consumer.pause(*_theirs(partitions - self._paused))
            self._consumer.resume(*_theirs(self._paused - partitions))
        self._paused = partitions

    @property
    def paused(self) -> frozenset[TopicPartition]:
        return self._paused

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._consumer.seek(kafka.TopicPartition(*tp), offset)

    def position(self, tp: TopicPartition) -> int | None:
        """The next offset that the client will hand out; None: it does not know."""
        position: int | None = self._consumer.position(kafka.TopicPartition(*tp), timeout_ms=0)
        return position

    def poll(self, wait_s: float, records_max: int) -> list[RecordChunk]:
        """What has arrived. Raises whatever the client does."""
        fetched = self._consumer.poll(timeout_ms=_ms(wait_s), max_records=records_max)
        return [
            RecordChunk(
                partition=TopicPartition(*partition),
                offsets=columns.offsets,
                timestamps_ms=columns.timestamps_ms,
                keys=columns.keys,
                values=columns.values,
                headers=columns.headers,
                next_offset=columns.next_offset,
            )
            for partition, entries in fetched.items()
            for columns in columns_of(entries)
        ]

    # ------------------------------------------------------------ ask

    def find_partitions(self, topic: str) -> list[TopicPartition]:
        """Of one topic; asks if the client has not heard of it. None if it does not exist or may not be seen."""
        return [TopicPartition(topic, partition) for partition in sorted(self._consumer.partitions_for_topic(topic))]

    def find_all_partitions(self, clock: Clock) -> list[TopicPartition]:
        """Of all our topics. Raises: ConfigError: one of them is not there after `TOPIC_S_MAX`."""
        deadline_s = clock.monotonic_s() + TOPIC_S_MAX
        while True:
            found = {topic: self.find_partitions(topic) for topic in self._options.topics}
            missing = [topic for topic, partitions in found.items() if not partitions]
            if not missing:
                return [tp for partitions in found.values() for tp in partitions]
            if clock.monotonic_s() >= deadline_s:
                raise ConfigError(
                    f"source.kafka.topics: {', '.join(missing)} not found on {self._options.bootstrap_servers}, or "
                    f"this user may not read it. It sees: {', '.join(self.topics()[:20])}."
                )
            time.sleep(0.1)

    def partitions(self) -> list[TopicPartition]:
        """Of all our topics, as the client last heard. No round trip."""
        return [
            TopicPartition(topic, partition)
            for topic in self._options.topics
            for partition in sorted(known_partitions(self._consumer, topic))
        ]

    def topic_ids(self) -> dict[str, str]:
        """Of our topics, those that the client has heard; brokers before 2.8 have none. No round trip.

        The same object as long as the client has heard nothing new: asked at every poll, it costs one comparison.
        """
        heard = known_topic_ids(self._consumer)
        if heard is None or heard is not self._heard:
            found = {topic: topic_id(self._consumer, topic) for topic in self._options.topics}
            self._heard, self._topic_ids = heard, {topic: id for topic, id in found.items() if id is not None}
        return self._topic_ids

    def topics(self) -> list[str]:
        return sorted(self._consumer.topics())

    def begins(self, partitions: Iterable[TopicPartition]) -> Positions:
        """The earliest offset of each. Raises: Stalled: no answer; ConfigError: not allowed to know."""
        asked = _theirs(partitions)
        return _ours(self._ask(lambda: self._consumer.beginning_offsets(asked, timeout_ms=_ms(ASK_S_MAX))))

    def ends(self, partitions: Iterable[TopicPartition]) -> Positions:
        """The offset that comes next in each. Raises: Stalled: no answer; ConfigError: not allowed to know."""
        asked = _theirs(partitions)
        return _ours(self._ask(lambda: self._consumer.end_offsets(asked, timeout_ms=_ms(ASK_S_MAX))))

    def first_since(self, partitions: Iterable[TopicPartition], time_ms: int) -> dict[TopicPartition, int | None]:
        """The first offset that is not older; None: all are. Raises: Stalled, ConfigError."""
        asked = dict.fromkeys(_theirs(partitions), time_ms)
        found = self._ask(lambda: self._consumer.offsets_for_times(asked, timeout_ms=_ms(ASK_S_MAX)))
        return {TopicPartition(*tp): None if at is None else at.offset for tp, at in found.items()}

    def highwater(self, tp: TopicPartition) -> int:
        """Where the log ended at the last fetch; 0: never heard. No round trip."""
        return (self._consumer.highwater(kafka.TopicPartition(*tp)) or 0) if self.is_open else 0

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except kafka_errors.KafkaError as error:
            if is_auth_error(error):
                raise self.not_allowed(error) from error
            raise Stalled(
                f"Kafka at {self._options.bootstrap_servers} does not say what its log holds: "
                f"{type(error).__name__}: {error}."
            ) from error

    def not_allowed(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"Not allowed to read {', '.join(self._options.topics)}: {type(error).__name__}: {error}. "
            "The user needs the rights Read and Describe on the topic."
        )


def empty_chunk(tp: TopicPartition, next_offset: int) -> RecordChunk:
    """Moves a position and brings nothing."""
    return RecordChunk(
        partition=tp, offsets=(), timestamps_ms=(), keys=(), values=(), headers=(), next_offset=next_offset
    )


def _theirs(partitions: Iterable[TopicPartition]) -> list[Any]:
    return [kafka.TopicPartition(*tp) for tp in partitions]


def _ours(offsets: Mapping[Any, int]) -> Positions:
    return {TopicPartition(*partition): offset for partition, offset in offsets.items()}


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
