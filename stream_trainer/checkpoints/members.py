"""The members of a sharded group: one directory each, under a root that all of them share.

    ROOT/members/NAME/lock               held by the one process that is this member
    ROOT/members/NAME/life-000017/       its checkpoints and its journal, in its seventeenth life

A life ends by one rename, of `life-000017` to `life-000018`: by the member itself when it starts, or by another member
that takes its partitions (a fence). Every save ends with a rename to a path under the old name, so it comes either
before the fence, and counts for everybody, or it fails. Nobody asks "am I still the owner?" and then acts on a stale
answer. What is found in the highest life counts; a lower one beside it holds only what a fenced process wrote by name.

Needs a file system on which rename is atomic for all members: a local one, NFS, CephFS; no object store.
"""

import fcntl
import logging
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from stream_trainer.checkpoints.directory import CheckpointDirectory
from stream_trainer.checkpoints.local_store import fsync
from stream_trainer.errors import CheckpointError, ConfigError, Fenced
from stream_trainer.types import Positions, TopicPartition

__all__ = ["MemberLife", "Members", "Newest"]

log = logging.getLogger(__name__)
NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Newest(NamedTuple):
    """The newest checkpoint of a member; (0, 0) and nothing if it has none. Compares by when it was saved."""

    epoch: int
    step: int
    positions: Positions


class Members:
    """What any member may know about, and do to, the others."""

    def __init__(self, root: Path) -> None:
        self.root = root / "members"

    def path(self, name: str, life: int) -> Path:
        return self.root / name / f"life-{life:06d}"

    def life(self, name: str) -> int:
        """The number of its present life; 0: it never lived."""
        return max(_lives(self.root / name), default=0)

    def fence(self, name: str, life: int) -> None:
        """From here on this life of it can save nothing; no effect if it is over already."""
        try:
            self.path(name, life).rename(self.path(name, life + 1))
        except FileNotFoundError:
            return
        fsync(self.root / name)

    def newest(self, name: str) -> Newest:
        """Up to where it has learned for good, by the manifest: its other bytes are not read."""
        while True:
            life = self.life(name)
            directory = CheckpointDirectory(self.path(name, life), identity={}, versions={})
            found = next((info for info in directory.infos(verify=False) if info.problem is None), None)
            # It may have been renamed, or have dropped its oldest checkpoints, while we looked.
            if life == self.life(name) and (found is None or Path(found.path).exists()):
                break
        if found is None:
            return Newest(0, 0, {})
        positions = {TopicPartition(topic, partition): at for topic, partition, at in found.body["positions"]}
        return Newest(found.epoch, found.step, positions)


class MemberLife:
    """One life of the member that this process is."""

    def __init__(self, members: Members, name: str) -> None:
        if not NAME.fullmatch(name) or name.startswith("."):
            raise ConfigError(
                f"source.kafka.group.instance_id is {name!r}; it names a folder: 1 to 128 letters, digits, . _ or -."
            )
        self.members, self.name = members, name
        self.life = 0
        self._lock: int | None = None

    def open(self) -> Path:
        """Begin the next life. Returns the folder of its checkpoints. Raises: Fenced, CheckpointError."""
        home = self.members.root / self.name
        try:
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint.directory: {home} cannot be written ({error.strerror}). Give a directory that this user "
                "may write, the same for all members of the group."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Fenced(
                f"{home} is in use: another process is the member {self.name!r}. Two of one name would teach records "
                "twice: give each a source.kafka.group.instance_id of its own."
            ) from error
        while True:  # another member may be fencing the last life at this moment
            before = self.members.life(self.name)
            self.life = before + 1
            try:
                if before:
                    self.members.path(self.name, before).rename(self.path)
                else:
                    self.path.mkdir(mode=0o700)
                break
            except (FileNotFoundError, FileExistsError):
                continue
        fsync(home)
        for life in _lives(home):
            if life < self.life:
                log.warning("%s: what a fenced process wrote there is void, removing it", self.members.path("", life))
                shutil.rmtree(self.members.path(self.name, life), ignore_errors=True)
        return self.path

    @property
    def path(self) -> Path:
        return self.members.path(self.name, self.life)

    @property
    def is_over(self) -> bool:
        return self.members.life(self.name) != self.life

    def check(self) -> None:
        """Raises: Fenced: another member took our partitions, because we did not answer in time."""
        if self.is_over:
            raise Fenced(
                f"{self.path}: another member took our partitions, for we did not hand them over in time (stopped, or "
                "cut off from Kafka). Nothing is lost: start again, and it goes on from its last checkpoint; what it "
                "learned since is learned by whoever has the partitions now."
            )

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lives(home: Path) -> list[int]:
    return [int(path.name.removeprefix("life-")) for path in home.glob("life-*")]
