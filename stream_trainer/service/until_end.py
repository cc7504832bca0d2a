"""A live log read like a file: up to where it ended when we started."""

from collections.abc import Collection, Mapping, Sequence

from stream_trainer.contracts import Source
from stream_trainer.errors import DataLost
from stream_trainer.types import Positions, RecordChunk, TopicPartition

__all__ = ["UntilEnd"]


class UntilEnd:
    """Hides every record beyond the end offsets found at start, and is exhausted once all of them are reached."""

    def __init__(self, source: Source) -> None:
        self.inner = source
        self._ends: Positions = {}
        self._positions: Positions = {}

    @property
    def exhausted(self) -> bool:
        return all(self._positions[partition] >= end for partition, end in self._ends.items())

    @property
    def topic_ids(self) -> Mapping[str, str]:
        return self.inner.topic_ids

    def start(self, positions: Positions | None, topic_ids: Mapping[str, str] | None = None) -> Positions:
        started = self.inner.start(positions, topic_ids)
        self._positions, self._ends = dict(started), self.inner.end_offsets()
        return started

    def poll(self, wait_s: float, records_max: int) -> Sequence[RecordChunk]:
        kept = []
        for chunk in self.inner.poll(wait_s, records_max):
            self._positions[chunk.partition] = chunk.next_offset  # of the log, not of what we keep: gaps count
            kept.append(chunk.before(self._ends.get(chunk.partition, 0)))  # a partition found later has no end
        return kept

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self.inner.pause(partitions)

    def accept_loss(self, error: DataLost) -> None:
        self.inner.accept_loss(error)

    def end_offsets(self) -> Positions:
        return dict(self._ends)

    def lags(self) -> Positions:
        return {partition: max(0, end - self._positions[partition]) for partition, end in self._ends.items()}

    def commit(self, positions: Positions) -> None:
        self.inner.commit(positions)

    def close(self) -> None:
        self.inner.close()
