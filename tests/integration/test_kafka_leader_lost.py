"""Three real brokers; the leader dies by kill -9 while records flow, and gets its partitions back later (P2)."""

import os
import signal
import subprocess
import uuid
from contextlib import suppress

import pytest
import yaml
from group_oracle import Producer, wait_until
from kafka.errors import KafkaError
from real_kafka import PATIENCE_S, SHARED, Broker, admin, need_kafka

PREFERRED = 0
NOBODY = -1
QUICK = ("broker.session.timeout.ms=3000", "broker.heartbeat.interval.ms=500", "min.insync.replicas=2")


class Cluster(Broker):
    """Three brokers, each also a controller; the partitions have a copy on every one."""

    def __init__(self, directory):
        settings = [word for each in QUICK for word in ("--set", each)]
        self.revived: list[subprocess.Popen] = []
        super().__init__(directory, "--brokers", "3", *settings)

    def leaders(self, topic):
        """(partition, its leader, the leader it prefers); empty: we asked the dead one."""
        try:
            with admin(self.bootstrap_servers) as client:
                [found] = client.describe_topics([topic])
        except KafkaError:
            return []
        return [(each["partition_index"], each["leader_id"], each["replica_nodes"][0]) for each in found["partitions"]]

    def is_led_without(self, node, topic):
        leaders = self.leaders(topic)
        return bool(leaders) and all(leader not in (node, NOBODY) for _, leader, _ in leaders)

    def kill_node(self, node):
        os.kill(self.started["pids"][str(node)], signal.SIGKILL)

    def revive_node(self, node):
        command = [SHARED / "kafka" / "run", self.directory, self.port, "--heap", "384m", *self.options, "--node", node]
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.revived.append(process)
        assert process.stdout.readline(), f"broker {node} did not start again"

    def is_led_as_preferred(self, topic):
        """Asks for it, too: a broker that was away must have caught up first."""
        with suppress(KafkaError), admin(self.bootstrap_servers) as client:
            client.elect_leaders(PREFERRED, [topic], raise_errors=False)
        leaders = self.leaders(topic)
        return bool(leaders) and all(leader == preferred for _, leader, preferred in leaders)

    def stop(self):
        for process in self.revived:
            process.terminate()
        for process in self.revived:
            process.wait(PATIENCE_S)
            process.stdout.close()
        super().stop()


@pytest.fixture
def cluster(tmp_path):
    need_kafka()
    cluster = Cluster(tmp_path / "cluster")
    yield cluster
    cluster.stop()


@pytest.fixture
def topic(cluster):
    """Its producer sends at a steady rate until it is stopped; each record is acknowledged by two brokers."""
    name = f"cluster-{uuid.uuid4().hex[:8]}"
    producer = Producer(cluster.bootstrap_servers, name, partitions=3, records_per_s=500, seed=7, replicas=3)
    yield name, producer
    producer.stop()


def test_the_leader_dies_and_comes_back_and_every_record_counts_once(cluster, topic, start, tmp_path, monkeypatch):
    """The service goes on with the others, and goes back to the first one: it needs nobody."""
    from counting_oracle import __file__ as oracle  # group_oracle has put it on the path
    from counting_oracle import counts_of

    name, producer = topic
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(oracle), os.environ.get("PYTHONPATH", "")]))
    run = {
        "name": "cluster",
        "source": {"kafka": {"bootstrap_servers": cluster.bootstrap_servers, "topic": name, "start": "earliest"}},
        "schema": {"features": {"partition": "number", "id": "number"}, "target": {"y": "binary"}},
        "batch": {"records_max": 64, "age_s_max": 0.02},
        "models": {"oracle": {"river": {"estimator": "counting_oracle.CountingClassifier"}}},
        "checkpoint": {"directory": str(tmp_path / "state"), "every_s": 1.0},
        "dead_letters": {"file": str(tmp_path / "dead.jsonl")},
        "telemetry": {"port": 0},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    process = start("run", path, "--json")
    learned = "stream_trainer_run_records_learned"
    process.metric_reaches(learned, 500)
    wait_until(lambda: cluster.is_led_as_preferred(name), lambda: f"{cluster.leaders(name)}")

    _, dead, _ = cluster.leaders(name)[0]
    cluster.kill_node(dead)
    wait_until(lambda: cluster.is_led_without(dead, name), lambda: f"leaders: {cluster.leaders(name)}", wait_s=90)
    process.metric_reaches(learned, len(producer.sent))  # whatever was sent up to here

    cluster.revive_node(dead)
    wait_until(lambda: cluster.is_led_as_preferred(name), lambda: f"{cluster.leaders(name)}", wait_s=90)
    process.metric_reaches(learned, len(producer.sent))

    producer.stop()
    process.metric_reaches(learned, len(producer.sent))
    process.popen.send_signal(signal.SIGTERM)
    assert process.end()[0] == 0
    seen, counts = counts_of(path)
    assert dict.fromkeys(producer.sent, 1) == seen
    assert (len(producer.sent), 0) == (counts.consumed, counts.dead_lettered)
