"""`stream-trainer run` against a real Kafka: from the topic to the model and back to a checkpoint, in one process."""

import json
import signal

import kafka
import pytest
import yaml
from kafka.admin import KafkaAdminClient, NewTopic


@pytest.fixture
def run_config(tmp_path, bootstrap_servers):
    """run_config(topic, **changes) -> path; batches are cut by count."""

    def write(topic, **changes):
        run = {
            "name": "events",
            "source": {"kafka": {"bootstrap_servers": bootstrap_servers, "topic": topic, "group_id": f"g-{topic}"}},
            "schema": {"features": {"amount": "number", "country": {"category": 16}}, "target": {"fraud": "binary"}},
            "batch": {"records_max": 64, "age_s_max": None},
            "models": {
                "mlp": {"torch": {"net": "mlp", "hidden": [16, 8], "norm": "batch_renorm"}},
                "tree": {"river": {"estimator": "river.tree.HoeffdingAdaptiveTreeClassifier"}},
            },
            "checkpoint": {"directory": str(tmp_path / "state"), "every_s": 0.5},
            "dead_letters": {"topic": f"{topic}-dead"},
            "telemetry": {"port": 0},
        }
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(run | changes))
        return path

    return write


@pytest.fixture
def topic(bootstrap_servers, request):
    """A topic of the test's own and one for its dead letters; `request.param`: number of partitions."""
    partitions = getattr(request, "param", 1)
    name = f"run-{request.node.name.split('[')[0][-30:]}-{partitions}".replace("_", "-")
    admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers)
    admin.create_topics([NewTopic(name, partitions, 1), NewTopic(f"{name}-dead", 1, 1)])
    admin.close()
    return name


def send(bootstrap_servers, topic, values, *, partitions=1, codec=None):
    producer = kafka.KafkaProducer(bootstrap_servers=bootstrap_servers, compression_type=codec)
    for i, value in enumerate(values):
        producer.send(topic, value, key=b"%d" % i, partition=i % partitions)
    producer.flush()
    producer.close()


def test_sigterm_and_a_restart_give_the_run_without_them(start, run_config, topic, bootstrap_servers, events, tmp_path):
    """The same counts and the same state hash, from a real log, killed gently in the middle."""
    send(bootstrap_servers, topic, events[:6_000], codec="lz4")
    path = run_config(topic)
    first = start("run", path, "--json")
    first.metric_reaches("stream_trainer_run_records_learned", 2_000)
    first.popen.send_signal(signal.SIGTERM)
    code, stopped = first.end()
    assert code == 0
    assert 2_000 <= stopped["records_learned"] <= 6_000

    send(bootstrap_servers, topic, events[6_000:], codec="zstd")
    code, continued = start("run", path, "--json", "--until-end").end()
    assert code == 0
    other = ("--set", f"checkpoint.directory={tmp_path / 'other'}")
    code, unbroken = start("run", path, "--json", "--until-end", *other).end()
    assert code == 0

    assert {f"{topic}-0": 10_000} == unbroken["next_offsets"]
    for result in (continued, unbroken):
        result.pop("seconds")
    assert unbroken == continued


@pytest.mark.parametrize("topic", [3], indirect=True)
def test_every_record_of_every_partition_is_accounted_for(start, run_config, topic, bootstrap_servers, events):
    """Learned, or on the topic of the dead letters with where it came from, or a tombstone."""
    values = [*events[:900], *[b"{broken %d" % i for i in range(60)], *[None] * 30]
    send(bootstrap_servers, topic, values, partitions=3, codec="gzip")
    code, summary = start("run", run_config(topic), "--json", "--until-end").end()

    assert code == 0
    assert (990, 900, 60, 30) == tuple(
        summary[f"records_{what}"] for what in ("consumed", "learned", "dead_lettered", "skipped")
    )
    assert {f"{topic}-{i}": 330 for i in range(3)} == summary["next_offsets"]
    consumer = kafka.KafkaConsumer(
        f"{topic}-dead", bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest", consumer_timeout_ms=5_000
    )
    dead = [next(consumer) for _ in range(60)]
    consumer.close()
    assert {b"{broken %d" % i for i in range(60)} == {record.value for record in dead}
    headers = dict(dead[0].headers)
    assert (topic.encode(), b"bad_syntax") == (headers["stream_trainer-topic"], headers["stream_trainer-reason"])
    group = kafka.KafkaConsumer(bootstrap_servers=bootstrap_servers, group_id=f"g-{topic}")
    assert 330 == group.committed(kafka.TopicPartition(topic, 0))
    group.close()


def test_doctor_reads_a_sample_of_the_real_topic(start, run_config, topic, bootstrap_servers, events):
    """The question every operator has first: will it understand my records?"""
    send(bootstrap_servers, topic, [*events[:50], json.dumps({"amount": 1}).encode()])
    process = start("doctor", run_config(topic))
    out, _ = process.popen.communicate(timeout=120)
    text = " ".join(out.decode().split())

    assert process.popen.returncode == 0, text
    assert "50 of 51 records looked at can be learned" in text
    assert "1 rejected as missing_feature" in text


def test_drift_events_reach_their_topic_once_each(start, run_config, topic, bootstrap_servers, events, tmp_path):
    """The id is the key: a run that learns the same batches again adds nothing that is new."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers)
    admin.create_topics([NewTopic(f"{topic}-drift", 1, 1)])
    admin.close()
    dearer = [json.dumps(json.loads(event) | {"amount": 500.0}).encode() for event in events[8_000:]]
    send(bootstrap_servers, topic, [*events[:8_000], *dearer])
    path = run_config(topic, events={"topic": f"{topic}-drift"})
    for directory in ("first", "again"):
        other = ("--set", f"checkpoint.directory={tmp_path / directory}")
        assert 0 == start("run", path, "--json", "--until-end", *other).end()[0]
    consumer = kafka.KafkaConsumer(
        f"{topic}-drift", bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest", consumer_timeout_ms=3_000
    )
    told = [(record.key.decode(), json.loads(record.value)) for record in consumer]
    consumer.close()

    keys = [key for key, _ in told]
    assert keys == [event["id"] for _, event in told]
    assert keys[: len(keys) // 2] == keys[len(keys) // 2 :]
    [jump] = [event for _, event in told[: len(told) // 2] if event["feature"] == "amount"]
    assert (jump["event"], jump["signal"], jump["model"]) == ("alarm", "feature", None)
    assert 8_000 < jump["positions"][f"{topic}-0"] <= 8_000 + 500
