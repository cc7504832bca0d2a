"""From reports to series: names, zeros, units and what is never exported."""

import math
import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from stream_trainer.engine.lifecycle import LifecycleState
from stream_trainer.telemetry.metrics import STATES, Metrics
from stream_trainer.telemetry.names import METRICS, metrics_table
from stream_trainer.telemetry.series import Kind
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
    Reject,
    RejectReason,
    StepReport,
    TopicPartition,
)

FLIGHTS = TopicPartition("flights", 0)
NOW_S = 1_700_000_000.0


@pytest.fixture
def metrics():
    return Metrics(models=["mlp", "tree"], features=["distance"], signals=["error", "feature"])


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(f"stream_trainer_{name}", labels)


def model_report(*, loss=0.5, error=0.25, skipped=None):
    learned = LearnReport(loss=loss, gradient_norm=2.0, learning_rate=0.001, output_scale=0.8, skipped=skipped)
    return ModelReport(learned=learned, error=error, predict_s=0.25, learn_s=0.5)


def reject(reason):
    return Reject(
        partition=FLIGHTS, offset=3, timestamp_ms=0, key=None, value=b"?", headers=(), reason=reason, detail="a detail"
    )


def step_report(**changes):
    report = {
        "batch_records": 4,
        "batch_bytes": 100,
        "closed_by": ClosedBy.AGE,
        "rejects": (),
        "n_tombstones": 0,
        "next_offsets": {FLIGHTS: 10},
        "timestamp_ms_N": np.array([NOW_S * 1000 - 2000, NOW_S * 1000 - 500, -1, -1], dtype=np.int64),
        "models": {"mlp": model_report()},
        "alarms": (),
        "counts": Counts(batches=9, consumed=90, learned=80),
    }
    return StepReport(**{**report, **changes})


def observe(metrics, **changes):
    metrics.observe_step(step_report(**changes), step_s=0.02, now_wall_s=NOW_S)


def test_every_counter_is_zero_before_the_first_batch(metrics):
    """`rate` sees the first event only if there was a zero before it; an alert on it would come one event late."""
    counted = {sample.name for family in metrics.registry.collect() for sample in family.samples if sample.value == 0}

    assert set() == {family.name for family in METRICS if family.kind is Kind.COUNTER} - counted
    assert [0.0] * len(RejectReason) == [
        value(metrics, "records_dead_lettered_total", reason=reason.value) for reason in RejectReason
    ]
    assert value(metrics, "drift_detections_total", signal="error", model="tree", direction="up") == 0.0
    assert value(metrics, "drift_detections_total", signal="feature", model="", direction="down") == 0.0


def test_a_gauge_waits_for_its_first_value(metrics):
    """A loss of 0 before the first step would be the best loss ever seen."""
    assert value(metrics, "batch_loss", model="mlp") is None
    assert value(metrics, "checkpoint_last_success_timestamp_seconds") is None


def test_what_a_step_said_of_a_model_is_shown(metrics):
    observe(metrics)

    assert {"batch_loss": 0.5, "gradient_norm": 2.0, "learning_rate": 0.001, "output_scale": 0.8} == {
        name: value(metrics, name, model="mlp")
        for name in ("batch_loss", "gradient_norm", "learning_rate", "output_scale")
    }


def test_a_restored_run_shows_where_it_begins(metrics):
    """Whoever starts from an older checkpoint looks here first, and the stream may be quiet."""
    metrics.observe_start({FLIGHTS: 17}, records_learned=4000)

    assert value(metrics, "next_offset", topic="flights", partition="0") == 17
    assert value(metrics, "run_records_learned") == 4000
    assert value(metrics, "records_learned_total") == 0.0


