"""Records as the log holds them: bytes in columns, by partition, and how batches were cut from them."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeAlias

__all__ = ["ClosedBy", "Cut", "Headers", "Positions", "RawBatch", "RecordChunk", "Run", "TopicPartition"]


class TopicPartition(NamedTuple):
    """One partition of one topic; of a file: its name and 0."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


Positions: TypeAlias = dict[TopicPartition, int]
"""Partition -> next offset."""

Headers: TypeAlias = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordChunk:
    """Consecutive records of one partition, still bytes, as columns of equal length.

    May be empty and yet move the position: transaction markers and compacted records take offsets too.
    """

    partition: TopicPartition
    offsets: Sequence[int]
    timestamps_ms: Sequence[int]  # -1: none
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]  # None: a tombstone
    headers: Sequence[Headers]
    next_offset: int

    def __len__(self) -> int:
        return len(self.offsets)

    def split(self, n: int) -> tuple["RecordChunk", "RecordChunk"]:
        """The first `n` records, and the rest; 0 < n < len(self)."""
        cut = self.offsets[n - 1] + 1
        return self._slice(slice(None, n), cut), self._slice(slice(n, None), self.next_offset)

    def before(self, offset: int) -> "RecordChunk":
        """What of it lies before `offset`; perhaps nothing but the way there."""
        n = bisect_left(self.offsets, offset)
        if n == len(self) and self.next_offset <= offset:
            return self
        return self._slice(slice(None, n), offset)

    def _slice(self, part: slice, next_offset: int) -> "RecordChunk":
        return RecordChunk(
            partition=self.partition,
            offsets=self.offsets[part],
            timestamps_ms=self.timestamps_ms[part],
            keys=self.keys[part],
            values=self.values[part],
            headers=self.headers[part],
            next_offset=next_offset,
        )


class ClosedBy(Enum):
    """Why the batcher stopped waiting."""

    RECORDS = "records"
    BYTES = "bytes"
    AGE = "age"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawBatch:
    """What the batcher cut: chunks in arrival order."""

    chunks: tuple[RecordChunk, ...]
    next_offsets: Positions  # of the partitions in this batch only
    closed_by: ClosedBy

    def __len__(self) -> int:
        return sum(map(len, self.chunks))


class Run(NamedTuple):
    """Offsets [first, next) of one partition, gaps included, that lie side by side in a batch."""

    partition: TopicPartition
    first_offset: int
    next_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How one batch was cut: all that is needed to cut it again from the log, and nothing of its content."""

    step: int  # batches of the run so far, this one included
    runs: tuple[Run, ...]  # in arrival order; a partition may come several times
    n_records: int
    closed_by: ClosedBy
