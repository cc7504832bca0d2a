"""What a checkpoint is called: the life of the writer, then how far it had learned; so the newest sorts last.

checkpoint-000004-000000001234             epoch 4, 1,234 batches learned
checkpoint-000004-000000001234-9f86d081    the same in an object store, where each attempt has a name of its own
checkpoint-000000001234                    from before there were epochs; its epoch is 0
"""

import re
from typing import NamedTuple

__all__ = ["PREFIX", "CheckpointName"]

PREFIX = "checkpoint-"
PATTERN = re.compile(r"checkpoint-(?:(\d{6})-)?(\d{12})(?:-([0-9a-f]{8}))?")


class CheckpointName(NamedTuple):
    """Compares by epoch, then by step.

    >>> CheckpointName.parse("checkpoint-000004-000000001234")
    CheckpointName(epoch=4, step=1234, text='checkpoint-000004-000000001234')
    >>> CheckpointName.parse("lock") is None
    True
    """

    epoch: int
    step: int
    text: str

    @classmethod
    def of(cls, epoch: int, step: int) -> "CheckpointName":
        return cls(epoch, step, f"{PREFIX}{epoch:06d}-{step:012d}")

    @classmethod
    def parse(cls, text: str) -> "CheckpointName | None":
        found = PATTERN.fullmatch(text)
        return cls(int(found[1] or 0), int(found[2]), text) if found else None