def test_every_record_is_counted_in_exactly_one_place(metrics):
    """Learned, dead-lettered, skipped: the sum is what the source handed over."""
    observe(metrics)
    rejects = (reject(RejectReason.BAD_SYNTAX), reject(RejectReason.BAD_SYNTAX), reject(RejectReason.NOT_FINITE))
    observe(metrics, batch_records=2, rejects=rejects, n_tombstones=5)

    assert value(metrics, "records_learned_total") == 6.0
    assert value(metrics, "records_dead_lettered_total", reason="bad_syntax") == 2.0
    assert value(metrics, "records_dead_lettered_total", reason="not_finite") == 1.0
    assert value(metrics, "records_skipped_total") == 5.0
    assert value(metrics, "batches_total", closed_by="age") == 2.0
    assert value(metrics, "bytes_total") == 200.0


def test_a_restart_is_no_fall_of_a_counter(metrics):
    """After a crash the run's own count may fall; a counter that followed it would report a burst that never was."""
    observe(metrics, counts=Counts(learned=1000))
    observe(metrics, counts=Counts(learned=400))

    assert value(metrics, "records_learned_total") == 8.0
    assert value(metrics, "run_records_learned") == 400.0


def test_a_batch_of_rejects_alone_is_observed(metrics):
    """No record learned, no time stamp, no model asked: the position moves all the same."""
    none_N = np.empty(0, dtype=np.int64)
    observe(metrics, batch_records=0, timestamp_ms_N=none_N, models={}, rejects=(reject(RejectReason.OVERSIZE),))

    assert value(metrics, "next_offset", topic="flights", partition="0") == 10.0
    assert value(metrics, "batch_size_records_bucket", le="0.0") == 1.0
    assert value(metrics, "last_record_timestamp_seconds") is None


def test_ages_leave_out_records_without_a_time_and_do_not_trust_the_future(metrics):
    """One producer whose clock is a year ahead must not make the newest record a year young."""
    observe(metrics)
    assert value(metrics, "record_age_seconds_count") == 2.0
    assert value(metrics, "record_age_seconds_sum") == 2.5
    assert value(metrics, "last_record_timestamp_seconds") == NOW_S - 0.5

    next_year_N = np.array([(NOW_S + 3e7) * 1000], dtype=np.int64)
    observe(metrics, timestamp_ms_N=next_year_N)
    assert value(metrics, "record_age_seconds_sum") == 2.5
    assert value(metrics, "last_record_timestamp_seconds") == NOW_S


def test_the_mean_error_of_any_range_follows_from_two_counters(metrics):
    """A gauge of the last batch would weigh a batch of one like a batch of five hundred."""
    observe(metrics, batch_records=1, models={"mlp": model_report(error=1.0)})
    observe(metrics, batch_records=99, models={"mlp": model_report(error=0.0)})
    errors, learned = value(metrics, "prediction_error_total", model="mlp"), value(metrics, "records_learned_total")

    assert errors / learned == 0.01


def test_a_step_that_was_not_taken_is_counted_and_its_loss_shown(metrics):
    """NaN is the honest loss of such a batch; the counter is what alerts."""
    observe(metrics, models={"mlp": model_report(loss=math.nan, error=math.nan, skipped="non_finite")})
    observe(metrics, models={"mlp": model_report(loss=0.5, error=0.5)})

    assert value(metrics, "nonfinite_steps_total", model="mlp") == 1.0
    assert value(metrics, "nonfinite_steps_total", model="tree") == 0.0
    assert value(metrics, "prediction_error_total", model="mlp") == 2.0  # 4 records x 0.5, the NaN left out


def test_a_step_that_was_refused_is_counted_apart(metrics):
    """It is no accident of the data, but a batch too small for its optimizer."""
    for reason in ("worse", "too_few"):
        observe(metrics, models={"mlp": model_report(skipped=reason)})

    assert value(metrics, "refused_steps_total", model="mlp") == 2.0
    assert value(metrics, "refused_steps_total", model="tree") == 0.0
    assert value(metrics, "nonfinite_steps_total", model="mlp") == 0.0


def test_a_model_without_loss_shows_none(metrics):
    """A tree has no gradient; exporting 0 for it would say that it had stopped learning."""
    tree = ModelReport(learned=LearnReport(), error=0.0, predict_s=0.0, learn_s=0.0)
    observe(metrics, models={"tree": tree})

    assert value(metrics, "batch_loss", model="tree") is None
    assert value(metrics, "learning_rate", model="tree") is None
    assert value(metrics, "output_scale", model="tree") is None
    assert value(metrics, "prediction_error_total", model="tree") == 0.0


