"""Who may write: one life at a time, told apart by its epoch.

    DIRECTORY/epochs/000004    the claim of the fourth life: who, and which checkpoints were there when it began

Every start claims the highest epoch seen plus one. A writer looks for a higher claim before each checkpoint becomes
true and after it; one that finds a higher one is fenced and never writes again. That holds for a process that was
stopped (SIGSTOP, a frozen machine) and wakes up with an old lock in its hand, and in an object store, where there are
no locks. What such a one still manages to finish between two looks is a *late* checkpoint: of a lower epoch, and not in
the list of the later claim. It is never loaded, and removed at the next start.

For a warm standby: `CheckpointDirectory.open(take_over=True)` claims the next epoch although the old instance may
still live; `CheckpointDirectory.epoch` is ours, `CheckpointDirectory.check_fence()` raises Fenced once a higher one
exists. Until it takes over, a standby reads with `load_newest()` without `open()`.
"""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterable
from typing import Any

from stream_trainer.checkpoints.names import CheckpointName
from stream_trainer.checkpoints.store import Store
from stream_trainer.errors import Fenced

__all__ = ["Fence"]

log = logging.getLogger(__name__)
FORMAT = 1
FOLDER = "epochs"


class Fence:
    """The claims of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._token = uuid.uuid4().hex
        self.epoch: int | None = None  # ours; None: we do not write

    def claim(self, checkpoints: Iterable[CheckpointName], *, above: int = 0) -> int:
        """Take the next epoch; from here on every other writer is fenced.

        Args:
            checkpoints: all that are there; those of them that are not late now are never late.
            above: an epoch that was seen elsewhere.
        Raises: OSError.
        """
        checkpoints = list(checkpoints)
        late = set(self.late(checkpoints))
        known = sorted(name.text for name in checkpoints if name not in late)
        epoch = max([above, *self._epochs(), *(name.epoch for name in checkpoints)])
        while self.epoch is None:
            epoch += 1
            body = {"format": FORMAT, "epoch": epoch, "token": self._token, "holder": _holder(), "known": known}
            try:
                self._store.create(_key(epoch), json.dumps({"body": body, "sha256": _sha256(body)}).encode())
            except FileExistsError:  # somebody starts at the same moment; only one of us stays
                continue
            self.epoch = epoch
        for earlier in self._epochs():
            if earlier < self.epoch:
                self._store.delete(_key(earlier))
        return self.epoch

    def check(self) -> None:
        """Raises: Fenced: another instance has claimed the store since; OSError: nobody can tell now."""
        assert self.epoch is not None, "claim first"
        highest = max(self._epochs(), default=0)
        claim = self._read(highest)
        if highest == self.epoch and (claim is None or claim["token"] == self._token):
            return
        holder = claim["holder"] if claim else "an instance that was started later"
        raise Fenced(
            f"checkpoint.directory {self._store.address} was taken over by {holder} (epoch {highest}, ours is "
            f"{self.epoch}). Nothing was lost: it goes on from the last checkpoint. Leave this one stopped."
        )

    def late(self, checkpoints: Iterable[CheckpointName]) -> list[CheckpointName]:
        """Those that a writer finished after a later one had begun without them."""
        claims = (self._read(epoch) for epoch in sorted(self._epochs(), reverse=True))
        newest = next((claim for claim in claims if claim is not None), None)
        if newest is None:
            return []
        return [name for name in checkpoints if name.epoch < newest["epoch"] and name.text not in newest["known"]]

    def _epochs(self) -> list[int]:
        return [int(name) for name in self._store.names(FOLDER) if name.isdigit()]

    def _read(self, epoch: int) -> dict[str, Any] | None:
        """None: there is none, or its writer died while writing it."""
        try:
            claim = json.loads(self._store.read(_key(epoch)))
            body, expected = claim["body"], claim["sha256"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        if _sha256(body) != expected:
            log.error("%s/%s does not agree with its sha256 and is not believed", self._store.address, _key(epoch))
            return None
        return body


def _key(epoch: int) -> str:
    return f"{FOLDER}/{epoch:06d}"


def _holder() -> str:
    return f"process {os.getpid()} on {os.uname().nodename}"


def _sha256(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
