"""A real Apache Kafka for the integration tests, started once, and what the tests need to fill and read it.

`STREAM_TRAINER_TEST_KAFKA=host:port` uses a broker that runs already (tests that must kill or secure theirs skip).
Otherwise one is started from ../shared/kafka, which wants Java 17; without it these tests skip by name.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
import uuid
from contextlib import contextmanager
from pathlib import Path

import kafka
import pytest
from kafka.admin import KafkaAdminClient, NewTopic

from stream_trainer.clock import SystemClock
from stream_trainer.streams.kafka import KafkaOptions, KafkaSource

SHARED = Path(__file__).parents[3] / "shared"
PROXY = SHARED / "toxiproxy" / "toxiproxy-server"
ADDRESS_VARIABLE = "STREAM_TRAINER_TEST_KAFKA"
PATIENCE_S = 30.0


class Broker:
    """One broker process tree; `kill` and `start` again is a crash and a recovery."""

    def __init__(self, directory, *options):
        self.directory, self.options = directory, options
        self.port = free_port()
        self.start()

    def start(self):
        command = [SHARED / "kafka" / "run", self.directory, str(self.port), "--heap", "384m", *self.options]
        self.process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        line = self.process.stdout.readline()
        if not line:
            pytest.fail(f"the broker did not start; see {self.directory}/node-1/broker.log")
        self.started = json.loads(line)
        self.bootstrap_servers = self.started["bootstrap_servers"]

    def kill(self):
        """As a power cut would."""
        os.kill(self.started["pids"]["1"], signal.SIGKILL)
        self.process.wait(PATIENCE_S)
        self.process.stdout.close()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE_S)
        self.process.stdout.close()


def free_port():
    """A port that three brokers can begin at: controllers (+10) and secure listeners (+20) take neighbours, too."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
        if port < 60_000 and all(_is_free(port + step + node) for step in (0, 10, 20) for node in range(3)):
            return port


def _is_free(port):
    with socket.socket() as candidate:
        return candidate.connect_ex(("127.0.0.1", port)) != 0


def need_kafka():
    if not (SHARED / "kafka" / "run").exists() or shutil.which("java") is None:
        pytest.skip(f"no Kafka: set {ADDRESS_VARIABLE}=host:port, or put one with Java 17 at ../shared/kafka")


@pytest.fixture(scope="session")
def bootstrap_servers(tmp_path_factory):
    """A broker that many tests share; each uses topics of its own."""
    if address := os.environ.get(ADDRESS_VARIABLE):
        yield address
        return
    need_kafka()
    broker = Broker(tmp_path_factory.mktemp("kafka"), "--set", "log.cleaner.backoff.ms=200")  # compaction: soon
    yield broker.bootstrap_servers
    broker.stop()


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


class Line:
    """A broker behind a proxy, and the proxy's controls."""

    def __init__(self, control, address):
        self.control, self.address = control, address

    def ask(self, path, body=None, method="POST"):
        request = urllib.request.Request(f"{self.control}{path}", json.dumps(body or {}).encode(), method=method)
        with urllib.request.urlopen(request, timeout=5):
            pass

    @contextmanager
    def toxic(self, kind, **attributes):
        self.ask("/proxies/k/toxics", {"name": kind, "type": kind, "stream": "downstream", "attributes": attributes})
        try:
            yield
        finally:
            self.ask(f"/proxies/k/toxics/{kind}", method="DELETE")

    def cut_fetches(self):
        """Questions are answered; an answer with more than a few small records never arrives whole."""
        return self.toxic("limit_data", bytes=6_000)


@contextmanager
def broker_behind_a_line(directory):
    """A broker that sends its clients to a proxy; yields the `Line`."""
    control, listen = free_port(), free_port()
    broker = Broker(directory, "--set", f"advertised.listeners=PLAINTEXT://127.0.0.1:{listen}")
    with subprocess.Popen(
        [PROXY, "-host", "127.0.0.1", "-port", str(control)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as proxy:
        line = Line(f"http://127.0.0.1:{control}", f"127.0.0.1:{listen}")
        created = threading.Event()

        def create():
            try:
                line.ask("/proxies", {
                    "name": "k", "listen": line.address, "upstream": f"127.0.0.1:{broker.port}", "enabled": True,
                })  # fmt: skip
                created.set()
            except OSError:  # it is not up yet
                created.wait(0.05)

        try:
            until(created.is_set, create, 10.0, lambda: "the proxy did not start")
            yield line
        finally:
            proxy.terminate()
            broker.stop()


@pytest.fixture(scope="session")
def line(tmp_path_factory):
    need_kafka()
    if not PROXY.exists():
        pytest.skip("no network faults: put toxiproxy-server at ../shared/toxiproxy")
    with broker_behind_a_line(tmp_path_factory.mktemp("line")) as line:
        yield line


def create_topic(bootstrap_servers, partitions=1, **settings):
    """A new topic under a name that nobody used before."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    configs = {key.replace("_", "."): str(value) for key, value in settings.items()}
    with admin(bootstrap_servers) as client:
        client.create_topics([NewTopic(name, partitions, 1, topic_configs=configs)])
    return name


@contextmanager
def admin(bootstrap_servers):
    client = KafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def producer(bootstrap_servers, **settings):
    client = kafka.KafkaProducer(bootstrap_servers=bootstrap_servers, **settings)
    try:
        yield client
    finally:
        client.close(timeout=5)


def produce(bootstrap_servers, topic, values, *, partition=0, **settings):
    with producer(bootstrap_servers, **settings) as client:
        for value in values:
            client.send(topic, value, partition=partition)
        client.flush()


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


def read_to(source, ends, *, records_max=500, patience_s=PATIENCE_S, meanwhile=lambda rows: None):
    """Rows (partition, offset, value) until the positions reach `ends`; and those positions."""
    rows, positions = [], {}
    until(
        lambda: all(positions.get(tp, 0) >= end for tp, end in ends.items()),
        lambda: (_collect(source.poll(0.2, records_max), rows, positions), meanwhile(rows)),
        patience_s,
        lambda: f"positions {positions} did not reach {ends}",
    )
    return rows, positions


def _collect(chunks, rows, positions):
    for chunk in chunks:
        rows += [(chunk.partition, offset, value) for offset, value in zip(chunk.offsets, chunk.values, strict=True)]
        positions[chunk.partition] = chunk.next_offset


def until(reached, step, patience_s, explain):
    """Step until it is reached; fail with an explanation after `patience_s`."""
    deadline_s = time.monotonic() + patience_s
    while not reached():
        assert time.monotonic() < deadline_s, explain()
        step()
