"""From alarms to events: the same ids for the same batches, in the log and in the file."""

import json
import random

import numpy as np
import pytest

from stream_trainer.errors import ConfigError
from stream_trainer.service.config import check_config
from stream_trainer.service.events import encode, events_of
from stream_trainer.service.wiring import assemble
from stream_trainer.types import (
    Alarm,
    ClosedBy,
    Counts,
    Detection,
    Direction,
    RaceArm,
    ReactionEvent,
    ReactionKind,
    StepReport,
    TopicPartition,
)


def report(*found, timestamp_ms=1_700_000_000_000):
    return StepReport(
        batch_records=1,
        batch_bytes=1,
        closed_by=ClosedBy.AGE,
        rejects=(),
        n_tombstones=0,
        next_offsets={TopicPartition("t", 1): 8, TopicPartition("t", 0): 9},
        timestamp_ms_N=np.array([timestamp_ms]),
        models={},
        alarms=tuple(each for each in found if isinstance(each, Alarm)),
        counts=Counts(batches=17),
        events=tuple(each for each in found if isinstance(each, ReactionEvent)),
    )


def test_an_event_says_what_where_and_when():
    """Everything a reader needs who was not there; a number that JSON cannot hold is null."""
    found = Detection(
        index=0,
        direction=Direction.UP,
        before=0.1,
        after=0.4,
        statistic=float("inf"),
        threshold=0.2,
        window_records=99,
    )
    alarm = Alarm(signal="norm", model="mlp", feature=None, layer="norms.0", record=4096, detection=found)
    confirm = ReactionEvent(
        model="mlp",
        kind=ReactionKind.CONFIRM,
        record=4100,
        arm=RaceArm.FRESH,
        challenger=RaceArm.FRESH,
        margin=0.1,
        statistic=4.0,
    )
    told, done = [json.loads(encode(event)) for event in events_of(report(alarm, confirm), "r", 1_700_000_001.5)]
    where = {
        "run": "r",
        "step": 17,
        "positions": {"t-0": 9, "t-1": 8},
        "newest_record_time": "2023-11-14T22:13:20.000+00:00",
        "time": "2023-11-14T22:13:21.500+00:00",
        "model": "mlp",
    }

    assert told == where | {
        "id": "r/17/alarm/norm/mlp/norms.0/4096",
        "event": "alarm",
        "record": 4096,
        "signal": "norm",
        "feature": None,
        "layer": "norms.0",
        "direction": "up",
        "before": 0.1,
        "after": 0.4,
        "statistic": None,
        "threshold": 0.2,
        "window_records": 99,
    }
    assert done == where | {
        "id": "r/17/confirm/mlp/4100",
        "event": "confirm",
        "record": 4100,
        "arm": "fresh",
        "challenger": "fresh",
        "margin": 0.1,
        "statistic": 4.0,
    }
    assert next(events_of(report(alarm, timestamp_ms=-1), "r", 0.0))["newest_record_time"] is None


@pytest.fixture
def config(tmp_path):
    """config(directory) of a run over a file whose input jumps half-way."""
    rng = random.Random(3)
    rows = [{"x": rng.gauss(9.0 * (i > 8000), 1), "y": rng.random() < 0.5} for i in range(10_000)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def build(directory, **changes):
        run = {
            "name": "r",
            "source": {"file": {"path": str(tmp_path / "rows.jsonl")}},
            "schema": {"features": {"x": "number"}, "target": {"y": "binary"}},
            "batch": {"records_max": 256, "age_s_max": None},
            "models": {"mlp": {"torch": {"hidden": [4]}}},
            "checkpoint": {"directory": str(tmp_path / directory)},
            "telemetry": None,
            "events": {"file": str(tmp_path / "events.jsonl")},
        }
        return check_config(run | changes, "here")

    return build


def test_batches_that_are_learned_again_do_not_tell_their_events_again(config, tmp_path, caplog):
    """A crash takes a run back to its last checkpoint, here to the beginning; the file must not notice."""
    told = []
    for directory in ("first", "again"):
        with assemble(config(directory)) as service:
            service.run()
        told.append((tmp_path / "events.jsonl").read_text())
    events = [json.loads(line) for line in told[0].splitlines()]
    logged = [record.getMessage() for record in caplog.records if record.name == "stream_trainer.service.events"]

    assert told[0] == told[1]
    assert ["x"] == [event["feature"] for event in events if event["signal"] == "feature"]
    assert all(event["id"].startswith("r/") and event["positions"] for event in events)
    assert 2 * len(events) == len(logged)
    assert events[0]["id"] == json.loads(logged[0][logged[0].index(" {") :])["id"]


def test_a_topic_needs_brokers(config):
    """A file has none; the mistake is named before a record is read."""
    with (
        pytest.raises(ConfigError, match=r"events\.topic needs source\.kafka"),
        assemble(config("d", events={"topic": "drift"})),
    ):
        pass
    with pytest.raises(ConfigError, match="events: expected exactly one of file, topic"):
        config("d", events={})
