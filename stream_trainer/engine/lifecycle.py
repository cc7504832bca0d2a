"""What the service is doing, as a table: which state may follow which.

STARTING loads and seeks, RUNNING learns, DRAINING has been asked to leave and saves, STOPPED has saved, FAILED could
not go on. PAUSED polls nothing and keeps its place.
"""

from enum import Enum

from stream_trainer.errors import StreamTrainerError

__all__ = ["FOLLOWS", "Lifecycle", "LifecycleState"]


class LifecycleState(Enum):
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


_S = LifecycleState
FOLLOWS: dict[LifecycleState, frozenset[LifecycleState]] = {
    _S.STARTING: frozenset({_S.RUNNING, _S.DRAINING, _S.FAILED}),
    _S.RUNNING: frozenset({_S.PAUSED, _S.DRAINING, _S.FAILED}),
    _S.PAUSED: frozenset({_S.RUNNING, _S.DRAINING, _S.FAILED}),
    _S.DRAINING: frozenset({_S.STOPPED, _S.FAILED}),
    _S.STOPPED: frozenset(),
    _S.FAILED: frozenset(),
}


class Lifecycle:
    """The current state; refuses a step that the table does not have.

    >>> lifecycle = Lifecycle()
    >>> lifecycle.enter(LifecycleState.RUNNING)
    >>> lifecycle.state
    <LifecycleState.RUNNING: 'running'>
    """

    def __init__(self) -> None:
        self.state = LifecycleState.STARTING

    def enter(self, state: LifecycleState) -> None:
        if state not in FOLLOWS[self.state]:
            raise StreamTrainerError(f"lifecycle: {self.state.value} cannot be followed by {state.value}.")
        self.state = state
