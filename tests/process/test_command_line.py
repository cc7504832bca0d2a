"""The command line as scripts and supervisors meet it: signals, exit codes, the summary."""

import gzip
import json
import os
import signal
import urllib.request
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path):
    """config(**changes) -> path of a run on standard input with all kinds of models, cut by count."""

    def write(**changes) -> Path:
        run = {
            "name": "events",
            "source": {"file": {"path": "-"}},
            "schema": {
                "features": {"amount": "number", "country": {"category": 16}},
                "target": {"fraud": "binary"},
            },
            "batch": {"records_max": 32, "age_s_max": None},
            "models": {
                "mlp": {"torch": {"net": "mlp", "hidden": [16, 8], "norm": "batch_renorm", "dropout": 0.1}},
                "adam": {
                    "torch": {"net": "mlp", "hidden": [16], "norm": "layer", "optimizer": {"adam": {"lr": 0.003}}}
                },
                "tree": {"river": {"estimator": "river.tree.HoeffdingAdaptiveTreeClassifier"}},
            },
            "checkpoint": {"directory": str(tmp_path / "state"), "every_s": 0.2},
            "dead_letters": {"file": str(tmp_path / "dead.jsonl")},
            "telemetry": {"port": 0},
        }
        run |= changes
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(run))
        return path

    return write


def test_sigterm_and_a_restart_give_the_run_without_them(start, config, events, tmp_path):
    """Same counts, same scores, same state hash of every model, in every bit: kill the pod, lose nothing."""
    path = config()
    first = start("run", path, "--json", new_interpreter=True)
    first.feed(events[:6_000], then_close=False)
    first.metric_reaches("stream_trainer_run_records_learned", 2_000)
    first.popen.send_signal(signal.SIGTERM)
    code, stopped = first.end()
    assert (0, "stopped") == (code, stopped["state"])
    assert 2_000 <= stopped["records_learned"] <= 6_000

    second = start("run", path, "--json")
    second.feed(events, then_close=True)
    code, continued = second.end()
    assert code == 0
    whole = start("run", path, "--json", "--set", f"checkpoint.directory={tmp_path / 'other'}")
    whole.feed(events, then_close=True)
    code, unbroken = whole.end()
    assert code == 0

    assert unbroken["records_learned"] == 10_000
    for result in (continued, unbroken):
        result.pop("seconds")
    assert unbroken == continued


def test_the_summary_keeps_its_contract(start, config, events):
    """Scripts read these names."""
    process = start("run", config(), "--json")
    process.feed([*events[:500], b"{broken", b'{"amount": 1, "country": "NL"}'], then_close=True)
    code, summary = process.end()

    assert code == 0
    assert (502, 500, 2, 0) == tuple(
        summary[f"records_{what}"] for what in ("consumed", "learned", "dead_lettered", "skipped")
    )
    assert {"stdin-0": 502} == summary["next_offsets"]
    assert 16 == summary["batches"]
    assert summary["seconds"] > 0
    for model in summary["models"].values():
        assert {"accuracy", "log_loss", "auc", "kappa_temporal"} == model["scores"].keys()
        assert {"majority", "no_change"} == model["baselines"].keys()
        assert {"accuracy", "log_loss"} <= model["baselines"]["majority"].keys()
        assert 64 == len(model["state_sha256"])
    assert {"mlp", "adam", "tree"} == summary["models"].keys()
    dead = [json.loads(line) for line in (Path(config()).parent / "dead.jsonl").read_text().splitlines()]
    assert [(500, "bad_syntax"), (501, "missing_target")] == [(d["offset"], d["reason"]) for d in dead]


def test_replay_leaves_no_traces(start, config, events, tmp_path):
    """The same engine on a file; the live run's checkpoint, dead letters and port are not touched."""
    file = tmp_path / "events.jsonl.gz"
    file.write_bytes(gzip.compress(b"\n".join([*events[:1_000], b"{broken"])))
    process = start("replay", config(), file, "--json")
    code, summary = process.end()

    assert (0, 1_001, 1_000) == (code, summary["records_consumed"], summary["records_learned"])
    assert not (tmp_path / "state").exists()
    assert not (tmp_path / "dead.jsonl").exists()
    assert "rejected events.jsonl.gz-0@1000: bad_syntax" in process.log.read_text()


