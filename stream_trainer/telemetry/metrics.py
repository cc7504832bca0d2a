"""Every name we export, and the verbs that fill them: the only place where reports become Prometheus series.

Once per batch, never per record. Counters count this process and start at 0, as Prometheus expects; what the run has
seen over all restarts is a gauge. Labels hold names from the configuration, partitions and our own enumerations, never
anything from inside a record. Dashboards, alert rules and the runbook in deploy/ are checked against this file.
"""

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from itertools import product
from typing import Protocol

import numpy as np
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector

from stream_trainer import __version__
from stream_trainer.clock import Clock
from stream_trainer.telemetry.series import Family, Kind, LabelValues, SeriesStore
from stream_trainer.types import ClosedBy, Direction, ModelReport, Positions, RejectReason, StepReport

__all__ = ["METRICS", "STATES", "Metrics", "ScoreWindows", "metrics_table"]

STATES = ("STARTING", "RUNNING", "PAUSED", "DRAINING", "STOPPED", "FAILED")
LABEL_SETS_MAX = 1024  # per family, where labels are learned while running: partitions, scores, features


class ScoreWindows(Protocol):
    """What a scored model or baseline shows: score name -> value, over the whole run and over the recent past."""

    @property
    def cumulative(self) -> Mapping[str, float]: ...

    @property
    def fading(self) -> Mapping[str, float]: ...


# ---------------------------------------------------------------- the names


def _counter(name: str, help: str, *labels: str, label_sets_max: int = 0) -> Family:
    full_name = f"stream_trainer_{name}_total"
    return Family(name=full_name, kind=Kind.COUNTER, help=help, labels=labels, label_sets_max=label_sets_max)


def _gauge(name: str, help: str, *labels: str, label_sets_max: int = 0) -> Family:
    full_name = f"stream_trainer_{name}"
    return Family(name=full_name, kind=Kind.GAUGE, help=help, labels=labels, label_sets_max=label_sets_max)


def _histogram(name: str, help: str, *buckets: float) -> Family:
    return Family(name=f"stream_trainer_{name}", kind=Kind.HISTOGRAM, help=help, buckets=buckets)


# The stream: what came in, and how far behind we are.
LEARNED = _counter("records_learned", "Records the models learned from.")
DEAD_LETTERED = _counter("records_dead_lettered", "Records no model will see, by reason.", "reason")
SKIPPED = _counter("records_skipped", "Tombstones: records without a value.")
BYTES = _counter("bytes", "Bytes of record values, before decoding.")
BATCHES = _counter("batches", "Batches, by the bound that closed them.", "closed_by")
BATCH_SIZE = _histogram(
    "batch_size_records",
    "Records learned per batch; 0: all of them were rejected.",
    *(0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)
RECORD_AGE = _histogram(
    "record_age_seconds",
    "From when the log says a record was written to when it was learned.",
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 3600.0, 86400.0),
)
LAST_RECORD = _gauge("last_record_timestamp_seconds", "When the newest record of the last batch was written.")
LAST_STEP = _gauge("last_step_timestamp_seconds", "When the last batch was finished.")
NEXT_OFFSET = _gauge(
    "next_offset", "First offset not yet learned.", "topic", "partition", label_sets_max=LABEL_SETS_MAX
)
LAG = _gauge("consumer_lag_records", "Records not yet read.", "topic", "partition", label_sets_max=LABEL_SETS_MAX)
REBUILDS = _counter("source_rebuilds", "Times the consumer was thrown away and built anew because nothing came.")
SOURCE_ERRORS = _counter("source_errors", "Errors of the source that passed when it tried again.")

