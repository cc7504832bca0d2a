"""How much faster is our record reader than kafka-python's own? Records per CPU-second of decoding, in one process.

No broker: both readers take the same fetched bytes (1 MB, batches of 500 records) through the fetcher's `take(500)`.
The columns are not turned into chunks, the stock records not into columns. Rounds alternate between the readers; the
number to trust is the median of the ratios, because the machine is shared.

And what does a poll of our source cost beside the client's: a client that brings the same 500 records at once, with ids
of topics compared at every poll, and only when the client has heard of its topics again.
"""

import platform
import random
import statistics
import time
import uuid
from types import SimpleNamespace

import kafka
from kafka.consumer.fetcher import Fetcher
from kafka.record import MemoryRecords, MemoryRecordsBuilder

from stream_trainer.clock import SystemClock
from stream_trainer.streams.kafka import KafkaOptions, KafkaSource
from stream_trainer.streams.kafka_batch import Columns
from stream_trainer.streams.kafka_seam import partition_columns

PARTITION = kafka.TopicPartition("bench", 0)
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
FETCHED_BYTES = 1_000_000
ROUNDS = 9


def fetched(value_bytes: int, codec: int, headers: list[tuple[str, bytes]]) -> bytes:
    """Batches of 500 records, half of each value random, with keys of 8 bytes, until 1 MB of values."""
    rng = random.Random(1)
    data, base_offset = b"", 0
    while base_offset * value_bytes < FETCHED_BYTES:
        builder = MemoryRecordsBuilder(2, codec, 1 << 24)
        for i in range(500):
            value = rng.randbytes(value_bytes // 2) + b"0" * (value_bytes - value_bytes // 2)
            builder.append(1_700_000_000_000 + i, rng.randbytes(8), value, headers)
        builder.close()
        data += base_offset.to_bytes(8, "big") + bytes(builder.buffer())[8:]
        base_offset += 500
    return data


def records_per_s(reader, data: bytes) -> float:
    n, began_s = 0, time.process_time()
    part = reader(0, PARTITION, MemoryRecords(data))
    while part:
        n += len(part.take(500))
    return n / (time.process_time() - began_s)


class Client:
    """kafka-python's consumer, as far as a source asks it, with records at hand."""

    def __init__(self, topics: list[str], *, says_when_it_heard: bool, **settings: object) -> None:
        ids = {topic: uuid.UUID(int=i + 1) for i, topic in enumerate(topics)}
        self._fetcher = SimpleNamespace(_create_fetch_requests=dict, _handle_fetch_response=print)
        self._cluster = SimpleNamespace(topic_id=ids.get, partitions_for_topic=lambda topic: {0})
        if says_when_it_heard:
            self._cluster._topic_ids = ids
        self._at = 0
        self.partitions_for_topic = self._cluster.partitions_for_topic
        self.beginning_offsets = self.end_offsets = lambda tps, timeout_ms: dict.fromkeys(tps, 0)
        self.assign = self.seek = self.pause = self.resume = self.close = lambda *_, **__: None

    def poll(self, timeout_ms: int, max_records: int) -> dict[kafka.TopicPartition, list[Columns]]:
        first, self._at = self._at, self._at + 500
        columns = Columns(range(first, first + 500), [0] * 500, [None] * 500, [b"x"] * 500, [()] * 500, first + 500)
        return {PARTITION: [columns]}


def us_per_poll(n_topics: int, *, says_when_it_heard: bool, polls: int = 20_000) -> float:
    topics = [PARTITION.topic, *(f"t{i}" for i in range(1, n_topics))]
    options = KafkaOptions(bootstrap_servers="127.0.0.1:1", topics=tuple(topics))
    clients: list[Client] = []

    def connect(**settings: object) -> Client:
        clients.append(Client(topics, says_when_it_heard=says_when_it_heard, **settings))
        return clients[-1]

    source = KafkaSource(options, SystemClock(), make_consumer=connect)
    source.start(None)
    began_s = time.process_time()
    for _ in range(polls):
        source.poll(0.0, 500)
    ours_s = time.process_time() - began_s
    began_s = time.process_time()
    for _ in range(polls):
        clients[0].poll(0, 500)
    return 1e6 * (ours_s - (time.process_time() - began_s)) / polls


def bench_poll() -> None:
    print("\n| topics | compared at every poll, CPU-us | when heard again | ratio, median [min-max] |")
    print("|---|---|---|---|")
    for n_topics in (1, 4):
        rounds = [
            (us_per_poll(n_topics, says_when_it_heard=False), us_per_poll(n_topics, says_when_it_heard=True))
            for _ in range(ROUNDS)
        ]
        ratios = [cached / always for always, cached in rounds]
        always, cached = (statistics.median(column) for column in zip(*rounds))
        print(
            f"| {n_topics} | {always:.1f} | {cached:.1f} "
            f"| {statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}] |"
        )


def main() -> None:
    print(f"Python {platform.python_version()}, kafka-python {kafka.__version__}, {platform.machine()}\n")
    print("| value bytes | codec | headers | stock, k records/CPU-s | ours | ratio, median [min-max] |")
    print("|---|---|---|---|---|---|")
    for value_bytes in (60, 300):
        for codec, headers in [*((name, []) for name in CODECS), ("none", [("traceparent", b"x" * 55), ("v", b"1")])]:
            data = fetched(value_bytes, CODECS[codec], headers)
            rounds = [
                (records_per_s(Fetcher.PartitionRecords, data), records_per_s(partition_columns, data))
                for _ in range(ROUNDS)
            ]
            ratios = [ours / stock for stock, ours in rounds]
            stock, ours = (statistics.median(column) / 1000 for column in zip(*rounds))
            print(
                f"| {value_bytes} | {codec} | {len(headers)} | {stock:.0f} | {ours:.0f} "
                f"| {statistics.median(ratios):.1f} [{min(ratios):.1f}-{max(ratios):.1f}] |"
            )
    bench_poll()


if __name__ == "__main__":
    main()
