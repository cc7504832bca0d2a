"""Reading from a real Kafka: codecs, positions, transactions, tombstones, and data that is gone."""

import random
import time

import kafka
import pytest
from real_kafka import admin, create_topic, produce, producer, read_to, until

from stream_trainer.errors import ConfigError, DataLost, StreamTrainerError
from stream_trainer.streams.dead_letter_topic import TopicDeadLetters
from stream_trainer.types import Reject, RejectReason, TopicPartition


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_every_codec_brings_every_record_as_it_was_sent(bootstrap_servers, open_source, codec):
    """Keys, headers, none, empty and long: what a real producer and broker make of them."""
    rng = random.Random(3)
    topic = create_topic(bootstrap_servers, retention_ms=-1)  # or the old times would be deleted
    sent = [
        (
            rng.choice([None, b"", rng.randbytes(9)]) if i % 5 else b"key",
            rng.choice([b"", rng.randbytes(40), rng.randbytes(20_000), b"a" * 9_000]) if i % 5 else None,
            [("header", rng.randbytes(i % 90))] * (i % 4),
        )
        for i in range(700)
    ]
    with producer(bootstrap_servers, compression_type=codec, linger_ms=5) as client:
        for i, (key, value, headers) in enumerate(sent):
            client.send(topic, value, key=key, headers=headers, partition=0, timestamp_ms=1_700_000_000_000 + i)
        client.flush()
    source = open_source(bootstrap_servers, topic)
    source.start(None)
    chunks = []
    until(
        lambda: sum(map(len, chunks)) == 700,
        lambda: chunks.extend(source.poll(0.2, 64)),
        30.0,
        lambda: f"{sum(map(len, chunks))} of 700 records came",
    )

    got = [row for chunk in chunks for row in zip(chunk.keys, chunk.values, map(list, chunk.headers), strict=True)]
    assert sent == got
    assert list(range(700)) == [offset for chunk in chunks for offset in chunk.offsets]
    assert [1_700_000_000_000 + i for i in range(700)] == [time for chunk in chunks for time in chunk.timestamps_ms]
    assert max(map(len, chunks)) <= 64


def test_several_topics_and_a_restart_from_positions_bring_each_record_once(bootstrap_servers, open_source):
    """What one run did not hand out, the next one begins with."""
    first, second = create_topic(bootstrap_servers, 3), create_topic(bootstrap_servers, 1)
    expected = []
    for topic, partition in [(first, 0), (first, 1), (first, 2), (second, 0)]:
        values = [f"{topic}-{partition}-{i}".encode() for i in range(100)]
        produce(bootstrap_servers, topic, values, partition=partition)
        expected += [(TopicPartition(topic, partition), i, value) for i, value in enumerate(values)]
    source = open_source(bootstrap_servers, first, second)
    positions = source.start(None)
    assert dict.fromkeys({tp for tp, _, _ in expected}, 0) == positions
    ends = source.end_offsets()
    assert dict.fromkeys(positions, 100) == ends == source.lags()
    rows = []
    until(lambda: rows, lambda: rows.extend(source.poll(0.2, 30)), 30.0, lambda: "nothing came")
    before = [(chunk.partition, o, v) for chunk in rows for o, v in zip(chunk.offsets, chunk.values, strict=True)]
    positions |= {chunk.partition: chunk.next_offset for chunk in rows}

    restarted = open_source(bootstrap_servers, first, second)
    assert positions == restarted.start(positions)
    after, positions = read_to(restarted, {tp: end for tp, end in ends.items() if positions[tp] < end})

    assert sorted(expected) == sorted(before + after)
    assert dict.fromkeys(ends, 0) == restarted.lags()


def test_a_first_run_starts_where_it_is_told(bootstrap_servers, open_source):
    """Earliest, latest, a time (both spellings, before, between and after the records), explicit offsets."""
    topic = create_topic(bootstrap_servers, retention_ms=-1)  # or the old times would be deleted
    with producer(bootstrap_servers) as client:
        for i in range(10):
            client.send(topic, b"x", partition=0, timestamp_ms=1_700_000_000_000 + 1000 * i)
        client.flush()

    def start(option):
        return open_source(bootstrap_servers, topic, start=option).start(None)[TopicPartition(topic, 0)]

    assert 0 == start("earliest")
    assert 10 == start("latest")
    assert 0 == start(1_000)
    assert 4 == start(1_700_000_003_500)
    assert 5 == start("2023-11-14T22:13:25Z")
    assert 10 == start("2100-01-01")
    assert 7 == start({f"{topic}-0": 7})
    assert 3 == start({topic: {0: 3}})
    with pytest.raises(ConfigError, match=rf"start\.{topic}-0 is 11; its log holds offsets 0 to 10"):
        start({topic: {0: 11}})


