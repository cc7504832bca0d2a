"""How much faster is our record reader than kafka-python's own? Records per CPU-second of decoding, in one process.

No broker: both readers take the same fetched bytes (1 MB, batches of 500 records) through the fetcher's `take(500)`.
The columns are not turned into chunks, the stock records not into columns. Rounds alternate between the readers; the
number to trust is the median of the ratios, because the machine is shared.
"""

import platform
import random
import statistics
import time

import kafka
from kafka.consumer.fetcher import Fetcher
from kafka.record import MemoryRecords, MemoryRecordsBuilder

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


if __name__ == "__main__":
    main()
