"""What a person sees while it runs: a live table on a terminal, one plain line now and then elsewhere.

Refreshed a few times a second at most, on the loop's thread; the scores are computed for the eye, not per batch.
"""

import logging
import math
from collections import deque
from collections.abc import Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stream_trainer.checkpoints import Saved
from stream_trainer.clock import Clock
from stream_trainer.engine.lifecycle import LifecycleState
from stream_trainer.evaluation import ModelScores
from stream_trainer.service.loop import Service
from stream_trainer.service.observers import Observer, describe
from stream_trainer.types import Alarm, StepReport

__all__ = ["LiveView", "PlainView", "summary_table"]

log = logging.getLogger(__name__)
SHORT = {"accuracy": "acc", "log_loss": "log-loss", "auc": "auc", "kappa_temporal": "κ-temporal"}


class _Pulse(Observer):
    """Counts what came since the last look, and says when it is time for the next."""

    every_s: float

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looked_s = clock.monotonic_s()
        self._records = self._batches = 0
        self.alarms: deque[Alarm] = deque(maxlen=5)
        self.service: Service | None = None  # set once it exists: a view is built before what it shows

    def stepped(self, report: StepReport, step_s: float) -> None:
        self._records += report.batch_records + len(report.rejects) + report.n_tombstones
        self._batches += 1
        self.alarms.extend(report.alarms)
        self._look_now_and_then()  # a turn may hold many batches

    def turned(self) -> None:
        self._look_now_and_then()

    def _look_now_and_then(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s >= self.every_s and self.service is not None:
            per_s = self._records / (now_s - self._looked_s)
            mean_batch = self._records / self._batches if self._batches else 0.0
            self._looked_s, self._records, self._batches = now_s, 0, 0
            self.show(self.service, per_s, mean_batch)

    def show(self, service: Service, records_per_s: float, batch_records_mean: float) -> None:
        raise NotImplementedError


class PlainView(_Pulse):
    """A line every few seconds, for logs and pipes."""

    every_s = 10.0

    def show(self, service: Service, records_per_s: float, batch_records_mean: float) -> None:
        scores = service.trainer.prequential.scores()
        log.info(
            "%d records, %.0f/s, lag %d, batch %.0f, %d dead letters, %d alarms; %s",
            service.counts.consumed,
            records_per_s,
            sum(service.source.lags().values()),
            batch_records_mean,
            service.counts.dead_lettered,
            service.trainer.drift.alarms,
            "; ".join(f"{name} {_line(windows.fading)}" for name, windows in scores.items()),
        )

    def saved(self, saved: Saved) -> None:
        if saved.error is None:
            log.info("checkpoint %d saved in %.2f s", saved.snapshot.counts.batches, saved.seconds)


class LiveView(_Pulse):
    """The whole state of the run on one screen. Use as a context manager around the run."""

    every_s = 0.5

    def __init__(self, clock: Clock, console: Console, title: str) -> None:
        super().__init__(clock)
        self._title, self._state = title, LifecycleState.STARTING
        self._live = Live(Text(f"{title}: starting"), console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._live.stop()

    def entered(self, state: LifecycleState) -> None:
        self._state = state
        if state is LifecycleState.DRAINING:
            self._live.update(Text(f"{self._title}: saving"), refresh=True)

    def show(self, service: Service, records_per_s: float, batch_records_mean: float) -> None:
        counts = service.counts
        head = Text.assemble(
            (f"{self._title}  ", "bold"),
            (self._state.value, "green"),
            f"   {records_per_s:,.0f} records/s   lag {sum(service.source.lags().values()):,}   "
            f"batch {batch_records_mean:,.0f}\n",
            f"{counts.learned:,} learned in {counts.batches:,} batches, {counts.dead_lettered:,} dead letters, "
            f"{service.trainer.drift.alarms:,} drift alarms",
        )
        alarms = [Text(describe(alarm), "yellow") for alarm in self.alarms]
        prequential = service.trainer.prequential
        table = summary_table(prequential.scores(), prequential.baselines())
        self._live.update(Group(head, table, *alarms), refresh=True)


def summary_table(scores: Mapping[str, ModelScores], baselines: Mapping[str, ModelScores]) -> Table:
    """Models above, baselines below; each cell the score over the whole run, then over the recent past."""
    names = list(next(iter(scores.values())).cumulative)
    title = "predicted before learned, whole run | recent"
    table = Table(box=None, header_style="dim", title=title, title_style="dim", title_justify="left")
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(SHORT.get(name, name), justify="right", no_wrap=True)
    for kind, style in ((scores, "bold"), (baselines, "dim")):
        for row, windows in kind.items():
            cells = [f"{_cell(windows.cumulative.get(n))} | {_cell(windows.fading.get(n))}" for n in names]
            table.add_row(row, *cells, style=style)
    return table


def _line(scores: Mapping[str, float]) -> str:
    return " ".join(f"{SHORT.get(name, name)} {_cell(value)}" for name, value in scores.items())


def _cell(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and math.isfinite(value) else "-"
