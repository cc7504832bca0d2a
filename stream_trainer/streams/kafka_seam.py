"""How the lean reader gets into kafka-python, and the test that says whether it may.

In: the fetcher makes one `PartitionRecords` for each fetched partition; `install` puts `partition_columns` there, for
one consumer. Out: the fetcher asks it to `take(n)`, measures the answer with `len` (so the bound of a poll counts
records) and pours it into its result by iterating (so one `Columns` arrives, not n objects). Nothing else is used.
Both are private to kafka-python. Therefore the dependency is pinned, and `self_test` drives the fetcher's own code over
both readers before the first use: any difference, and the stock reader stays, with a warning.
How a joining that was begun is ended (`keep_joining`) is private, too.
What the client knows of a topic without asking (`topic_id`, `known_partitions`) is private, and read here, too. How it
asks for a log by its id: kafka_fetch_ids.py.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import kafka
from kafka.consumer.fetcher import Fetcher
from kafka.consumer.subscription_state import SubscriptionState
from kafka.protocol.consumer import IsolationLevel
from kafka.record import MemoryRecords, MemoryRecordsBuilder

from stream_trainer.streams.kafka_batch import BEFORE_SIZE, MAGIC_AT, Columns
from stream_trainer.streams.kafka_codecs import GZIP, LZ4, SNAPPY, ZSTD
from stream_trainer.streams.kafka_fetch_ids import FetchById, ids_problem
from stream_trainer.streams.kafka_records import PartitionColumns

__all__ = [
    "columns_of",
    "install",
    "keep_joining",
    "known_partitions",
    "known_topic_ids",
    "partition_columns",
    "self_test",
    "topic_id",
]

log = logging.getLogger(__name__)


def install(consumer: Any) -> FetchById | None:
    """Let this consumer read with us, and fetch by id; with a warning where a self-test says that it must not.

    Returns: what takes the ids; None: fetches are by name.
    """
    if problem := self_test():
        log.warning("Kafka records are read by kafka-python's own, slower reader: %s.", problem)
    else:
        consumer._fetcher.PartitionRecords = partition_columns
    if problem := ids_problem():
        log.warning("A Kafka topic created again is noticed late, for fetches are by name: %s.", problem)
        return None
    return FetchById(consumer._fetcher)


def topic_id(consumer: Any, topic: str) -> str | None:
    """As the client last heard it, in hexadecimal; None: it does not know, or the broker has none (before 2.8)."""
    cluster = getattr(consumer, "_cluster", None)
    found = cluster.topic_id(topic) if cluster is not None else None
    return found.hex if found is not None and found.int else None


def known_topic_ids(consumer: Any) -> object:
    """An object that is another one as soon as the client hears of its topics again; None: nobody can tell."""
    return getattr(getattr(consumer, "_cluster", None), "_topic_ids", None)


def known_partitions(consumer: Any, topic: str) -> set[int]:
    """As the client last heard, without asking: its public method waits for the brokers, for ever if they are away."""
    cluster = getattr(consumer, "_cluster", None)
    if cluster is None:
        return consumer.partitions_for_topic(topic) or set()
    return cluster.partitions_for_topic(topic) or set()


def keep_joining(consumer: Any) -> None:
    """Call it between two polls while this member of a group is not in the group: take up the joining that began.

    kafka-python 3.0 joins again when the leader's view of the topics has changed, but forgets that it does as soon as
    the leader has assigned: a poll that ends before the broker has confirmed was the last that asked. The answer is
    then never taken, the heartbeats stay off, and the member is evicted for good.
    """
    consumer._coordinator.request_rejoin()


@cache
def self_test() -> str | None:
    """What differs between the two readers on a few batches of every codec; None: nothing.

    >>> self_test() is None
    True
    """
    try:
        for codec in (0, GZIP, SNAPPY, LZ4, ZSTD):
            log_bytes = _sample_log(codec)
            for fetch_offset in (0, 5):
                expected = list(columns_of(_take_all(Fetcher.PartitionRecords, log_bytes, fetch_offset)))
                found = list(columns_of(_take_all(partition_columns, log_bytes, fetch_offset)))
                if expected != found:
                    return f"codec {codec} from offset {fetch_offset}: expected {expected}, read {found}"
    except Exception as error:
        return f"kafka-python {kafka.__version__} is built differently than expected: {type(error).__name__}: {error}"
    return None


def _sample_log(codec: int) -> bytes:
    """Two batches of what is easily got wrong: none, empty, long, headers without a value, time that goes back."""
    rows = [
        (1_700_000_000_000, b"key", b"value", []),
        (1_699_999_999_000, None, b"x" * 300, [("a", b"1"), ("leer", b""), ("none", None)]),
        (1_700_000_100_000, b"", None, []),
        (1_700_000_000_001, None, b"", [("gr\u00fc\u00df", b"\xff" * 200)]),
    ]
    batches = b""
    for base_offset in (0, 4):
        builder = MemoryRecordsBuilder(2, codec, 1 << 20)
        for timestamp_ms, key, value, headers in rows:
            builder.append(timestamp_ms, key, value, headers)
        builder.close()
        batches += base_offset.to_bytes(8, "big") + bytes(builder.buffer())[8:]
    return batches


def _take_all(reader: Callable[..., Any], log_bytes: bytes, fetch_offset: int) -> list[Any]:
    """What a poll of 100 records gets from one partition, by the fetcher's own code."""
    partition = kafka.TopicPartition("self-test", 0)
    subscriptions = SubscriptionState("none")
    subscriptions.assign_from_user([partition])
    subscriptions.seek(partition, fetch_offset)
    fetcher = SimpleNamespace(_subscriptions=subscriptions, _sensors=None)
    part = reader(
        fetch_offset,
        partition,
        MemoryRecords(log_bytes),
        check_crcs=True,
        isolation_level=IsolationLevel.READ_COMMITTED,
    )
    drained: dict[Any, list[Any]] = defaultdict(list)
    records_max = 100
    while part and records_max:
        records_max -= Fetcher._append(fetcher, drained, part, records_max, True)
    end = subscriptions.assignment[partition].position.offset
    if (8 - fetch_offset, 8) != (100 - records_max, end):
        raise ValueError(f"a poll from {fetch_offset} counted {100 - records_max} records and ended at {end}, not 8")
    return drained[partition]