def test_an_alarm_is_counted_and_dated(metrics):
    """When and which way: the dashboard draws a line there."""
    detection = Detection(
        index=2, direction=Direction.UP, before=0.1, after=0.3, statistic=0.2, threshold=0.1, window_records=500
    )
    alarm = Alarm(signal="error", model="mlp", feature=None, record=80, detection=detection)
    observe(metrics, alarms=(alarm, alarm))

    assert value(metrics, "drift_detections_total", signal="error", model="mlp", direction="up") == 2.0
    assert value(metrics, "drift_last_detection_timestamp_seconds", signal="error") == NOW_S
    assert value(metrics, "drift_last_detection_timestamp_seconds", signal="feature") is None


def test_partitions_come_and_go(metrics):
    """A topic grows; a group hands a partition over."""
    new = TopicPartition("flights", 7)
    metrics.observe_lags({FLIGHTS: 5, new: 12})
    assert value(metrics, "consumer_lag_records", topic="flights", partition="7") == 12

    metrics.observe_lags({FLIGHTS: 4})
    assert value(metrics, "consumer_lag_records", topic="flights", partition="0") == 4
    assert value(metrics, "consumer_lag_records", topic="flights", partition="7") is None


def test_scores_keep_their_nan(metrics):
    """AUC before both classes were seen is not 0 and not 1."""
    scores = SimpleNamespace(cumulative={"accuracy": 0.75, "auc": math.nan}, fading={"accuracy": 0.5})
    metrics.observe_scores({"mlp": scores}, {"majority": SimpleNamespace(cumulative={"accuracy": 0.5}, fading={})})

    assert value(metrics, "score", model="mlp", score="accuracy", window="cumulative") == 0.75
    assert value(metrics, "score", model="mlp", score="accuracy", window="fading") == 0.5
    assert math.isnan(value(metrics, "score", model="mlp", score="auc", window="cumulative"))
    assert value(metrics, "baseline_score", baseline="majority", score="accuracy", window="cumulative") == 0.5


def test_drift_scores_stand_beside_their_thresholds(metrics):
    """A distance alone says nothing."""
    metrics.observe_drift_scores({("feature", "", "distance"): (0.3, 0.2)})

    assert value(metrics, "drift_score", signal="feature", model="", feature="distance") == 0.3
    assert value(metrics, "drift_threshold", signal="feature", model="", feature="distance") == 0.2


def test_layers_are_named_and_what_a_layer_cannot_tell_has_no_series(metrics):
    """A gauge that stands at 0 for "unknown" would look like a layer at rest."""
    drift = NormDrift(distance=0.3, usual=None, clipped=0.25, fast_share=None, shift=1.5, scale=0.9)
    metrics.observe_norms("mlp", {"norms.0": drift})

    assert value(metrics, "norm_distance", model="mlp", layer="norms.0") == 0.3
    assert value(metrics, "norm_shift", model="mlp", layer="norms.0") == 1.5
    assert value(metrics, "norm_scale", model="mlp", layer="norms.0") == 0.9
    assert value(metrics, "norm_clipped_ratio", model="mlp", layer="norms.0") == 0.25
    assert value(metrics, "norm_usual_distance", model="mlp", layer="norms.0") is None
    assert value(metrics, "norm_fast_share_ratio", model="mlp", layer="norms.0") is None


def test_signs_of_plasticity_have_their_layer_and_the_margin_its_model(metrics):
    """Weights have no dead units and units no weights: neither has a series that stands at 0 for it."""
    metrics.observe_plasticity(
        "mlp", {"body.0": LayerPlasticity(weight_ratio=1.25), "body.2": LayerPlasticity(dead=0.5)}
    )
    metrics.observe_fresh_margins({"mlp": -0.125})

    assert 1.25 == value(metrics, "weight_norm_ratio", model="mlp", layer="body.0")
    assert value(metrics, "units_dead_ratio", model="mlp", layer="body.0") is None
    assert 0.5 == value(metrics, "units_dead_ratio", model="mlp", layer="body.2")
    assert -0.125 == value(metrics, "race_fresh_margin_ratio", model="mlp")


