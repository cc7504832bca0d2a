"""The same batches again: what a journal names is cut from whatever order the source delivers.

After a crash the records since the last checkpoint come again, but seldom in the pieces and the order of the first
time. Each partition is buffered by itself and every batch takes its runs in the order of the journal; what lies beyond
the last one goes to the batcher in the order in which it arrived. Once `WAITING_BYTES_MAX` wait, only those partitions
are read on (`enough`) that the next cut misses, so memory is bounded by that, one cut and one poll, however far one
partition runs ahead. A record that compaction removed meanwhile is simply absent; records before a run belonged to
another member of a group, while the partition was away. A log that ends too early, or is another one, has lost data:
who is told (`on_lost`) raises, or what is left of the journal is given up.
"""

import logging
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from stream_trainer.engine.batcher import Batcher, size_bytes
from stream_trainer.errors import DataLost
from stream_trainer.types import Cut, Positions, RawBatch, RecordChunk, Run, TopicPartition

__all__ = ["Recut"]

log = logging.getLogger(__name__)

WAITING_BYTES_MAX = 64 * 1024 * 1024  # a fetch of every partition fits; what a restart may cost in memory
RECORD_BYTES = 200  # of a record in Python beside its value: objects, not bytes, are what small records cost


def raise_lost(cut: Cut, error: DataLost) -> None:
    """Nobody chose to go on without lost records."""
    raise error


