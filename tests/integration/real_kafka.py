"""A real Apache Kafka as a process, a line to it that can be disturbed, and what fills and reads its topics.

Helpers, no fixtures (those are in conftest.py): a module with a name of its own can be imported by every test and
script, while `conftest` means whichever folder was collected last.
"""

import json
import os
import random
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

__all__ = [
    "ADDRESS_VARIABLE",
    "PASSWORD",
    "PATIENCE_S",
    "PROXY",
    "SHARED",
    "USER",
    "Broker",
    "Line",
    "SharedBroker",
    "admin",
    "broker_behind_a_line",
    "create_topic",
    "disturbed_line",
    "free_port",
    "need_kafka",
    "produce",
    "producer",
    "read_to",
    "until",
]

SHARED = Path(__file__).parents[3] / "shared"
PROXY = SHARED / "toxiproxy" / "toxiproxy-server"
ADDRESS_VARIABLE = "STREAM_TRAINER_TEST_KAFKA"
PATIENCE_S = 30.0
USER, PASSWORD = "trainer", "correct-horse"


class Broker:
    """One broker process tree; `kill` and `start` again is a crash and a recovery."""

    def __init__(self, directory, *options, port=None):
        self.directory, self.options = directory, options
        self.port = port or free_port()
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


class SharedBroker(Broker):
    """One for all tests that do no harm to it: plain, by TLS and password, and at the end of a line (`LINE`).

    Everybody who comes without a password may do everything; `USER` may do what no ACL denies.
    """

    def __init__(self, directory):
        port, self.line_listens = free_port(), free_port()
        self.line_ends = port + 1
        places = {"PLAINTEXT": port, "SECURE": port + 20, "LINE": self.line_ends, "CONTROLLER": port + 10}
        announced = {"PLAINTEXT": port, "SECURE": port + 20, "LINE": self.line_listens}
        settings = {
            "listeners": _listeners(places),
            "advertised.listeners": _listeners(announced),
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LINE:PLAINTEXT,SECURE:SASL_SSL",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "true",
            "log.cleaner.backoff.ms": 200,  # compaction: soon
            "group.min.session.timeout.ms": 1_000,  # a member may be declared dead within a second
        }
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        super().__init__(directory, "--sasl", f"{USER}:{PASSWORD}", "--tls", *words, port=port)

    def credentials(self, password=PASSWORD):
        """`client` of a source that comes by TLS as `USER`."""
        return {
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": USER,
            "sasl_plain_password": password,
            "ssl_cafile": self.started["secure"]["ca_file"],
        }

    @property
    def secure_servers(self):
        return self.started["secure"]["bootstrap_servers"]


def _listeners(ports):
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())


def free_port():
    """A port that three brokers can begin at: controllers (+10) and secure listeners (+20) take neighbours, too.

    Below those that the system gives to outgoing connections: one of these took a controller's place before it started.
    """
    chance = random.SystemRandom()
    while True:
        port = chance.randrange(10_240, 32_000)
        if all(_is_free(port + step + node) for step in (0, 10, 20) for node in range(3)):
            return port


def _is_free(port):
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the broker does
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def need_kafka():
    if not (SHARED / "kafka" / "run").exists() or shutil.which("java") is None:
        pytest.skip(f"no Kafka: set {ADDRESS_VARIABLE}=host:port, or put one with Java 17 at ../shared/kafka")


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
    """A broker of its own that sends its clients to a proxy; yields the `Line`."""
    listen = free_port()
    broker = Broker(directory, "--set", f"advertised.listeners=PLAINTEXT://127.0.0.1:{listen}")
    try:
        with disturbed_line(listen, broker.port) as line:
            yield line
    finally:
        broker.stop()


@contextmanager
def disturbed_line(listen, upstream):
    """A proxy between two ports; yields the `Line`."""
    control = free_port()
    with subprocess.Popen(
        [PROXY, "-host", "127.0.0.1", "-port", str(control)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as proxy:
        line = Line(f"http://127.0.0.1:{control}", f"127.0.0.1:{listen}")
        created = threading.Event()

        def create():
            try:
                line.ask("/proxies", {
                    "name": "k", "listen": line.address, "upstream": f"127.0.0.1:{upstream}", "enabled": True,
                })  # fmt: skip
                created.set()
            except OSError:  # it is not up yet
                created.wait(0.05)

        try:
            until(created.is_set, create, 10.0, lambda: "the proxy did not start")
            yield line
        finally:
            proxy.terminate()


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
