"""Who is told what the loop does: metrics, the view, the demo's producer. All on the loop's thread, so be quick."""

from stream_trainer.checkpoints import Saved
from stream_trainer.engine.lifecycle import LifecycleState
from stream_trainer.types import Alarm, Counts, Positions, ReactionEvent, ReactionKind, StepReport

__all__ = ["Observer", "describe", "describe_reaction"]


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


def describe(alarm: Alarm) -> str:
    """One line for people."""
    what = " of ".join(part for part in (alarm.signal, alarm.model or alarm.feature, alarm.layer) if part)
    found = alarm.detection
    change = f"{found.before:.3g} to {found.after:.3g}"
    return f"drift at record {alarm.record:,}: {what} went {found.direction.value}, {change}"


def describe_reaction(event: ReactionEvent) -> str:
    """One line for people.

    >>> from stream_trainer.types import RaceArm
    >>> describe_reaction(ReactionEvent(model="mlp", kind=ReactionKind.SUSPECT, record=1024, arm=RaceArm.KEEP))
    'reaction at record 1,024: suspect, mlp goes on serving and challengers race it'
    """
    said = {
        ReactionKind.SUSPECT: f"{event.model} goes on serving and challengers race it",
        ReactionKind.BOOST: f"{event.model} learns faster for a while",
        ReactionKind.CONFIRM: f"{event.arm.value} takes the place of {event.model}",
        ReactionKind.ROLLBACK: f"{event.model} stays, the challengers are dropped",
    }
    line = f"reaction at record {event.record:,}: {event.kind.value}, {said[event.kind]}"
    if event.challenger is None or event.margin is None or event.statistic is None:
        return line
    best = f"saved {event.margin:.1%} of the loss, {event.statistic:.1f} standard errors"
    return f"{line} (best challenger {event.challenger.value}: {best})"
