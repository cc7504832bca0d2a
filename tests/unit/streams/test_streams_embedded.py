"""The broker in a process of its own and its feeder: every record arrives, and nobody is left behind."""

import subprocess
import sys

import pytest

from stream_trainer.clock import SystemClock
from stream_trainer.errors import ConfigError, StreamTrainerError
from stream_trainer.streams import embedded
from stream_trainer.streams.embedded import CLIENT_SETTINGS, EmbeddedBroker
from stream_trainer.streams.kafka import KafkaOptions, KafkaSource
from stream_trainer.streams.paced_producer import PacedProducer
from stream_trainer.types import TopicPartition


@pytest.fixture(scope="module")
def broker():
    pytest.importorskip("confluent_kafka", reason="the embedded broker: pip install 'stream-trainer[demo]'")
    with EmbeddedBroker() as broker:
        yield broker


def drain(broker, topic, feeder):
    """Everything that arrives until the feeder is done and all of it is here; by partition."""
    options = KafkaOptions(bootstrap_servers=broker.bootstrap_servers, topics=(topic,), client=CLIENT_SETTINGS)
    source = KafkaSource(options, SystemClock())
    positions = source.start(None)
    values = {tp: [] for tp in positions}
    for _ in range(2_000):
        for chunk in source.poll(0.05, 1_000):
            values[chunk.partition] += chunk.values
            positions[chunk.partition] = chunk.next_offset
        feeder.report(positions)
        if feeder.done and sum(map(len, values.values())) >= feeder.produced:
            break
    source.close()
    return values


def test_more_than_the_broker_keeps_arrives_complete_when_it_is_paced(broker):
    """The broker keeps 5 MB a partition and silently drops what is older; here 12 MB go through each."""
    broker.create_topic("paced", partitions=2)
    with PacedProducer(
        broker.bootstrap_servers,
        "paced",
        partitions=2,
        records="streams_records:numbered",
        kwargs={"n": 24_000, "n_bytes": 1_000},
    ) as feeder:
        values = drain(broker, "paced", feeder)
        assert 24_000 == feeder.produced

    for partition in range(2):
        numbers = [int(value.split()[0]) for value in values[TopicPartition("paced", partition)]]
        assert list(range(partition, 24_000, 2)) == numbers


def test_a_feeder_whose_records_fail_says_why(broker):
    """The demo must not wait for records that will never come."""
    broker.create_topic("failing", partitions=1)
    with PacedProducer(broker.bootstrap_servers, "failing", partitions=1, records="no_such_module:f") as feeder:
        feeder._listener.join(30.0)
        with pytest.raises(
            StreamTrainerError, match="producer of failing failed: ModuleNotFoundError: No module named"
        ):
            _ = feeder.done


def test_a_topic_can_be_created_once(broker):
    broker.create_topic("once", partitions=1)

    with pytest.raises(StreamTrainerError, match=r"The embedded broker: topic once: .*exists"):
        broker.create_topic("once", partitions=1)


@pytest.mark.parametrize("module", ["embedded", "paced_producer"])
def test_the_child_ends_when_its_parent_is_gone(module):
    """However the parent ends, its end of the pipe closes; nothing may be left running."""
    pytest.importorskip("confluent_kafka")
    with subprocess.Popen(
        [sys.executable, "-m", f"stream_trainer.streams.{module}", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        child.stdin.close()
        assert child.wait(30.0) in (0, 1)


def test_without_its_library_the_broker_says_what_to_install(monkeypatch):
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"pip install 'stream-trainer\[demo\]'"):
        EmbeddedBroker()
