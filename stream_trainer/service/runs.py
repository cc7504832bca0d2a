"""A whole run as one call: assemble, watch the signals, learn, sum up."""

import time
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from stream_trainer.clock import SystemClock
from stream_trainer.errors import ConfigError, ModelError
from stream_trainer.schema import Schema, TargetKind
from stream_trainer.service.config import RunConfig
from stream_trainer.service.config_text import redacted
from stream_trainer.service.guard import stop_on_signals
from stream_trainer.service.summary import summarise
from stream_trainer.service.view import PlainView, summary_table
from stream_trainer.service.wiring import assemble, build_trainer
from stream_trainer.streams.files import FileSource
from stream_trainer.streams.logged_dead_letters import LoggedDeadLetters
from stream_trainer.types import Batch

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
    """Build the models and let each predict and learn a made-up batch of one: some mistakes show only then.

    Raises: ConfigError.
    """
    schema = config.schema_.build()
    trainer = build_trainer(config, schema, SystemClock())
    for name, model in trainer.models.items():
        try:
            model.predict(_one_record(schema))
            model.learn(_one_record(schema))
        except ModelError as error:
            raise ConfigError(f"models.{name}: {error}") from error


def _one_record(schema: Schema) -> Batch:
    """All zeros: the first bucket, the first class, nothing missing."""
    number = schema.target.kind is TargetKind.NUMBER
    return Batch(
        x_NF=np.zeros((1, len(schema.numbers)), np.float32),
        missing_NF=np.zeros((1, len(schema.numbers)), bool) if schema.optional_numbers else None,
        category_NC=np.zeros((1, len(schema.categories)), np.int64),
        y_N=np.zeros(1, np.float32 if number else np.int64),
        arrays={feature.name: np.zeros((1, *feature.shape), np.float32) for feature in schema.arrays},
        timestamp_ms_N=np.full(1, -1, np.int64),
    )


def readable(config: RunConfig) -> str:
    """The configuration with every default filled in, as YAML, secrets hidden."""
    return yaml.safe_dump(redacted(config.model_dump(mode="json", by_alias=True, exclude_none=True)), sort_keys=False)
