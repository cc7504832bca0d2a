"""Where rejected records go when they go to a file: JSON lines with all that is needed to send them again.

`flush` returns only when everything written is safe, and is called before each checkpoint: what is rejected is never
lost. The price: a crash between the flush and the checkpoint brings the record a second time. A dead letter is
identified by topic, partition and offset; whoever reads them keeps one of each. For a topic: dead_letter_topic.py.
"""

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from stream_trainer.errors import ConfigError, StreamTrainerError
from stream_trainer.types import Reject, RejectReason, TopicPartition

__all__ = ["FILES_MAX", "FILE_BYTES_MAX", "FileDeadLetters", "origin_and_fault", "read_dead_letters"]

FILE_BYTES_MAX = 64 * 2**20  # opens in any editor
FILES_MAX = 16  # 1 GiB in all


class FileDeadLetters:
    """Appends JSON lines; a full file is renamed to PATH.1, PATH.2, ..., the highest number is the newest.

    Binary fields are base64; `value_text` is there when the value is UTF-8, for people.
    """

    def __init__(self, path: str | Path, *, bytes_max: int = FILE_BYTES_MAX, files_max: int = FILES_MAX) -> None:
        """`bytes_max` of one file; beyond `files_max` full ones the oldest is deleted, so that a disk is not filled.

        Raises: ConfigError: the file cannot be written.
        """
        if bytes_max < 1 or files_max < 1:
            raise ConfigError(f"dead_letters: bytes_max {bytes_max} and files_max {files_max} must be at least 1.")
        self._path = Path(path)
        self._bytes_max = bytes_max
        self._files_max = files_max
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
            for directory in self._path.parents:  # or a power cut takes the file whose bytes `flush` made safe
                with suppress(PermissionError):  # not ours to read; then neither was anything made in it
                    _sync_directory(directory)
        except OSError as error:
            raise ConfigError(f"dead_letters.file: {self._path} cannot be written: {error.strerror}.") from error

    def write(self, rejects: Sequence[Reject]) -> None:
        """Raises: StreamTrainerError: the disk is full or gone."""
        try:
            for reject in rejects:
                self._file.write(json.dumps(_to_json(reject), ensure_ascii=False).encode() + b"\n")
                if self._file.tell() >= self._bytes_max:
                    self._rotate()
        except OSError as error:
            raise self._not_written(error) from error

    def flush(self) -> None:
        """Safe on the disk when it returns. Raises: StreamTrainerError: it is not."""
        try:
            self._sync()
        except OSError as error:
            raise self._not_written(error) from error

    def close(self) -> None:
        self.flush()
        self._file.close()

    def _open(self) -> BinaryIO:
        file = open(self._path, "a+b", opener=_private)  # noqa: SIM115  closed in close() and _rotate()
        # A crash may leave half a line. It was never flushed, so its record comes again: cut it off.
        end = file.seek(0, os.SEEK_END)
        file.truncate(end - _bytes_after_last_newline(file, end))
        file.seek(0, os.SEEK_END)
        return file

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def _rotate(self) -> None:
        self._sync()
        self._file.close()
        numbers = _full_files(self._path)
        os.rename(self._path, f"{self._path}.{max(numbers, default=0) + 1}")
        for number in sorted(numbers)[: max(0, len(numbers) + 1 - self._files_max)]:
            numbers[number].unlink()
        self._file = self._open()
        _sync_directory(self._path.parent)

    def _not_written(self, error: OSError) -> StreamTrainerError:
        return StreamTrainerError(
            f"Dead letters could not be written to {self._path}: {error.strerror or error}. Nothing is lost: the "
            "checkpoint does not move without them. Make room, or set another dead_letters.file, and start again."
        )


def _private(path: str, flags: int) -> int:
    """Readable by this user alone: the letters hold what the records held."""
    return os.open(path, flags, 0o600)


def read_dead_letters(path: str | Path) -> Iterator[Reject]:
    """All dead letters in the order they were written, full files first. A torn last line is left out.

    >>> list(read_dead_letters("no such file"))
    []
    """
    path = Path(path)
    full = _full_files(path)
    for file in [*(full[number] for number in sorted(full)), path]:
        if not file.exists():
            continue
        with open(file, "rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    yield _from_json(json.loads(line))


def _full_files(path: Path) -> dict[int, Path]:
    pattern = re.compile(re.escape(path.name) + r"\.(\d+)")
    siblings = path.parent.iterdir() if path.parent.is_dir() else ()
    return {int(match[1]): file for file in siblings if (match := pattern.fullmatch(file.name))}


def _bytes_after_last_newline(file: BinaryIO, end: int) -> int:
    block, at = b"", end
    while at > 0 and b"\n" not in block:
        at = max(0, at - 65_536)
        file.seek(at)
        block = file.read(end - at)
    return end - at - (block.rfind(b"\n") + 1)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def origin_and_fault(reject: Reject) -> dict[str, Any]:
    """Where it came from and what was wrong with it, by the names that a letter has for them in a file or a topic."""
    return {
        "topic": reject.partition.topic,
        "partition": reject.partition.partition,
        "offset": reject.offset,
        "timestamp_ms": reject.timestamp_ms,
        "reason": reject.reason.value,
        "detail": reject.detail,
    }


def _to_json(reject: Reject) -> dict[str, Any]:
    fields: dict[str, Any] = {
        **origin_and_fault(reject),
        "key": _base64(reject.key),
        "value": _base64(reject.value),
        "headers": [[name, _base64(value)] for name, value in reject.headers],
    }
    with suppress(UnicodeDecodeError):  # not text: base64 says it all
        fields["value_text"] = reject.value.decode()
    return fields


def _from_json(fields: Mapping[str, Any]) -> Reject:
    return Reject(
        partition=TopicPartition(fields["topic"], fields["partition"]),
        offset=fields["offset"],
        timestamp_ms=fields["timestamp_ms"],
        key=_bytes(fields["key"]),
        value=_bytes(fields["value"]) or b"",
        headers=tuple((name, _bytes(value)) for name, value in fields["headers"]),
        reason=RejectReason(fields["reason"]),
        detail=fields["detail"],
    )


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)
