"""The Kafka source against a client that misbehaves on command: what is retried, what is rebuilt, what is fatal."""

import logging
import threading
import uuid
from types import SimpleNamespace

import kafka
import pytest
from kafka import errors as kafka_errors

from stream_trainer.errors import ConfigError, DataLost, Stalled
from stream_trainer.streams import kafka_log
from stream_trainer.streams.kafka import KafkaOptions, KafkaSource
from stream_trainer.streams.kafka_batch import Columns, CorruptBatch
from stream_trainer.streams.kafka_group import KafkaGroupSource
from stream_trainer.streams.kafka_options import GroupOptions, client_settings, warn_if_readable
from stream_trainer.types import TopicPartition

A, B = TopicPartition("orders", 0), TopicPartition("orders", 1)


class Clock:
    """Moves by itself: whoever waits in poll, waits."""

    now_s = 0.0

    def monotonic_s(self):
        return self.now_s

    wall_s = monotonic_s


class Cluster:
    """The log, and a script of what the next polls do: an exception to raise, or rows to bring."""

    def __init__(self, clock, ends):
        self.clock, self.ends, self.begins = clock, dict(ends), dict.fromkeys(ends, 0)
        self.script, self.consumers, self.reachable = [], [], True
        self.ids = {}  # topic -> uuid

    def connect(self, **settings):
        if not self.reachable:
            raise kafka_errors.KafkaTimeoutError("Unable to bootstrap")
        self.consumers.append(Consumer(self, settings))
        return self.consumers[-1]


class Consumer:
    def __init__(self, cluster, settings):
        self.cluster, self.settings, self.closed = cluster, settings, False
        self.positions, self.paused = {}, set()
        self._fetcher = SimpleNamespace(_create_fetch_requests=dict, _handle_fetch_response=print)
        self._cluster = SimpleNamespace(topic_id=cluster.ids.get, partitions_for_topic=self.partitions_for_topic)

    def partitions_for_topic(self, topic):
        return {partition for name, partition in self.cluster.ends if name == topic}

    def topics(self):
        return {topic for topic, _ in self.cluster.ends}

    def beginning_offsets(self, partitions, timeout_ms):
        return {tp: self.cluster.begins[tuple(tp)] for tp in partitions}

    def end_offsets(self, partitions, timeout_ms):
        if not self.cluster.reachable:
            raise kafka_errors.KafkaTimeoutError("no answer")
        return {tp: self.cluster.ends[tuple(tp)] for tp in partitions}

    def assign(self, partitions):
        self.positions = dict.fromkeys(partitions)

    def pause(self, *partitions):
        self.paused |= set(partitions)

    def resume(self, *partitions):
        self.paused -= set(partitions)

    def seek(self, partition, offset):
        self.positions[partition] = offset

    def position(self, partition, timeout_ms):
        return self.positions[partition]

    def highwater(self, partition):
        return None

    def poll(self, timeout_ms, max_records):
        assert not self.closed
        self.cluster.clock.now_s += timeout_ms / 1000
        event = self.cluster.script.pop(0) if self.cluster.script else {}
        if isinstance(event, Exception):
            raise event
        brought = {}
        for tp, n in event.items():
            first = self.positions[tp]
            self.positions[kafka.TopicPartition(*tp)] = first + n
            brought[kafka.TopicPartition(*tp)] = [
                Columns(range(first, first + n), [0] * n, [None] * n, [b"x"] * n, [()] * n, first + n)
            ]
        return brought

    def close(self, autocommit, timeout_ms):
        self.closed = True


@pytest.fixture
def cluster():
    return Cluster(Clock(), {A: 10, B: 10})


def started(cluster, positions=None, **options):
    options = KafkaOptions(bootstrap_servers="localhost:9092", topics=("orders",), **options)
    source = KafkaSource(options, cluster.clock, make_consumer=cluster.connect)
    source.start(positions)
    return source


def rows(chunks):
    return [(chunk.partition, list(chunk.offsets), chunk.next_offset) for chunk in chunks]


def test_a_position_that_moved_without_records_is_handed_out_empty(cluster):
    """Markers and compacted offsets: "until the end" waits for positions, not for records."""
    source = started(cluster)
    cluster.consumers[0].positions[B] = 4

    assert [(B, [], 4)] == rows(source.poll(0.1, 10))
    assert [] == rows(source.poll(0.1, 10))


