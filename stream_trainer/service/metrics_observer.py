"""From the loop's events to Prometheus series. Counters per batch; whatever costs more, once a second."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from stream_trainer.checkpoints import Saved
from stream_trainer.clock import Clock
from stream_trainer.engine.drift_monitor import HasNorms
from stream_trainer.engine.lifecycle import LifecycleState
from stream_trainer.service.loop import Service
from stream_trainer.service.observers import Observer
from stream_trainer.service.sharded import ShardedService
from stream_trainer.service.standby import StandbyService
from stream_trainer.service.until_end import UntilEnd
from stream_trainer.streams.event_places import EventQueue
from stream_trainer.streams.kafka import KafkaSource
from stream_trainer.telemetry.health import Heartbeat
from stream_trainer.telemetry.metrics import Metrics
from stream_trainer.types import Counts, LayerPlasticity, Positions, StepReport

__all__ = ["HasPlasticity", "MetricsObserver"]

EVERY_S = 1.0  # scores, lags and drift scores: scraped every 15 s as a rule


@runtime_checkable
class HasPlasticity(Protocol):
    """A model whose layers can say whether they are still able to learn."""

    def plasticity(self) -> Mapping[str, LayerPlasticity]: ...


class MetricsObserver(Observer):
    """Feeds `metrics`, and the heartbeat that the watchdog and /livez judge."""

    def __init__(self, metrics: Metrics, heartbeat: Heartbeat, clock: Clock) -> None:
        self.metrics, self.heartbeat, self._clock = metrics, heartbeat, clock
        self._looked_s = -EVERY_S
        self.service: Service | None = None  # set once it exists
        self.events: EventQueue | None = None  # likewise, where one is configured

    def started(self, positions: Positions, counts: Counts) -> None:
        self.heartbeat.beat()
        self.metrics.observe_start(positions, records_learned=counts.learned)
        if self.service is not None and self.service.checkpoints is not None:
            self.metrics.checkpoints_corrupt(self.service.checkpoints.corrupt_found)
        self._look()

    def entered(self, state: LifecycleState) -> None:
        self.metrics.observe_lifecycle(state.name)
        if state in (LifecycleState.DRAINING, LifecycleState.FAILED):
            self._look()

    def stepped(self, report: StepReport, step_s: float) -> None:
        self.heartbeat.beat()
        self.metrics.observe_step(report, step_s=step_s, now_wall_s=self._clock.wall_s())
        self._look_now_and_then()  # a turn may hold many batches

    def turned(self) -> None:
        self.heartbeat.beat()
        self._look_now_and_then()

    def saved(self, saved: Saved) -> None:
        if saved.error is not None:
            self.metrics.checkpoint_failed()
            return
        self.metrics.checkpoint_saved(
            step=saved.snapshot.counts.batches,
            seconds=saved.seconds,
            n_bytes=saved.size_bytes,
            now_wall_s=self._clock.wall_s(),
        )

    def _look_now_and_then(self) -> None:
        if self._clock.monotonic_s() - self._looked_s >= EVERY_S:
            self._look()

    def _look(self) -> None:
        if self.service is None:
            return
        self._looked_s = self._clock.monotonic_s()
        source, trainer = self.service.source, self.service.trainer
        self.metrics.observe_lags(source.lags())
        if isinstance(self.service, ShardedService):
            self.metrics.observe_group(
                "member",
                partitions=len(self.service.owned),
                rebalances=self.service.group_source.rebalances,
                fences=self.service.claims.fences,
            )
        if isinstance(self.service, StandbyService):
            partitions = len(self.service.positions) if self.service.role == "active" else 0
            self.metrics.observe_group(
                self.service.role, partitions=partitions, rebalances=0, fences=self.service.fences
            )
        self.metrics.observe_scores(trainer.prequential.scores(), trainer.prequential.baselines())
        self.metrics.observe_drift_scores(trainer.drift.scores())
        self.metrics.observe_feature_rates(trainer.drift.rates())
        for name, model in trainer.models.items():
            if isinstance(model, HasNorms):
                self.metrics.observe_norms(name, model.norm_drift())
            if isinstance(model, HasPlasticity):
                self.metrics.observe_plasticity(name, model.plasticity())
        if trainer.reaction:
            self.metrics.observe_races(trainer.reaction.racing())
            self.metrics.observe_fresh_margins(trainer.reaction.fresh_margins())
        if self.events:
            self.metrics.observe_events(delivered=self.events.delivered, lost=self.events.lost)
        inner = source.inner if isinstance(source, UntilEnd) else source
        if isinstance(inner, KafkaSource):
            self.metrics.observe_source(
                rebuilds=inner.rebuilds,
                retriable_errors=inner.retriable_errors,
                lost_data=inner.lost_resets,
                corrupt_fetches=inner.corrupt_fetches,
                silent_s=inner.silent_s,
            )
