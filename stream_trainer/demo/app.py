"""The demo: an embedded broker, a producer of real flights, and the service of `run` between them.

The producer is told how far we are and stays a little ahead, for the embedded broker forgets what grows too old; at
the end its count is compared with ours, and a difference is said aloud.
"""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

from stream_trainer.clock import SystemClock
from stream_trainer.errors import ConfigError
from stream_trainer.service.config import RunConfig, load_config
from stream_trainer.service.guard import stop_on_signals
from stream_trainer.service.loop import Service
from stream_trainer.service.observers import Observer
from stream_trainer.service.summary import summarise
from stream_trainer.service.view import LiveView, PlainView, summary_table
from stream_trainer.service.wiring import assemble, with_embedded_broker
from stream_trainer.streams.embedded import EmbeddedBroker
from stream_trainer.streams.logged_dead_letters import LoggedDeadLetters
from stream_trainer.streams.paced_producer import PacedProducer
from stream_trainer.types import StepReport

__all__ = ["run_demo"]

log = logging.getLogger(__name__)
PARTITIONS = 1  # the order of scheduled departure is kept within a partition only


class _Feeding(Observer):
    """Tells the producer how far we are, and the service when all is learned or time is up."""

    def __init__(self, producer: PacedProducer, seconds_max: float | None) -> None:
        self._producer, self._seconds_max = producer, seconds_max
        self._started_s = time.monotonic()
        self._first_s = self._last_s = 0.0
        self._records = 0
        self.service: Service | None = None

    @property
    def records_per_s(self) -> float:
        """From the end of the first batch to the end of the last: starting up is not learning."""
        return self._records / (self._last_s - self._first_s) if self._last_s > self._first_s else 0.0

    def stepped(self, report: StepReport, step_s: float) -> None:
        self._producer.report(report.next_offsets)
        self._last_s = time.monotonic()
        if self._first_s:
            self._records += report.batch_records
        else:
            self._first_s = self._last_s

    def turned(self) -> None:
        assert self.service is not None
        learned_all = self._producer.done and self.service.counts.consumed >= self._producer.produced
        time_is_up = self._seconds_max is not None and time.monotonic() - self._started_s >= self._seconds_max
        if learned_all or time_is_up:
            self.service.request_stop()


def run_demo(
    *,
    records_max: int | None,
    seconds_max: float | None,
    rate_per_s: float | None = None,
    port: int = 9464,
    only: str | None = None,
) -> dict[str, Any]:
    """Run it, show it, print the final table; returns the summary with `records_lost`."""
    console = Console()
    config = _config(port, only)
    with EmbeddedBroker() as broker:
        config = with_embedded_broker(config, broker, partitions=PARTITIONS)
        assert config.source.kafka is not None
        with PacedProducer(
            config.source.kafka.bootstrap_servers,
            config.source.kafka.topics[0],
            partitions=PARTITIONS,
            records="stream_trainer.demo.flights:produce",
            kwargs={"records_max": records_max},
            rate_per_s=rate_per_s,
        ) as producer:
            summary = _learn(config, producer, seconds_max, console)
    return summary


def _learn(config: RunConfig, producer: PacedProducer, seconds_max: float | None, console: Console) -> dict[str, Any]:
    clock = SystemClock()
    with _view(config, console) as view:
        feeding = _Feeding(producer, seconds_max)
        started_s = time.monotonic()
        with assemble(config, dead_letters=LoggedDeadLetters(), observers=[view, feeding], clock=clock) as service:
            view.service = feeding.service = service
            with stop_on_signals(service.request_stop, stop_s_max=config.limits.stop_s_max):
                service.run()
            summary = summarise(service, name=config.name, seconds=time.monotonic() - started_s)
    prequential = service.trainer.prequential
    console.print(summary_table(prequential.scores(), prequential.baselines()))
    console.print(
        f"{summary['records_learned']:,} flights in {summary['seconds']:.1f} s, {feeding.records_per_s:,.0f} a second "
        f"through {len(config.models)} models; {summary['alarms']} drift alarms."
    )
    summary["records_per_s"] = round(feeding.records_per_s, 1)
    return summary | {"records_lost": _records_lost(producer, summary, console)}


def _records_lost(producer: PacedProducer, summary: dict[str, Any], console: Console) -> int | None:
    """Produced and never seen; None if we left before the producer was done."""
    if not producer.done:
        return None
    lost = producer.produced - summary["records_consumed"]
    if lost > 0 and summary["state"] == "stopped":
        console.print(f"[red]{lost:,} of {producer.produced:,} flights were not learned.[/]")
    return lost


@contextmanager
def _view(config: RunConfig, console: Console) -> Iterator[LiveView | PlainView]:
    clock = SystemClock()
    if not console.is_terminal:
        logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(message)s")
        logging.getLogger("stream_trainer").setLevel(logging.INFO)
        yield PlainView(clock)
        return
    handler = RichHandler(console=console, show_path=False)  # above the live table, not through it
    logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s")
    logging.getLogger("stream_trainer").setLevel(logging.INFO)
    with LiveView(clock, console, config.name) as view:
        yield view


def _config(port: int, only: str | None) -> RunConfig:
    overrides = [f"telemetry.port={port}"]
    with as_file(files("stream_trainer.demo") / "flights.yaml") as path:
        config = load_config(path, overrides)
    if only is None:
        return config
    if only not in config.models:
        raise ConfigError(f"--only {only}: known models: {', '.join(config.models)}.")
    return config.model_copy(update={"models": {only: config.models[only]}})