def test_a_partition_that_is_not_fetched_any_more_gets_a_new_consumer_at_its_position(cluster):
    """kafka-python may forget a broker for good after UnknownBrokerIdError; the other partitions go on."""
    source = started(cluster, stall_s_max=5.0)
    cluster.script = [{A: 1, B: 1}] + [{A: 1}] * 7 + [{B: 9}]

    handed_out = [row for _ in range(9) for row in rows(source.poll(1.0, 10))]

    assert 1 == source.rebuilds
    assert [True, False] == [consumer.closed for consumer in cluster.consumers]
    assert [(A, [i], i + 1) for i in range(8)] == [row for row in handed_out if row[0] == A]
    assert [(B, [0], 1), (B, list(range(1, 10)), 10)] == [row for row in handed_out if row[0] == B]


def test_a_stall_that_no_new_consumer_heals_ends_the_run(cluster):
    """The supervisor may start us elsewhere; silence for ever would look like health."""
    source = started(cluster, stall_s_max=5.0, rebuilds_max=2)

    def wait():
        for _ in range(100):
            source.poll(1.0, 10)

    with pytest.raises(Stalled, match=r"orders-0: the log ends at 10, we are at 0, .* replaced 2 times, 5 s apart"):
        wait()
    assert 2 == source.rebuilds


def test_silence_at_the_end_of_the_log_or_without_brokers_is_no_stall(cluster):
    """An empty night, and an outage, must not restart the service."""
    source = started(cluster, {A: 10, B: 10}, stall_s_max=5.0, rebuilds_max=0)
    for _ in range(20):
        source.poll(1.0, 10)
    cluster.ends[A], cluster.reachable = 11, False
    for _ in range(20):
        source.poll(1.0, 10)

    assert 0 == source.rebuilds
    assert source.retriable_errors > 0


def test_time_spent_training_is_not_silence(cluster):
    """A step of an hour between two polls says nothing about the broker."""
    source = started(cluster, stall_s_max=5.0, rebuilds_max=0)
    for _ in range(4):
        cluster.clock.now_s += 3_600
        source.poll(1.0, 10)

    assert 0 == source.rebuilds


@pytest.mark.parametrize(
    ("error", "consumers"),
    [
        (kafka_errors.NotLeaderForPartitionError(), 1),
        (kafka_errors.KafkaTimeoutError(), 1),
        (kafka_errors.UnknownError("broker bug"), 2),
        (kafka_errors.UnknownBrokerIdError(1), 2),
        (ValueError("client bug"), 2),
    ],
)
def test_errors_that_may_pass_are_counted_and_no_record_is_skipped(cluster, error, consumers):
    """After those for which the client was not built it is replaced: it may never fetch again."""
    source = started(cluster)
    cluster.script = [{A: 3}, error, {A: 2}]

    assert [(A, [0, 1, 2], 3)] == rows(source.poll(0.1, 10))
    assert [] == rows(source.poll(0.1, 10))
    assert [(A, [3, 4], 5)] == rows(source.poll(0.1, 10))
    assert (1, consumers) == (source.retriable_errors, len(cluster.consumers))


def test_a_replacement_waits_for_the_brokers_to_come_back(cluster, monkeypatch):
    """They may be away just when we need a new consumer."""
    monkeypatch.setattr("stream_trainer.streams.kafka_connect._probe", lambda server: "closed")
    source = started(cluster)
    cluster.script = [{A: 3}, ValueError("client bug")]
    source.poll(0.1, 10)
    source.poll(0.1, 10)
    cluster.reachable = False

    assert [] == rows(source.poll(0.1, 10))
    assert {A: 7, B: 10} == source.lags()
    cluster.reachable, cluster.script = True, [{A: 1}]
    assert [(A, [3], 4)] == rows(source.poll(0.1, 10))


