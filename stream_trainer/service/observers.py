"""Who is told what the loop does: metrics, the view, the demo's producer. All on the loop's thread, so be quick."""

from stream_trainer.checkpoints import Saved
from stream_trainer.engine.lifecycle import LifecycleState
from stream_trainer.types import Counts, Positions, StepReport

__all__ = ["Observer"]


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
