"""Which checkpoints stay: the last few, one of every so many batches, and those somebody pinned. A pure function."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from stream_trainer.checkpoints.names import CheckpointName
from stream_trainer.errors import ConfigError

__all__ = ["Retention"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What the directory may hold.

    >>> names = [CheckpointName.of(1, step) for step in (30, 20, 11, 10, 1)]
    >>> [name.step for name in Retention(keep=2, keep_every_steps=10).forgotten(names, pinned=())]
    [11]
    """

    keep: int = 5  # fallbacks for torn ones; more than two torn in a row have never been seen
    keep_every_steps: int | None = None  # batches; the first of each stretch of so many stays for ever. None: none does

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ConfigError(f"checkpoint.keep is {self.keep}; it must be at least 1.")
        if self.keep_every_steps is not None and self.keep_every_steps < 1:
            raise ConfigError(f"checkpoint.keep_every_steps is {self.keep_every_steps}; it must be at least 1.")

    def forgotten(self, newest_first: Sequence[CheckpointName], pinned: Collection[str]) -> list[CheckpointName]:
        """Those that may go. To thin twice is to thin once: the first of a stretch stays the first."""
        old = newest_first[self.keep :]
        if self.keep_every_steps is None:
            return [name for name in old if name.text not in pinned]
        first_of = {name.step // self.keep_every_steps: name.text for name in newest_first}  # the oldest wins
        return [name for name in old if name.text not in pinned and name.text not in first_of.values()]