class Recut:
    """Stands in for a batcher: first the batches of `cuts`, then those of the batcher itself.

    Args:
        cuts: read one by one, as they are needed.
        batcher: for what comes after them.
        positions: where the source begins.
        ends: where its log ends, as far as that is known; a cut beyond it could never be completed.
        replaced: partitions whose log is not the one that the cuts were made of.
        on_lost: told of the first cut that cannot be made again, and why; if it returns, the batcher cuts from there.

    >>> from stream_trainer.engine.batcher import BatchPolicy
    >>> from stream_trainer.types import ClosedBy
    >>> tp = TopicPartition("t", 0)
    >>> cut = Cut(step=1, runs=(Run(tp, 0, 3),), n_records=3, closed_by=ClosedBy.AGE)
    >>> batcher = Batcher(BatchPolicy(records_max=2, age_s_max=None), records_seen=0)
    >>> recut = Recut([cut], batcher, positions={tp: 0}, ends={tp: 5})
    >>> recut.add(RecordChunk(partition=tp, offsets=range(5), timestamps_ms=[0] * 5, keys=[None] * 5,
    ...                       values=[b"{}"] * 5, headers=[()] * 5, next_offset=5), now_s=0.0)
    >>> [len(recut.take(now_s=0.0)), len(recut.take(now_s=0.0)), recut.take(now_s=0.0)]
    [3, 2, None]
    """

    def __init__(
        self,
        cuts: Iterable[Cut],
        batcher: Batcher,
        *,
        positions: Positions,
        ends: Positions,
        replaced: Collection[TopicPartition] = (),
        on_lost: Callable[[Cut, DataLost], None] = raise_lost,
    ) -> None:
        self.batcher = batcher
        self._cuts = iter(cuts)
        self._reached, self._ends, self._replaced = dict(positions), dict(ends), frozenset(replaced)
        self._on_lost = on_lost
        self._waiting: defaultdict[TopicPartition, deque[_Arrived]] = defaultdict(deque)
        self.bytes_waiting = 0
        self._arrived = 0
        self._next: Cut | None = None
        self._begins: Positions = {}  # of the runs of the next cut
        self._go_to(self._following())

    def add(self, chunk: RecordChunk, *, now_s: float) -> None:
        if self._next is None:
            self.batcher.add(chunk, now_s=now_s)
            return
        if chunk.next_offset < self._reached.get(chunk.partition, 0):
            self._give_up(self._next, _replaced(self._next, chunk.partition))
            self.batcher.add(chunk, now_s=now_s)
            return
        self._arrived += 1
        arrived = _Arrived(self._arrived, now_s, chunk, _cost_bytes(chunk))
        self._waiting[chunk.partition].append(arrived)
        self.bytes_waiting += arrived.cost_bytes
        self._reached[chunk.partition] = chunk.next_offset
        self._drop_before(chunk.partition)

    def take(self, *, now_s: float, drain: bool = False) -> RawBatch | None:
        """The next batch once all of it has arrived, else None; as the batcher's when there are no more cuts.

        Raises: DataLost: the log ends (`drain`: right here) before a cut is complete.
        """
        if self._next is None:
            return self.batcher.take(now_s=now_s, drain=drain)
        if drain and (error := self._lost(self._next, self._reached)):
            self._give_up(self._next, error)
            return self.batcher.take(now_s=now_s, drain=drain)
        if any(self._reached.get(run.partition, -1) < run.next_offset for run in self._next.runs):
            return None
        batch = self._cut(self._next)
        self.batcher.records_seen += len(batch)
        self._go_to(self._following())
        if self._next is None:
            self._hand_over()
        return batch

    def enough(self) -> frozenset[TopicPartition]:
        """Partitions that need not be read on for now: too much waits, and the next cut has all it wants of them."""
        if self._next is None or self.bytes_waiting <= WAITING_BYTES_MAX:
            return frozenset()
        missed = {run.partition for run in self._next.runs if self._reached.get(run.partition, -1) < run.next_offset}
        return frozenset(self._reached.keys() - missed)

    def wait_s(self, *, now_s: float, wait_s_max: float) -> float:
        """How long the source may wait for more; records of the journal are in the log already."""
        return wait_s_max if self._next else self.batcher.wait_s(now_s=now_s, wait_s_max=wait_s_max)

    def _cut(self, cut: Cut) -> RawBatch:
        chunks = tuple(chunk for run in cut.runs for chunk in self._take_run(run))
        positions = {run.partition: run.next_offset for run in cut.runs}
        batch = RawBatch(chunks=chunks, next_offsets=positions, closed_by=cut.closed_by)
        if len(batch) != cut.n_records:
            what = "step %d: the log holds %d of the %d records that this batch had when it was cut first"
            log.warning(what, cut.step, len(batch), cut.n_records)
        return batch

    def _take_run(self, run: Run) -> list[RecordChunk]:
        """Everything of the partition that waits before the end of the run."""
        waiting, taken = self._waiting[run.partition], []
        while waiting:
            arrived = waiting.popleft()
            n_records = bisect_left(arrived.chunk.offsets, run.next_offset)
            if 0 < n_records < len(arrived.chunk):
                head, rest = arrived.chunk.split(n_records)
                taken.append(head)
                head_bytes = _cost_bytes(head)
                waiting.appendleft(arrived._replace(chunk=rest, cost_bytes=arrived.cost_bytes - head_bytes))
                self.bytes_waiting -= head_bytes
                break
            if n_records == 0 and arrived.chunk.next_offset > run.next_offset:
                waiting.appendleft(arrived)
                break
            taken.append(arrived.chunk)
            self.bytes_waiting -= arrived.cost_bytes
            if arrived.chunk.next_offset > run.next_offset:  # its records are in the run, the gap behind them is not
                waiting.appendleft(arrived._replace(chunk=_gap_behind(arrived.chunk), cost_bytes=0))
                break
        return taken

    def _go_to(self, cut: Cut | None) -> None:
        self._next = cut
        if cut is not None:
            self._begins = {partition: first_offset for partition, first_offset, _ in reversed(cut.runs)}
            for partition in self._begins:
                self._drop_before(partition)

    def _drop_before(self, partition: TopicPartition) -> None:
        """As soon as it is known, for there may be millions: what the next cut leaves out no later one wants."""
        waiting, begin = self._waiting[partition], self._begins.get(partition, 0)
        while waiting:
            arrived = waiting[0]
            n_records = bisect_left(arrived.chunk.offsets, begin)
            if n_records == 0 and arrived.chunk.next_offset > begin:
                return
            waiting.popleft()
            self.bytes_waiting -= arrived.cost_bytes
            if n_records < len(arrived.chunk):
                rest = arrived.chunk.split(n_records)[1]
                waiting.appendleft(arrived._replace(chunk=rest, cost_bytes=_cost_bytes(rest)))
                self.bytes_waiting += _cost_bytes(rest)
            elif arrived.chunk.next_offset > begin:
                waiting.appendleft(arrived._replace(chunk=_gap_behind(arrived.chunk), cost_bytes=0))

    def _following(self) -> Cut | None:
        cut = next(self._cuts, None)
        if cut is not None and (error := self._lost(cut, self._ends)):
            self._on_lost(cut, error)
            return None
        return cut

    def _lost(self, cut: Cut, ends: Positions) -> DataLost | None:
        """Why the cut can never be made again; None: it can, as far as anybody knows."""
        for partition, _, next_offset in cut.runs:
            if partition in self._replaced:
                return _replaced(cut, partition)
            if next_offset > ends.get(partition, next_offset):
                return DataLost(
                    f"{partition}: the journal names offsets up to {next_offset} (step {cut.step}), its log ends at "
                    f"{ends[partition]}: it was created again, or its end was cut off. {GO_ON}"
                )
        return None

    def _give_up(self, cut: Cut, error: DataLost) -> None:
        self._on_lost(cut, error)
        self._next = None
        self._hand_over()

    def _hand_over(self) -> None:
        for arrived in sorted(arrived for waiting in self._waiting.values() for arrived in waiting):
            self.batcher.add(arrived.chunk, now_s=arrived.arrived_s)
        self._waiting.clear()
        self.bytes_waiting = 0


class _Arrived(NamedTuple):
    """A chunk with its place in the order of arrival, and what it costs to keep."""

    number: int
    arrived_s: float
    chunk: RecordChunk
    cost_bytes: int


def _gap_behind(chunk: RecordChunk) -> RecordChunk:
    return RecordChunk(
        partition=chunk.partition,
        offsets=(),
        timestamps_ms=(),
        keys=(),
        values=(),
        headers=(),
        next_offset=chunk.next_offset,
    )


GO_ON = (
    "To go on with what is left set source.kafka.lost_data, or move the directory journal, beside the checkpoints, "
    "away: what it names is then cut anew."
)


def _replaced(cut: Cut, partition: TopicPartition) -> DataLost:
    return DataLost(
        f"{partition}: the journal (step {cut.step}) names records of a log that is no more: the topic was created "
        f"again. {GO_ON}"
    )


def _cost_bytes(chunk: RecordChunk) -> int:
    return size_bytes(chunk) + RECORD_BYTES * len(chunk)
