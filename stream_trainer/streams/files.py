"""The source over a file of lines: JSON lines or CSV, gzip transparent, "-" for standard input.

One line is one record; its offset is its line number, from 0, the CSV header not counted. Empty lines take an offset
and are no record. The topic is the file's name, the partition 0. Refused: CSV fields that contain line breaks, and
files that still grow: the end that is reached is the end.
"""

import csv
import gzip
import io
import os
import select
import sys
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from stream_trainer.errors import ConfigError, DataLost
from stream_trainer.types import Positions, RecordChunk, TopicPartition

__all__ = ["FORMATS", "LINE_BYTES_MAX", "FileSource"]

FORMATS = ("csv", "jsonl")
BLOCK_BYTES = 1 << 18  # what is read at once
LINE_BYTES_MAX = 16 * 2**20  # far above any record that a decoder accepts


class FileSource:
    """Implements `contracts.Source`; ends, which a log never does: see `exhausted`.

    A line of more than `line_bytes_max` bytes arrives cut to one byte more than that, and its rest is never in memory:
    a decoder whose own limit is not higher rejects it as oversize.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "two.jsonl"
    >>> _ = path.write_bytes(b'{"x": 1}\\n\\n{"x": 2}\\n')
    >>> source = FileSource(str(path))
    >>> source.start(None)
    {TopicPartition(topic='two.jsonl', partition=0): 0}
    >>> [(list(chunk.offsets), chunk.values, chunk.next_offset) for chunk in source.poll(0.0, 10)]
    [([0, 2], [b'{"x": 1}', b'{"x": 2}'], 3)]
    >>> source.close()
    """

    def __init__(self, path: str, format: str | None = None, *, line_bytes_max: int = LINE_BYTES_MAX) -> None:
        """`format`: "jsonl" or "csv"; None: by the suffix, and "jsonl" for standard input.

        Raises: ConfigError: no such file, or a suffix that says nothing.
        """
        self.format = format or _format_of(path)
        if self.format not in FORMATS:
            raise ConfigError(f"source.file.format is {self.format!r}; known formats: {', '.join(FORMATS)}.")
        if path != "-" and not Path(path).is_file():
            raise ConfigError(f"source.file.path: there is no file {path} (looked from {Path.cwd()}).")
        self._path = path
        self._partition = TopicPartition("stdin" if path == "-" else Path(path).name, 0)
        self._line_bytes_max = line_bytes_max
        self._stream: BinaryIO | None = None
        self._header: tuple[str, ...] | None = None
        self._lines: list[bytes] = []  # complete, not yet handed out, the next one last
        self._tail = b""  # the beginning of the line after those
        self._next = 0
        self._at_end = False

    @property
    def exhausted(self) -> bool:
        """Whether everything was handed out and nothing will come any more."""
        return self._at_end and not self._lines

    @property
    def header(self) -> tuple[str, ...] | None:
        """The column names of a CSV file; None for JSON lines. Waits for the first line."""
        self._open()
        return self._header

    @property
    def topic_ids(self) -> Mapping[str, str]:
        """None: a file is known by its path alone."""
        return {}

    def start(self, positions: Positions | None, topic_ids: Mapping[str, str] | None = None) -> Positions:
        """Raises: DataLost: the file has fewer lines than we have learned; ConfigError: it cannot be read."""
        self._open()
        wanted = (positions or {}).get(self._partition, 0)
        while self._next < wanted:
            if not self._lines and not self._read_block():
                raise DataLost(
                    f"{self._path} has {self._next} lines, the checkpoint is at line {wanted}: the file was replaced "
                    "or cut. Start with a new checkpoint directory, or give it back its lines."
                )
            self._take(min(len(self._lines), wanted - self._next))
        return {self._partition: self._next}

    def poll(self, wait_s: float, records_max: int) -> Sequence[RecordChunk]:
        """One chunk; nothing when standard input is silent for `wait_s`, or at the end: then `exhausted` is True."""
        if not self._lines and not self._at_end and self._is_ready(wait_s):
            self._read_block()
        if not self._lines:
            return ()
        first = self._next
        lines = self._take(min(len(self._lines), records_max))
        offsets: Sequence[int] = range(first, self._next)
        if b"" in lines:
            offsets = [offset for offset, line in zip(offsets, lines) if line]
            lines = [line for line in lines if line]
        return [
            RecordChunk(
                partition=self._partition,
                offsets=offsets,
                timestamps_ms=[-1] * len(lines),
                keys=[None] * len(lines),
                values=lines,
                headers=[()] * len(lines),
                next_offset=self._next,
            )
        ]

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """A file has one partition, and nobody waits for another."""

    def accept_loss(self, error: DataLost) -> None:
        """Never: lines do not go away by age."""
        raise error

    def end_offsets(self) -> Positions:
        """Known once the end was read; before that nothing, for a file's length in lines takes reading all of it."""
        return {self._partition: self._next} if self.exhausted else {}

    def lags(self) -> Positions:
        """0 once the end was read, unknown before."""
        return {self._partition: 0} if self.exhausted else {}

    def commit(self, positions: Positions) -> None:
        """A file keeps no positions of others."""

    def close(self) -> None:
        if self._stream is not None and self._path != "-":
            self._stream.close()
        self._stream = None

    # ------------------------------------------------------------ reading

    def _open(self) -> None:
        if self._stream is not None:
            return
        if self._path == "-":
            self._stream = sys.stdin.buffer
        elif self._path.endswith(".gz"):
            self._stream = cast(BinaryIO, gzip.open(self._path, "rb"))  # noqa: SIM115  closed in close()
        else:
            self._stream = open(self._path, "rb", buffering=0)  # noqa: SIM115  closed in close()
        if self.format == "csv":
            self._header = self._read_header()

    def _read_header(self) -> tuple[str, ...]:
        while not self._lines and self._read_block():
            pass
        if not self._lines:
            raise ConfigError(f"{self._path} is empty; expected a line of column names.")
        line = self._lines.pop().decode("utf-8-sig", errors="replace")
        return tuple(name.strip() for name in next(csv.reader([line], skipinitialspace=True)))

    def _take(self, n: int) -> list[bytes]:
        """The next `n` lines; `_lines` holds them backwards, so that taking them off is cheap."""
        lines = self._lines[: -n - 1 : -1]
        del self._lines[len(self._lines) - n :]
        self._next += n
        return lines

    def _read_block(self) -> bool:
        """Read on, once all lines are taken; False: there is nothing more."""
        block = self._read()
        if block:
            lines = (self._tail + block).split(b"\n")
            self._tail = lines.pop()[: self._line_bytes_max + 1]  # the rest of a line too long is forgotten here
        else:
            lines = [self._tail] if self._tail else []
            self._tail = b""
            self._at_end = True
        self._lines = [line[: self._line_bytes_max + 1].removesuffix(b"\r") for line in reversed(lines)]
        return bool(block or lines)

    def _read(self) -> bytes:
        assert self._stream is not None
        try:
            if self._path == "-":
                return os.read(self._stream.fileno(), BLOCK_BYTES)
            return self._stream.read(BLOCK_BYTES)
        except (OSError, EOFError, zlib.error) as error:
            raise DataLost(
                f"{self._path} cannot be read behind line {self._next}: {type(error).__name__}: {error}. "
                "The file is damaged or cut off."
            ) from error

    def _is_ready(self, wait_s: float) -> bool:
        if self._path != "-" or self._stream is None:
            return True
        try:
            return bool(select.select([self._stream], [], [], wait_s)[0])
        except (OSError, ValueError, io.UnsupportedOperation):  # not something that can be waited for
            return True


def _format_of(path: str) -> str:
    if path == "-":
        return "jsonl"
    suffix = Path(path.removesuffix(".gz")).suffix
    known = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv"}
    if suffix not in known:
        raise ConfigError(f"source.file.path: {path} ends in none of {', '.join(known)}; set source.file.format.")
    return known[suffix]
