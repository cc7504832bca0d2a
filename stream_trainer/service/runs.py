"""A whole run as one call: assemble, watch the signals, learn, sum up."""

import time
from typing import Any

import yaml
from rich.console import Console

from stream_trainer.clock import SystemClock
from stream_trainer.service.config import RunConfig
from stream_trainer.service.config_text import redacted
from stream_trainer.service.guard import stop_on_signals
from stream_trainer.service.summary import summarise
from stream_trainer.service.view import PlainView, summary_table
from stream_trainer.service.wiring import assemble, build_trainer
from stream_trainer.streams.files import FileSource
from stream_trainer.streams.logged_dead_letters import LoggedDeadLetters

__all__ = ["check_buildable", "readable", "run_service"]


def run_service(
    config: RunConfig,
    *,
    until_end: bool = False,
    replay: FileSource | None = None,
) -> dict[str, Any]:
    """Run until told to stop or at the end, print the scores as a table, return the summary."""
    clock = SystemClock()
    view = PlainView(clock)
    started_s = time.monotonic()
    dead_letters = LoggedDeadLetters() if replay is not None else None
    with assemble(
        config, until_end=until_end, replay=replay, dead_letters=dead_letters, observers=[view], clock=clock
    ) as service:
        view.service = service
        with stop_on_signals(service.request_stop, stop_s_max=config.limits.stop_s_max):
            service.run()
        Console().print(summary_table(service.trainer.prequential.scores(), service.trainer.prequential.baselines()))
        return summarise(service, name=config.name, seconds=time.monotonic() - started_s)


def check_buildable(config: RunConfig) -> None:
    """Build what costs nothing to build: the models. Raises ConfigError."""
    build_trainer(config, config.schema_.build(), SystemClock())


def readable(config: RunConfig) -> str:
    """The configuration with every default filled in, as YAML, secrets hidden."""
    return yaml.safe_dump(redacted(config.model_dump(mode="json", by_alias=True, exclude_none=True)), sort_keys=False)