def partition_columns(
    fetch_offset: int,
    partition: Any,
    records: MemoryRecords,
    *,
    isolation_level: int = IsolationLevel.READ_UNCOMMITTED,
    aborted_transactions: Iterable[Any] | None = None,
    metric_aggregator: Any = None,
    on_drain: Callable[[Any], None] = lambda part: None,
    **deserializers_and_crcs: Any,
) -> Any:
    """Called by the fetcher in the place of its `PartitionRecords`; the stock one where an old format is met."""
    data = bytes(records._buffer)
    if not _all_format_2(data):
        return Fetcher.PartitionRecords(
            fetch_offset,
            partition,
            records,
            isolation_level=isolation_level,
            aborted_transactions=aborted_transactions,
            metric_aggregator=metric_aggregator,
            on_drain=on_drain,
            **deserializers_and_crcs,
        )
    return PartitionColumns(
        fetch_offset,
        partition,
        data,
        committed_only=isolation_level == IsolationLevel.READ_COMMITTED,
        aborted_transactions=aborted_transactions,
        metric_aggregator=metric_aggregator,
        on_drain=on_drain,
    )


def _all_format_2(data: bytes) -> bool:
    at = 0
    while at + MAGIC_AT < len(data):
        if data[at + MAGIC_AT] != 2:
            return False
        at += BEFORE_SIZE + max(0, int.from_bytes(data[at + 8 : at + BEFORE_SIZE], "big", signed=True))
    return True


def columns_of(entries: Iterable[Any]) -> Iterator[Columns]:
    """Columns out of what one partition got from a poll: ours as they are, stock records gathered.

    >>> list(columns_of([]))
    []
    """
    stock: list[Any] = []
    for entry in entries:
        if type(entry) is Columns:
            if stock:
                yield _gather(stock)
                stock = []
            yield entry
        else:
            stock.append(entry)
    if stock:
        yield _gather(stock)


def _gather(records: list[Any]) -> Columns:
    return Columns(
        [record.offset for record in records],
        [record.timestamp for record in records],
        [record.key for record in records],
        [record.value for record in records],
        [tuple(record.headers) for record in records],
        records[-1].offset + 1,
    )
