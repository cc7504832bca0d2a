"""Three partitions of a real Kafka and a kill -9: the log never comes twice in one order, the state does."""

import yaml
from real_kafka import create_topic, producer


def send(bootstrap_servers, topic, values):
    with producer(bootstrap_servers, compression_type="lz4") as client:
        for i, value in enumerate(values):
            client.send(topic, value, partition=i % 7 % 3)
        client.flush()


def test_after_kill_9_three_partitions_are_cut_as_before(start, tmp_path, bootstrap_servers, events):
    """What waited in three queues arrives in another order after a crash; `replay --journal` proves the cut (P3)."""
    topic = create_topic(bootstrap_servers, 3)
    run = {
        "name": "events",
        "source": {"kafka": {"bootstrap_servers": bootstrap_servers, "topic": topic, "start": "earliest"}},
        "schema": {"features": {"amount": "number", "country": {"category": 16}}, "target": {"fraud": "binary"}},
        "batch": {"records_max": 64, "age_s_max": 0.01},
        "models": {
            "mlp": {"torch": {"net": "mlp", "hidden": [16, 8]}},
            "tree": {"river": {"estimator": "river.tree.HoeffdingAdaptiveTreeClassifier"}},
        },
        "checkpoint": {"directory": str(tmp_path / "state"), "every_s": 0.3},
        "dead_letters": {"file": str(tmp_path / "dead.jsonl")},
        "telemetry": {"port": 0},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    first = start("run", path)
    for begin, end in [(0, 40), (40, 900), (900, 3_000)]:
        send(bootstrap_servers, topic, events[begin:end])
        first.metric_reaches("stream_trainer_run_records_learned", end)
    first.metric_reaches("stream_trainer_checkpoint_last_step", 1)
    first.popen.kill()
    first.popen.wait()
    send(bootstrap_servers, topic, [*events[3_000:5_000], b"{broken"])
    code, summary = start("run", path, "--json", "--until-end").end()
    assert (0, 5_000, 1) == (code, summary["records_learned"], summary["records_dead_lettered"])

    code, rebuilt = start("replay", path, "--journal", tmp_path / "state", "--json").end()

    assert code == 0
    assert {"step": summary["batches"], "equal": {"mlp": True, "tree": True}} == rebuilt["rebuilt"]
    assert summary["next_offsets"] == rebuilt["next_offsets"]
