"""Which dead letters were handed back already: a side file, so that a second retry does not hand them back again.

PATH        JSON lines, [topic, partition, offset] of each; replaced as a whole: the old content or the new, no half
PATH.lock   held while letters are handed back
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from stream_trainer.errors import Fenced
from stream_trainer.types import Reject

__all__ = ["LetterId", "Retried", "letter_id"]

LetterId: TypeAlias = tuple[str, int, int]


def letter_id(letter: Reject) -> LetterId:
    """Topic, partition and offset: the record itself, however often its letter was written."""
    return letter.partition.topic, letter.partition.partition, letter.offset


class Retried:
    """The letters that were handed back.

    >>> import tempfile
    >>> retried = Retried(Path(tempfile.mkdtemp()) / "dead.jsonl.retried")
    >>> retried.mark([("orders", 0, 17)])
    >>> ("orders", 0, 17) in retried.load()
    True
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> set[LetterId]:
        if not self.path.exists():
            return set()
        topics = (json.loads(line) for line in self.path.read_text().splitlines())
        return {(topic, partition, offset) for topic, partition, offset in topics}

    def mark(self, letters: Iterable[LetterId]) -> None:
        """Safe on the disk when it returns. Raises: OSError: nothing changed."""
        lines = [json.dumps(letter) + "\n" for letter in sorted(self.load() | set(letters))]
        write_whole(self.path, "".join(lines).encode())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Raises: Fenced: another retry is at work."""
        descriptor = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise Fenced(f"{self.path}: another retry is at work; letters would go back twice. Wait for it.") from error
        try:
            yield
        finally:
            os.close(descriptor)


def write_whole(path: Path, content: bytes) -> None:
    """A private file, all of it or as it was before, safe from a power cut."""
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
