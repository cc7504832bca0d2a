"""kill -9, for real: no record lost, none learned twice, and the state is the one that the journal gives (P2, P3)."""

import json
import re
from pathlib import Path

import pytest
import yaml
from counting_oracle import counts_of, die_again_and_again

from stream_trainer.service.config import load_config
from stream_trainer.service.rebuild import rebuild


def write_config(tmp_path: Path, **changes) -> Path:
    run = {
        "name": "killed",
        "source": {"file": {"path": "-"}},
        "schema": {"features": {"amount": "number", "country": {"category": 16}}, "target": {"fraud": "binary"}},
        "batch": {"records_max": 64, "age_s_max": 0.002},
        "checkpoint": {"directory": str(tmp_path / "state"), "every_s": 0.1},
        "dead_letters": {"file": str(tmp_path / "dead.jsonl")},
        "telemetry": {"port": 0},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run | changes))
    return path


def test_after_kill_9_the_journal_rebuilds_the_same_bits(start, tmp_path, events):
    """Batches cut by age, in two lives, a drift and a race of challengers among them: their like will not come again,
    and still the state can be computed again."""
    models = {
        "mlp": {"torch": {"net": "mlp", "hidden": [16, 8], "dropout": 0.1}},
        "tree": {"river": {"estimator": "river.tree.HoeffdingAdaptiveTreeClassifier"}},
    }
    path = write_config(tmp_path, models=models, drift={"reaction": "race"})
    other = {b"true": b"false", b"false": b"true"}  # from the middle on the opposite is true: an alarm, and a race
    turned = [re.sub(b"true|false", lambda found: other[found.group()], event) for event in events[2_000:4_000]]
    events = [*events[:2_000], *turned]
    first = start("run", path)
    for begin, end in [(0, 41), (41, 700), (700, 709), (709, 2_000), (2_000, 2_003)]:
        first.feed(events[begin:end], then_close=False)
        first.metric_reaches("stream_trainer_run_records_learned", end)
    first.metric_reaches("stream_trainer_checkpoint_last_step", 1)
    first.popen.kill()
    first.popen.wait()
    second = start("run", path, "--json")
    second.feed(events, then_close=True)
    code, summary = second.end()
    assert (0, 4_000) == (code, summary["records_learned"])

    again = start("replay", path, "--journal", tmp_path / "state", "--json")
    again.feed(events, then_close=True)
    code, rebuilt = again.end()

    assert code == 0
    assert {"step": summary["batches"], "equal": {"mlp": True, "tree": True}} == rebuilt["rebuilt"]
    assert {name: model["state_sha256"] for name, model in summary["models"].items()} == {
        name: model["state_sha256"] for name, model in rebuilt["models"].items()
    }
    assert summary["alarms"] >= 1, "or nothing raced"
    assert summary["batches"] > 4_000 / 64 + 3, "or nothing was cut by age, and a cut by count would pass, too"


@pytest.fixture
def killed(tmp_path):
    """A run over 60,000 records of a file, one in 50 of them bad, killed twenty times."""
    lines = [b"{broken" if i % 50 == 7 else json.dumps({"id": i, "y": i % 3 == 0}).encode() for i in range(60_000)]
    (tmp_path / "records.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    oracle = {"estimator": "counting_oracle.CountingClassifier", "parameters": {"records_per_s_max": 12_000}}
    path = write_config(
        tmp_path,
        source={"file": {"path": str(tmp_path / "records.jsonl")}},
        schema={"features": {"id": "number"}, "target": {"y": "binary"}},
        batch={"records_max": 16, "age_s_max": 0.001},
        models={"oracle": {"river": oracle}},
        telemetry=None,
    )
    return path, die_again_and_again(path, kills=20, seed=4, life_s_max=0.5)


def test_kills_at_random_moments_lose_no_record_and_teach_none_twice(killed, tmp_path):
    """The oracle counts each record; the journal gives the same state again."""
    path, deaths = killed
    seen, counts = counts_of(path)

    assert {(0, i): 1 for i in range(60_000) if i % 50 != 7} == seen
    assert (60_000, 58_800, 1_200) == (counts.consumed, counts.learned, counts.dead_lettered)
    assert deaths.kills >= 10  # 20 where the records last as long
    assert deaths.checkpoints_seen > 3
    assert deaths.batches_cut_again > deaths.kills
    assert {"oracle": True} == rebuild(load_config(path), tmp_path / "state")["rebuilt"]["equal"]


def test_a_rebuild_that_differs_exits_1(start, tmp_path, events):
    """Other data behind the same journal: the verdict is the point of the command."""
    path = write_config(tmp_path, models={"tree": {"river": {"estimator": "river.tree.HoeffdingTreeClassifier"}}})
    process = start("run", path)
    process.feed(events[:300], then_close=True)
    assert process.end()[0] == 0
    again = start("replay", path, "--journal", tmp_path / "state", "--json")
    again.feed(events[300:600], then_close=True)
    code, summary = again.end()

    assert code == 1
    assert {"tree": False} == summary["rebuilt"]["equal"]
