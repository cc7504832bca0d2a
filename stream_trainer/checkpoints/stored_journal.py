"""The journal of batches in an object store: the rows since the last checkpoint wait in memory and go with the next.

An object cannot grow, and a request per batch would cost more than the batch. So each save writes the open segment anew
under a new name, whole, before the checkpoint that needs it becomes true, and removes the one before; after `rows_max`
batches a new segment begins. What that gives up: after a crash the batches that no checkpoint holds are cut anew, as
they come. What it keeps: every saved state can be computed again bit for bit, and each record counts once.
"""

import threading
from itertools import pairwise

from stream_trainer.checkpoints.journal import found_since
from stream_trainer.checkpoints.journal_chain import JournalReader, SegmentName
from stream_trainer.checkpoints.journal_format import SegmentEncoder
from stream_trainer.checkpoints.store import Store
from stream_trainer.types import Cut, Positions, RawBatch

__all__ = ["StoredJournal"]

FOLDER = "journal"


class _Segment:
    """One that is being written."""

    def __init__(self, first_step: int, positions: Positions) -> None:
        self.first_step = self.last_step = first_step
        self.encoder = SegmentEncoder(first_step, positions)
        self.rows = [self.encoder.header]
        self.stored: SegmentName | None = None


class StoredJournal(JournalReader):
    """The contract of BatchJournal; `append` touches nothing outside."""

    def __init__(self, store: Store, *, bytes_max: int | None = None, rows_max: int = 16_384) -> None:
        super().__init__(
            f"{store.address}/{FOLDER}", lambda: store.names(FOLDER), lambda name: store.read(f"{FOLDER}/{name}")
        )
        self.epoch: int | None = None  # of this writer; None: the one after the highest seen
        self._store, self._bytes_max, self._rows_max = store, bytes_max, rows_max
        self._last_step = 0
        self._open: list[_Segment] = []  # the last one grows; those before it are not stored to their end yet
        self._sizes_bytes: dict[SegmentName, int] = {}  # a segment that is there never changes
        self._lock = threading.Lock()  # rows come from the loop, `sync` from the thread that saves

    def resume(self, after_step: int) -> tuple[Positions, list[Cut]]:
        """Drop what a crash left half-written, and be ready to append. Returns and raises what `cuts` does."""
        if self.epoch is None:
            self.epoch = self.epoch_seen() + 1
        while (names := self._live()) and not self._is_whole(names):
            self._store.delete(f"{FOLDER}/{names[-1].text}")
        positions, rows = self.cuts(after_step=after_step)
        cuts = list(rows)
        self._last_step = cuts[-1].step if cuts else after_step
        return positions, cuts

    def _is_whole(self, names: list[SegmentName]) -> bool:
        """Of the last one. Its predecessor goes only after it was written, so what a torn one hides is still there."""
        found = self._segment(names, len(names) - 1)
        return found is not None and found.first_step + len(found.cuts) - 1 == names[-1].last_step

    def append(self, step: int, raw: RawBatch, positions: Positions) -> None:
        """One row, in memory until the next `sync`. A row that is there already is not written again."""
        if step <= self._last_step:
            return
        with self._lock:
            segment = self._open[-1] if self._open else None
            if segment is None or len(segment.rows) > self._rows_max or not segment.encoder.knows(raw):
                segment = _Segment(step, found_since(raw) | positions)
                self._open.append(segment)
            segment.rows.append(segment.encoder.row(step, raw))
            segment.last_step = self._last_step = step

    def begin_anew(self, last_step: int) -> None:
        """The next row is that of `last_step` + 1, whatever `resume` found behind it."""
        self._last_step = last_step  # its segment is of this epoch: what earlier ones say of those steps is void

    def sync(self) -> None:
        """Store every row so far. From any thread. Raises: OSError, or what the store raises."""
        with self._lock:
            todo = [(segment, segment.last_step, b"".join(segment.rows)) for segment in self._open]
        for segment, last_step, content in todo:
            name = SegmentName.of(segment.first_step, epoch=self.epoch or 0, last_step=last_step)
            if segment.stored == name:
                continue
            self._store.write(f"{FOLDER}/{name.text}", [content])
            if segment.stored is not None:
                self._store.delete(f"{FOLDER}/{segment.stored.text}")
            segment.stored = name
        with self._lock:
            del self._open[: len(todo) - 1]

    def forget(self, *, up_to_step: int) -> None:
        """Drop the oldest while more than `bytes_max` lie there, but none that holds a later row. From any thread."""
        if self._bytes_max is None:
            return
        live = self._live()
        self._sizes_bytes = {name: self._sizes_bytes.get(name) or self._size_bytes(name) for name in live}
        size_bytes = sum(self._sizes_bytes.values())
        for name, following in pairwise(live):
            if size_bytes <= self._bytes_max or following.first_step > up_to_step + 1:
                return
            size_bytes -= self._sizes_bytes[name]
            self._store.delete(f"{FOLDER}/{name.text}")

    def _size_bytes(self, name: SegmentName) -> int:
        return self._store.size_bytes(f"{FOLDER}/{name.text}")

    def close(self) -> None:
        self._open.clear()