def test_csv_from_standard_input_learns_the_same(start, config, events, tmp_path):
    """The format is a matter of the source: the same values make the same model."""
    rows = [json.loads(line) for line in events[:500]]
    csv = ["amount,country,fraud", *(f"{r['amount']},{r['country']},{str(r['fraud']).lower()}" for r in rows)]
    from_csv = start("replay", config(), "-", "--format", "csv", "--json")
    from_csv.feed([line.encode() for line in csv], then_close=True)
    from_json = start("replay", config(), "-", "--json")
    from_json.feed(events[:500], then_close=True)
    (_, one), (_, other) = from_csv.end(), from_json.end()

    assert one["records_learned"] == 500
    assert [m["state_sha256"] for m in one["models"].values()] == [m["state_sha256"] for m in other["models"].values()]


def test_a_wrong_configuration_exits_2(start, config):
    """A supervisor must not restart it in a loop."""
    process = start("run", config(foo=1))
    code, _ = process.end()

    assert code == 2
    assert "foo: unknown key; known here:" in process.log.read_text()
    assert "Traceback" not in process.log.read_text()


def test_plain_batch_norm_is_refused_with_the_fix(start, config):
    """It would fail at the first batch of one, at night."""
    process = start("validate", config(), "--set", "models.mlp.torch.norm=batch")
    code, _ = process.end()

    assert code == 2
    assert "models.mlp" in process.log.read_text()
    assert "batch_renorm" in process.log.read_text()


def test_a_model_that_cannot_take_these_records_is_found_by_validate(start, config):
    """Gaussian naive Bayes wants numbers; a run would learn that from its first record."""
    models = {"bayes": {"river": {"estimator": "river.naive_bayes.GaussianNB"}}}
    process = start("validate", config(models=models))
    code, _ = process.end()

    assert code == 2
    assert "set river.categories: one_hot for linear parts" in process.log.read_text()


def test_lost_data_exits_3(start, config, events):
    """The file was cut: learning on would hide that records are gone."""
    path = config()
    first = start("run", path)
    first.feed(events[:100], then_close=True)
    assert 0 == first.end()[0]
    second = start("run", path)
    second.feed(events[:50], then_close=True)
    code, _ = second.end()

    assert code == 3
    assert "the checkpoint is at line 100" in second.log.read_text()


def test_too_many_bad_records_exit_4(start, config, events, tmp_path):
    """And what was learned before is saved."""
    limit = {"file": str(tmp_path / "dead.jsonl"), "ratio_max": 0.1, "window_records": 100}
    process = start("run", config(dead_letters=limit))
    process.feed([*events[:200], *[b"{broken"] * 100], then_close=True)
    code, _ = process.end()

    assert code == 4
    assert list((tmp_path / "state").glob("checkpoint-*"))


def test_a_second_instance_exits_6(start, config, events):
    """Two writers would teach records twice."""
    path = config()
    first = start("run", path)
    first.feed(events[:10], then_close=False)
    first.find_in_log(r"(metrics on)")
    first.metric_reaches('stream_trainer_lifecycle_state{state="RUNNING"}', 1)
    second = start("run", path)
    second.popen.stdin.close()
    code, _ = second.end()

    assert code == 6
    assert f"in use by process {first.popen.pid} on" in second.log.read_text()