def test_without_a_race_there_is_no_margin(metrics):
    """0 would say that a fresh network had learned exactly as well."""
    assert value(metrics, "race_fresh_margin_ratio", model="mlp") is None


def test_missing_and_unseen_shares_have_their_feature(metrics):
    """A sensor that went silent, and one that left its range, are two different calls to make."""
    metrics.observe_feature_rates({"distance": (0.5, 0.125)})

    assert value(metrics, "feature_missing_ratio", feature="distance") == 0.5
    assert value(metrics, "feature_unseen_ratio", feature="distance") == 0.125


def test_checkpoints_count_both_outcomes(metrics):
    """Failures without attempts beside them cannot be made a share."""
    metrics.checkpoint_failed()
    metrics.checkpoint_saved(step=40, seconds=0.2, n_bytes=5000, now_wall_s=NOW_S)

    assert value(metrics, "checkpoints_total", outcome="failed") == 1.0
    assert value(metrics, "checkpoints_total", outcome="saved") == 1.0
    assert value(metrics, "checkpoint_last_step") == 40.0
    assert value(metrics, "checkpoint_bytes") == 5000.0
    assert value(metrics, "checkpoint_last_success_timestamp_seconds") == NOW_S
    assert value(metrics, "checkpoint_seconds_count") == 1.0


def test_a_checkpoint_that_does_not_verify_is_counted(metrics):
    """The run goes on from an older one; without the count nobody would look at the disk."""
    metrics.checkpoints_corrupt(2)

    assert value(metrics, "checkpoints_corrupt_total") == 2.0


def test_the_source_counts_for_itself(metrics):
    """Totals are handed over, so that nothing is lost between two calls."""
    metrics.observe_source(rebuilds=1, retriable_errors=4, lost_data=0, corrupt_fetches=0, silent_s=7.0)
    metrics.observe_source(rebuilds=2, retriable_errors=4, lost_data=1, corrupt_fetches=3, silent_s=0.5)

    assert value(metrics, "source_rebuilds_total") == 2
    assert value(metrics, "source_lost_data_total") == 1
    assert value(metrics, "source_corrupt_fetches_total") == 3
    assert value(metrics, "source_silent_seconds") == 0.5
    assert value(metrics, "source_errors_total") == 4


def test_exactly_one_lifecycle_state_is_one(metrics):
    """One-hot: `max by (state)` and a table of states both work."""
    for state in STATES:
        metrics.observe_lifecycle(state)
        assert [float(each == state) for each in STATES] == [
            value(metrics, "lifecycle_state", state=each) for each in STATES
        ]


def test_the_states_are_those_of_the_engine():
    """Telemetry does not import the engine; nothing else would notice a new state."""
    assert set(STATES) == {state.name for state in LifecycleState}


def test_an_unknown_state_is_refused_with_the_known_ones(metrics):
    """It comes from our own code: better a loud error than a run in no state at all."""
    with pytest.raises(ValueError, match=r"lifecycle state is 'ASLEEP'; known states: STARTING, RUNNING"):
        metrics.observe_lifecycle("ASLEEP")


def test_a_changed_configuration_replaces_the_old_one(metrics):
    """Two config_info series at once would join every query with two runs."""
    metrics.observe_config(run="flights", config_sha256="aa")
    metrics.observe_config(run="flights", config_sha256="bb")

    assert value(metrics, "config_info", run="flights", config_sha256="aa") is None
    assert value(metrics, "config_info", run="flights", config_sha256="bb") == 1.0


def test_a_model_that_nobody_announced_is_not_taken(metrics):
    """The set of models is closed; the drop is counted, so that a forgotten announcement is found."""
    observe(metrics, models={"stranger": model_report()})

    assert value(metrics, "batch_loss", model="stranger") is None
    assert value(metrics, "label_sets_dropped_total") > 0