def test_aborted_transactions_are_not_records_and_the_end_is_reached(bootstrap_servers, open_source):
    """Markers take offsets: 5 records, a marker, 5 aborted records, a marker."""
    topic = create_topic(bootstrap_servers)
    with producer(bootstrap_servers, transactional_id=topic) as client:
        client.init_transactions()
        for word, end in (("kept", client.commit_transaction), ("aborted", client.abort_transaction)):
            client.begin_transaction()
            for _ in range(5):
                client.send(topic, word.encode(), partition=0)
            client.flush()
            end()
    source = open_source(bootstrap_servers, topic)
    source.start(None)
    ends = source.end_offsets()
    rows, positions = read_to(source, ends)

    assert {TopicPartition(topic, 0): 12} == ends == positions
    assert [(0, b"kept"), (1, b"kept"), (2, b"kept"), (3, b"kept"), (4, b"kept")] == [row[1:] for row in rows]

    everything = open_source(bootstrap_servers, topic, isolation="read_uncommitted")
    everything.start(None)
    assert 10 == len(read_to(everything, ends)[0])


def test_tombstones_arrive_as_none(bootstrap_servers, open_source):
    """Deletions of a compacted topic; the decoder counts them."""
    topic = create_topic(bootstrap_servers, cleanup_policy="compact")
    with producer(bootstrap_servers) as client:
        client.send(topic, b"value", key=b"k", partition=0)
        client.send(topic, None, key=b"k", partition=0)
        client.flush()
    source = open_source(bootstrap_servers, topic)
    source.start(None)

    assert [b"value", None] == [row[2] for row in read_to(source, source.end_offsets())[0]]


def delete_records(bootstrap_servers, topic, before):
    with admin(bootstrap_servers) as client:
        client.delete_records({kafka.TopicPartition(topic, 0): before})


GONE = r"-0: we are at offset 2, its log holds offsets 6 to 10: .* source.kafka.lost_data to earliest"


@pytest.mark.parametrize(("policy", "expected"), [("fail", None), ("earliest", 6), ("latest", 10)])
def test_records_deleted_before_the_start_follow_the_policy(bootstrap_servers, open_source, policy, expected):
    """Retention overtook us: the default stops, naming the partition, our offset, the log, and what to do."""
    topic = create_topic(bootstrap_servers)
    tp = TopicPartition(topic, 0)
    produce(bootstrap_servers, topic, [b"x"] * 10)
    delete_records(bootstrap_servers, topic, 6)
    source = open_source(bootstrap_servers, topic, lost_data=policy)

    if policy == "fail":
        with pytest.raises(DataLost, match=topic + GONE):
            source.start({tp: 2})
    else:
        assert {tp: expected} == source.start({tp: 2})
        assert 1 == source.lost_resets


@pytest.mark.parametrize(("policy", "expected"), [("fail", None), ("earliest", [6, 7, 8, 9]), ("latest", [])])
def test_records_deleted_while_we_read_follow_the_policy(bootstrap_servers, open_source, policy, expected):
    """The broker says "out of range" in the middle of the run; the position moves without a record."""
    topic = create_topic(bootstrap_servers)
    tp = TopicPartition(topic, 0)
    produce(bootstrap_servers, topic, [b"x"] * 10)
    source = open_source(bootstrap_servers, topic, lost_data=policy)
    source.start({tp: 2})
    delete_records(bootstrap_servers, topic, 6)

    if policy == "fail":
        with pytest.raises(DataLost, match=topic + GONE):
            read_to(source, {tp: 10})
    else:
        rows, positions = read_to(source, {tp: 10})
        assert (expected, {tp: 10}, 1) == ([offset for _, offset, _ in rows], positions, source.lost_resets)