@pytest.mark.parametrize(
    "error", [kafka_errors.TopicAuthorizationFailedError, kafka_errors.SaslAuthenticationFailedError]
)
def test_missing_rights_are_a_matter_of_configuration(cluster, error):
    """Waiting will not grant them."""
    source = started(cluster)
    cluster.script = [error("orders")]

    with pytest.raises(ConfigError, match=r"Not allowed to read orders: .* Read and Describe"):
        source.poll(0.1, 10)


def test_a_cut_off_log_follows_the_policy_for_lost_data(cluster):
    """An unclean leader election removed records that we have learned."""
    source = started(cluster, {A: 9, B: 0}, lost_data="latest")
    cluster.ends[A] = 5
    cluster.script = [kafka_errors.LogTruncationError({kafka.TopicPartition(*A): None})]

    assert [(A, [], 5)] == rows(source.poll(0.1, 10))
    assert 1 == source.lost_resets


def corrupt(next_offset=6, **options):
    error = CorruptBatch(2, next_offset, "its CRC does not fit", **options)
    error.partition = kafka.TopicPartition(*A)
    return error


def test_a_batch_damaged_on_its_way_is_fetched_again(cluster):
    """Once is the network; it must not cost a record."""
    source = started(cluster)
    cluster.script = [{A: 2}, corrupt(), {A: 4}]
    got = [row for _ in range(3) for row in rows(source.poll(0.1, 10))]

    assert [(A, [0, 1], 2), (A, [2, 3, 4, 5], 6)] == got
    assert (1, 0) == (source.corrupt_fetches, source.lost_resets)


@pytest.mark.parametrize("policy", ["fail", "earliest"])
def test_a_batch_damaged_in_the_log_follows_the_policy_for_lost_data(cluster, policy):
    """Three times is the log; by default nobody but the operator decides to go on without these records."""
    source = started(cluster, lost_data=policy)
    cluster.script = [{A: 2}, corrupt(), corrupt(), corrupt()]
    for _ in range(3):
        source.poll(0.1, 10)

    if policy == "fail":
        with pytest.raises(
            DataLost, match="orders-0: the batch at offset 2 cannot be read: its CRC does not fit, 3 times"
        ):
            source.poll(0.1, 10)
    else:
        assert [(A, [], 6)] == rows(source.poll(0.1, 10))
        cluster.script = [{A: 1}]
        assert [(A, [6], 7)] == rows(source.poll(0.1, 10))


def test_a_codec_that_nobody_knew_ends_the_run(cluster):
    """Fetching again cannot help."""
    source = started(cluster)
    cluster.script = [corrupt(codec_missing=True)]

    with pytest.raises(
        ConfigError,
        match=r"orders-0 at offset 2: compressed with a codec .* Change compression",
    ):
        source.poll(0.1, 10)


def test_a_partition_added_since_the_checkpoint_starts_at_its_earliest_record(cluster):
    """Whatever `start` says: the topic is known, so all records of the new partition are new to us."""
    options = KafkaOptions(bootstrap_servers="localhost:9092", topics=("orders", "extra"), start="latest")
    cluster.ends[TopicPartition("extra", 0)], cluster.begins[TopicPartition("extra", 0)] = 7, 0
    cluster.begins[B] = 2
    source = KafkaSource(options, cluster.clock, make_consumer=cluster.connect)

    assert {A: 4, B: 2, ("extra", 0): 7} == source.start({A: 4, TopicPartition("another", 0): 1})


def test_partitions_are_discovered_while_running_and_announced_empty(cluster):
    """So that the first checkpoint behind the discovery names them."""
    source = started(cluster, discover_s=10.0)
    cluster.ends[TopicPartition("orders", 2)] = cluster.begins[TopicPartition("orders", 2)] = 3
    cluster.script = [{A: 1}]

    assert [(A, [0], 1), (("orders", 2), [], 3)] == rows(source.poll(20.0, 10))


def test_who_is_paused_stays_so_behind_a_new_client_and_is_not_silent(cluster):
    """Enough of it waits here: that nothing comes is what we asked for."""
    source = started(cluster, stall_s_max=5.0, rebuilds_max=0)
    source.pause({A, TopicPartition("another", 0)})
    cluster.script = [{B: 1}, ValueError("client bug"), {B: 1}] + [{B: 1}] * 8
    for _ in range(11):
        source.poll(1.0, 10)

    assert [{A}, {A}] == [consumer.paused for consumer in cluster.consumers]
    source.pause(())
    assert set() == cluster.consumers[-1].paused