# Training: what a step costs and does.
STEP_SECONDS = _histogram(
    "train_step_seconds",
    "One batch through all models: predict, score, watch, learn.",
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
PREDICT_SECONDS = _counter("predict_seconds", "Time spent predicting.", "model")
LEARN_SECONDS = _counter("learn_seconds", "Time spent learning.", "model")
ERROR = _counter(
    "prediction_error",
    "Errors summed over records: wrong classes, or absolute errors. Its rate over the rate of records learned is the "
    "mean error of any range.",
    "model",
)
LOSS = _gauge("batch_loss", "Mean loss of the last batch, before its step.", "model")
GRADIENT_NORM = _gauge("gradient_norm", "Norm of the gradient of the last batch.", "model")
LEARNING_RATE = _gauge("learning_rate", "Learning rate of the last step.", "model")
NONFINITE = _counter("nonfinite_steps", "Steps not taken because loss or gradient was not finite.", "model")
RUN_LEARNED = _gauge("run_records_learned", "Records in the models by now, over all restarts; a crash sets it back.")

# Quality: prequential, predicted before learned.
SCORE = _gauge(
    "score", "Scores of a model, cumulative or fading.", "model", "score", "window", label_sets_max=LABEL_SETS_MAX
)
BASELINE = _gauge(
    "baseline_score",
    "The same scores for predictions that need no model.",
    *("baseline", "score", "window"),
    label_sets_max=LABEL_SETS_MAX,
)

# Drift: has the world moved.
DETECTIONS = _counter(
    "drift_detections",
    "Claims of a detector that a mean changed; model is empty for signals of the input.",
    *("signal", "model", "direction"),
    label_sets_max=LABEL_SETS_MAX,
)
DRIFT_SCORE = _gauge(
    "drift_score",
    "Distance from the reference, in the unit of the signal.",
    "signal",
    "feature",
    label_sets_max=LABEL_SETS_MAX,
)
DRIFT_THRESHOLD = _gauge(
    "drift_threshold", "Where the distance becomes a detection.", "signal", "feature", label_sets_max=LABEL_SETS_MAX
)
LAST_DETECTION = _gauge(
    "drift_last_detection_timestamp_seconds", "When a signal last fired.", "signal", label_sets_max=LABEL_SETS_MAX
)

# Checkpoints: how much a crash would cost.
CHECKPOINTS = _counter("checkpoints", "Attempts to save, by outcome.", "outcome")
CHECKPOINT_SECONDS = _histogram(
    "checkpoint_seconds",
    "From the copy of the state to its name on disk.",
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0),
)
CHECKPOINT_BYTES = _gauge("checkpoint_bytes", "Size of the last checkpoint.")
CHECKPOINT_STEP = _gauge("checkpoint_last_step", "Batches covered by the last checkpoint.")
CHECKPOINT_SAVED = _gauge("checkpoint_last_success_timestamp_seconds", "When the last checkpoint was complete.")
CORRUPT = _counter("checkpoints_corrupt", "Checkpoints that did not verify when they were to be loaded.")

# Ourselves.
LIFECYCLE = _gauge("lifecycle_state", "1 for the state the service is in, 0 for the others.", "state")
BUILD = _gauge(
    "build_info", "What is running; always 1.", "version", "python", "torch", "river", "kafka_python", label_sets_max=1
)
CONFIG = _gauge("config_info", "Which configuration is running; always 1.", "run", "config_sha256", label_sets_max=1)
COLLECTOR_SECONDS = _gauge("collector_seconds", "Time the scrape before this one took to collect these series.")
DROPPED = _counter("label_sets_dropped", "Updates left out because their labels were not announced.")

METRICS: tuple[Family, ...] = tuple(value for value in globals().copy().values() if isinstance(value, Family))


def metrics_table() -> str:
    """All of METRICS as a Markdown table, for the documentation.

    >>> print(metrics_table().splitlines()[2])
    | `stream_trainer_records_learned_total` | counter | | Records the models learned from. |
    """
    rows = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    for family in METRICS:
        labels = " ".join(["", *(f"`{label}`" for label in family.labels)])
        rows.append(f"| `{family.name}` | {family.kind.value} |{labels} | {family.help} |")
    return "\n".join(rows) + "\n"


# ---------------------------------------------------------------- the verbs


