"""The journal of batches: how the stream was cut, written down before anything is learned from it.

    DIRECTORY/journal/000000000001.journal    the batches from step 1 on; a new segment every `rows_max` batches

With it a restart cuts the batches that no checkpoint holds exactly as before, and any saved state can be computed
again from the configuration, the journal and the log. A batch of one partition costs about 13 bytes on disk.

A crash tears at most the end of the last segment: what follows its last sound row is cut off. Anything unsound with a
sound row behind it is damage, and refused. Not here: the bytes (journal_format.py), who may write (the lock of
directory.py), how batches are cut again (engine/recut.py).
"""

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path

from stream_trainer.checkpoints.files import fsync
from stream_trainer.checkpoints.journal_format import Segment, SegmentEncoder, decode_segment
from stream_trainer.errors import CheckpointError, CorruptCheckpoint
from stream_trainer.types import Cut, Positions, RawBatch, RecordChunk

__all__ = ["BatchJournal"]

log = logging.getLogger(__name__)
SUFFIX = ".journal"


class BatchJournal:
    """Appends one row per batch; reads them back in order.

    Args:
        path: directory of the segments, made when the first row is written.
        bytes_max: beyond it `forget` drops the oldest segments that no kept checkpoint needs. None: nothing is dropped.
        rows_max: of one segment: what can be dropped at once, and what a look for one step reads.
    """

    def __init__(self, path: Path, *, bytes_max: int | None = None, rows_max: int = 16_384) -> None:
        self.path = path
        self._bytes_max, self._rows_max = bytes_max, rows_max
        self._last_step = 0
        self._encoder: SegmentEncoder | None = None
        self._file: int | None = None
        self._file_path: Path | None = None
        self._rows_left = 0  # of this segment
        self._unwritten = b""  # what the disk did not take yet, perhaps the end of a row

    # ------------------------------------------------------------ write

    def resume(self, after_step: int) -> tuple[Positions, list[Cut]]:
        """Cut off what a crash tore, and be ready to append. Returns and raises what `cuts` does."""
        for segment in self._segments()[-1:]:
            found = _read(segment, may_be_torn=True)
            if found is None or found.sound_bytes < segment.stat().st_size:
                log.warning("%s: cutting off a row that was never finished", segment)
                _cut_off(segment, found)
            if segment.exists():
                fsync(segment)  # before a later segment says that this one is whole
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
            found_since = {chunk.partition: _begin(chunk) for chunk in reversed(raw.chunks)}
            self._begin_segment(step, found_since | positions)
        assert self._encoder is not None
        self._write(self._encoder.row(step, raw))
        self._last_step = step
        self._rows_left -= 1

    def sync(self) -> None:
        """Make every row survive a power cut. From any thread. Raises OSError: the disk does not take them."""
        if self._unwritten:
            raise OSError(errno.ENOSPC, f"{self.path}: {len(self._unwritten)} bytes of the journal are not written")
        if self._file_path is not None:
            fsync(self._file_path)
            fsync(self.path)

    def forget(self, *, up_to_step: int) -> None:
        """Drop the oldest segments while all exceed `bytes_max`, but none that holds a later row. From any thread."""
        if self._bytes_max is None:
            return
        segments = self._segments()
        size_bytes = sum(segment.stat().st_size for segment in segments)
        for segment, following in pairwise(segments):
            if size_bytes <= self._bytes_max or _first_step(following) > up_to_step + 1:
                return
            size_bytes -= segment.stat().st_size
            segment.unlink()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = self._encoder = None

    def _begin_segment(self, step: int, positions: Positions) -> None:
        """A segment says for itself where it begins, so that the ones before it can go."""
        path = self.path / f"{step:012d}{SUFFIX}"
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
            if self._file is not None:
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

    # ------------------------------------------------------------ read

    def cuts(self, *, after_step: int = 0) -> tuple[Positions, Iterator[Cut]]:
        """The rows after `after_step`, and the positions right before them; empty if there are no such rows.

        Safe beside the process that writes. Rows are read as they are asked for.

        Raises: CorruptCheckpoint: damage, or missing rows; CheckpointError: the journal begins later.
        """
        segments = self._segments()
        if segments and _first_step(segments[0]) > after_step + 1:
            raise CheckpointError(
                f"{self.path} begins with step {_first_step(segments[0])}; expected one that has step "
                f"{after_step + 1}, the first after the state to go on from. Go on from a later checkpoint, or move "
                "the journal away to cut what comes anew."
            )
        begin = max((i for i, segment in enumerate(segments) if _first_step(segment) <= after_step + 1), default=0)
        found = _read(segments[begin], may_be_torn=begin == len(segments) - 1) if segments else None
        if found is None:
            return {}, iter(())
        positions = dict(found.positions)
        rows = chain(found.cuts, self._rows(segments[begin + 1 :], found.first_step + len(found.cuts)))
        for cut in rows:
            if cut.step > after_step:
                return positions, chain([cut], rows)
            positions.update((run.partition, run.next_offset) for run in cut.runs)
        return {}, iter(())

    def _rows(self, segments: Sequence[Path], step: int) -> Iterator[Cut]:
        for segment in segments:
            found = _read(segment, may_be_torn=segment == segments[-1])
            if found is None:
                return
            if found.first_step != step:
                raise CorruptCheckpoint(
                    f"{segment}: begins with step {found.first_step}, expected {step}: the rows between are missing. "
                    f"Go on from a checkpoint of step {found.first_step - 1} or later."
                )
            yield from found.cuts
            step += len(found.cuts)

    def _segments(self) -> list[Path]:
        return sorted(path for path in self.path.glob(f"*{SUFFIX}") if path.stem.isdigit())


def _begin(chunk: RecordChunk) -> int:
    return chunk.offsets[0] if len(chunk) else chunk.next_offset


def _first_step(segment: Path) -> int:
    return int(segment.stem)


def _read(segment: Path, *, may_be_torn: bool) -> Segment | None:
    found = decode_segment(segment.read_bytes(), name=str(segment), may_be_torn=may_be_torn)
    if found is not None and found.first_step != _first_step(segment):
        raise CorruptCheckpoint(f"{segment}: begins with step {found.first_step}; expected the one in its name.")
    return found


def _cut_off(segment: Path, found: Segment | None) -> None:
    if found is None:
        segment.unlink()
    else:
        os.truncate(segment, found.sound_bytes)