def test_a_scrape_says_what_the_scrape_before_it_took():
    """A collector that becomes slow must be seen, and only the next scrape can say so."""
    times_s = iter([1.0, 1.5, 2.0, 2.0])
    clock = SimpleNamespace(monotonic_s=lambda: next(times_s))
    metrics = Metrics(models=[], clock=clock)
    metrics.registry.collect()
    generate_latest(metrics.registry)

    assert "stream_trainer_collector_seconds 0.5" in generate_latest(metrics.registry).decode()


def test_two_runs_in_one_process_keep_apart_and_one_registry_takes_one_run():
    """A demo and a test share a process; silent sharing would add their numbers up."""
    assert Metrics(models=["a"]).registry is not Metrics(models=["a"]).registry

    registry = CollectorRegistry()
    Metrics(models=["a"], registry=registry)
    with pytest.raises(ValueError, match="stream_trainer_records_learned"):
        Metrics(models=["a"], registry=registry)


def exposition(metrics):
    """Everything that can appear, so that a check of it is a check of all."""
    rejects = (reject(RejectReason.BAD_UTF8),)
    observe(metrics, models={"mlp": model_report(), "tree": model_report()}, rejects=rejects)
    metrics.observe_lags({FLIGHTS: 1})
    metrics.observe_config(run="flights", config_sha256="aa")
    metrics.observe_drift_scores({("feature", "", "distance"): (0.3, 0.2)})
    metrics.checkpoint_saved(step=1, seconds=0.1, n_bytes=1, now_wall_s=NOW_S)
    scores = {"mlp": SimpleNamespace(cumulative={"accuracy": 1.0}, fading={"accuracy": 1.0})}
    metrics.observe_scores(scores, scores)
    return generate_latest(metrics.registry).decode()


def test_the_exposition_parses_and_says_what_it_means(metrics):
    """Help on every family, no series twice, our prefix on all of ours."""
    families = list(text_string_to_metric_families(exposition(metrics)))
    samples = [(sample.name, tuple(sorted(sample.labels.items()))) for f in families for sample in f.samples]

    assert len(set(samples)) == len(samples)
    assert [family.name for family in families if not family.documentation] == []
    assert {"stream_trainer", "process", "python"} == {
        re.match(r"stream_trainer|[a-z]+", family.name).group() for family in families
    }


def test_promtool_has_nothing_to_say_about_the_exposition(metrics):
    """The linter of Prometheus itself: base units, suffixes, help texts."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    lint = subprocess.run(
        [promtool, "check", "metrics"], input=exposition(metrics), capture_output=True, text=True, timeout=60
    )

    assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")


def test_a_histogram_stays_small():
    """Each bound is a series; a dozen tell a median from a tail."""
    assert [family.name for family in METRICS if len(family.buckets) > 12] == []
    assert [family.name for family in METRICS if list(family.buckets) != sorted(set(family.buckets))] == []


def test_the_table_names_every_metric_once():
    """The documentation is checked against it."""
    names = re.findall(r"^\| `(\w+)`", metrics_table(), flags=re.MULTILINE)

    assert [family.name for family in METRICS] == names
    assert len(set(names)) == len(names)


def test_a_reaction_is_counted_by_what_happened_and_who_serves_then(metrics):
    """An exchange that nobody can find afterwards would be a mystery in the scores."""
    event = ReactionEvent(model="mlp", kind=ReactionKind.CONFIRM, record=512, arm=RaceArm.FRESH)
    observe(metrics, events=(event,))
    assert value(metrics, "race_active", model="mlp") == 0.0  # before the first, so that no panel is empty
    metrics.observe_races({"mlp": True, "tree": False})

    assert value(metrics, "reactions_total", model="mlp", event="confirm", arm="fresh") == 1.0
    assert value(metrics, "reactions_total", model="mlp", event="rollback", arm="keep") == 0.0
    assert [1.0, 0.0] == [value(metrics, "race_active", model=model) for model in ("mlp", "tree")]
