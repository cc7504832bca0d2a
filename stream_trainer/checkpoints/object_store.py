"""Checkpoints in an object store, by fsspec: `s3://`, `gs://`, `memory://`, a mounted share as `file://`.

Nothing can be renamed at once there, so the manifest is the mark: the files go under a name of which no other attempt
makes use, the manifest last, and a folder without one is no checkpoint. There is no lock that dies with its holder,
either: of two instances the later one has the higher epoch, and the earlier is fenced at its next save (fence.py).

The store must show a finished write to every later read and list, as S3, GCS and Azure do. Keys and endpoints come from
the environment or the configuration files of fsspec's own drivers. On a disk of this machine take a plain path instead:
`file://` neither fsyncs nor locks.
"""

import logging
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import fsspec

from stream_trainer.checkpoints.names import PREFIX
from stream_trainer.errors import CheckpointError, ConfigError

__all__ = ["ObjectStore"]

log = logging.getLogger(__name__)
MARK = "manifest.json"


class ObjectStore:
    """The contract is `store.Store`.

    Args:
        address: scheme and folder. Raises: ConfigError if the scheme, or its driver, is unknown here.
    """

    def __init__(self, address: str) -> None:
        try:
            self._fs, base = fsspec.core.url_to_fs(address, use_listings_cache=False, auto_mkdir=True)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"checkpoint.directory {address}: {error}") from error
        self._address, self._base = address, base.rstrip("/")

    @property
    def address(self) -> str:
        return self._address

    def open(self, *, take_over: bool) -> None:
        """Try whether it can be written: to learn that at the first save would be late."""
        try:
            self.write("probe", [b"?"])
            self.delete("probe")
        except Exception as error:  # every driver has its own
            raise CheckpointError(
                f"checkpoint.directory {self._address}: cannot be written ({error}). Check the address, the "
                "credentials and the rights."
            ) from error

    def close(self) -> None:
        pass

    # ------------------------------------------------------------ read

    def checkpoints(self) -> list[str]:
        return [name for name in self._folders() if self._fs.exists(self._path(f"{name}/{MARK}"))]

    def _folders(self) -> list[str]:
        return [name for name in self.names("") if name.startswith(PREFIX)]

    def names(self, folder: str) -> list[str]:
        self._fs.invalidate_cache()
        path = self._path(folder).rstrip("/")
        try:
            found = self._fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return [name.rstrip("/").rpartition("/")[2] for name in found if name.rstrip("/") != path]

    def read(self, key: str) -> bytes:
        return self._fs.cat_file(self._path(key))

    def size_bytes(self, key: str) -> int:
        return self._fs.size(self._path(key))

    def is_private(self, folder: str) -> bool:
        return False

    # ------------------------------------------------------------ write

    def write(self, key: str, chunks: Iterable[bytes | memoryview]) -> None:
        with self._fs.open(self._path(key), "wb") as file:
            for chunk in chunks:
                file.write(chunk)

    def create(self, key: str, content: bytes) -> None:
        """At once where the driver can (S3, GCS); elsewhere two that start in one instant may both believe it."""
        if self._fs.exists(self._path(key)):
            raise FileExistsError(key)
        try:
            self._fs.pipe_file(self._path(key), content, mode="create")
        except NotImplementedError:
            self.write(key, [content])

    @contextmanager
    def publishing(self, name: str) -> Iterator[str]:
        folder = f"{name}-{uuid.uuid4().hex[:8]}"
        try:
            yield folder
        except BaseException:
            with suppress(Exception):  # the first failure is the one to tell; `sweep` finds what is left
                self.delete(folder)
            raise

    def delete(self, key: str) -> None:
        is_checkpoint = key.startswith(PREFIX) and "/" not in key
        for path in (*([self._path(f"{key}/{MARK}")] if is_checkpoint else []), self._path(key)):
            with suppress(FileNotFoundError):
                self._fs.rm(path, recursive=True)

    def set_aside(self, name: str) -> None:
        self._fs.mv(self._path(f"{name}/{MARK}"), self._path(f"{name}/corrupt-{MARK}"))

    def sweep(self) -> None:
        complete = set(self.checkpoints())
        for folder in self._folders():
            if folder not in complete:
                log.warning("removing %s/%s: a save or a removal that did not finish", self._address, folder)
                self.delete(folder)

    def _path(self, key: str) -> str:
        return f"{self._base}/{key}"