class Metrics:
    """Holds the series of one run and its registry. Every verb may be called from any thread.

    Args:  models, features, signals: the names in the configuration; their series start at 0 or are reserved.
           registry: where to appear; by default one of our own, so that two runs in one process stay apart.

    >>> from stream_trainer.types import TopicPartition
    >>> metrics = Metrics(models=["mlp"])
    >>> metrics.observe_lags({TopicPartition("flights", 0): 7})
    >>> metrics.registry.get_sample_value(LAG.name, {"topic": "flights", "partition": "0"})
    7
    """

    def __init__(
        self,
        *,
        models: Sequence[str],
        features: Sequence[str] = (),
        signals: Sequence[str] = (),
        registry: CollectorRegistry | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._series = SeriesStore(METRICS, dropped=DROPPED, seconds=COLLECTOR_SECONDS, clock=clock)
        self._announce(models, features, signals)
        self._describe_build()
        self.observe_lifecycle("STARTING")
        self.registry = registry if registry is not None else _own_registry()
        self.registry.register(self._series)

    # ------------------------------------------------------------ the loop

    def observe_start(self, positions: Positions, *, records_learned: int) -> None:
        """Where reading begins, and what the restored models have seen: visible before the first batch."""
        with self._series.lock:
            self._series.replace(NEXT_OFFSET, _by_partition(positions))
            self._series.set(RUN_LEARNED, records_learned)

    def observe_step(self, report: StepReport, *, step_s: float, now_wall_s: float) -> None:
        """What one turn of the loop did; all of it appears in a scrape, or none."""
        series, n = self._series, report.batch_records
        age_s_N = _ages_s(report.timestamp_ms_N, now_wall_s)
        with series.lock:
            series.add(LEARNED, n)
            if report.rejects:
                for reason, count in Counter(reject.reason for reject in report.rejects).items():
                    series.add(DEAD_LETTERED, count, reason.value)
            series.add(SKIPPED, report.n_tombstones)
            series.add(BYTES, report.batch_bytes)
            series.add(BATCHES, 1, report.closed_by.value)
            series.set(RUN_LEARNED, report.counts.learned)
            series.observe(BATCH_SIZE, n)
            series.observe(STEP_SECONDS, step_s)
            series.set(LAST_STEP, now_wall_s)
            if len(age_s_N):
                series.observe_many(RECORD_AGE, age_s_N)
                series.set(LAST_RECORD, now_wall_s - float(age_s_N.min()))
            series.replace(NEXT_OFFSET, _by_partition(report.next_offsets))
            for model, model_report in report.models.items():
                self._observe_model(model, model_report, n)
            for alarm in report.alarms:
                series.add(DETECTIONS, 1, alarm.signal, alarm.model or "", alarm.detection.direction.value)
                series.set(LAST_DETECTION, now_wall_s, alarm.signal)

    def _observe_model(self, model: str, report: ModelReport, n: int) -> None:
        series, learned = self._series, report.learned
        series.add(PREDICT_SECONDS, report.predict_s, model)
        series.add(LEARN_SECONDS, report.learn_s, model)
        series.add(ERROR, report.error * n, model)
        series.add(NONFINITE, learned.skipped == "non_finite", model)
        for family, value in (
            (LOSS, learned.loss),
            (GRADIENT_NORM, learned.gradient_norm),
            (LEARNING_RATE, learned.learning_rate),
        ):
            if value is not None:
                series.set(family, value, model)

    def observe_lags(self, lags: Positions) -> None:
        """Records not yet read; a partition that is no longer named disappears."""
        with self._series.lock:
            self._series.replace(LAG, _by_partition(lags))

    def observe_source(self, *, rebuilds: int, retriable_errors: int) -> None:
        """Totals that the source itself has counted since this process began."""
        with self._series.lock:
            self._series.set(REBUILDS, rebuilds)
            self._series.set(SOURCE_ERRORS, retriable_errors)

    # ------------------------------------------------------------ quality and drift

    def observe_scores(self, scores: Mapping[str, ScoreWindows], baselines: Mapping[str, ScoreWindows]) -> None:
        """All scores of all models and baselines, by name. NaN (not defined yet) is exported as NaN."""
        with self._series.lock:
            for family, named in ((SCORE, scores), (BASELINE, baselines)):
                for name, windows in named.items():
                    for window, values in (("cumulative", windows.cumulative), ("fading", windows.fading)):
                        for score, value in values.items():
                            self._series.set(family, value, name, score, window)

    def observe_drift_scores(self, signal: str, scores: Mapping[str, tuple[float, float]]) -> None:
        """Of one signal, feature -> (statistic, threshold); feature is "" for a signal of the whole input."""
        with self._series.lock:
            for feature, (statistic, threshold) in scores.items():
                self._series.set(DRIFT_SCORE, statistic, signal, feature)
                self._series.set(DRIFT_THRESHOLD, threshold, signal, feature)

    # ------------------------------------------------------------ the service

    def checkpoint_saved(self, *, step: int, seconds: float, n_bytes: int, now_wall_s: float) -> None:
        """Call it last, so that no gauge claims what is not on disk. `step`: batches covered."""
        with self._series.lock:
            self._series.add(CHECKPOINTS, 1, "saved")
            self._series.observe(CHECKPOINT_SECONDS, seconds)
            self._series.set(CHECKPOINT_BYTES, n_bytes)
            self._series.set(CHECKPOINT_STEP, step)
            self._series.set(CHECKPOINT_SAVED, now_wall_s)

    def checkpoint_failed(self) -> None:
        with self._series.lock:
            self._series.add(CHECKPOINTS, 1, "failed")

    def checkpoints_corrupt(self, found: int) -> None:
        """How many were passed over while looking for one to start from."""
        with self._series.lock:
            self._series.add(CORRUPT, found)

    def observe_lifecycle(self, state: str) -> None:
        """Raises: ValueError for a state that is not one of STATES."""
        if state not in STATES:
            raise ValueError(f"lifecycle state is {state!r}; known states: {', '.join(STATES)}.")
        with self._series.lock:
            self._series.replace(LIFECYCLE, {(each,): float(each == state) for each in STATES})

    def observe_config(self, *, run: str, config_sha256: str) -> None:
        with self._series.lock:
            self._series.replace(CONFIG, {(run, config_sha256): 1.0})

    # ------------------------------------------------------------ before the first batch

    def _announce(self, models: Sequence[str], features: Sequence[str], signals: Sequence[str]) -> None:
        announce = self._series.announce
        each_model = [(model,) for model in models]
        each_direction = [direction.value for direction in Direction]
        for family in (LEARNED, SKIPPED, BYTES, REBUILDS, SOURCE_ERRORS, CORRUPT, DROPPED):
            announce(family, [()])
        announce(DEAD_LETTERED, [(reason.value,) for reason in RejectReason])
        announce(BATCHES, [(closed_by.value,) for closed_by in ClosedBy])
        announce(CHECKPOINTS, [("saved",), ("failed",)])
        announce(LIFECYCLE, [(state,) for state in STATES])
        for family in (PREDICT_SECONDS, LEARN_SECONDS, ERROR, NONFINITE, LOSS, GRADIENT_NORM, LEARNING_RATE):
            announce(family, each_model)
        announce(DETECTIONS, product(signals, ("", *models), each_direction))
        announce(LAST_DETECTION, [(signal,) for signal in signals])
        for family in (DRIFT_SCORE, DRIFT_THRESHOLD):
            announce(family, product(signals, ("", *features)))

    def _describe_build(self) -> None:
        libraries = tuple(_installed(name) for name in ("torch", "river", "kafka-python"))
        with self._series.lock:
            self._series.replace(BUILD, {(__version__, platform.python_version(), *libraries): 1.0})


def _own_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)  # CPU, memory, files, and when the process began: the alert rules need it
    GCCollector(registry=registry)
    return registry


def _ages_s(timestamp_ms_N: np.ndarray, now_wall_s: float) -> np.ndarray:
    """Of the records that say when they were written. A producer whose clock is ahead writes in the future; neither an
    age below 0 nor a "newest record" of next year may follow from that."""
    if len(timestamp_ms_N) and timestamp_ms_N.min() < 0:
        timestamp_ms_N = timestamp_ms_N[timestamp_ms_N >= 0]
    return np.maximum(now_wall_s - timestamp_ms_N / 1000, 0.0)


def _by_partition(positions: Positions) -> dict[LabelValues, float]:
    return {(at.topic, str(at.partition)): value for at, value in positions.items()}


def _installed(distribution: str) -> str:
    """Read from the package's metadata: to import torch for its version would take a second."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