@pytest.mark.parametrize(("policy", "expected"), [("fail", None), ("earliest", 0), ("latest", 3)])
def test_a_log_that_ends_before_our_position_is_another_log(bootstrap_servers, open_source, policy, expected):
    """The topic was deleted and created again."""
    topic = create_topic(bootstrap_servers)
    tp = TopicPartition(topic, 0)
    produce(bootstrap_servers, topic, [b"x"] * 3)
    source = open_source(bootstrap_servers, topic, lost_data=policy)

    if policy == "fail":
        with pytest.raises(
            DataLost, match="we are at offset 50, its log holds offsets 0 to 3: the topic was created again"
        ):
            source.start({tp: 50})
    else:
        assert {tp: expected} == source.start({tp: 50})


def test_a_partition_that_no_longer_exists_is_lost_data(bootstrap_servers, open_source):
    topic = create_topic(bootstrap_servers)

    with pytest.raises(DataLost, match=f"{topic}-4: the checkpoint is at offset 9, and the partition no longer exists"):
        open_source(bootstrap_servers, topic).start({TopicPartition(topic, 4): 9})


def test_partitions_added_later_are_found_and_read_from_their_beginning(bootstrap_servers, open_source):
    """Topics are widened while they are read."""
    topic = create_topic(bootstrap_servers)
    source = open_source(bootstrap_servers, topic, discover_s=0.5)
    assert {TopicPartition(topic, 0): 0} == source.start(None)
    with admin(bootstrap_servers) as client:
        client.create_partitions({topic: 2})
    produce(bootstrap_servers, topic, [b"new"] * 3, partition=1)

    rows, _ = read_to(source, {TopicPartition(topic, 1): 3})

    assert [(TopicPartition(topic, 1), i, b"new") for i in range(3)] == rows


def test_a_topic_that_does_not_exist_is_named(bootstrap_servers, open_source):
    topic = create_topic(bootstrap_servers)

    with pytest.raises(ConfigError, match=r"topics: no-such-topic not found on .* It sees: .*test-"):
        open_source(bootstrap_servers, topic, "no-such-topic").start(None)


def test_progress_is_shown_under_the_group(bootstrap_servers, open_source):
    """So that lag tools, which know only groups, can see us."""
    topic = create_topic(bootstrap_servers)
    produce(bootstrap_servers, topic, [b"x"] * 5)
    source = open_source(bootstrap_servers, topic, group_id=f"{topic}-group")
    source.start(None)
    source.commit({TopicPartition(topic, 0): 3})
    source.commit({TopicPartition(topic, 0): 4})
    source.close()
    watcher = kafka.KafkaConsumer(bootstrap_servers=bootstrap_servers, group_id=f"{topic}-group")

    assert 4 == watcher.committed(kafka.TopicPartition(topic, 0))
    watcher.close()


def dead_letter():
    return Reject(
        partition=TopicPartition("orders", 3),
        offset=17,
        timestamp_ms=5,
        key=None,
        value=b"\xff{",
        headers=(("trace", None),),
        reason=RejectReason.BAD_UTF8,
        detail="größer",
    )


def test_dead_letters_reach_their_topic_with_their_history(bootstrap_servers, open_source):
    """And come back as the bytes they were, for whoever repairs and sends them again."""
    topic = create_topic(bootstrap_servers)
    letters = TopicDeadLetters(bootstrap_servers, topic)
    letters.write([dead_letter()])
    letters.flush()
    letters.close()
    source = open_source(bootstrap_servers, topic)
    source.start(None)
    chunks = []
    until(lambda: chunks, lambda: chunks.extend(source.poll(0.2, 10)), 30.0, lambda: "no dead letter came")

    assert ([None], [b"\xff{"]) == (chunks[0].keys, chunks[0].values)
    assert (
        ("trace", b""),
        ("stream_trainer-null_headers", b"trace"),
        ("stream_trainer-topic", b"orders"),
        ("stream_trainer-partition", b"3"),
        ("stream_trainer-offset", b"17"),
    ) == chunks[0].headers[0][:5]


def test_dead_letters_to_a_topic_that_is_not_there_do_not_hang(bootstrap_servers):
    """The checkpoint waits for the flush, so the flush must end."""
    letters = TopicDeadLetters(bootstrap_servers, "no-such-topic", client={"max_block_ms": 500}, flush_s_max=1.0)
    began_s = time.monotonic()
    with pytest.raises(StreamTrainerError, match="Dead letters were not acknowledged by topic no-such-topic"):
        letters.write([dead_letter()])
    letters.close()
    assert time.monotonic() - began_s < 20
