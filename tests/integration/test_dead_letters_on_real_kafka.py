"""Dead letters in a topic, and back again: the run that reads the topic learns each once."""

import json
from pathlib import Path

from real_kafka import create_topic, produce

from stream_trainer.service.config import check_config
from stream_trainer.service.dead_letter_queue import count_letters, letters_of
from stream_trainer.service.dead_letter_retry import retry_letters
from stream_trainer.service.runs import run_service


def config(bootstrap_servers, topic, dead, folder: Path, record_bytes_max):
    return check_config(
        {
            "name": "events",
            "source": {"kafka": {"bootstrap_servers": bootstrap_servers, "topic": topic}},
            "schema": {
                "features": {"amount": "number"},
                "target": {"fraud": "binary"},
                "record_bytes_max": record_bytes_max,
            },
            "models": {"mlp": {"torch": {"net": "mlp", "hidden": [4]}}},
            "checkpoint": {"directory": str(folder / "state")},
            "dead_letters": {"topic": dead, "ratio_max": 1.0},
            "telemetry": None,
        },
        "test",
    )


def test_letters_go_back_to_their_partition_once_and_are_learned_once(bootstrap_servers, tmp_path):
    """Three records are too large until the limit is raised; one is beyond help. The run goes on, it does not begin."""
    topic, dead = create_topic(bootstrap_servers, partitions=2), create_topic(bootstrap_servers)
    good = [json.dumps({"amount": i, "fraud": i % 2 == 0}).encode() for i in range(10)]
    large = [json.dumps({"amount": i, "fraud": True, "note": "x" * 80}).encode() for i in range(3)]
    produce(bootstrap_servers, topic, [*good, large[0], b"{broken"], partition=0)
    produce(bootstrap_servers, topic, [*large[1:], *good], partition=1)
    narrow = config(bootstrap_servers, topic, dead, tmp_path, 60)
    wide = config(bootstrap_servers, topic, dead, tmp_path, 600)
    run_service(narrow, until_end=True)
    counts = {(row["reason"], row["partition"], row["letters"]) for row in count_letters(narrow)}
    (broken,) = letters_of(narrow, reason="bad_syntax")
    first, second = retry_letters(wide), retry_letters(wide)
    after = run_service(wide, until_end=True)

    assert {("oversize", 0, 1), ("oversize", 1, 2), ("bad_syntax", 0, 1)} == counts
    assert (topic, 0, 11, b"{broken") == (*broken.partition, broken.offset, broken.value)
    assert (3, {"bad_syntax": 1}) == (first["handed_back"], first["still_bad"])
    assert (0, 3) == (second["handed_back"], second["retried_before"])
    assert {f"{topic}-0": 13, f"{topic}-1": 14} == after["next_offsets"]
    assert (27, 23, 4) == tuple(after[f"records_{what}"] for what in ("consumed", "learned", "dead_lettered"))
