"""Compute a saved state again, from the configuration, the journal and the log, and compare it with what was saved.

A state is a function of the configuration and of the batches, in their order; nothing else has a say: no checkpoint, no
stop, no clock. On one kind of processor, with the same libraries and the same number of threads, the bits are equal.
The run that is looked at may be alive: nothing of it is locked, written or committed.
"""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from stream_trainer.clock import SystemClock
from stream_trainer.errors import CheckpointError
from stream_trainer.models.digest import state_sha256
from stream_trainer.service.config import DeadLetterConfig, RunConfig
from stream_trainer.service.guard import stop_on_signals
from stream_trainer.service.loop import Service
from stream_trainer.service.observers import Observer
from stream_trainer.service.summary import summarise
from stream_trainer.service.view import PlainView, summary_table
from stream_trainer.service.wiring import assemble, build_checkpoints
from stream_trainer.streams.logged_dead_letters import LoggedDeadLetters
from stream_trainer.types import Cut, Positions, StepReport

__all__ = ["rebuild"]

log = logging.getLogger(__name__)


def rebuild(
    config: RunConfig, directory: Path | str, *, from_step: int | None = None, until_step: int | None = None
) -> dict[str, Any]:
    """Learn the batches of the journal again, print the verdict, return the summary.

    The summary has `rebuilt: {step, equal: {model: bool} | null}`; null: no checkpoint of that step is there.

    Args:
        directory: checkpoint.directory of the run, the journal in it; read, never written.
        from_step: begin with the checkpoint of this step. None: with nothing, at the first batch.
        until_step: where to end. None: at the newest checkpoint.
    Raises: CheckpointError: the journal does not hold these steps; DataLost: the log does not hold their records.
    """
    saved = build_checkpoints(config, directory)
    sound = [info for info in saved.infos(verify=False) if info.problem is None]
    manifests = {info.step: info.body for info in reversed(sound)}  # of one step in two epochs, the later one
    until_step = until_step if until_step is not None else max(manifests, default=0)
    start = saved.load(from_step) if from_step is not None else None
    after_step = start.counts.batches if start else 0
    if until_step <= after_step:
        raise CheckpointError(f"{directory}: nothing to rebuild between step {after_step} and step {until_step}.")
    expected = None
    if until_step in manifests:
        expected = {name: state_sha256(part) for name, part in saved.load(until_step).parts.items()}
        _warn_of_other_versions(manifests[until_step].get("versions", {}), saved.versions)
    positions, cuts = saved.journal.cuts(after_step=after_step)
    positions |= _where_each_begins(_from_to(cuts, after_step, until_step))
    cuts = saved.journal.cuts(after_step=after_step)[1]  # read twice, so that a year of rows need not be kept
    clock = SystemClock()
    view, end = PlainView(clock), _StopAt(until_step)
    started_s = time.monotonic()
    with assemble(
        _without_traces(config), until_end=True, dead_letters=LoggedDeadLetters(), observers=[view, end], clock=clock
    ) as service:
        view.service = end.service = service
        service.resume(start, positions, _from_to(cuts, after_step, until_step))
        with stop_on_signals(service.request_stop, stop_s_max=config.limits.stop_s_max):
            service.run()
        if service.counts.batches != until_step:
            raise CheckpointError(f"rebuild: told to stop at step {service.counts.batches}, before step {until_step}.")
        models = service.trainer.models.items()
        found = {name: state_sha256(model.capture()) for name, model in models}
        equal = {name: found[name] == expected[f"models/{name}"] for name in found} if expected else None
        Console().print(summary_table(service.trainer.prequential.scores(), service.trainer.prequential.baselines()))
        Console().print(_verdict(until_step, equal))
        summary = summarise(service, name=config.name, seconds=time.monotonic() - started_s)
    return summary | {"rebuilt": {"step": until_step, "equal": equal}}


class _StopAt(Observer):
    """Ends the run right after one step."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.service: Service | None = None

    def stepped(self, report: StepReport, step_s: float) -> None:
        if report.counts.batches == self.step and self.service is not None:
            self.service.request_stop()


def _where_each_begins(cuts: Iterable[Cut]) -> Positions:
    """Also those that a member of a group was given later: the first rows know nothing of them."""
    begins: Positions = {}
    for cut in cuts:
        for partition, first_offset, _ in cut.runs:
            begins.setdefault(partition, first_offset)
    return begins


def _from_to(cuts: Iterable[Cut], after_step: int, until_step: int) -> Iterator[Cut]:
    """Raises, when asked for a cut that is not there: CheckpointError. The batcher must not take over."""
    last = after_step
    for cut in cuts:
        yield cut
        last = cut.step
        if last == until_step:
            return
    raise CheckpointError(f"the journal ends with step {last}; expected it to reach step {until_step}.")


def _without_traces(config: RunConfig) -> RunConfig:
    """The same run that saves, commits and serves nothing, and takes every bad record as it comes: it has before."""
    source = config.source
    if source.kafka:
        source = source.model_copy(update={"kafka": replace(source.kafka, group_id=None, group=None)})
    patient = DeadLetterConfig(file=Path(os.devnull), ratio_max=1.0)  # not written: the rejects are logged
    return config.model_copy(
        update={"source": source, "checkpoint": None, "telemetry": None, "events": None, "dead_letters": patient}
    )


def _warn_of_other_versions(then: Mapping[str, str], now: Mapping[str, str]) -> None:
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            what = "%s was %s when the checkpoint was saved and is %s here: the last bits may differ"
            log.warning(what, name, then.get(name, "unknown"), now.get(name, "unknown"))


def _verdict(step: int, equal: Mapping[str, bool] | None) -> str:
    if equal is None:
        return f"step {step}: rebuilt; there is no checkpoint of this step to compare with"
    return f"step {step}: " + ", ".join(f"{name} {'equal' if same else 'DIFFERENT'}" for name, same in equal.items())