def test_the_probes_answer_while_it_runs(start, config, events):
    """Alive: the loop turns. Ready: checkpoint loaded, positions known."""
    process = start("run", config())
    process.feed(events[:10], then_close=False)
    process.metric_reaches('stream_trainer_lifecycle_state{state="RUNNING"}', 1)
    port = process.find_in_log(r"metrics on http://127.0.0.1:(\d+)/")

    for probe in ("livez", "readyz"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{probe}", timeout=10) as response:
            assert (200, {"ok": True, "reasons": []}) == (response.status, json.load(response))
    assert 0 == process.end()[0]


def test_checkpoints_can_be_listed_verified_and_shown(start, config, events, tmp_path):
    """Without loading them, and with an exit code for scripts."""
    run = start("run", config())
    run.feed(events[:100], then_close=True)
    assert 0 == run.end()[0]
    state = tmp_path / "state"

    assert 0 == start("checkpoints", "list", state).end()[0]
    assert 0 == start("checkpoints", "verify", state).end()[0]
    shown = start("checkpoints", "show", state)
    out, _ = shown.popen.communicate(timeout=60)
    assert 100 == json.loads(out)["counts"]["consumed"]
    newest = sorted(state.glob("checkpoint-*"))[-1]
    (newest / "state.json").write_text("{}")
    assert 1 == start("checkpoints", "verify", state).end()[0]


def test_doctor_finds_what_a_run_would_stumble_over(start, config, tmp_path, events):
    """Above all: can the records that are there be learned?"""
    good = tmp_path / "good.jsonl"
    good.write_bytes(b"\n".join(events[:50]))
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b"\n".join([b'{"amount": "12", "country": "NL", "fraud": 1}'] * 5))
    source = {"file": {"path": str(good)}}
    assert 0 == start("doctor", config(source=source)).end()[0]

    process = start("doctor", config(source=source), "--set", f"source.file.path={bad}")
    out, _ = process.popen.communicate(timeout=60)
    assert process.popen.returncode == 1
    assert "5 rejected as wrong_type" in " ".join(out.decode().split())


def value_of(kind, i):
    """Some value of a feature of this kind, another one for another i."""
    if "category" in str(kind):
        return str(i % 7)
    return float(i % 13)


@pytest.mark.parametrize("name", ["minimal", "flights", "elec2", "river"])
def test_every_configuration_we_ship_runs(start, name, tmp_path, monkeypatch):
    """On records of its own form: a configuration that nobody runs is out of date. Arrays: test_array_records."""
    monkeypatch.chdir(tmp_path)
    path = REPOSITORY / "configs" / f"{name}.yaml"
    schema = yaml.safe_load(path.read_text())["schema"]
    (target,) = schema["target"]
    labels = {"elec2": ["DOWN", "UP"]}.get(name, [False, True])
    lines = []
    for i in range(300):
        record = {feature: value_of(kind, i) for feature, kind in schema["features"].items()}
        lines.append(json.dumps({**record, target: labels[i % 2]}).encode())
    process = start("replay", path, "-", "--json")
    process.feed(lines, then_close=True)
    code, summary = process.end()

    assert code == 0, process.log.read_text()
    assert (300, 0) == (summary["records_learned"], summary["records_dead_lettered"])


def test_the_demo_learns_every_flight_it_produced(start):
    """The whole system in one command: broker, producer, service, three models, metrics."""
    pytest.importorskip("confluent_kafka", reason="pip install 'stream-trainer[demo]'")
    process = start("demo", "--records", "3000", "--port", "0", "--json")
    code, summary = process.end()

    assert code == 0, process.log.read_text()
    assert (3_000, 0) == (summary["records_learned"], summary["records_lost"])
    assert {"mlp_adaptive", "mlp_layer", "tree"} == summary["models"].keys()


def test_control_c_leaves_the_demo_cleanly(start):
    """A terminal sends it to every process of the group: broker and producer must outlive the service."""
    pytest.importorskip("confluent_kafka", reason="pip install 'stream-trainer[demo]'")
    process = start("demo", "--port", "0", "--json", new_session=True)
    process.metric_reaches("stream_trainer_run_records_learned", 1_000)
    os.killpg(process.popen.pid, signal.SIGINT)
    code, summary = process.end()

    assert (0, "stopped") == (code, summary["state"])
    assert summary["records_learned"] >= 1_000
    assert "Traceback" not in process.log.read_text()
