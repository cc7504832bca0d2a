"""The directory of checkpoints: one writer, newest that verifies wins, old ones go by rule.

    DIRECTORY/checkpoint-000004-000000001234/    epoch 4, 1,234 batches learned; complete: see local_store, object_store
    DIRECTORY/checkpoint-.../pinned              this one stays until somebody unpins it
    DIRECTORY/epochs/000004                      who may write, see fence.py
    DIRECTORY/journal/                           how the batches were cut, see journal.py

A crash at any moment leaves the previous checkpoint as the newest. A writer that was overtaken by a later one, in the
meaning of fence.py, raises Fenced, and what it finished too late is never loaded.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stream_trainer.checkpoints import files
from stream_trainer.checkpoints.fence import Fence
from stream_trainer.checkpoints.journal import BatchJournal
from stream_trainer.checkpoints.names import CheckpointName
from stream_trainer.checkpoints.retention import Retention
from stream_trainer.checkpoints.store import is_object_store, open_store
from stream_trainer.checkpoints.stored_journal import StoredJournal
from stream_trainer.errors import CheckpointError, CorruptCheckpoint, Fenced
from stream_trainer.types import Snapshot

__all__ = ["CheckpointDirectory", "CheckpointInfo", "describe"]

log = logging.getLogger(__name__)
PIN = "pinned"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """One checkpoint as found; `problem` is None if every byte agrees with the manifest."""

    path: str
    epoch: int
    step: int  # batches learned
    body: Mapping[str, Any]  # the manifest; empty if it cannot be read
    pinned: bool
    problem: str | None


class CheckpointDirectory:
    """Saves and loads snapshots.

    Args:
        address: a path, made if absent, readable by this user only; or of an object store, `s3://bucket/run`.
        identity: name -> hash of the configuration that gave each part its meaning; another one is refused.
        versions: of whatever may change the last bits, recorded for the reader.
        keep: how many complete checkpoints stay.
        keep_every_steps: of older ones the first of each stretch of so many batches stays, too.
        trusted: may pickles in it be loaded? "auto": if this user owns it and nobody else can write it, which cannot
            be known of an object store.
        journal_bytes_max: of the journal beside them; None: all of it is kept.
    """

    def __init__(
        self,
        address: Path | str,
        *,
        identity: Mapping[str, str],
        versions: Mapping[str, str],
        keep: int = 5,
        keep_every_steps: int | None = None,
        trusted: bool | Literal["auto"] = "auto",
        journal_bytes_max: int | None = None,
    ) -> None:
        self._retention = Retention(keep=keep, keep_every_steps=keep_every_steps)
        self._store = open_store(address)
        self._fence = Fence(self._store)
        self.journal: BatchJournal | StoredJournal = (
            StoredJournal(self._store, bytes_max=journal_bytes_max)
            if is_object_store(address)
            else BatchJournal(Path(address) / "journal", bytes_max=journal_bytes_max)
        )
        self._identity, self.versions, self._trusted = dict(identity), dict(versions), trusted
        self.corrupt_found = 0  # checkpoints that did not verify at the last load

    @property
    def address(self) -> str:
        return self._store.address

    # ------------------------------------------------------------ who may write

    @property
    def epoch(self) -> int | None:
        """Of this writer; None before `open`."""
        return self._fence.epoch

    def open(self, *, take_over: bool = False) -> None:
        """Become the one writer, and remove what unfinished saves left.

        Args:   take_over: even from an instance that still holds the lock; it is fenced at its next save.
        Raises: Fenced: another instance holds the lock; CheckpointError: the place cannot be written.
        """
        self._store.open(take_over=take_over)
        try:
            self._fence.claim(self._all(), above=self.journal.epoch_seen())
            for name in self._fence.late(self._all()):
                log.warning("removing %s: finished by an instance that had been overtaken", self._where(name))
                self._store.delete(name.text)
            self._store.sweep()
        except OSError as error:
            self.close()
            raise CheckpointError(
                f"checkpoint.directory {self.address}: cannot be written ({error.strerror or error}). Make room, or "
                "give a place that this user may write."
            ) from error
        self.journal.epoch = self._fence.epoch

    def check_fence(self) -> None:
        """Raises: Fenced: a later instance has taken over; OSError: it cannot be known now."""
        self._fence.check()

    def close(self) -> None:
        self.journal.close()
        self._store.close()
        self._fence = Fence(self._store)

    # ------------------------------------------------------------ save

    def save(self, snapshot: Snapshot, *, saved_at_s: float) -> int:
        """Make `snapshot` the newest checkpoint. Returns bytes written; 0: it is there already.

        Raises: Fenced: a later instance has taken over, which will never load it; OSError: nothing changed.
        """
        if self._fence.epoch is None:
            raise CheckpointError(f"{self.address}: save without the right to write; call open() first.")
        step = snapshot.counts.batches
        if any((name.epoch, name.step) == (self._fence.epoch, step) for name in self._all()):
            return 0  # nothing was learned since: the same step of the same life holds the same state
        self._fence.check()
        self.journal.sync()  # how its batches were cut must not be forgotten before what they taught
        about = {
            "epoch": self._fence.epoch,
            "saved_at_s": saved_at_s,
            "identity": self._identity,
            "versions": self.versions,
        }
        with self._store.publishing(CheckpointName.of(self._fence.epoch, step).text) as folder:
            n_bytes = files.write_snapshot(snapshot, self._store, folder, about, before_manifest=self._fence.check)
        try:
            self._fence.check()
        except Fenced:
            self._withdraw(step)
            raise
        self._forget_old()
        return n_bytes

    def _withdraw(self, step: int) -> None:
        """What came too late goes, unless the later instance saw it when it began and may have gone on from it."""
        for name in self._fence.late(self._all()):
            if (name.epoch, name.step) == (self._fence.epoch, step):
                self._store.delete(name.text)

    def _forget_old(self) -> None:
        names = self._sound_order()
        for name in self._retention.forgotten(names, self._pinned(names)):
            self._store.delete(name.text)
        last_kept = names[: self._retention.keep][-1]  # a pinned one may be years old: the journal does not go with it
        self.journal.forget(up_to_step=last_kept.step)

    # ------------------------------------------------------------ load

    def load_newest(self) -> Snapshot | None:
        """The newest that verifies; torn ones are named and counted. None if there is none at all.

        Raises: CheckpointError: a sound one exists but belongs to another configuration, or none is sound.
        """
        self.corrupt_found = 0
        for name in self._sound_order():
            try:
                return self._load(name)
            except CorruptCheckpoint as error:
                self.corrupt_found += 1
                log.error("skipping a checkpoint that does not verify: %s", error)
                if self._fence.epoch is not None:
                    self._store.set_aside(name.text)
        if self.corrupt_found:
            raise CorruptCheckpoint(
                f"{self.address}: none of its {self.corrupt_found} checkpoints verifies. Restore one from a backup, or "
                "move the directory away to start from nothing."
            )
        return None

    def load(self, step: int) -> Snapshot:
        """The checkpoint of one step. Raises: CheckpointError: there is none, or it must not be loaded here."""
        return self._load(self._of_step(step))

    def _load(self, name: CheckpointName) -> Snapshot:
        body = self._manifest(name)
        contents = dict(files.read_files(self._store, name.text, body))
        self._refuse_other_configuration(name, body["identity"])
        self._refuse_untrusted_pickles(name, body)
        return files.snapshot_of(body, contents)

    def infos(self, *, verify: bool) -> Iterator[CheckpointInfo]:
        """What is there, newest first, late ones included. With `verify` every byte is read."""
        names = sorted(self._all(), reverse=True)
        late, pinned = self._fence.late(names), self._pinned(names)
        for name in names:
            body: Mapping[str, Any] = {}
            problem = "late: finished by an instance that had been overtaken; never loaded" if name in late else None
            try:
                body = self._manifest(name)
                if verify:
                    for _ in files.read_files(self._store, name.text, body):
                        pass
            except CheckpointError as error:
                problem = str(error)
            yield CheckpointInfo(
                path=self._where(name),
                epoch=name.epoch,
                step=name.step,
                body=body,
                pinned=name.text in pinned,
                problem=problem,
            )

    def _manifest(self, name: CheckpointName) -> dict[str, Any]:
        body = files.read_manifest(self._store, name.text)
        found = (body.get("epoch", 0), body["counts"]["batches"])
        if found != (name.epoch, name.step):
            raise CorruptCheckpoint(
                f"{self._where(name)}: its manifest is that of epoch {found[0]}, step {found[1]}: the folder was "
                "renamed. Give it back its name."
            )
        return body

    # ------------------------------------------------------------ pin

    def pin(self, step: int) -> None:
        """Never delete this one. Safe beside the process that writes. Raises: CheckpointError: there is none."""
        self._store.write(f"{self._of_step(step).text}/{PIN}", [b""])

    def unpin(self, step: int) -> None:
        """Leave it to the rules again; it goes with the next save if they say so. Raises what `pin` does."""
        self._store.delete(f"{self._of_step(step).text}/{PIN}")

    def _pinned(self, names: list[CheckpointName]) -> set[str]:
        return {name.text for name in names if PIN in self._store.names(name.text)}

    # ------------------------------------------------------------ which, and whether

    def _all(self) -> list[CheckpointName]:
        found = map(CheckpointName.parse, self._store.checkpoints())
        return [name for name in found if name is not None]

    def _sound_order(self) -> list[CheckpointName]:
        """Newest first, without the late ones."""
        names = self._all()
        late = set(self._fence.late(names))
        return sorted((name for name in names if name not in late), reverse=True)

    def _of_step(self, step: int) -> CheckpointName:
        names = self._sound_order()
        for name in names:
            if name.step == step:
                return name
        there = ", ".join(str(name.step) for name in names) or "none"
        raise CheckpointError(f"{self.address}: no checkpoint of step {step}; there are: {there}.")

    def _where(self, name: CheckpointName) -> str:
        return f"{self.address}/{name.text}"

    def _refuse_other_configuration(self, name: CheckpointName, saved: Mapping[str, str]) -> None:
        ours = self._identity
        changed = sorted(part for part in saved.keys() | ours.keys() if saved.get(part) != ours.get(part))
        if changed:
            raise CheckpointError(
                f"{self._where(name)} was learned under another configuration: {', '.join(changed)} differ. Take back "
                "the change, give the new configuration a checkpoint.directory of its own, or move this one away to "
                "start from nothing."
            )

    def _refuse_untrusted_pickles(self, name: CheckpointName, body: Mapping[str, Any]) -> None:
        """They run code. That they fit the installed River is seen by the model that restores them."""
        if not body["pickles"]:
            return
        trusted = self._store.is_private(name.text) if self._trusted == "auto" else self._trusted
        if not trusted:
            raise CheckpointError(
                f"{self._where(name)}: holds pickles ({', '.join(part for part, _, _ in body['pickles'])}), and "
                "loading a pickle runs code. The directory must belong to this user and be writable by nobody else "
                "(chmod go-w), or say checkpoint.trusted: true."
            )


def describe(info: CheckpointInfo) -> str:
    """The manifest as readable JSON, for `checkpoints show`."""
    about = {"path": info.path, "pinned": info.pinned, "problem": info.problem}
    return json.dumps({**about, **info.body}, indent=2)
