"""The journal of batches on a disk: how the stream was cut, written down before anything is learned from it.

    DIRECTORY/journal/000000000001-000001.journal    the batches from step 1 on; a new segment every `rows_max` batches

With it a restart cuts the batches that no checkpoint holds exactly as before, and any saved state can be computed
again from the configuration, the journal and the log. A batch of one partition costs about 13 bytes on disk.

A crash tears at most the end of the last segment: the next life begins a segment of its own behind the last sound row.
Anything unsound with a sound row behind it is damage, and refused. Not here: the bytes (journal_format.py), which
segments count (journal_chain.py), object stores (stored_journal.py), how batches are cut again (engine/recut.py).
"""

import errno
import logging
import os
from itertools import pairwise
from pathlib import Path

from stream_trainer.checkpoints.journal_chain import JournalReader, SegmentName
from stream_trainer.checkpoints.journal_format import SegmentEncoder
from stream_trainer.checkpoints.local_store import fsync
from stream_trainer.errors import CheckpointError
from stream_trainer.types import Cut, Positions, RawBatch, RecordChunk

__all__ = ["BatchJournal", "found_since"]

log = logging.getLogger(__name__)


class BatchJournal(JournalReader):
    """Appends one row per batch; reads them back in order.

    Args:
        path: directory of the segments, made when the first row is written.
        bytes_max: beyond it `forget` drops the oldest segments that no kept checkpoint needs. None: nothing is dropped.
        rows_max: of one segment: what can be dropped at once, and what a look for one step reads.
    """

    def __init__(self, path: Path, *, bytes_max: int | None = None, rows_max: int = 16_384) -> None:
        super().__init__(
            str(path), lambda: os.listdir(path) if path.is_dir() else [], lambda n: (path / n).read_bytes()
        )
        self.path = path
        self.epoch: int | None = None  # of this writer; None: the one after the highest seen
        self._bytes_max, self._rows_max = bytes_max, rows_max
        self._last_step = 0
        self._encoder: SegmentEncoder | None = None
        self._file: int | None = None
        self._file_path: Path | None = None
        self._rows_left = 0  # of this segment
        self._unwritten = b""  # what the disk did not take yet, perhaps the end of a row

    # ------------------------------------------------------------ write

    def resume(self, after_step: int) -> tuple[Positions, list[Cut]]:
        """Be ready to append behind the last sound row. Returns and raises what `cuts` does.

        Raises, too: CheckpointError: the disk does not keep what is there.
        """
        if self.epoch is None:
            self.epoch = self.epoch_seen() + 1
        try:
            for last in self._live()[-1:]:
                fsync(self.path / last.text)  # before a later segment says that it is whole
                fsync(self.path)  # and before a checkpoint relies on rows of which no later `sync` will know
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: the rows of the last run cannot be made safe ({error.strerror}). Look at the disk, "
                "then start again."
            ) from error
        positions, rows = self.cuts(after_step=after_step)
        cuts = list(rows)
        self._last_step = cuts[-1].step if cuts else after_step
        return positions, cuts

    def append(self, step: int, raw: RawBatch, positions: Positions) -> None:
        """One row, given to the operating system before this returns: killing this process cannot take it back.

        A row that is there already is not written again. What a full disk does not take is kept for the next call.

        Args:   positions: before this batch, of all partitions known by then.
        Raises: CheckpointError: no segment can be begun.
        """
        if step <= self._last_step:
            return
        full = self._rows_left <= 0 and not self._unwritten
        if self._encoder is None or full or not self._encoder.knows(raw):
            self._begin_segment(step, found_since(raw) | positions)
        assert self._encoder is not None
        self._write(self._encoder.row(step, raw))
        self._last_step = step
        self._rows_left -= 1

    def begin_anew(self, last_step: int) -> None:
        """The next row is that of `last_step` + 1, whatever stands behind it, and says for itself where it begins.

        For a run whose partitions have changed: their positions do not follow from the rows before.
        """
        self._last_step, self._encoder = last_step, None

    def sync(self) -> None:
        """Make every row survive a power cut. From any thread. Raises OSError: the disk does not take them."""
        self._refuse_unwritten()
        if self._file_path is not None:
            fsync(self._file_path)
            fsync(self.path)

    def _refuse_unwritten(self) -> None:
        if self._unwritten:
            raise OSError(errno.ENOSPC, f"{self.path}: {len(self._unwritten)} bytes of the journal are not written")

    def forget(self, *, up_to_step: int) -> None:
        """Drop the oldest segments while all exceed `bytes_max`, but none that holds a later row. From any thread."""
        if self._bytes_max is None:
            return
        live = self._live()
        for name in self._all():
            if name not in live:
                (self.path / name.text).unlink()  # void: a later life says it anew
        size_bytes = sum((self.path / name.text).stat().st_size for name in live)
        for name, following in pairwise(live):
            if size_bytes <= self._bytes_max or following.first_step > up_to_step + 1:
                return
            size_bytes -= (self.path / name.text).stat().st_size
            (self.path / name.text).unlink()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = self._encoder = None

    def _begin_segment(self, step: int, positions: Positions) -> None:
        """A segment says for itself where it begins, so that the ones before it can go."""
        path = self.path / SegmentName.of(step, epoch=self.epoch or 0).text
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
            if self._file is not None:
                self._write(b"")  # what still waits belongs to this one
                self._refuse_unwritten()
                os.fsync(self._file)  # else a power cut could tear a segment that is not the last
                os.close(self._file)
                self._file = None
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be written: {error.strerror}.") from error
        self._file_path, self._rows_left = path, self._rows_max
        self._encoder = SegmentEncoder(step, positions)
        self._write(self._encoder.header)

    def _write(self, content: bytes) -> None:
        assert self._file is not None
        rest = self._unwritten + content
        try:
            rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            if not self._unwritten:
                log.error("%s cannot be written (%s); rows wait in memory, learning goes on", self.path, error.strerror)
        self._unwritten = rest


def found_since(raw: RawBatch) -> Positions:
    """Where each partition of a batch begins in it: the loop learns of a new one only with the batch."""
    return {chunk.partition: _begin(chunk) for chunk in reversed(raw.chunks)}


def _begin(chunk: RecordChunk) -> int:
    return chunk.offsets[0] if len(chunk) else chunk.next_offset
