"""100,000 damaged records through the whole engine: nothing stops it, and every record is accounted for (P6)."""

import json
import random
from pathlib import Path

import numpy as np

from stream_trainer.service.config import check_config
from stream_trainer.service.wiring import assemble
from stream_trainer.streams.dead_letter_file import read_dead_letters
from stream_trainer.testing.mutate import mutate_record

N_RECORDS = 100_000
CONFIG = {
    "name": "mutated",
    "schema": {
        "features": {
            "amount": "number",
            "age": {"number": {"optional": True}},
            "country": {"category": 16},
            "city": {"category": {"buckets": 64, "optional": True}},
            "image": {"array": [2, 2]},
        },
        "target": {"kind": {"classes": ["a", "b", "c"]}},
        "record_bytes_max": 4096,
    },
    "batch": {"records_max": 500, "age_s_max": None},
    "models": {
        "mlp": {"torch": {"net": "mlp", "hidden": [8], "norm": "batch_renorm"}},
        "tree": {"river": {"estimator": "river.tree.HoeffdingTreeClassifier"}},
    },
    "telemetry": None,
}


def _records() -> list[bytes]:
    """Half of them sound, half damaged once or more."""
    rng, damage = random.Random(17), np.random.default_rng(17)
    lines = []
    for _ in range(N_RECORDS):
        record = {
            "amount": rng.gauss(0, 10),
            "age": rng.choice([None, rng.randrange(100)]),
            "country": rng.choice(["NL", "DE", 7]),
            "city": "x" * rng.randrange(9),
            "image": [[rng.random() for _ in range(2)] for _ in range(2)],
            "kind": rng.choice("abc"),
            "ignored": [1, {"a": None}],
        }
        line = json.dumps(record).encode()
        for _again in range(rng.choice([0, 0, 1, 1, 3])):
            line = mutate_record(damage, line)
        lines.append(line.replace(b"\n", b" ").replace(b"\r", b" ") or b" ")  # one line is one record
    return lines


def test_a_hundred_thousand_mutated_records_stop_nothing_and_none_is_lost(tmp_path: Path):
    """What a broken producer sends in a year, in a minute."""
    lines = _records()
    (tmp_path / "records.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    values = CONFIG | {
        "source": {"file": {"path": str(tmp_path / "records.jsonl")}},
        "dead_letters": {"file": str(tmp_path / "dead.jsonl"), "ratio_max": 1.0},
    }
    with assemble(check_config(values, "test")) as service:
        service.run()

    counts = service.counts
    assert N_RECORDS == counts.consumed
    assert counts.consumed == counts.learned + counts.dead_lettered + counts.skipped
    assert 0.2 * N_RECORDS < counts.dead_lettered < 0.8 * N_RECORDS
    dead = list(read_dead_letters(tmp_path / "dead.jsonl"))
    assert counts.dead_lettered == len(dead)
    assert all(reject.value == lines[reject.offset] for reject in dead)
    scores = service.trainer.prequential.scores()
    assert all(np.isfinite(scores[model].cumulative["log_loss"]) for model in ("mlp", "tree"))
