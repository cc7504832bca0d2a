"""A compacted topic on a real Kafka, after its cleaner went over it: offsets are missing, deletions are left."""

import json
import os

import pytest
import yaml
from real_kafka import ADDRESS_VARIABLE, create_topic, producer, read_to, until

from stream_trainer.types import TopicPartition

KEYS, ROUNDS = 40, 20


def rows_of(open_source, bootstrap_servers, topic):
    source = open_source(bootstrap_servers, topic)
    source.start(None)
    ends = source.end_offsets()
    rows, positions = read_to(source, ends)
    source.close()
    assert ends == positions, "gaps are no reason to wait"
    return [(offset, value) for _, offset, value in rows]


@pytest.fixture
def compacted(bootstrap_servers, open_source):
    """(topic, its end): 40 keys written twenty times; then every second key is deleted, and the cleaner has been."""
    if os.environ.get(ADDRESS_VARIABLE):
        pytest.skip("the cleaner of a broker that is not ours comes when it likes")
    eager = {"segment_ms": 300, "min_cleanable_dirty_ratio": 0.01, "max_compaction_lag_ms": 1_000}
    topic = create_topic(bootstrap_servers, cleanup_policy="compact", delete_retention_ms=3_600_000, **eager)
    with producer(bootstrap_servers, compression_type="snappy") as client:
        for i in range(ROUNDS * KEYS):
            client.send(topic, b'{"id": %d, "y": true}' % i, key=b"%d" % (i % KEYS), partition=0)
        client.flush()
        for key in range(0, KEYS, 2):
            client.send(topic, None, key=b"%d" % key, partition=0)
        client.flush()
    rows = []

    def look():
        with producer(bootstrap_servers) as client:
            client.send(topic, b'{"id": -1, "y": true}', key=b"roll", partition=0)  # only a new record ends a segment
            client.flush()
        rows[:] = rows_of(open_source, bootstrap_servers, topic)

    # What is left: the last value of 20 keys, 20 deletions, and the records that we roll the segments with.
    until(lambda: 0 < len(rows) < 100, look, 60.0, lambda: f"{len(rows)} records are left")
    return topic, rows


def test_a_log_full_of_gaps_is_read_to_its_end(compacted, bootstrap_servers, open_source):
    """What the cleaner left, once each, in order, whatever offset in a gap we begin at."""
    topic, rows = compacted
    kept = {value for _, value in rows if value is not None}

    assert rows[0][0] > 0, "the log begins with a gap"
    assert {b'{"id": %d, "y": true}' % ((ROUNDS - 1) * KEYS + key) for key in range(1, KEYS, 2)} <= kept
    assert KEYS // 2 == sum(value is None for _, value in rows)
    assert [offset for offset, _ in rows] == sorted({offset for offset, _ in rows})
    in_a_gap = rows[5][0] - 1 if rows[5][0] - 1 != rows[4][0] else 1
    source = open_source(bootstrap_servers, topic)
    assert {TopicPartition(topic, 0): in_a_gap} == source.start({TopicPartition(topic, 0): in_a_gap})
    again, _ = read_to(source, source.end_offsets())
    assert [row for row in rows_of(open_source, bootstrap_servers, topic) if row[0] >= in_a_gap] == [
        (offset, value) for _, offset, value in again
    ]


def test_a_run_counts_what_is_left_and_skips_the_deletions(compacted, bootstrap_servers, open_source, start, tmp_path):
    """A deletion is no record to learn from, and no bad one either."""
    topic, _ = compacted
    run = {
        "name": "compacted",
        "source": {"kafka": {"bootstrap_servers": bootstrap_servers, "topic": topic}},
        "schema": {"features": {"id": "number"}, "target": {"y": "binary"}},
        "models": {"tree": {"river": {"estimator": "river.tree.HoeffdingTreeClassifier"}}},
        "checkpoint": {"directory": str(tmp_path / "state")},
        "dead_letters": {"file": str(tmp_path / "dead.jsonl")},
        "telemetry": None,
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    left = rows_of(open_source, bootstrap_servers, topic)
    code, summary = start("run", path, "--json", "--until-end").end()

    assert code == 0
    assert (0, KEYS // 2) == (summary["records_dead_lettered"], summary["records_skipped"]), json.dumps(summary)
    assert summary["records_learned"] + summary["records_skipped"] == summary["records_consumed"] <= len(left)
    assert summary["records_consumed"] < summary["next_offsets"][f"{topic}-0"] == left[-1][0] + 1
