"""What one simulated story was, and the exception that says it went wrong."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Story", "StoryBroken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A story that ended well."""

    seed: int
    lives: int  # starts of the process, the last one without faults
    steps: int  # batches of the surviving history
    records: int  # consumed by it
    faults: Mapping[str, int]  # what happened, by name: faults of disk and process, moods of the source
    states_sha256: Mapping[str, str]  # of every part of the last state
    trace: tuple[str, ...]  # every fault and every start, in order: two runs of one seed agree in it


class StoryBroken(AssertionError):
    """A promise was not kept. `seed` tells the story again."""

    def __init__(self, seed: int, what: str, trace: list[str]) -> None:
        self.seed, self.what = seed, what
        story = "\n".join(f"  {line}" for line in trace)
        super().__init__(f"simulate({seed}): {what}\nWhat happened:\n{story}")
