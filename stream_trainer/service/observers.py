"""Who is told what the loop does: metrics, the view, the demo's producer. All on the loop's thread, so be quick."""

import logging

from stream_trainer.checkpoints import Saved
from stream_trainer.engine.lifecycle import LifecycleState
from stream_trainer.types import Alarm, Counts, Positions, StepReport

__all__ = ["AlarmLog", "Observer", "describe"]

log = logging.getLogger(__name__)


class Observer:
    """Overrides what it wants to hear."""

    def started(self, positions: Positions, counts: Counts) -> None:
        """Restored and connected; `positions` is where reading begins."""

    def entered(self, state: LifecycleState) -> None:
        """The service changed its state."""

    def stepped(self, report: StepReport, step_s: float) -> None:
        """One batch was learned in `step_s` seconds, decoding included."""

    def turned(self) -> None:
        """The loop went round once, with or without records."""

    def saved(self, saved: Saved) -> None:
        """A checkpoint was written, or could not be."""


class AlarmLog(Observer):
    """`drift: {reaction: alert}`: one line per alarm, with the numbers that an operator will ask for."""

    def stepped(self, report: StepReport, step_s: float) -> None:
        for alarm in report.alarms:
            found = alarm.detection
            log.warning("%s (statistic %.3g, threshold %.3g)", describe(alarm), found.statistic, found.threshold)


def describe(alarm: Alarm) -> str:
    """One line for people."""
    what = " of ".join(part for part in (alarm.signal, alarm.model or alarm.feature) if part)
    found = alarm.detection
    change = f"{found.before:.3g} to {found.after:.3g}"
    return f"drift at record {alarm.record:,}: {what} went {found.direction.value}, {change}"
