"""Where checkpoints lie: a folder of this machine or an object store; what both must do, and which an address means.

Keys are relative, with slashes: `checkpoint-.../manifest.json`. Everything said to be written survives a crash from
then on. Not here: what the files hold (files.py), who may write (fence.py), which ones stay (retention.py).
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeAlias

from stream_trainer.checkpoints.local_store import LocalStore
from stream_trainer.checkpoints.object_store import ObjectStore

__all__ = ["Store", "is_object_store", "open_store"]

Chunk: TypeAlias = bytes | memoryview


class Store(Protocol):
    """Both kinds pass the same tests."""

    @property
    def address(self) -> str: ...

    def open(self, *, take_over: bool) -> None:
        """Make it ready to be written: create it, lock it where there are locks. Raises: Fenced, CheckpointError."""

    def close(self) -> None: ...

    def checkpoints(self) -> list[str]:
        """Folders that claim to be complete checkpoints, in no order; empty if nothing is there."""

    def names(self, folder: str) -> list[str]:
        """Of the files in a folder; empty if there is no such folder."""

    def read(self, key: str) -> bytes:
        """Raises: OSError, FileNotFoundError among them."""

    def size_bytes(self, key: str) -> int: ...

    def write(self, key: str, chunks: Iterable[Chunk]) -> None:
        """A file from its pieces, whatever was there before."""

    def create(self, key: str, content: bytes) -> None:
        """A file that nobody has written before. Raises: FileExistsError: somebody has."""

    def delete(self, key: str) -> None:
        """A file or a folder, if it is there. A folder stops to be a checkpoint first."""

    def publishing(self, name: str) -> AbstractContextManager[str]:
        """Write the files of a checkpoint into the folder given, its manifest last; whole or not at all."""

    def set_aside(self, name: str) -> None:
        """A folder that does not verify: no checkpoint any more, kept until the next one to look at."""

    def sweep(self) -> None:
        """Remove what unfinished saves left."""

    def is_private(self, folder: str) -> bool:
        """Whether this user owns all of it and nobody else can write it; False where that cannot be known."""


def is_object_store(address: Path | str) -> bool:
    """Whether it has a scheme: `s3://bucket/run`, `memory://run`, `file:///mnt/share/run`."""
    return "://" in str(address)


def open_store(address: Path | str) -> Store:
    """Raises: ConfigError: no such kind of store, or the package that speaks to it is missing."""
    return ObjectStore(str(address)) if is_object_store(address) else LocalStore(Path(address))
