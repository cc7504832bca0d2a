"""A real Prometheus scrapes a real endpoint: the values arrive, and every query and alert we ship is answered.

Needs the Debian package prometheus; skips by name without it. Everything runs on loopback ports that were free.
"""

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stream_trainer.telemetry.health import Health
from stream_trainer.telemetry.http import TelemetryServer
from stream_trainer.telemetry.metrics import Metrics
from stream_trainer.types import (
    Alarm,
    ClosedBy,
    Counts,
    Detection,
    Direction,
    LayerPlasticity,
    LearnReport,
    ModelReport,
    NormDrift,
    RaceArm,
    ReactionEvent,
    ReactionKind,
    StepReport,
    TopicPartition,
)

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = shutil.which("prometheus")
DEADLINE_S = 60.0
pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed: apt-get install prometheus")

ODD_NAME = 'flüge "a\\b"\n'  # a file name may be like this, and is then a topic


@pytest.fixture(scope="module")
def metrics():
    return Metrics(models=["mlp"], features=["distance"], signals=["error", "feature"])


@pytest.fixture(scope="module")
def prometheus(metrics, tmp_path_factory):
    """A server that scrapes `metrics` twice a second and knows our rules; yields a function that queries it."""

    def healthy():
        return Health(ok=True)

    home = tmp_path_factory.mktemp("prometheus")
    target = TelemetryServer(metrics.registry, port=0, live=healthy, ready=healthy)
    target.start()
    port = free_port()
    (home / "prometheus.yml").write_text(
        f"""
global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}
rule_files: [{DEPLOY / "prometheus" / "rules.yml"}]
scrape_configs:
  - job_name: stream-trainer
    static_configs: [{{targets: ["127.0.0.1:{target.port}"]}}]
"""
    )
    command = [
        PROMETHEUS,
        f"--config.file={home / 'prometheus.yml'}",
        f"--storage.tsdb.path={home / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:

        def get(path, **parameters):
            address = f"http://127.0.0.1:{port}{path}?{urllib.parse.urlencode(parameters)}"
            with urllib.request.urlopen(address, timeout=10) as answer:
                return json.load(answer)["data"]

        until(lambda: get("/api/v1/targets")["activeTargets"], "Prometheus answers", log=home / "log")
        yield get
    finally:
        process.terminate()
        process.wait(timeout=30)
        target.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def until(attempt, what, *, log=None):
    """The first answer that is not empty, asked for again and again until the deadline."""
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        try:
            if found := attempt():
                return found
        except OSError:
            pass  # not listening yet
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {DEADLINE_S} s" + (f"\n{log.read_text()}" if log else ""))


def observe(metrics, *, learned):
    """One batch in which everything happens that a series could tell of."""
    detection = Detection(
        index=0, direction=Direction.UP, before=0.1, after=0.4, statistic=0.3, threshold=0.2, window_records=99
    )
    report = StepReport(
        batch_records=7,
        batch_bytes=700,
        closed_by=ClosedBy.AGE,
        rejects=(),
        n_tombstones=1,
        next_offsets={TopicPartition(ODD_NAME, 0): learned},
        timestamp_ms_N=np.full(7, int(time.time() * 1000) - 300, dtype=np.int64),
        models={
            "mlp": ModelReport(
                learned=LearnReport(loss=0.5, gradient_norm=1.0, learning_rate=0.001, output_scale=0.9),
                error=2 / 7,
                predict_s=0.001,
                learn_s=0.002,
            )
        },
        alarms=(Alarm(signal="error", model="mlp", feature=None, record=learned, detection=detection),),
        counts=Counts(learned=learned),
        events=(ReactionEvent(model="mlp", kind=ReactionKind.SUSPECT, record=learned, arm=RaceArm.KEEP),),
    )
    scores = SimpleNamespace(cumulative={"accuracy": 5 / 7}, fading={"accuracy": 5 / 7, "auc": float("nan")})
    metrics.observe_step(report, step_s=0.004, now_wall_s=time.time())
    metrics.observe_scores({"mlp": scores}, {"majority": scores})
    metrics.observe_lags({TopicPartition(ODD_NAME, 0): 3})
    metrics.observe_source(rebuilds=0, retriable_errors=1, lost_data=0, corrupt_fetches=0, silent_s=0.5)
    metrics.observe_group("active", partitions=2, rebalances=1, fences=0)
    metrics.observe_drift_scores({("feature", "", "distance"): (0.1, 0.2)})
    metrics.observe_feature_rates({"distance": (0.0, 0.1)})
    metrics.observe_norms("mlp", {"norms.0": NormDrift(0.2, 0.1, 0.0, 0.5, 1.5, 1.0)})
    metrics.observe_plasticity("mlp", {"body.0": LayerPlasticity(1.1, 0.001, 5.0, 0.0, 0.1, 9.0)})
    metrics.observe_fresh_margins({"mlp": 0.1})
    metrics.observe_events(delivered=learned, lost=0)
    metrics.checkpoint_saved(step=1, seconds=0.02, n_bytes=1000, now_wall_s=time.time())


def test_values_arrive_and_every_query_of_the_dashboard_returns_something(metrics, prometheus):
    """The same path as in production: our text, their parser, their query language; no panel stays empty."""

    def value(expression):
        observe(metrics, learned=7)
        found = prometheus("/api/v1/query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else None

    assert until(lambda: value("stream_trainer_records_learned_total") or 0.0, "the first scrape") % 7 == 0
    assert until(lambda: value("stream_trainer_consumer_lag_records"), "the lag") == 3.0
    labels = prometheus("/api/v1/query", query="stream_trainer_consumer_lag_records")["result"][0]["metric"]
    assert labels["topic"] == ODD_NAME
    # Two counters, one mean: exact whatever the number of batches in the range.
    errors, learned = (
        f"increase(stream_trainer_{name}_total[10s])" for name in ("prediction_error", "records_learned")
    )
    assert until(lambda: value(f"{errors} / on () ({learned} > 0)"), "two scrapes") == pytest.approx(2 / 7)

    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(queries) > 30
    for query in (*queries, *(each["expr"] for each in dashboard["annotations"]["list"])):
        filled_in = query.replace("$__rate_interval", "10s").replace("$job", ".*").replace("$instance", ".*")
        until(lambda asked=filled_in: (observe(metrics, learned=7), found(prometheus, asked))[1], filled_in)


def found(prometheus, query):
    return prometheus("/api/v1/query", query=query)["result"]


def test_our_rules_are_loaded_evaluated_and_quiet(prometheus):
    """A healthy trainer wakes nobody; a rule that could not be evaluated would not either, so its health counts."""

    def evaluated():
        rules = [rule for group in prometheus("/api/v1/rules")["groups"] for rule in group["rules"]]
        return rules if all(rule["health"] == "ok" for rule in rules) else []

    rules = until(evaluated, "the rules are evaluated")

    assert len(rules) == 11
    assert {rule["name"] for rule in rules if rule["state"] == "firing"} == set()


def test_a_step_that_was_not_finite_raises_its_alert(metrics, prometheus):
    """From a report to an alert, through a scrape: the first event is already seen, because there was a zero before."""
    broken = ModelReport(
        learned=LearnReport(loss=float("nan"), skipped="non_finite"), error=0.0, predict_s=0, learn_s=0
    )
    report = StepReport(
        batch_records=1,
        batch_bytes=1,
        closed_by=ClosedBy.AGE,
        rejects=(),
        n_tombstones=0,
        next_offsets={},
        timestamp_ms_N=np.array([-1]),
        models={"mlp": broken},
        alarms=(),
        counts=Counts(learned=1),
    )
    until(lambda: found(prometheus, "stream_trainer_nonfinite_steps_total == 0"), "a zero was scraped")
    metrics.observe_step(report, step_s=0.001, now_wall_s=time.time())

    def raised():
        alerts = prometheus("/api/v1/alerts")["alerts"]
        return [alert for alert in alerts if alert["labels"]["alertname"] == "StreamTrainerNonFiniteLoss"]

    (alert,) = until(raised, "the alert is pending")
    assert alert["labels"]["model"] == "mlp"
    assert alert["annotations"]["runbook"].startswith("deploy/RUNBOOK.md#")
