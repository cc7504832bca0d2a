"""Where a batch ends. The batcher takes what has arrived and cuts it; the first bound reached closes.

It reads no clock: each call is told the time. Records that are not yet cut are not part of any state: after a stop
they are simply read again. Without `age_s_max` a cut depends on nothing but the order of the records.
"""

from collections import deque
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from stream_trainer.errors import ConfigError
from stream_trainer.types import ClosedBy, Positions, RawBatch, RecordChunk, TopicPartition

__all__ = ["BatchPolicy", "Batcher", "Growth", "size_bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """A limit that grows by a constant factor per record: small steps while everything is new, large ones after."""

    start: int = 32
    over_records: int = 100_000

    def __post_init__(self) -> None:
        if self.start < 1 or self.over_records < 1:
            raise ConfigError(
                f"batch.growth is start={self.start}, over_records={self.over_records}; expected both at least 1."
            )

    def limit(self, end: int, records_seen: int) -> int:
        """
        >>> [Growth(start=32, over_records=1000).limit(512, seen) for seen in (0, 500, 1000, 9000)]
        [32, 128, 512, 512]
        """
        if records_seen >= self.over_records:
            return end
        return round(self.start * (end / self.start) ** (records_seen / self.over_records))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """When a batch closes. `age_s_max: null` cuts by count alone, the same cut in every run."""

    records_max: int = 256
    bytes_max: int = 4_194_304  # 4 MiB: bounds memory when records grow; one larger record is a batch of its own
    age_s_max: float | None = 0.2  # the longest a record waits for company
    records_min: int = 1  # more than 1: age does not close a smaller batch; for optimizers that need many (lbfgs)
    growth: Growth | None = None  # records_max is then where it ends

    def __post_init__(self) -> None:
        if self.records_max < 1:
            raise ConfigError(f"batch.records_max is {self.records_max}; it must be at least 1.")
        if self.bytes_max < 1:
            raise ConfigError(f"batch.bytes_max is {self.bytes_max}; it must be at least 1.")
        if self.age_s_max is not None and not 0 <= self.age_s_max <= 3600:
            raise ConfigError(f"batch.age_s_max is {self.age_s_max}; expected 0 to 3600 seconds, or null for no bound.")
        smallest = self.growth.start if self.growth else self.records_max
        if self.growth and self.growth.start > self.records_max:
            raise ConfigError(
                f"batch.growth.start is {self.growth.start}, above batch.records_max = {self.records_max}; it grows "
                "from start to records_max."
            )
        if not 1 <= self.records_min <= smallest:
            raise ConfigError(f"batch.records_min is {self.records_min}; expected 1 to {smallest}, the smallest limit.")

    def records_limit(self, records_seen: int) -> int:
        return self.growth.limit(self.records_max, records_seen) if self.growth else self.records_max


class Batcher:
    """Keeps what has arrived and hands it out in batches.

    >>> from stream_trainer.types import TopicPartition
    >>> chunk = RecordChunk(partition=TopicPartition("t", 0), offsets=range(5), timestamps_ms=[0] * 5, keys=[None] * 5,
    ...                     values=[b"{}"] * 5, headers=[()] * 5, next_offset=5)
    >>> batcher = Batcher(BatchPolicy(records_max=2, age_s_max=1.0), records_seen=0)
    >>> batcher.add(chunk, now_s=0.0)
    >>> [len(batcher.take(now_s=0.0)), len(batcher.take(now_s=0.0)), batcher.take(now_s=0.0)]
    [2, 2, None]
    >>> batcher.take(now_s=1.0).closed_by
    <ClosedBy.AGE: 'age'>
    """

    def __init__(self, policy: BatchPolicy, *, records_seen: int) -> None:
        self.policy = policy
        self.records_seen = records_seen  # cut so far over all restarts: the growth follows it
        self._waiting: deque[_Waiting] = deque()
        self.records_waiting = 0
        self.bytes_waiting = 0

    def add(self, chunk: RecordChunk, *, now_s: float) -> None:
        waiting = _Waiting(chunk, size_bytes=size_bytes(chunk), arrived_s=now_s)
        self._waiting.append(waiting)
        self.records_waiting += len(chunk)
        self.bytes_waiting += waiting.size_bytes

    def take(self, *, now_s: float, drain: bool = False) -> RawBatch | None:
        """The next batch if a bound is reached, else None. With `drain`, whatever is left, however little."""
        closed_by = self._bound_reached(now_s, drain)
        return self._cut(closed_by) if closed_by else None

    def wait_s(self, *, now_s: float, wait_s_max: float) -> float:
        """How long the source may wait for more before age closes what is here."""
        if self.policy.age_s_max is None or not self._waiting or self.records_waiting < self.policy.records_min:
            return wait_s_max
        return min(wait_s_max, max(0.0, self._waiting[0].arrived_s + self.policy.age_s_max - now_s))

    def enough(self) -> frozenset[TopicPartition]:
        """Partitions that need not be read on for now: none. A bound cuts, so never more than a batch is left here."""
        return frozenset()

    def _bound_reached(self, now_s: float, drain: bool) -> ClosedBy | None:
        policy = self.policy
        if self.records_waiting >= policy.records_limit(self.records_seen):
            return ClosedBy.RECORDS
        if self.bytes_waiting >= policy.bytes_max:
            return ClosedBy.BYTES
        if not self._waiting:
            return None
        if drain:
            return ClosedBy.DRAIN
        too_old = policy.age_s_max is not None and now_s - self._waiting[0].arrived_s >= policy.age_s_max
        return ClosedBy.AGE if too_old and self.records_waiting >= policy.records_min else None

    def _cut(self, closed_by: ClosedBy) -> RawBatch:
        records_left, bytes_left = self.policy.records_limit(self.records_seen), self.policy.bytes_max
        chunks: list[RecordChunk] = []
        next_offsets: Positions = {}
        while self._waiting and records_left > 0 and bytes_left > 0:
            head = self._waiting.popleft()
            n_records = head.records_within(records_left, bytes_left)
            if n_records < len(head.chunk):
                head, rest = head.split(n_records)
                self._waiting.appendleft(rest)
            chunks.append(head.chunk)
            next_offsets[head.chunk.partition] = head.chunk.next_offset
            records_left -= len(head.chunk)
            bytes_left -= head.size_bytes
            self.records_waiting -= len(head.chunk)
            self.bytes_waiting -= head.size_bytes
        if bytes_left <= 0:
            closed_by = ClosedBy.BYTES
        batch = RawBatch(chunks=tuple(chunks), next_offsets=next_offsets, closed_by=closed_by)
        self.records_seen += len(batch)
        return batch


class _Waiting(NamedTuple):
    """A chunk, its size, and since when it waits."""

    chunk: RecordChunk
    size_bytes: int
    arrived_s: float

    def records_within(self, records_max: int, bytes_max: int) -> int:
        """The fewest records that reach a bound; the one that crosses `bytes_max` comes along."""
        n_records = min(len(self.chunk), records_max)
        if self.size_bytes < bytes_max:
            return n_records
        sizes = accumulate(len(value) if value else 0 for value in self.chunk.values[:n_records])
        return next((i + 1 for i, size in enumerate(sizes) if size >= bytes_max), n_records)

    def split(self, n_records: int) -> tuple["_Waiting", "_Waiting"]:
        head, rest = self.chunk.split(n_records)
        head_bytes = size_bytes(head)
        rest_bytes = self.size_bytes - head_bytes
        return _Waiting(head, head_bytes, self.arrived_s), _Waiting(rest, rest_bytes, self.arrived_s)


def size_bytes(chunk: RecordChunk) -> int:
    """Of its values."""
    return sum(len(value) for value in chunk.values if value)
