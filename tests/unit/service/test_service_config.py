"""Every mistake in a configuration is answered with its path, what came, and what is known there."""

import json
from pathlib import Path

import pytest

from stream_trainer.errors import ConfigError
from stream_trainer.schema import TargetKind
from stream_trainer.service.config import check_config, json_schema, load_config
from stream_trainer.service.config_text import read_config_text, redacted
from stream_trainer.service.runs import readable
from stream_trainer.service.wiring import _build_dead_letters
from stream_trainer.types import Reject, RejectReason, TopicPartition

MINIMAL = """
name: m
source: {kafka: {bootstrap_servers: localhost:9092, topic: events}}
schema:
  features: {amount: number, age: {number: {optional: true}}, country: {category: 16}, image: {array: [2, 3]}}
  target: {fraud: binary}
models: {mlp: {torch: {net: mlp, norm: layer}}}
"""

LETTER = {
    "partition": TopicPartition("events", 0),
    "timestamp_ms": -1,
    "key": None,
    "value": b"{broken",
    "headers": (),
    "reason": RejectReason.BAD_SYNTAX,
    "detail": "",
}


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return write


def test_the_short_forms_mean_what_they_say(write):
    """The forms that the README shows."""
    config = load_config(write(MINIMAL))
    schema = config.schema_.build()

    assert ("events",) == config.source.kafka.topics
    assert [("amount", False), ("age", True)] == [(f.name, f.optional) for f in schema.numbers]
    assert [("country", 16)] == [(f.name, f.buckets) for f in schema.categories]
    assert [("image", (2, 3), None)] == [(f.name, f.shape, f.bytes) for f in schema.arrays]
    assert (TargetKind.CLASSES, ("0", "1")) == (schema.target.kind, schema.target.classes)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "foo=1",
            "foo: unknown key; known here: batch, checkpoint, dead_letters, drift, events, limits, models, name, ",
        ),
        (
            "batch.records_mx=1",
            "batch.records_mx: unknown key; known here: age_s_max, bytes_max, growth, records_max, ",
        ),
        ("batch.growth.stat=1", "batch.growth.stat: unknown key; known here: over_records, start"),
        (
            "models.mlp.torch.hiden=[1]",
            "models.mlp.torch.hiden: unknown key; known here: activation, blocks, calibrated, channels, ",
        ),
        ("batch.records_max=0", "batch: batch.records_max is 0; it must be at least 1."),
        ("telemetry.port=99999", "telemetry.port: Input should be less than or equal to 65535; found 99999"),
        ("schema.target.fraud=yesno", "schema.target.fraud: expected binary, number or {classes: [a, b, ...]}; found "),
        ("schema.features.fraud=number", "schema.target: 'fraud' is also a feature: the models would be shown the "),
        (
            "schema.features.image.array={size: [2]}",
            "schema.features.image.array.size: unknown key; known here: bytes, ",
        ),
        (
            "schema.features.image.array={shape: [2], bytes: int8}",
            "array.bytes: Input should be 'uint8' or 'float32'; ",
        ),
        ("schema.features.image.array=[]", "schema.features.image: array shape []; expected sizes of 1 or more."),
        ("schema.features.x={number: {}, category: 3}", "expected exactly one of number, category, array"),
        ("models.mlp.river={estimator: a.b}", "models.mlp: expected exactly one of torch, river"),
        ("source.file.path=a.csv", "source: expected exactly one of kafka, file"),
        ("source.kafka.client.enable_auto_commit=true", "committing before the model is saved would lose records"),
    ],
)
def test_a_wrong_key_or_value_is_answered_with_its_path(write, override, line):
    """Whoever reads the message should know which line to change, and to what."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(MINIMAL), [override])

    assert line in str(caught.value)


def test_all_problems_are_listed_at_once(write):
    """Nobody wants to mend one mistake per start."""
    with pytest.raises(ConfigError, match=r"2 problem\(s\)"):
        load_config(write(MINIMAL), ["foo=1", "telemetry.port=-1"])


def test_variables_are_substituted_after_parsing(write, monkeypatch):
    """A variable must not be able to add a key, whatever it holds."""
    monkeypatch.setenv("ST_NAME", "a: {b: 1}")
    path = write("x: ${ST_NAME}\ny: ${ST_ABSENT:-7}\nz: $${ST_NAME}")

    assert {"x": "a: {b: 1}", "y": "7", "z": "${ST_NAME}"} == read_config_text(path)


def test_a_missing_variable_is_named_with_its_place(write, monkeypatch):
    """An empty password would be tried for hours."""
    monkeypatch.delenv("ST_ABSENT", raising=False)
    with pytest.raises(ConfigError) as caught:
        read_config_text(write("a: {b: ['${ST_ABSENT}']}"))

    assert "a.b.0: the environment variable ST_ABSENT is not set. Set it, or write ${ST_ABSENT:-default}." == str(
        caught.value
    )


def test_secrets_appear_nowhere(write, monkeypatch):
    """Not in `validate`, not in an error about their neighbour, not in the repr that a log line might hold."""
    monkeypatch.setenv("ST_PASSWORD", "hunter2")
    path = write(MINIMAL)
    client = "source.kafka.client={sasl_plain_password: '${ST_PASSWORD}', ssl_password: hunter2, client_id: me}"
    config = load_config(path, [client])

    assert "hunter2" == config.source.kafka.client["sasl_plain_password"]
    assert "hunter2" not in readable(config)
    assert "client_id: me" in readable(config)
    assert "hunter2" not in repr(config)
    with pytest.raises(ConfigError) as caught:
        load_config(path, [client, "source.kafka.topix=a", "source.kafka.client.sasl_plain_password=[hunter2]"])
    assert "hunter2" not in str(caught.value)
    assert {"api_key": "(hidden)", "list": [{"token": "(hidden)"}]} == redacted(
        {"api_key": "x", "list": [{"token": "y"}]}
    )


def test_a_file_that_is_no_mapping_is_refused(write):
    """YAML makes a string of almost anything."""
    with pytest.raises(ConfigError, match="expected a mapping with the keys of a run, found str"):
        load_config(write("just words"))
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(write("a: ["))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(Path("no/such/file.yaml"))


def test_set_needs_a_path_and_a_value(write):
    """And must not write through a value."""
    with pytest.raises(ConfigError, match=r"expected key\.key=value"):
        load_config(write(MINIMAL), ["batch"])
    with pytest.raises(ConfigError, match="name is a value, not a mapping"):
        load_config(write(MINIMAL), ["name.x=1"])


def test_what_makes_saved_state_meaningless_changes_the_identity(write):
    """Other weights, other meaning; how batches are cut or where files lie may change between two starts."""
    path = write(MINIMAL)
    ours = load_config(path).identity()

    assert {"schema", "drift", "scores", "models.mlp"} == ours.keys()
    same = ["batch.records_max=9", "telemetry.port=0", "checkpoint.directory=x", "schema.record_bytes_max=99"]
    same += ["drift.reaction=none", "schema.features.image.array={shape: [2, 3], bytes: uint8}"]
    assert ours == load_config(path, same).identity()
    for override, part in [
        ("models.mlp.torch.norm=rms", "models.mlp"),
        ("schema.features.amount={category: 2}", "schema"),
        ("schema.features.image.array=[3, 2]", "schema"),
        ("scores.half_life_records=3", "scores"),
        ("drift.error=none", "drift"),
    ]:
        theirs = load_config(path, [override]).identity()
        assert [part] == [name for name in ours if ours[name] != theirs[name]]


def test_the_json_schema_describes_the_file():
    """Editors complete and check with it."""
    schema = json_schema()

    assert {"name", "source", "schema", "models"} == set(schema["required"])
    assert json.loads(json.dumps(schema)) == schema


def test_the_example_of_the_design_is_accepted():
    """Written by others against the contract: it must stay readable."""
    config = check_config(
        {
            "name": "flights",
            "source": {"kafka": {"bootstrap_servers": "embedded", "topic": "flights", "start": "earliest"}},
            "schema": {
                "features": {"distance": "number", "carrier": {"category": 32}},
                "target": {"delayed": {"classes": ["a", "b", 3]}},
            },
            "batch": {"records_max": 256, "age_s_max": 0.2},
            "models": {
                "mlp": {"torch": {"net": "mlp", "hidden": [128, 64], "optimizer": {"adamw": {"lr": 1.0e-3}}}},
                "tree": {"river": {"estimator": "river.tree.HoeffdingAdaptiveTreeClassifier"}},
            },
            "drift": {"error": "adwin"},
            "checkpoint": {"directory": "state/flights", "every_s": 30, "keep": 5},
            "dead_letters": {"file": "state/dead_letters.jsonl", "ratio_max": 0.5, "window_records": 10000},
            "telemetry": {"address": "127.0.0.1", "port": 9464},
        },
        "design",
    )

    assert ("a", "b", "3") == config.schema_.build().target.classes
    assert (128, 64) == config.models["mlp"].torch.hidden


def test_the_size_of_the_dead_letters_can_be_set(write, tmp_path):
    """A disk may be smaller than the 1 GiB that the defaults can fill."""
    path = write(MINIMAL + f"dead_letters: {{file: {tmp_path}/dead.jsonl, bytes_max: 1, files_max: 2}}\n")
    letters = _build_dead_letters(load_config(path))
    letters.write([Reject(**LETTER, offset=offset) for offset in range(5)])
    letters.close()

    assert ["dead.jsonl", "dead.jsonl.4", "dead.jsonl.5"] == sorted(p.name for p in tmp_path.glob("dead*"))
