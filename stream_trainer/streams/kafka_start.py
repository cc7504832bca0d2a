"""Where reading begins, and where it goes on when the log no longer holds our position: decisions, no questions asked.

`begins` and `ends` are what the log holds now, per partition: its earliest offset, and the one that comes next.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from stream_trainer.errors import ConfigError, DataLost
from stream_trainer.streams.kafka_options import Start, explicit_offsets, start_timestamp_ms
from stream_trainer.types import Positions, TopicPartition

__all__ = ["LostData", "first_positions"]

log = logging.getLogger(__name__)

DAMAGED_FETCHES_MAX = 3  # the network may damage a batch once; three times it is damaged in the log


def first_positions(
    start: Start,
    begins: Positions,
    ends: Positions,
    find_time: Callable[[int], Mapping[TopicPartition, int | None]],
) -> Positions:
    """Where a run without checkpoint begins in each partition; `find_time` asks for the first offset not older.

    Raises: ConfigError: an explicit offset that the log does not hold.

    >>> orders = TopicPartition("orders", 0)
    >>> first_positions("latest", {orders: 3}, {orders: 9}, find_time=lambda time_ms: {})
    {TopicPartition(topic='orders', partition=0): 9}
    """
    if isinstance(start, Mapping):
        topics = {tp.topic for tp in begins}  # others have a checkpoint already
        offsets = {tp: offset for tp, offset in explicit_offsets(start).items() if tp.topic in topics}
        for tp, offset in offsets.items():
            if tp not in begins:
                raise ConfigError(f"source.kafka.start names {tp}, which its topic does not have.")
            if not begins[tp] <= offset <= ends[tp]:
                raise ConfigError(
                    f"source.kafka.start.{tp} is {offset}; its log holds offsets {begins[tp]} to {ends[tp]}."
                )
        return begins | offsets
    if start == "earliest":
        return dict(begins)
    if start == "latest":
        return dict(ends)
    found = find_time(start_timestamp_ms(start))
    # None: every record is older, so the first that is not will be the next one written.
    return {tp: end if (at := found[tp]) is None else at for tp, end in ends.items()}


class LostData:
    """Applies `source.kafka.lost_data`, counting in `resets` how often it moved a position."""

    def __init__(self, policy: Literal["fail", "earliest", "latest"]) -> None:
        self.resets = 0
        self._policy = policy
        self._damaged: tuple[TopicPartition, int, int] | None = None  # partition, offset, times in a row

    def without_vanished(self, positions: Positions, partitions: Iterable[TopicPartition]) -> Positions:
        """The positions of those partitions that still exist. Raises: DataLost."""
        existing = set(partitions)
        for tp, offset in positions.items():
            if tp in existing:
                continue
            if self._policy == "fail":
                raise DataLost(
                    f"{tp}: the checkpoint is at offset {offset}, and the partition no longer exists: the topic was "
                    "created again with fewer partitions. Start with a new checkpoint directory, or set "
                    "source.kafka.lost_data to earliest or latest to go on with the partitions there are."
                )
            self.resets += 1
            log.error("%s no longer exists; its position %d is dropped.", tp, offset)
        return {tp: offset for tp, offset in positions.items() if tp in existing}

    def accept(self, error: DataLost) -> None:
        """Go on without what is gone, or raise `error`."""
        if self._policy == "fail":
            raise error
        self.resets += 1
        log.error("Going on without, as source.kafka.lost_data says: %s", error)

    def wait_for(self, partitions: Iterable[TopicPartition]) -> None:
        """Whether to wait for partitions that brokers no longer name. Raises: DataLost: the policy is to fail."""
        what = (
            f"{', '.join(map(str, partitions))}: no longer there, the topic was deleted, or this user may no longer "
            "see it."
        )
        if self._policy == "fail":
            raise DataLost(
                f"{what} Bring it back, or start with a new checkpoint directory; to wait for a new topic of that name "
                "set source.kafka.lost_data to earliest or latest."
            )
        log.error("%s Waiting for it to come back.", what)

    def inside_log(self, tp: TopicPartition, offset: int, begin: int, end: int) -> int:
        """`offset` if the log holds it, or will hold it next; what the policy says otherwise. Raises: DataLost."""
        if begin <= offset <= end:
            return offset
        if offset < begin:
            what = f"up to {begin - offset} records were deleted by retention before they were learned"
        else:
            what = "the topic was created again, or its end was cut off by a failed broker"
        return self.move(tp, offset, begin, end, what)

    def move(self, tp: TopicPartition, offset: int, begin: int, end: int, what: str) -> int:
        """Where to go on. Raises: DataLost: nowhere, the policy is to fail."""
        if self._policy == "fail":
            raise DataLost(
                f"{tp}: we are at offset {offset}, its log holds offsets {begin} to {end}: {what}. "
                "To go on without them set source.kafka.lost_data to earliest (all that is left) or latest "
                "(only what is new); to forget all learning start with a new checkpoint directory."
            )
        go_on = begin if self._policy == "earliest" else end
        self.resets += 1
        log.error("%s: at offset %d, the log holds %d to %d: %s. Going on at %d.", tp, offset, begin, end, what, go_on)
        return go_on

    def damaged(self, tp: TopicPartition, offset: int, next_offset: int | None, what: str) -> int | None:
        """Where to go on after a batch that cannot be read; None: fetch it again, the network may have damaged it.

        Raises: DataLost: the log holds it so, and the policy is to fail or nobody knows where the batch ends.
        """
        times = self._damaged[2] + 1 if self._damaged and self._damaged[:2] == (tp, offset) else 1
        self._damaged = (tp, offset, times)
        if times < DAMAGED_FETCHES_MAX:
            return None
        self._damaged = None
        if self._policy == "fail" or next_offset is None:
            raise DataLost(
                f"{tp}: the batch at offset {offset} cannot be read: {what}, {times} times. It is damaged in the log. "
                "To skip it set source.kafka.lost_data to earliest or latest."
            )
        self.resets += 1
        log.error("%s: offsets %d to %d are damaged and skipped: %s.", tp, offset, next_offset - 1, what)
        return next_offset

    def forget_damage(self) -> None:
        """Records arrived: what could not be read before was the network's doing."""
        self._damaged = None