def test_an_id_that_nobody_knows_says_nothing(cluster):
    """Old brokers have none, the embedded one neither; and a checkpoint may be older than ids."""
    source = started(cluster, {A: 4, B: 0})
    assert {} == source.topic_ids
    cluster.ids["orders"] = uuid.UUID(int=0)
    assert {} == started(cluster, {A: 4, B: 0}).topic_ids
    cluster.ids["orders"] = uuid.UUID(int=7)
    source.poll(0.1, 10)

    assert {A: 4, B: 0} == source.start({A: 4, B: 0}, {"another": "5"})
    assert {"another": "5", "orders": f"{7:032x}"} == source.topic_ids


def test_a_recreated_topic_with_fewer_partitions_is_followed_with_those_there_are(cluster):
    """And the records of other topics that came with the news are kept."""
    other = TopicPartition("extra", 0)
    cluster.ends[other], cluster.begins[other] = 9, 0
    cluster.ids |= {"orders": uuid.UUID(int=1), "extra": uuid.UUID(int=2)}
    options = KafkaOptions(bootstrap_servers="localhost:9092", topics=("orders", "extra"), lost_data="earliest")
    source = KafkaSource(options, cluster.clock, make_consumer=cluster.connect)
    source.start({A: 4, B: 4, other: 0})
    cluster.ids["orders"] = uuid.UUID(int=3)
    del cluster.ends[B]
    cluster.script = [{A: 2, other: 1}]

    assert [(other, [0], 1), (A, [], 0)] == rows(source.poll(0.1, 10))
    assert cluster.consumers[0].closed, "what it has fetched and not handed out is of the log before"
    source.poll(0.1, 10)
    assert {A: 0, other: 1} == {TopicPartition(*tp): at for tp, at in cluster.consumers[1].positions.items()}
    assert 2 == source.lost_resets


def test_a_recreated_topic_is_not_read_while_nobody_says_how_long_it_is(cluster):
    """Else its records would be handed out from an offset of the old log."""
    cluster.ids["orders"] = uuid.UUID(int=1)
    source = started(cluster, {A: 4, B: 0}, lost_data="earliest")
    cluster.ids["orders"] = uuid.UUID(int=3)
    cluster.script, cluster.reachable = [{A: 2}, {A: 2}], False
    assert [] == rows(source.poll(0.1, 10))
    cluster.reachable = True

    assert [(A, [], 0), (B, [], 0)] == rows(source.poll(0.1, 10))
    cluster.script = [{A: 1}]
    assert [(A, [0], 1)] == rows(source.poll(0.1, 10))


def test_the_display_can_fail_without_anybody_noticing_but_the_log(cluster, caplog):
    """It is a courtesy to lag tools."""
    source = started(cluster, group_id="trainers")
    source.commit({A: 3})
    source.close()

    assert "Could not show progress under group trainers" in caplog.text


def test_ours_win_and_secrets_stay_hidden():
    """Automatic commits would lose records, deserializers would hang; a password has no place in a log."""
    options = KafkaOptions(
        bootstrap_servers="a:1, b:2",
        topics=("orders",),
        client={"sasl_plain_password": "correct-horse", "api_version": [2, 3], "fetch_max_wait_ms": 20},
    )
    settings = client_settings(options)

    assert "correct-horse" not in repr(options)
    assert (["a:1", "b:2"], (2, 3), 20, False, "none", "read_committed") == tuple(
        settings[name]
        for name in (
            "bootstrap_servers",
            "api_version",
            "fetch_max_wait_ms",
            "enable_auto_commit",
            "auto_offset_reset",
            "isolation_level",
        )
    )
    assert settings.keys() <= kafka.KafkaConsumer.DEFAULT_CONFIG.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"client": {"enable_auto_commit": True}},
            r"client\.enable_auto_commit cannot be set: committing before the model",
        ),
        ({"client": {"value_deserializer": "json"}}, r"client\.value_deserializer cannot be set: an error inside"),
        ({"topics": ()}, "topics is empty; name at least one topic"),
        ({"start": "yesterday"}, "start is 'yesterday'; expected earliest, latest, a time like"),
        ({"start": {"orders": 3}}, r"start\.orders: expected TOPIC-PARTITION: OFFSET, for example orders-0: 17"),
        ({"start": {"orders-0": -1}}, r"start\.orders-0 is -1; expected an offset of 0 or more"),
        ({"stall_s_max": 0.0}, r"stall_s_max is 0\.0; it must be more than 0"),
        ({"rebuilds_max": -1}, "rebuilds_max is -1; it must be 0 or more"),
    ],
)
def test_options_that_cannot_work_are_refused_with_the_reason(change, message):
    with pytest.raises(ConfigError, match=message):
        KafkaOptions(**({"bootstrap_servers": "a:1", "topics": ("orders",)} | change))


