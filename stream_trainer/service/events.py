"""Drift alarms and reactions as events: plain JSON values with an id, for the log and for whoever else wants them.

The id is a function of the run's name and of the batches: `run/step/event/signal/subject/record`. A run that learns a
batch again after a crash tells the same ids again, so one of each is the truth.
"""

import logging
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from stream_trainer.clock import Clock
from stream_trainer.service.observers import Observer, describe, describe_reaction
from stream_trainer.streams.event_places import EventQueue
from stream_trainer.types import Alarm, ReactionEvent, StepReport

__all__ = ["EventLog", "EventTeller", "encode", "events_of"]

log = logging.getLogger(__name__)


def events_of(report: StepReport, run: str, now_wall_s: float) -> Iterator[dict[str, Any]]:
    """Alarms first, in their order, then what was done about them. Numbers that are not finite become null."""
    newest_ms = int(report.timestamp_ms_N.max()) if len(report.timestamp_ms_N) else -1
    where = {
        "step": report.counts.batches,
        "positions": {str(partition): offset for partition, offset in sorted(report.next_offsets.items())},
        "newest_record_time": _iso(newest_ms / 1000) if newest_ms >= 0 else None,
        "time": _iso(now_wall_s),
    }
    told: tuple[Alarm | ReactionEvent, ...] = (*report.alarms, *report.events)
    for found in told:
        kind, subject, values = _alarm(found) if isinstance(found, Alarm) else _reaction(found)
        event_id = "/".join([run, str(report.counts.batches), kind, *subject, str(found.record)])
        plain = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values}
        yield {"id": event_id, "run": run, "event": kind, "record": found.record, **plain, **where}


def encode(event: dict[str, Any]) -> bytes:
    """One line."""
    return msgspec.json.encode(event)


def _alarm(alarm: Alarm) -> tuple[str, list[str], list[tuple[str, Any]]]:
    found = alarm.detection
    subject = [part for part in (alarm.signal, alarm.model, alarm.feature, alarm.layer) if part]
    return "alarm", subject, [
        ("signal", alarm.signal),
        ("model", alarm.model),
        ("feature", alarm.feature),
        ("layer", alarm.layer),
        ("direction", found.direction.value),
        ("before", found.before),
        ("after", found.after),
        ("statistic", found.statistic),
        ("threshold", found.threshold),
        ("window_records", found.window_records),
    ]  # fmt: skip


def _reaction(event: ReactionEvent) -> tuple[str, list[str], list[tuple[str, Any]]]:
    return event.kind.value, [event.model], [
        ("model", event.model),
        ("arm", event.arm.value),
        ("challenger", event.challenger.value if event.challenger else None),
        ("margin", event.margin),
        ("statistic", event.statistic),
    ]  # fmt: skip


def _iso(wall_s: float) -> str:
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds")


class EventLog(Observer):
    """One line per alarm and per reaction: a sentence for people, then the event for whatever reads logs."""

    def __init__(self, run: str, clock: Clock) -> None:
        self._run, self._clock = run, clock

    def stepped(self, report: StepReport, step_s: float) -> None:
        if report.alarms or report.events:
            sentences = [*map(describe, report.alarms), *map(describe_reaction, report.events)]
            for sentence, event in zip(sentences, events_of(report, self._run, self._clock.wall_s()), strict=True):
                log.warning("%s %s", sentence, encode(event).decode())


class EventTeller(Observer):
    """Hands every event of the run to a queue."""

    def __init__(self, queue: EventQueue, run: str, clock: Clock) -> None:
        self.queue, self._run, self._clock = queue, run, clock

    def stepped(self, report: StepReport, step_s: float) -> None:
        if report.alarms or report.events:
            for event in events_of(report, self._run, self._clock.wall_s()):
                self.queue.tell(event["id"], encode(event))
