"""The only place where reports become Prometheus series: a verb for each thing that happens. The names: names.py.

Once per batch, never per record. Counters count this process and start at 0, as Prometheus expects; what the run has
seen over all restarts is a gauge.
"""

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Protocol

import numpy as np
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector

from stream_trainer import __version__
from stream_trainer.clock import Clock
from stream_trainer.telemetry import names
from stream_trainer.telemetry.announced import ROLES, STATES, announce
from stream_trainer.telemetry.series import Family, LabelValues, SeriesStore
from stream_trainer.types import (
    LayerPlasticity,
    ModelReport,
    NormDrift,
    Positions,
    StepReport,
)

__all__ = ["STATES", "Metrics", "ScoreWindows"]


class ScoreWindows(Protocol):
    """What a scored model or baseline shows: score name -> value, over the whole run and over the recent past."""

    @property
    def cumulative(self) -> Mapping[str, float]: ...

    @property
    def fading(self) -> Mapping[str, float]: ...


class Metrics:
    """Holds the series of one run and its registry. Every verb may be called from any thread.

    Args:  models, features, signals: the names in the configuration; their series start at 0 or are reserved.
           registry: where to appear; by default one of our own, so that two runs in one process stay apart.

    >>> from stream_trainer.types import TopicPartition
    >>> metrics = Metrics(models=["mlp"])
    >>> metrics.observe_lags({TopicPartition("flights", 0): 7})
    >>> metrics.registry.get_sample_value(names.LAG.name, {"topic": "flights", "partition": "0"})
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
        self._series = SeriesStore(names.METRICS, dropped=names.DROPPED, seconds=names.COLLECTOR_SECONDS, clock=clock)
        announce(self._series, models, features, signals)
        self._describe_build()
        self.observe_lifecycle("STARTING")
        self.observe_races(dict.fromkeys(models, False))
        self.registry = registry if registry is not None else _own_registry()
        self.registry.register(self._series)

    # ------------------------------------------------------------ the loop

    def observe_start(self, positions: Positions, *, records_learned: int) -> None:
        """Where reading begins, and what the restored models have seen: visible before the first batch."""
        with self._series.lock:
            self._series.replace(names.NEXT_OFFSET, _by_partition(positions))
            self._series.set(names.RUN_LEARNED, records_learned)

    def observe_step(self, report: StepReport, *, step_s: float, now_wall_s: float) -> None:
        """What one turn of the loop did; all of it appears in a scrape, or none."""
        series, n = self._series, report.batch_records
        age_s_N = _ages_s(report.timestamp_ms_N, now_wall_s)
        with series.lock:
            series.add(names.LEARNED, n)
            if report.rejects:
                for reason, count in Counter(reject.reason for reject in report.rejects).items():
                    series.add(names.DEAD_LETTERED, count, reason.value)
            series.add(names.SKIPPED, report.n_tombstones)
            series.add(names.BYTES, report.batch_bytes)
            series.add(names.BATCHES, 1, report.closed_by.value)
            series.set(names.RUN_LEARNED, report.counts.learned)
            series.observe(names.BATCH_SIZE, n)
            series.observe(names.STEP_SECONDS, step_s)
            series.set(names.LAST_STEP, now_wall_s)
            if len(age_s_N):
                series.observe_many(names.RECORD_AGE, age_s_N)
                series.set(names.LAST_RECORD, now_wall_s - float(age_s_N.min()))
            series.replace(names.NEXT_OFFSET, _by_partition(report.next_offsets))
            for model, model_report in report.models.items():
                self._observe_model(model, model_report, n)
            for alarm in report.alarms:
                series.add(names.DETECTIONS, 1, alarm.signal, alarm.model or "", alarm.detection.direction.value)
                series.set(names.LAST_DETECTION, now_wall_s, alarm.signal)
            for event in report.events:
                series.add(names.REACTIONS, 1, event.model, event.kind.value, event.arm.value)
                series.set(names.LAST_REACTION, now_wall_s, event.model, event.kind.value)

    def _observe_model(self, model: str, report: ModelReport, n: int) -> None:
        series, learned = self._series, report.learned
        series.add(names.PREDICT_SECONDS, report.predict_s, model)
        series.add(names.LEARN_SECONDS, report.learn_s, model)
        series.add(names.ERROR, report.error * n, model)
        series.add(names.NONFINITE, learned.skipped == "non_finite", model)
        series.add(names.REFUSED, learned.skipped in ("worse", "too_few"), model)
        known = {
            names.LOSS: learned.loss,
            names.GRADIENT_NORM: learned.gradient_norm,
            names.LEARNING_RATE: learned.learning_rate,
            names.OUTPUT_SCALE: learned.output_scale,
        }
        self._set_known(known, model)

    def _set_known(self, values: Mapping[Family, float | None], *labels: str) -> None:
        """None: not known this time; what was known stays. The caller holds the lock."""
        for family, value in values.items():
            if value is not None:
                self._series.set(family, value, *labels)

    def observe_lags(self, lags: Positions) -> None:
        """Records not yet read; a partition that is no longer named disappears."""
        with self._series.lock:
            self._series.replace(names.LAG, _by_partition(lags))

    def observe_group(self, role: str, *, partitions: int, rebalances: int, fences: int) -> None:
        """Our part in a group, and totals that its source has counted since this process began."""
        with self._series.lock:
            for name in ROLES:
                self._series.set(names.GROUP_ROLE, name == role, name)
            self._series.set(names.GROUP_PARTITIONS, partitions)
            self._series.set(names.REBALANCES, rebalances)
            self._series.set(names.FENCES, fences)

    def observe_source(
        self, *, rebuilds: int, retriable_errors: int, lost_data: int, corrupt_fetches: int, silent_s: float
    ) -> None:
        """Totals that the source itself has counted since this process began."""
        with self._series.lock:
            self._series.set(names.REBUILDS, rebuilds)
            self._series.set(names.SOURCE_ERRORS, retriable_errors)
            self._series.set(names.LOST_DATA, lost_data)
            self._series.set(names.CORRUPT_FETCHES, corrupt_fetches)
            self._series.set(names.SILENT, silent_s)

    # ------------------------------------------------------------ quality and drift

    def observe_scores(self, scores: Mapping[str, ScoreWindows], baselines: Mapping[str, ScoreWindows]) -> None:
        """All scores of all models and baselines, by name. NaN (not defined yet) is exported as NaN."""
        with self._series.lock:
            for family, named in ((names.SCORE, scores), (names.BASELINE, baselines)):
                for name, windows in named.items():
                    for window, values in (("cumulative", windows.cumulative), ("fading", windows.fading)):
                        for score, value in values.items():
                            self._series.set(family, value, name, score, window)

    def observe_drift_scores(self, scores: Mapping[tuple[str, str, str], tuple[float, float]]) -> None:
        """(signal, model, feature) -> (statistic, threshold); model and feature are "" where a signal has none."""
        with self._series.lock:
            for labels, (statistic, threshold) in scores.items():
                self._series.set(names.DRIFT_SCORE, statistic, *labels)
                self._series.set(names.DRIFT_THRESHOLD, threshold, *labels)

    def observe_feature_rates(self, rates: Mapping[str, tuple[float, float]]) -> None:
        """Feature -> (missing, unseen) shares of its recent window."""
        with self._series.lock:
            for feature, (missing, unseen) in rates.items():
                self._series.set(names.MISSING_RATIO, missing, feature)
                self._series.set(names.UNSEEN_RATIO, unseen, feature)

    def observe_norms(self, model: str, layers: Mapping[str, NormDrift]) -> None:
        """The normalisation layers of one model after its last batch."""
        with self._series.lock:
            for layer, drift in layers.items():
                known = {
                    names.NORM_DISTANCE: drift.distance,
                    names.NORM_USUAL: drift.usual,
                    names.NORM_FAST_SHARE: drift.fast_share,
                    names.NORM_SHIFT: drift.shift,
                    names.NORM_SCALE: drift.scale,
                    names.NORM_CLIPPED: drift.clipped,
                }
                self._set_known(known, model, layer)

    def observe_plasticity(self, model: str, layers: Mapping[str, LayerPlasticity]) -> None:
        """The layers of one model, as last measured."""
        with self._series.lock:
            for layer, signs in layers.items():
                known = {
                    names.WEIGHT_RATIO: signs.weight_ratio,
                    names.UPDATE_RATIO: signs.update_ratio,
                    names.STABLE_RANK: signs.stable_rank,
                    names.DEAD_RATIO: signs.dead,
                    names.DORMANT_RATIO: signs.dormant,
                    names.EFFECTIVE_RANK: signs.effective_rank,
                }
                self._set_known(known, model, layer)

    def observe_fresh_margins(self, margins: Mapping[str, float]) -> None:
        """Per model that has raced: the share of its loss that a new network saved in the end."""
        with self._series.lock:
            for model, margin in margins.items():
                self._series.set(names.FRESH_MARGIN, margin, model)

    def observe_races(self, racing: Mapping[str, bool]) -> None:
        """Per model: is it racing challengers?"""
        with self._series.lock:
            for model, races in racing.items():
                self._series.set(names.RACE_ACTIVE, float(races), model)

    def observe_events(self, *, delivered: int, lost: int) -> None:
        """Totals of this process, as the queue of events has counted them."""
        with self._series.lock:
            self._series.set(names.EVENTS, delivered, "delivered")
            self._series.set(names.EVENTS, lost, "lost")

    # ------------------------------------------------------------ the service

    def checkpoint_saved(self, *, step: int, seconds: float, n_bytes: int, now_wall_s: float) -> None:
        """Call it last, so that no gauge claims what is not on disk. `step`: batches covered."""
        with self._series.lock:
            self._series.add(names.CHECKPOINTS, 1, "saved")
            self._series.observe(names.CHECKPOINT_SECONDS, seconds)
            self._series.set(names.CHECKPOINT_BYTES, n_bytes)
            self._series.set(names.CHECKPOINT_STEP, step)
            self._series.set(names.CHECKPOINT_SAVED, now_wall_s)

    def checkpoint_failed(self) -> None:
        with self._series.lock:
            self._series.add(names.CHECKPOINTS, 1, "failed")

    def checkpoints_corrupt(self, found: int) -> None:
        """How many were passed over while looking for one to start from."""
        with self._series.lock:
            self._series.add(names.CORRUPT, found)

    def observe_lifecycle(self, state: str) -> None:
        """Raises: ValueError for a state that is not one of STATES."""
        if state not in STATES:
            raise ValueError(f"lifecycle state is {state!r}; known states: {', '.join(STATES)}.")
        with self._series.lock:
            self._series.replace(names.LIFECYCLE, {(each,): float(each == state) for each in STATES})

    def observe_config(self, *, run: str, config_sha256: str) -> None:
        with self._series.lock:
            self._series.replace(names.CONFIG, {(run, config_sha256): 1.0})

    def _describe_build(self) -> None:
        libraries = tuple(_installed(name) for name in ("torch", "river", "kafka-python"))
        with self._series.lock:
            self._series.replace(names.BUILD, {(__version__, platform.python_version(), *libraries): 1.0})


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
