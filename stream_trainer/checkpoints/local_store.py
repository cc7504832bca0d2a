"""Checkpoints in a folder of this machine: a checkpoint is there once its folder was renamed, and not before.

    DIRECTORY/lock        held by the one process that may write
    DIRECTORY/tmp-.../    a save or a removal that did not finish
    DIRECTORY/corrupt-.../    one that did not verify, for whoever wants to know why

Each file is fsynced, then its folder, then comes the rename, then DIRECTORY is fsynced: rename is the instant at which
the truth changes, and a power cut at any moment leaves the truth before or after it.
"""

import fcntl
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stream_trainer.checkpoints.names import PREFIX
from stream_trainer.errors import CheckpointError, Fenced

__all__ = ["LocalStore", "fsync"]

log = logging.getLogger(__name__)


class LocalStore:
    """The contract is `store.Store`.

    Args:
        path: made by `open`, readable by this user only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @property
    def address(self) -> str:
        return str(self.path)

    # ------------------------------------------------------------ who may write

    def open(self, *, take_over: bool) -> None:
        try:
            _make_directory(self.path)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint.directory {self.path}: cannot be written ({error.strerror}). Give a directory that this "
                "user may write."
            ) from error
        if not _locked(descriptor) or not self._is_current(descriptor):
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            if not take_over:
                raise Fenced(
                    f"checkpoint.directory {self.path} is in use by {holder}. Two writers would teach records twice: "
                    "stop the other one, or give this run a directory of its own."
                )
            log.warning("%s: taking over from %s, which still holds the lock", self.path, holder)
            descriptor = self._new_lock()
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        self._lock = descriptor

    def _is_current(self, descriptor: int) -> bool:
        """Whether the file we locked is still the one with the name: a take-over may have put another there."""
        return os.path.samestat(os.fstat(descriptor), os.stat(self.path / "lock"))

    def _new_lock(self) -> int:
        """A lock of our own under the old name; the one who holds the old lock holds a file without a name."""
        path = self.path / f"lock-{uuid.uuid4().hex}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        path.rename(self.path / "lock")
        return descriptor

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ------------------------------------------------------------ read

    def checkpoints(self) -> list[str]:
        return [path.name for path in self.path.glob(f"{PREFIX}*") if path.is_dir()]

    def names(self, folder: str) -> list[str]:
        try:
            return os.listdir(self.path / folder)
        except FileNotFoundError:
            return []

    def read(self, key: str) -> bytes:
        return (self.path / key).read_bytes()

    def size_bytes(self, key: str) -> int:
        return (self.path / key).stat().st_size

    def is_private(self, folder: str) -> bool:
        path = self.path / folder
        entries = (entry.stat() for entry in (self.path, path, *path.rglob("*")))
        return all(s.st_uid == os.geteuid() and not s.st_mode & 0o022 for s in entries)

    # ------------------------------------------------------------ write

    def write(self, key: str, chunks: Iterable[bytes | memoryview]) -> None:
        path = self.path / key
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._fill(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), chunks)

    def create(self, key: str, content: bytes) -> None:
        path = self.path / key
        path.parent.mkdir(exist_ok=True, mode=0o700)
        self._fill(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), [content])
        fsync(path.parent)
        fsync(self.path)

    def _fill(self, descriptor: int, chunks: Iterable[bytes | memoryview]) -> None:
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def publishing(self, name: str) -> Iterator[str]:
        temporary = self.path / f"tmp-{uuid.uuid4().hex}"
        temporary.mkdir(mode=0o700)
        try:
            yield temporary.name
            for folder in (*(path for path in temporary.rglob("*") if path.is_dir()), temporary):
                fsync(folder)
            temporary.rename(self.path / name)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync(self.path)

    def delete(self, key: str) -> None:
        path = self.path / key
        if path.is_dir():  # away at once: a removal that is killed half-way must not look like a torn checkpoint
            gone = self.path / f"tmp-{uuid.uuid4().hex}"
            path.rename(gone)
            fsync(self.path)  # or a power cut gives an emptied folder its old name back
            shutil.rmtree(gone, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def set_aside(self, name: str) -> None:
        for earlier in self.path.glob("corrupt-*"):
            shutil.rmtree(earlier, ignore_errors=True)
        (self.path / name).rename(self.path / f"corrupt-{name}")

    def sweep(self) -> None:
        for leftover in self.path.glob("tmp-*"):
            log.warning("removing %s: a save or a removal that did not finish", leftover)
            shutil.rmtree(leftover, ignore_errors=True)


def fsync(path: Path) -> None:
    """Make a file, or the names in a directory, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_directory(path: Path) -> None:
    """Readable by this user only, with its parents; a power cut after this cannot take its name away."""
    begun = next(parent for parent in path.parents if parent.exists())
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    for parent in path.parents:  # the lowest one in any case: an earlier start may have died right before this
        with suppress(PermissionError):  # not ours to read; then neither was it made here
            fsync(parent)
        if parent == begun:
            return


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
