"""Brokers, lines and sources for the integration tests; each is started once and shared as far as it can be.

`STREAM_TRAINER_TEST_KAFKA=host:port` uses a broker that runs already (tests that must kill or secure theirs skip).
Otherwise one is started from ../shared/kafka, which wants Java 17; without it these tests skip by name.
"""

import os

import pytest
from real_kafka import ADDRESS_VARIABLE, PROXY, Broker, SharedBroker, disturbed_line, need_kafka

from stream_trainer.clock import SystemClock
from stream_trainer.streams.kafka import KafkaOptions, KafkaSource


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    """The broker that the tests share; each uses topics and groups of its own."""
    need_kafka()
    broker = SharedBroker(tmp_path_factory.mktemp("kafka"))
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def bootstrap_servers(request):
    """Of `broker`, or of one that runs already."""
    return os.environ.get(ADDRESS_VARIABLE) or request.getfixturevalue("broker").bootstrap_servers


@pytest.fixture
def own_broker(tmp_path):
    """Starts a broker that the test may mistreat: own_broker("--sasl", "user:password")."""
    need_kafka()
    brokers = []

    def start(*options):
        brokers.append(Broker(tmp_path / f"kafka-{len(brokers)}", *options))
        return brokers[-1]

    yield start
    for broker in brokers:
        broker.stop()


@pytest.fixture(scope="session")
def line(broker):
    """To `broker`, which sends those who come by it back to it."""
    if not PROXY.exists():
        pytest.skip("no network faults: put toxiproxy-server at ../shared/toxiproxy")
    with disturbed_line(broker.line_listens, broker.line_ends) as line:
        yield line


@pytest.fixture
def open_source():
    """Makes sources and closes them: open_source(bootstrap_servers, topic, **options)."""
    sources = []

    def make(bootstrap_servers, *topics, **options):
        sources.append(
            KafkaSource(KafkaOptions(bootstrap_servers=bootstrap_servers, topics=topics, **options), SystemClock())
        )
        return sources[-1]

    yield make
    for source in sources:
        source.close()
