"""Two threads of which only one runs, so that chance has no say in their order: a story can be told again.

A thread made here stops at every `pause` and goes on when the main thread `lend`s it the turn. Whoever calls `join`
lends until it has ended. Refused: more than one such thread at a time.
"""

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Lockstep", "LockstepThread"]


class LockstepThread:
    """As much of threading.Thread as a caller needs who starts one, asks whether it lives, and joins it."""

    def __init__(self, lockstep: "Lockstep", target: Callable[..., None], args: tuple[Any, ...]) -> None:
        self._lockstep, self._target, self._args = lockstep, target, args
        self._thread = threading.Thread(target=self._run, name="lockstep", daemon=True)
        self.ended = False
        self.died_of: BaseException | None = None

    def start(self) -> None:
        self._lockstep.other = self
        self._thread.start()

    def is_alive(self) -> bool:
        return not self.ended

    def join(self, timeout: float | None = None) -> None:
        while not self.ended:
            self._lockstep.lend()

    def is_current(self) -> bool:
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        self._lockstep.wait_for_turn()
        try:
            self._target(*self._args)
        except BaseException as error:  # the main thread raises it again
            self.died_of = error
        self.ended = True
        self._lockstep.hand_back()


class Lockstep:
    """Who may run.

    >>> lockstep, said = Lockstep(), []
    >>> def other() -> None:
    ...     said.append(1)
    ...     lockstep.pause()
    ...     said.append(3)
    >>> thread = lockstep.thread(other)
    >>> thread.start()
    >>> lockstep.lend(); said.append(2); thread.join(); said
    [1, 2, 3]
    """

    def __init__(self) -> None:
        self.other: LockstepThread | None = None
        self._main_turn, self._other_turn = threading.Semaphore(0), threading.Semaphore(0)

    def thread(
        self, target: Callable[..., None], args: tuple[Any, ...] = (), name: str = "", daemon: bool = True
    ) -> LockstepThread:
        """In the place of threading.Thread."""
        return LockstepThread(self, target, args)

    @property
    def is_other(self) -> bool:
        """Whether this is the other thread."""
        return self.other is not None and self.other.is_current()

    @property
    def runs_beside(self) -> bool:
        """Whether there is a thread to which the main thread could lend."""
        return self.other is not None and not self.other.ended and not self.is_other

    def pause(self) -> None:
        """On the other thread: let the main thread go on; nothing on the main thread."""
        if self.is_other:
            self.hand_back()
            self.wait_for_turn()

    def lend(self) -> None:
        """On the main thread: let the other one run until it pauses or ends. Raises what it died of."""
        if self.other is None or self.other.ended:
            return
        self._other_turn.release()
        self._main_turn.acquire()
        if self.other.died_of is not None:
            died_of, self.other.died_of = self.other.died_of, None
            raise died_of

    def wait_for_turn(self) -> None:
        self._other_turn.acquire()

    def hand_back(self) -> None:
        self._main_turn.release()
