"""The directory of checkpoints: one writer, newest that verifies wins, the last few are kept.

    DIRECTORY/lock                            held by the one process that may write
    DIRECTORY/checkpoint-000000001234/        1,234 batches learned; complete, because renamed after its last fsync
    DIRECTORY/journal/                        how the batches were cut, see journal.py
    DIRECTORY/tmp-.../                        a save that did not finish; removed at the next start
    DIRECTORY/corrupt-checkpoint-.../         one that did not verify, set aside for whoever wants to know why

A crash at any moment leaves the previous checkpoint as the newest: rename is the instant at which the truth changes.
"""

import fcntl
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stream_trainer.checkpoints import files
from stream_trainer.checkpoints.journal import BatchJournal
from stream_trainer.errors import CheckpointError, ConfigError, CorruptCheckpoint, Fenced
from stream_trainer.types import Snapshot

__all__ = ["CheckpointDirectory", "CheckpointInfo"]

log = logging.getLogger(__name__)
PREFIX = "checkpoint-"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """One checkpoint as found on disk; `problem` is None if every byte agrees with the manifest."""

    path: Path
    step: int  # batches learned
    body: Mapping[str, Any]  # the manifest; empty if it cannot be read
    problem: str | None


class CheckpointDirectory:
    """Saves and loads snapshots.

    Args:
        path: created if absent, readable by this user only.
        identity: name -> hash of the configuration that gave each part its meaning; another one is refused.
        versions: of whatever may change the last bits, recorded for the reader.
        keep: how many complete checkpoints stay.
        trusted: may pickles in it be loaded? "auto": if this user owns it and nobody else can write it.
        journal_bytes_max: of the journal beside them; None: all of it is kept.
    """

    def __init__(
        self,
        path: Path,
        *,
        identity: Mapping[str, str],
        versions: Mapping[str, str],
        keep: int = 5,
        trusted: bool | Literal["auto"] = "auto",
        journal_bytes_max: int | None = None,
    ) -> None:
        if keep < 1:
            raise ConfigError(f"checkpoint.keep is {keep}; it must be at least 1.")
        self.path, self.keep = path, keep
        self.journal = BatchJournal(path / "journal", bytes_max=journal_bytes_max)
        self._identity, self.versions, self._trusted = dict(identity), dict(versions), trusted
        self._lock: int | None = None
        self.corrupt_found = 0  # checkpoints that did not verify at the last load

    # ------------------------------------------------------------ who may write

    def open(self) -> None:
        """Create the directory, take the lock, remove what unfinished saves left. Raises Fenced, CheckpointError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint.directory {self.path}: cannot be written ({error.strerror}). Give a directory that this "
                "user may write."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            raise Fenced(
                f"checkpoint.directory {self.path} is in use by {holder or 'another process'}. Two writers would teach "
                "records twice: stop the other one, or give this run a directory of its own."
            ) from error
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        self._lock = descriptor
        for leftover in self.path.glob("tmp-*"):
            log.warning("removing %s: a save that did not finish", leftover)
            shutil.rmtree(leftover, ignore_errors=True)

    def close(self) -> None:
        self.journal.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ------------------------------------------------------------ save

    def save(self, snapshot: Snapshot, *, saved_at_s: float) -> int:
        """Make `snapshot` the newest checkpoint. Returns bytes written. Raises OSError: nothing changed then."""
        if self._lock is None:
            raise CheckpointError(f"{self.path}: save without the lock; call open() first.")
        target = self._path_of(snapshot.counts.batches)
        if target.exists():  # nothing was learned since: the same step holds the same state
            return 0
        self.journal.sync()  # how its batches were cut must not be forgotten before what they taught
        temporary = self.path / f"tmp-{uuid.uuid4().hex}"
        temporary.mkdir(mode=0o700)
        try:
            about = {"saved_at_s": saved_at_s, "identity": self._identity, "versions": self.versions}
            n_bytes = files.write_snapshot(snapshot, temporary, about)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        files.fsync(self.path)
        kept, old = self._directories()[: self.keep], self._directories()[self.keep :]
        for path in old:
            shutil.rmtree(path, ignore_errors=True)
        self.journal.forget(up_to_step=_step(kept[-1]))
        return n_bytes

    # ------------------------------------------------------------ load

    def load_newest(self) -> Snapshot | None:
        """The newest that verifies; torn ones are named and counted. None if there is none at all.

        Raises: CheckpointError: a sound one exists but belongs to another configuration, or none is sound.
        """
        self.corrupt_found = 0
        for path in self._directories():
            try:
                body = files.read_manifest(path)
                files.verify_files(path, body)
            except CorruptCheckpoint as error:
                self.corrupt_found += 1
                log.error("skipping a checkpoint that does not verify: %s", error)
                self._set_aside(path)
                continue
            self._refuse_other_configuration(path, body["identity"])
            return files.read_snapshot(path, body, trusted=self._is_trusted(path))
        if self.corrupt_found:
            raise CorruptCheckpoint(
                f"{self.path}: none of its {self.corrupt_found} checkpoints verifies. Restore one from a backup, or "
                "move the directory away to start from nothing."
            )
        return None

    def load(self, step: int) -> Snapshot:
        """The checkpoint of one step. Raises: CheckpointError: there is none, or it must not be loaded here."""
        path = self._path_of(step)
        if not path.is_dir():
            there = ", ".join(str(_step(path)) for path in self._directories()) or "none"
            raise CheckpointError(f"{self.path}: no checkpoint of step {step}; there are: {there}.")
        body = files.read_manifest(path)
        files.verify_files(path, body)
        self._refuse_other_configuration(path, body["identity"])
        return files.read_snapshot(path, body, trusted=self._is_trusted(path))

    def infos(self, *, verify: bool) -> Iterator[CheckpointInfo]:
        """What is there, newest first. With `verify` every byte is read."""
        for path in self._directories():
            body: Mapping[str, Any] = {}
            problem = None
            try:
                body = files.read_manifest(path)
                if verify:
                    files.verify_files(path, body)
            except CheckpointError as error:
                problem = str(error)
            yield CheckpointInfo(path=path, step=_step(path), body=body, problem=problem)

    def _directories(self) -> list[Path]:
        found = self.path.glob(f"{PREFIX}*")
        return sorted((p for p in found if p.name.removeprefix(PREFIX).isdigit()), key=lambda p: p.name, reverse=True)

    def _path_of(self, step: int) -> Path:
        return self.path / f"{PREFIX}{step:012d}"

    def _set_aside(self, path: Path) -> None:
        """Its step will be learned again and saved under the same name; the evidence stays until the next one."""
        if self._lock is None:
            return
        for earlier in self.path.glob("corrupt-*"):
            shutil.rmtree(earlier, ignore_errors=True)
        path.rename(self.path / f"corrupt-{path.name}")

    def _refuse_other_configuration(self, path: Path, saved: Mapping[str, str]) -> None:
        ours = self._identity
        changed = sorted(name for name in saved.keys() | ours.keys() if saved.get(name) != ours.get(name))
        if changed:
            raise CheckpointError(
                f"{path} was learned under another configuration: {', '.join(changed)} differ. Take back the change, "
                "give the new configuration a checkpoint.directory of its own, or move this one away to start from "
                "nothing."
            )

    def _is_trusted(self, path: Path) -> bool:
        if self._trusted != "auto":
            return bool(self._trusted)
        owned = (entry.stat() for entry in (self.path, path, *path.rglob("*")))
        return all(s.st_uid == os.geteuid() and not s.st_mode & 0o022 for s in owned)


def _step(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))


def describe(info: CheckpointInfo) -> str:
    """The manifest as readable JSON, for `checkpoints show`."""
    return json.dumps({"path": str(info.path), "problem": info.problem, **info.body}, indent=2)