def test_an_unknown_client_setting_is_refused(cluster):
    """Without a broker: kafka-python looks at the names first."""
    options = KafkaOptions(
        bootstrap_servers="localhost:1", topics=("orders",), client={"sasl_pasword": "correct-horse"}
    )

    with pytest.raises(ConfigError, match=r"Unrecognized configs: \{'sasl_pasword'\}") as caught:
        KafkaSource(options, cluster.clock).start(None)
    assert "correct-horse" not in str(caught.value)


def test_a_failed_connection_leaves_no_thread_behind(cluster):
    """During an outage connecting is tried again and again; each try of the client would leave one thread."""
    threads = set(threading.enumerate())
    source = KafkaSource(
        KafkaOptions(bootstrap_servers="localhost:1", topics=("orders",), connect_s_max=0.1), cluster.clock
    )

    with pytest.raises(Stalled, match=r"Tried localhost:1 \(TCP closed: .*the broker is down"):
        source.start(None)
    assert set() == set(threading.enumerate()) - threads


@pytest.mark.parametrize(
    ("servers", "protocol", "loud"),
    [
        ("kafka.example:9092", "PLAINTEXT", True),
        ("10.0.0.1:9092", "SASL_PLAINTEXT", True),
        ("kafka.example:9092", "SASL_SSL", False),
        ("localhost:9092,127.0.0.1:1,[::1]:9092", "PLAINTEXT", False),
    ],
)
def test_records_in_the_clear_on_a_network_are_said_loudly(caplog, servers, protocol, loud):
    """On this machine nobody listens in."""
    warn_if_readable(
        KafkaOptions(bootstrap_servers=servers, topics=("orders",), client={"security_protocol": protocol})
    )

    assert loud == any(record.levelno == logging.WARNING for record in caplog.records)


def test_a_topic_that_is_not_there_is_named_after_a_moment(cluster, monkeypatch):
    """A topic that was just created needs a moment; a misspelt one never comes."""
    monkeypatch.setattr(kafka_log, "TOPIC_S_MAX", 0.0)
    options = KafkaOptions(bootstrap_servers="localhost:9092", topics=("order",))

    with pytest.raises(ConfigError, match=r"topics: order not found on localhost:9092, .* It sees: orders\."):
        KafkaSource(options, cluster.clock, make_consumer=cluster.connect).start(None)


def test_a_group_never_goes_on_in_a_topic_that_was_created_again(cluster):
    """Not even where lost data is accepted: where a partition is taken over is said in offsets of the log before."""
    cluster.ids["orders"] = uuid.UUID(int=1)
    group = GroupOptions(id="g", mode="sharded", instance_id="a")
    options = KafkaOptions(
        bootstrap_servers="localhost:9092", topics=("orders",), lost_data="earliest", group_id=None, group=group
    )
    said = "created again .* another source.kafka.group.id and another checkpoint.directory"
    late = KafkaGroupSource(options, cluster.clock, make_consumer=cluster.connect)
    with pytest.raises(DataLost, match=said):
        late.start(None, {"orders": f"{9:032x}"})

    source = KafkaGroupSource(options, cluster.clock, make_consumer=cluster.connect)
    source._log.open()
    source._ids.keep({"orders": f"{1:032x}"})
    source.read({A: 4})
    cluster.ids["orders"] = uuid.UUID(int=2)
    cluster.script = [{A: 1}]
    with pytest.raises(DataLost, match=said):
        source.poll(0.1, 10)
