"""Dead letters of a replay or a demo: shown in the log and not kept, for whoever sent them can send them again."""

import logging
from collections.abc import Sequence

from stream_trainer.types import Reject

__all__ = ["LoggedDeadLetters"]

log = logging.getLogger(__name__)
SHOWN_MAX = 10


class LoggedDeadLetters:
    """Implements `contracts.DeadLetters`; shows the first few."""

    def __init__(self) -> None:
        self._written = 0

    def write(self, rejects: Sequence[Reject]) -> None:
        for reject in rejects[: max(0, SHOWN_MAX - self._written)]:
            log.warning("rejected %s@%d: %s: %s", reject.partition, reject.offset, reject.reason.value, reject.detail)
        self._written += len(rejects)

    def flush(self) -> None:
        """Nothing is promised, so nothing is due."""

    def close(self) -> None:
        if self._written > SHOWN_MAX:
            log.warning("%d records were rejected in all; the first %d are above", self._written, SHOWN_MAX)
