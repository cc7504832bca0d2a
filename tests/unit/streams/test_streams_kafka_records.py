"""The lean reader against the stock one, on the fetcher's own code: same records, same positions, same filter."""

import random
from contextlib import suppress
from types import SimpleNamespace

import kafka
import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.consumer.fetcher import Fetcher
from kafka.protocol.consumer import IsolationLevel
from kafka.record import MemoryRecords, MemoryRecordsBuilder

from stream_trainer.streams import kafka_batch, kafka_codecs, kafka_records, kafka_seam
from stream_trainer.streams.kafka_batch import CorruptBatch
from stream_trainer.streams.kafka_codecs import GZIP, LZ4, SNAPPY, ZSTD
from stream_trainer.streams.kafka_seam import columns_of, partition_columns

CODECS = {"none": 0, "gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}
PARTITION = kafka.TopicPartition("orders", 3)
ATTRIBUTES_AT = 21


def batch(rows, *, base_offset=0, codec=0, attributes=0, producer_id=-1, offsets=None, max_timestamp_ms=None):
    """One record batch as a broker stores it; `attributes` are bits that only brokers and transactions set."""
    builder = MemoryRecordsBuilder(2, codec, 1 << 24)
    for i, (timestamp_ms, key, value, headers) in enumerate(rows):
        if offsets is not None:
            builder._next_offset = offsets[i] - base_offset
        builder.append(timestamp_ms, key, value, headers)
    builder.close()
    data = bytearray(builder.buffer())
    data[:8] = base_offset.to_bytes(8, "big")
    data[ATTRIBUTES_AT + 1] |= attributes
    if max_timestamp_ms is not None:
        data[35:43] = max_timestamp_ms.to_bytes(8, "big")
    data[43:51] = producer_id.to_bytes(8, "big", signed=True)
    data[17:21] = crc32c(bytes(data[ATTRIBUTES_AT:])).to_bytes(4, "big")
    return bytes(data)


def marker(kind, *, base_offset, producer_id):
    control = kafka_batch.CONTROL | kafka_batch.TRANSACTIONAL
    row = (0, b"\x00\x00" + kind.to_bytes(2, "big"), b"\x00" * 6, [])
    return batch([row], base_offset=base_offset, attributes=control, producer_id=producer_id)


def take(reader, data, fetch_offset=0, *, sizes=(10_000,), aborted=(), committed=True):
    """What the takes bring, one list of rows, and where they end."""
    aborted = [SimpleNamespace(producer_id=producer, first_offset=first) for producer, first in aborted]
    part = reader(
        fetch_offset,
        PARTITION,
        MemoryRecords(data),
        check_crcs=True,
        isolation_level=IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED,
        aborted_transactions=aborted,
    )
    rows = []
    sizes = iter(sizes)
    while part:
        for columns in columns_of(part.take(next(sizes, 10_000))):
            rows += zip(
                columns.offsets, columns.timestamps_ms, columns.keys, columns.values, columns.headers, strict=True
            )
    return rows, part.next_fetch_offset, part.leader_epoch


def random_rows(rng, n):
    def blob(longest):
        return rng.choice([None, b"", rng.randbytes(rng.randint(1, 20)), rng.randbytes(rng.randint(1, longest))])

    return [
        (
            1_700_000_000_000 + rng.choice([0, 1, -5, 70, 10**4, -(10**9), 10**11]),
            blob(300),
            blob(20_000 if rng.random() < 0.02 else 500),
            [(rng.choice(["a", "größe", "x" * 200]), blob(200)) for _ in range(rng.choice([0, 0, 0, 1, 3, 70]))],
        )
        for _ in range(n)
    ]


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_thousands_of_random_records_are_read_as_the_stock_reader_reads_them(codec):
    """Every width of every number occurs: short, long, none, empty, time that goes back, headers without value."""
    rng = random.Random(5)
    data, base_offset = b"", 1_000
    for n in [1, 2, 63, 64, 65, 200, 2_700]:
        data += batch(random_rows(rng, n), base_offset=base_offset, codec=CODECS[codec])
        base_offset += n

    expected = take(Fetcher.PartitionRecords, data, 1_000)

    assert 3_095 == len(expected[0])
    assert expected == take(partition_columns, data, 1_000)
    assert expected == take(partition_columns, data, 1_000, sizes=[1, 3, 500, 62, 2])
    for fetch_offset in (1_001, 1_064, 1_394, 1_395, base_offset - 1):
        assert take(Fetcher.PartitionRecords, data, fetch_offset) == take(partition_columns, data, fetch_offset)


@given(
    seed=st.integers(0, 2**32),
    n_rows=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    gaps=st.lists(st.integers(0, 300), min_size=4, max_size=4),
    codec=st.sampled_from(sorted(CODECS.values())),
    start=st.integers(0, 40),
)
@settings(max_examples=60, deadline=None)
def test_compacted_logs_are_read_as_the_stock_reader_reads_them(seed, n_rows, gaps, codec, start):
    """Compaction takes records out of batches: offsets have gaps, and the last ones may be missing."""
    rng = random.Random(seed)
    data, base_offset = b"", 0
    for n, gap in zip(n_rows, gaps):
        offsets = sorted(rng.sample(range(base_offset, base_offset + 2 * n), n))
        data += batch(random_rows(rng, n), base_offset=base_offset, codec=codec, offsets=offsets)
        base_offset += 2 * n + gap
    start %= offsets[-1] + 1  # a broker sends batches that end at the fetch offset or behind it

    assert take(Fetcher.PartitionRecords, data, start) == take(partition_columns, data, start)


def test_time_of_the_log_replaces_the_time_of_the_record():
    """With message.timestamp.type=LogAppendTime the broker writes its time once, in the batch."""
    data = batch(
        [(5, None, b"a", []), (6, None, b"b", [])], attributes=kafka_batch.LOG_APPEND_TIME, max_timestamp_ms=99
    )

    assert [99, 99] == [row[1] for row in take(partition_columns, data)[0]]
    assert take(Fetcher.PartitionRecords, data) == take(partition_columns, data)


@pytest.mark.parametrize("committed", [True, False])
def test_aborted_transactions_are_hidden_and_the_position_passes_them(committed):
    """Two producers interleave; one aborts, then commits. Markers take offsets and are never records."""
    transactional = kafka_batch.TRANSACTIONAL
    data = (
        batch([(1, None, b"aborted", [])] * 2, base_offset=0, attributes=transactional, producer_id=7)
        + batch([(1, None, b"kept", [])], base_offset=2, attributes=transactional, producer_id=8)
        + marker(0, base_offset=3, producer_id=7)
        + batch([(1, None, b"kept later", [])], base_offset=4, attributes=transactional, producer_id=7)
        + marker(1, base_offset=5, producer_id=7)
        + batch([(1, None, b"aborted too", [])], base_offset=6, attributes=transactional, producer_id=8)
        + marker(0, base_offset=7, producer_id=8)
    )
    aborted = [(8, 6), (7, 0)]

    rows, end, _ = take(partition_columns, data, aborted=aborted, committed=committed)

    assert 8 == end
    assert ([2, 4] if committed else [0, 1, 2, 4, 6]) == [row[0] for row in rows]
    assert take(Fetcher.PartitionRecords, data, aborted=aborted, committed=committed)[:2] == (rows, end)


def test_only_markers_bring_no_records_and_still_move_the_position():
    """Otherwise a run "until the end" would wait for ever in front of a marker."""
    data = marker(1, base_offset=40, producer_id=7)

    assert ([], 41) == take(partition_columns, data, 40)[:2]


def test_a_batch_cut_off_by_the_fetch_size_is_left_for_the_next_fetch():
    """Brokers cut responses at a number of bytes, in the middle of a batch."""
    first, second = batch([(1, None, b"a", [])]), batch([(1, None, b"b" * 100, [])], base_offset=1)

    for cut in (1, 30, 61, len(second) - 1):
        assert ([b"a"], 1) == (
            [row[3] for row in take(partition_columns, first + second[:cut])[0]],
            take(partition_columns, first + second[:cut])[1],
        )


def corrupt_part(data, fetch_offset=0):
    return partition_columns(fetch_offset, PARTITION, MemoryRecords(data))


def test_a_damaged_batch_is_refused_once_and_after_what_stood_before_it():
    """The stock reader would make every later poll hang; ours raises, empties itself and is done."""
    good, bad = batch([(1, None, b"a", [])] * 3), bytearray(batch([(1, None, b"b", [])] * 2, base_offset=3))
    bad[-1] ^= 1
    part = corrupt_part(good + bytes(bad))

    assert 3 == len(part.take(100))
    assert part
    with pytest.raises(CorruptBatch, match="offset 3: its CRC does not fit its content") as caught:
        part.take(100)
    assert (PARTITION, 3, 5) == (caught.value.partition, caught.value.offset, caught.value.next_offset)
    assert not part


def test_a_header_that_makes_no_sense_promises_no_next_offset():
    """Where the size is nonsense, nothing behind it can be believed."""
    bad = bytearray(batch([(1, None, b"a", [])]))
    bad[23:27] = (-5).to_bytes(4, "big", signed=True)

    with pytest.raises(CorruptBatch, match="its header makes no sense") as caught:
        corrupt_part(bytes(bad)).take(1)
    assert caught.value.next_offset is None


@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_hostile_bytes_behind_a_valid_checksum_are_refused_or_read_never_more(seed):
    """A producer can write any bytes with a right checksum: no hang, no other exception, no flood of records."""
    rng = random.Random(seed)
    data = bytearray(batch(random_rows(rng, 5), codec=rng.choice(sorted(CODECS.values()))))
    for _ in range(rng.randint(1, 5)):
        data[rng.randrange(61, len(data))] = rng.randrange(256)
    data[17:21] = crc32c(bytes(data[ATTRIBUTES_AT:])).to_bytes(4, "big")
    part = corrupt_part(bytes(data))

    n_read = 0
    with suppress(CorruptBatch):
        n_read = len(part.take(100))

    assert n_read <= 5
    assert (5 if n_read else 0) == part.next_fetch_offset


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_batch_that_unpacks_to_more_than_the_bound_is_refused(codec, monkeypatch):
    """A megabyte of zeros compressed may unpack to gigabytes and take the process with it."""
    monkeypatch.setattr(kafka_codecs, "UNPACKED_BYTES_MAX", 100_000)
    data = batch([(1, None, b"\x00" * 200_000, [])], codec=CODECS[codec])

    with pytest.raises(CorruptBatch, match="unpacks to more than 100000 bytes"):
        corrupt_part(data).take(1)


def test_a_codec_without_library_is_named_as_such():
    """Fetching again cannot help, installing can: the source must be able to tell."""
    data = bytearray(batch([(1, None, b"a", [])]))
    data[ATTRIBUTES_AT + 1] |= 6
    data[17:21] = crc32c(bytes(data[ATTRIBUTES_AT:])).to_bytes(4, "big")

    with pytest.raises(CorruptBatch, match="codec number 6") as caught:
        corrupt_part(bytes(data)).take(1)
    assert caught.value.codec_missing


def test_old_formats_go_to_the_stock_reader():
    """Formats 0 and 1 may still lie in old topics; both readers give the same kind of columns."""
    builder = MemoryRecordsBuilder(1, 0, 1 << 20)
    builder.append(5, b"k", b"v", [])
    builder.close()
    data = bytes(builder.buffer())

    assert isinstance(corrupt_part(data), Fetcher.PartitionRecords)
    assert [(0, 5, b"k", b"v", ())] == take(partition_columns, data)[0]


@pytest.fixture
def consumer():
    fetcher = {"PartitionRecords": "stock", "_create_fetch_requests": dict, "_handle_fetch_response": print}
    return SimpleNamespace(_fetcher=SimpleNamespace(**fetcher))


def test_a_difference_found_by_the_self_test_keeps_the_stock_reader(consumer, monkeypatch, caplog):
    """kafka-python's private parts may change under us; slower is better than wrong."""
    monkeypatch.setattr(kafka_records.PartitionColumns, "_next_columns", lambda self: None)
    kafka_seam.self_test.cache_clear()
    kafka_seam.install(consumer)

    assert "stock" == consumer._fetcher.PartitionRecords
    assert "kafka-python's own, slower reader" in caplog.text
    kafka_seam.self_test.cache_clear()


def test_the_self_test_lets_the_lean_reader_in(consumer):
    kafka_seam.install(consumer)

    assert partition_columns is consumer._fetcher.PartitionRecords
