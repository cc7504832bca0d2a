"""Stand-ins that behave: a clock one moves by hand, a source made of lists, dead letters one can count.

For tests of plugins and of our own loop; the product never imports this.
"""

from collections.abc import Collection, Mapping, Sequence

from stream_trainer.errors import DataLost
from stream_trainer.types import Positions, RecordChunk, Reject, TopicPartition

__all__ = ["ListSource", "ManualClock", "MemoryDeadLetters", "chunk_of"]

ONLY_PARTITION = TopicPartition("list", 0)


class ManualClock:
    """Stands still until moved.

    >>> clock = ManualClock()
    >>> clock.advance(1.5)
    >>> clock.monotonic_s()
    1.5
    """

    def __init__(self) -> None:
        self.now_s = 0.0

    def advance(self, seconds: float) -> None:
        self.now_s += seconds

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return 1_700_000_000.0 + self.now_s


def chunk_of(
    values: Sequence[bytes | None], *, first_offset: int = 0, partition: TopicPartition = ONLY_PARTITION
) -> RecordChunk:
    """Consecutive records without keys, headers or times."""
    n = len(values)
    return RecordChunk(
        partition=partition,
        offsets=range(first_offset, first_offset + n),
        timestamps_ms=[-1] * n,
        keys=[None] * n,
        values=list(values),
        headers=[()] * n,
        next_offset=first_offset + n,
    )


class ListSource:
    """Partitions given as lists of values; each poll brings the next `per_poll` of one partition, in turn.

    Losses are kept in `accepted` if `go_on`, and raised otherwise.
    """

    def __init__(self, *partitions: Sequence[bytes | None], per_poll: int = 7, topic: str = "list") -> None:
        self._values = {TopicPartition(topic, i): list(values) for i, values in enumerate(partitions)}
        self._per_poll = per_poll
        self.positions: Positions = {}
        self.committed: list[Positions] = []
        self.closed = False
        self.paused: Collection[TopicPartition] = ()
        self.go_on = False
        self.accepted: list[DataLost] = []
        self.topic_ids: Mapping[str, str] = {}

    @property
    def exhausted(self) -> bool:
        return all(self.positions[partition] >= len(values) for partition, values in self._values.items())

    def start(self, positions: Positions | None, topic_ids: Mapping[str, str] | None = None) -> Positions:
        self.positions = {partition: (positions or {}).get(partition, 0) for partition in self._values}
        return dict(self.positions)

    def poll(self, wait_s: float, records_max: int) -> Sequence[RecordChunk]:
        open_ones = [
            p for p, values in self._values.items() if self.positions[p] < len(values) and p not in self.paused
        ]
        if not open_ones:
            return []
        partition = min(open_ones, key=lambda p: (self.positions[p], p))
        first = self.positions[partition]
        values = self._values[partition][first : first + min(self._per_poll, records_max)]
        self.positions[partition] = first + len(values)
        return [chunk_of(values, first_offset=first, partition=partition)]

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self.paused = frozenset(partitions)

    def accept_loss(self, error: DataLost) -> None:
        if not self.go_on:
            raise error
        self.accepted.append(error)

    def end_offsets(self) -> Positions:
        return {partition: len(values) for partition, values in self._values.items()}

    def lags(self) -> Positions:
        return {partition: len(values) - self.positions[partition] for partition, values in self._values.items()}

    def commit(self, positions: Positions) -> None:
        self.committed.append(dict(positions))

    def close(self) -> None:
        self.closed = True


class MemoryDeadLetters:
    """Keeps them in a list."""

    def __init__(self) -> None:
        self.written: list[Reject] = []
        self.flushed = 0  # how many of them a flush has promised to keep

    def write(self, rejects: Sequence[Reject]) -> None:
        self.written.extend(rejects)

    def flush(self) -> None:
        self.flushed = len(self.written)

    def close(self) -> None:
        self.flush()
