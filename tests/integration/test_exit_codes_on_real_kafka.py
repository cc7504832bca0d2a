"""What a supervisor sees of a real Kafka's misfortunes: the exit code, and the last words in the log."""

import json
import re
import signal

import kafka
import pytest
import yaml
from real_kafka import admin, create_topic, produce


@pytest.fixture
def config(tmp_path):
    """config(bootstrap_servers, topic, **of source.kafka) -> path."""

    def write(bootstrap_servers, topic, **options):
        run = {
            "name": "codes",
            "source": {"kafka": {"bootstrap_servers": bootstrap_servers, "topic": topic, **options}},
            "schema": {"features": {"id": "number"}, "target": {"y": "binary"}},
            "batch": {"records_max": 16, "age_s_max": 0.01},
            "models": {"tree": {"river": {"estimator": "river.tree.HoeffdingTreeClassifier"}}},
            "checkpoint": {"directory": str(tmp_path / "state"), "every_s": 0.2},
            "dead_letters": {"file": str(tmp_path / "dead.jsonl")},
            "telemetry": {"port": 0},
        }
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(run))
        return path

    return write


def records(first, last, *, padding=""):
    return [json.dumps({"id": i, "y": i % 2 == 0, "padding": padding}).encode() for i in range(first, last)]


def test_a_second_instance_exits_6_and_lost_records_exit_3(start, config, bootstrap_servers):
    """6: the first goes on. 3: what it had not learned is deleted, and nobody but the operator may go on."""
    topic = create_topic(bootstrap_servers)
    path = config(bootstrap_servers, topic)
    produce(bootstrap_servers, topic, records(0, 100))
    first = start("run", path)
    first.metric_reaches("stream_trainer_run_records_learned", 100)

    second = start("run", path)
    assert second.end()[0] == 6
    assert "is in use" in second.log.read_text()
    assert first.popen.poll() is None
    first.popen.send_signal(signal.SIGTERM)
    assert first.end()[0] == 0

    produce(bootstrap_servers, topic, records(100, 200))
    with admin(bootstrap_servers) as client:
        client.delete_records({kafka.TopicPartition(topic, 0): 150})
    overtaken = start("run", path)
    assert overtaken.end()[0] == 3
    assert f"{topic}-0: we are at offset 100, its log holds offsets 150 to 200" in overtaken.log.read_text()
    code, summary = start("run", path, "--json", "--until-end", "--set", "source.kafka.lost_data=earliest").end()
    assert (0, 150) == (code, summary["records_learned"])


def test_a_log_that_grows_and_never_arrives_exits_5(start, config, line):
    """The line lets questions pass and cuts every fetch: a new consumer does not help either."""
    topic = create_topic(line.address)
    client = {"request_timeout_ms": 3_000}
    path = config(line.address, topic, client=client, stall_s_max=1.0, rebuilds_max=1)
    produce(line.address, topic, records(0, 16))
    process = start("run", path)
    process.metric_reaches("stream_trainer_run_records_learned", 16)
    with line.cut_fetches():
        produce(line.address, topic, records(16, 48, padding="x" * 4_000))
        code, _ = process.end()

    assert code == 5
    log = process.log.read_text()
    assert re.search(rf"{topic}-0: the log ends at \d+, we are at \d+, and nothing arrives for 1 s. Replacing", log)
    assert "although the consumer was replaced 1 times" in log
