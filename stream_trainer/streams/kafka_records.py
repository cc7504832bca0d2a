"""Reads what was fetched of one partition, batch by batch, into columns, the way kafka-python asks for it.

`PartitionColumns` lives the life of kafka-python's `PartitionRecords` (kafka_seam.py says how it gets there), but what
it takes out of a fetched partition are columns, not an object of 13 fields per record.
A batch that cannot be read raises `CorruptBatch` and is then dropped, so that the next poll fetches it again: the stock
reader would hang there for ever. Source for control records and aborted transactions: KIP-98.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from stream_trainer.streams.kafka_batch import (
    ABORT,
    BEFORE_SIZE,
    CONTROL,
    HEADER,
    TRANSACTIONAL,
    Columns,
    CorruptBatch,
    Header,
    check_batch,
    joined,
    marker_type,
    read_batch,
)

__all__ = ["PartitionColumns", "Taken"]


class Taken:
    """What the fetcher sees of one `take`: a length in records, and one thing to pour out."""

    __slots__ = ("columns",)

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[Columns]:
        yield self.columns


class PartitionColumns:
    """Takes the place of kafka-python's `PartitionRecords`: the same life, columns instead of records."""

    def __init__(
        self,
        fetch_offset: int,
        partition: Any,
        data: bytes,
        *,
        committed_only: bool,
        aborted_transactions: Iterable[Any] | None,
        metric_aggregator: Any,
        on_drain: Callable[[Any], None],
    ) -> None:
        self.topic_partition = partition
        self.next_fetch_offset = fetch_offset
        self.leader_epoch = -1
        self.bytes_read = 0
        self._records_read = 0
        self._data = data
        self._at = 0
        self._fetch_offset = fetch_offset
        self._batch: Columns | None = None  # the last one read, handed out up to ...
        self._batch_taken = 0
        self._committed_only = committed_only
        self._aborts = sorted(aborted_transactions or (), key=lambda abort: abort.first_offset, reverse=True)
        self._aborted_producers: set[int] = set()
        self._metric_aggregator = metric_aggregator
        self._on_drain = on_drain
        self._open = True

    def __bool__(self) -> bool:
        return self._open

    def drain(self) -> None:
        """Forget the rest; tells the fetcher, once."""
        if not self._open:
            return
        self._open = False
        self._data, self._batch = b"", None
        if self._metric_aggregator:
            self._metric_aggregator.record(self.topic_partition, self.bytes_read, self._records_read)
        self._on_drain(self)

    def take(self, n: int) -> Taken:
        """Up to `n` records; none where only markers and aborted records were left, and still the position moves.

        Raises: CorruptBatch: the next batch cannot be read. What stood before it was handed out by earlier takes.
        """
        parts: list[Columns] = []
        missing = n
        while missing:
            try:
                self._batch = self._batch or self._next_columns()
            except CorruptBatch as error:
                if parts:
                    break  # hand these out first; the next take comes here again
                error.partition = self.topic_partition
                self.drain()
                raise
            if self._batch is None:
                self.drain()
                break
            part = self._batch.between(self._batch_taken, self._batch_taken + missing)
            parts.append(part)
            missing -= len(part)
            self._batch_taken += len(part)
            self.next_fetch_offset = part.next_offset
            if self._batch_taken == len(self._batch):
                self._batch, self._batch_taken = None, 0
        taken = joined(parts, self.next_fetch_offset)
        self._records_read += len(taken)
        return Taken(taken)

    def _next_columns(self) -> Columns | None:
        """The next batch with records for us; None at the end of what was fetched."""
        while len(self._data) - self._at >= HEADER.size:
            header = Header._make(HEADER.unpack_from(self._data, self._at))
            end = self._at + BEFORE_SIZE + header.size
            if end > len(self._data):
                return None  # cut off by the fetch size: the next fetch begins with it
            check_batch(header, self._data, self._at, end)
            body = self._data[self._at + HEADER.size : end]
            hidden = self._is_hidden(header, body)
            columns = None if hidden or header.next_offset <= self._fetch_offset else read_batch(header, body)
            self._at = end
            self.leader_epoch = header.leader_epoch
            self.bytes_read += BEFORE_SIZE + header.size
            if columns and header.base_offset < self._fetch_offset:  # a fetch from within a batch brings all of it
                columns = self._from_fetch_offset(columns)
            if columns:
                return columns
            self.next_fetch_offset = max(self.next_fetch_offset, header.next_offset)
        return None

    def _from_fetch_offset(self, columns: Columns) -> Columns | None:
        n_before = bisect_left(columns.offsets, self._fetch_offset)
        return columns.between(n_before, len(columns)) if n_before < len(columns) else None

    def _is_hidden(self, header: Header, body: bytes) -> bool:
        """Whether the batch is a transaction marker, or of a transaction that was aborted.

        The broker lists aborted transactions by first offset; each lasts until its producer's abort marker.
        """
        is_control = bool(header.attributes & CONTROL)
        if self._committed_only and header.producer_id >= 0:
            while self._aborts and self._aborts[-1].first_offset < header.next_offset:
                self._aborted_producers.add(self._aborts.pop().producer_id)
            if is_control and marker_type(header, body) == ABORT:
                self._aborted_producers.discard(header.producer_id)
            elif header.attributes & TRANSACTIONAL and header.producer_id in self._aborted_producers:
                return True
        return is_control
