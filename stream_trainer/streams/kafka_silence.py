"""Notices a partition from which nothing arrives although its log grows: a client that stopped fetching it.

kafka-python 3.0 forgets a broker for good when it learns its id a moment too late; the other partitions go on, nothing
is raised, and the model would silently learn from a part of the stream. Silence is counted in time spent polling: a
long training step is not the broker's silence.
"""

import logging
from collections.abc import Iterable

from stream_trainer.errors import Stalled
from stream_trainer.types import Positions, TopicPartition

__all__ = ["SilenceWatch"]

log = logging.getLogger(__name__)


class SilenceWatch:
    """Counts, suspects, and judges; the questions to the brokers are asked by the source.

    >>> watch = SilenceWatch(stall_s_max=2.0, rebuilds_max=1)
    >>> orders = TopicPartition("orders", 0)
    >>> watch.suspects([orders], arrived=[], polled_s=1.5), watch.suspects([orders], arrived=[], polled_s=1.5)
    ([], [TopicPartition(topic='orders', partition=0)])
    >>> watch.must_rebuild([orders], positions={orders: 4}, ends={orders: 4})
    False
    """

    def __init__(self, stall_s_max: float, rebuilds_max: int) -> None:
        self._stall_s_max = stall_s_max
        self._rebuilds_max = rebuilds_max
        self._silent_s: dict[TopicPartition, float] = {}
        self._rebuilds_in_vain: dict[TopicPartition, int] = {}

    def suspects(
        self, partitions: Iterable[TopicPartition], arrived: Iterable[TopicPartition], polled_s: float
    ) -> list[TopicPartition]:
        """The partitions that were silent for too long; they are named once, then their time starts again."""
        silent_s = {tp: self._silent_s.get(tp, 0.0) + polled_s for tp in partitions}
        for tp in arrived:
            silent_s[tp] = 0.0
            self._rebuilds_in_vain.pop(tp, None)
        found = [tp for tp, waited_s in silent_s.items() if waited_s > self._stall_s_max]
        self._silent_s = silent_s | dict.fromkeys(found, 0.0)
        return found

    def must_rebuild(self, suspects: list[TopicPartition], positions: Positions, ends: Positions) -> bool:
        """Whether a suspect's log goes on behind our position. Raises: Stalled: new consumers did not help."""
        stalled = [tp for tp in suspects if ends[tp] > positions[tp]]
        if not stalled:
            return False
        for tp in stalled:
            self._rebuilds_in_vain[tp] = self._rebuilds_in_vain.get(tp, 0) + 1
        worst = max(stalled, key=self._rebuilds_in_vain.__getitem__)
        where = f"{worst}: the log ends at {ends[worst]}, we are at {positions[worst]}, and nothing arrives"
        if self._rebuilds_in_vain[worst] > self._rebuilds_max:
            raise Stalled(
                f"{where}, although the consumer was replaced {self._rebuilds_max} times, "
                f"{self._stall_s_max:g} s apart. Look at the partition's leader and the broker logs; "
                "starting again goes on from the last checkpoint."
            )
        log.error("%s for %g s. Replacing the consumer.", where, self._stall_s_max)
        return True
