"""`dlq list|show|retry` as an operator meets them: what is counted is there, what is good now is learned once."""

import json

import pytest
import yaml

from stream_trainer.errors import Fenced
from stream_trainer.service.config import load_config
from stream_trainer.service.dead_letter_retry import retry_letters
from stream_trainer.streams.retried import Retried

GOOD = [b'{"amount": %d, "fraud": %s}' % (i, b"true" if i % 3 else b"false") for i in range(40)]
NO_AMOUNT = b'{"fraud": true, "note": "%d"}'
BAD = [*(NO_AMOUNT % i for i in range(5)), b'{broken, "api_key": "hunter2", \x1b[31m', b'{"amount": "1", "fraud": 1}']


@pytest.fixture
def config(tmp_path):
    """A run whose dead letters rotate, over good and bad records."""
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(GOOD[:20] + BAD + GOOD[20:]) + b"\n")
    run = {
        "name": "events",
        "source": {"file": {"path": str(tmp_path / "events.jsonl")}},
        "schema": {"features": {"amount": "number"}, "target": {"fraud": "binary"}},
        "batch": {"records_max": 8, "age_s_max": None},
        "models": {"mlp": {"torch": {"net": "mlp", "hidden": [4]}}},
        "checkpoint": {"directory": str(tmp_path / "state")},
        "dead_letters": {"file": str(tmp_path / "dead.jsonl"), "bytes_max": 600},
        "telemetry": None,
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


@pytest.fixture
def call(start):
    def call(*arguments):
        process = start(*arguments)
        out, _ = process.popen.communicate(timeout=120)
        assert process.popen.returncode == 0, process.log.read_text()
        return [json.loads(line) for line in out.decode().splitlines() if line.startswith("{")]

    return call


def test_letters_are_counted_shown_and_learned_once_when_the_schema_is_mended(call, config, tmp_path):
    """Five records lack a field; the schema then says that it may be absent. Full files are looked into as well."""
    call("run", config)
    assert list(tmp_path.glob("dead.jsonl.[0-9]*")), "or no full file was read"
    (counts,) = call("dlq", "list", config, "--json")
    shown = call("dlq", "show", config, "--reason", "bad_syntax")
    (one,) = call("dlq", "show", tmp_path / "dead.jsonl", "--offset", "21", "--limit", "3")
    mended = ("--set", "schema.features.amount={number: {optional: true}}")
    other_state = ("--set", f"checkpoint.directory={tmp_path / 'other'}")
    (looked,) = call("dlq", "retry", config, *mended, "--dry-run")
    assert not (tmp_path / "dead.jsonl.retried").exists()
    (first,) = call("dlq", "retry", config, *mended)
    (second,) = call("dlq", "retry", config, *mended)
    (learned,) = call("run", config, *mended, *other_state, "--set", f"source.file.path={first['file']}", "--json")
    (again,) = call("run", config, *mended, *other_state, "--set", f"source.file.path={first['file']}", "--json")

    assert 7 == counts["letters"]
    assert {"missing_feature": 5, "bad_syntax": 1, "wrong_type": 1} == {
        row["reason"]: row["letters"] for row in counts["groups"]
    }
    assert ("events.jsonl", 0, 20, 24) == tuple(
        counts["groups"][0][name] for name in ("topic", "partition", "first_offset", "last_offset")
    )
    assert [25] == [letter["offset"] for letter in shown]
    assert "hunter2" not in json.dumps(shown)
    assert "\x1b" not in shown[0]["value"]
    assert (21, '{"fraud": true, "note": "1"}') == (one["offset"], one["value"])
    assert (5, {"bad_syntax": 1, "wrong_type": 1}) == (looked["handed_back"], looked["still_bad"])
    assert (5, 0) == (first["handed_back"], first["retried_before"])
    assert (0, 5, None) == (second["handed_back"], second["retried_before"], second["file"])
    assert (5, 0) == (learned["records_learned"], learned["records_dead_lettered"])
    assert 5 == again["records_learned"], "a second run of the same file learns nothing"


def test_a_retry_that_died_before_it_marked_writes_the_same_file_again(call, config, tmp_path, monkeypatch):
    """Handed back, then marked: the crash between the two doubles nothing."""
    call("run", config)
    loaded = load_config(config, ["schema.features.amount={number: {optional: true}}"])

    class Killed(BaseException):
        pass

    def die(self, letters):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Retried, "mark", die)
        with pytest.raises(Killed):
            retry_letters(loaded)
    summary = retry_letters(loaded)

    assert 5 == summary["handed_back"]
    assert [summary["file"]] == [str(path) for path in tmp_path.glob("events.retry-*")]


def test_two_retries_at_once_are_refused(call, config, tmp_path):
    """Both would hand back the same letters."""
    call("run", config)
    with (
        Retried(tmp_path / "dead.jsonl.retried").alone(),
        pytest.raises(Fenced, match="another retry is at work"),
    ):
        retry_letters(load_config(config))
