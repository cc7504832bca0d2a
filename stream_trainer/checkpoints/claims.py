"""Who learns which partition, and from which offset on: a chain of claims, on the disk that all members share.

    ROOT/claims/TOPIC/first.json              where each partition of the topic begins, for all members alike
    ROOT/claims/TOPIC/3/000000000012.json     the twelfth claim on partition 3: member and life, or released; position

A link of the chain comes into being whole (written aside, then linked) and under a number that only one can take: of
two members that want a partition one gets it. The next one begins where the holder's *saved* state ends:

- released: at the released position; a holder releases only what it has saved;
- held by a life that is over: at the position in its newest checkpoint, or where it began if it saved nothing;
- held by a living one: it is asked for by Kafka's assignment alone and has `hand_over_s_max` to save and release; then
  its life is ended (a fence, members.py), and what it had not saved is void.

So the parts [from, to) of a chain touch each other and never overlap, whatever Kafka believed at the time. Committed
offsets have no say. Not here: Kafka, threads.
"""

import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stream_trainer.checkpoints.local_store import fsync
from stream_trainer.checkpoints.members import MemberLife
from stream_trainer.clock import Clock
from stream_trainer.errors import CheckpointError
from stream_trainer.types import Positions, TopicPartition

__all__ = ["Claim", "PartitionClaims"]

log = logging.getLogger(__name__)
KEEP = 100  # links of a chain, for whoever wants to know who learned what


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One link: since `position` the partition belongs to this life of this member, or, released, to nobody."""

    number: int
    member: str
    life: int
    position: int
    released: bool = False


class PartitionClaims:
    """The chains, as one member sees and lengthens them.

    Args:
        root: shared by all members.
        me: whose life the claims are made for; open.
        hand_over_s_max: how long the present holder may take to save and release.
    """

    def __init__(self, root: Path, me: MemberLife, clock: Clock, *, hand_over_s_max: float) -> None:
        self.root = root / "claims"
        self.fences = 0
        self._me, self._members, self._clock = me, me.members, clock
        self._hand_over_s_max = hand_over_s_max
        self._asked_s: dict[tuple[TopicPartition, int], tuple[float, float]] = {}  # first and last time

    # ------------------------------------------------------------ the beginning

    def first_positions(self, topic: str, find: Callable[[], Positions]) -> Positions:
        """Where the partitions of a topic begin; the first member of all decides, by `find`, for ever.

        A partition that is missing there was added later: it begins at its earliest record.
        """
        path = self.root / topic / "first.json"
        if not path.exists():
            _create(path, {str(tp.partition): at for tp, at in find().items() if tp.topic == topic})
        return {TopicPartition(topic, int(partition)): at for partition, at in _read(path).items()}

    # ------------------------------------------------------------ the chain

    def newest(self, tp: TopicPartition) -> Claim | None:
        folder = self._folder(tp)
        numbers = _numbers(folder)
        return _claim(folder, max(numbers)) if numbers else None

    def take(self, tp: TopicPartition, *, first: int) -> int | None:
        """Where to begin, now that it is ours; None: not yet, ask again. `first`: where a chain begins."""
        held = self.newest(tp)
        if held is None:
            return self._lengthen(tp, 1, first)
        if held.released:
            return self._lengthen(tp, held.number + 1, held.position)
        if held.member != self._me.name and self._members.life(held.member) == held.life:
            if not self._has_waited(tp, held):
                return None
            log.warning("%s: %s did not hand it over within %g s; it is fenced", tp, held.member, self._hand_over_s_max)
            self._members.fence(held.member, held.life)
            self.fences += 1
        saved = self._members.saved_positions(held.member).get(tp, held.position)
        return self._lengthen(tp, held.number + 1, max(held.position, saved))

    def release(self, tp: TopicPartition, position: int) -> None:
        """Let the next one begin at `position`, up to which everything is saved."""
        held = self.newest(tp)
        if held is not None and (held.member, held.life, held.released) == (self._me.name, self._me.life, False):
            self._create(tp, held.number + 1, position, released=True)

    def is_mine(self, tp: TopicPartition) -> bool:
        """Whether the last word on it is a life of ours, this one or an earlier."""
        held = self.newest(tp)
        return held is not None and not held.released and held.member == self._me.name

    def _has_waited(self, tp: TopicPartition, held: Claim) -> bool:
        now_s = self._clock.monotonic_s()
        first_s, last_s = self._asked_s.get((tp, held.number), (now_s, now_s))
        if now_s - last_s > self._hand_over_s_max:  # it was us who slept: Kafka may have given it to another since
            first_s = now_s
        self._asked_s[tp, held.number] = first_s, now_s
        return now_s - first_s >= self._hand_over_s_max

    def _lengthen(self, tp: TopicPartition, number: int, position: int) -> int | None:
        if not self._create(tp, number, position):
            return None
        self._asked_s = {key: asked_s for key, asked_s in self._asked_s.items() if key[0] != tp}
        return position

    def _create(self, tp: TopicPartition, number: int, position: int, *, released: bool = False) -> bool:
        folder = self._folder(tp)
        claim = Claim(number=number, member=self._me.name, life=self._me.life, position=position, released=released)
        if not _create(_path(folder, number), asdict(claim)):
            return False
        numbers = _numbers(folder)
        if max(numbers) != number:  # we slept while the chain grew and its old end was dropped
            _path(folder, number).unlink()
            return False
        for old in numbers:
            if old <= number - KEEP:
                _path(folder, old).unlink(missing_ok=True)
        return True

    def _folder(self, tp: TopicPartition) -> Path:
        return self.root / tp.topic / str(tp.partition)


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:012d}.json"


def _numbers(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit()]


def _claim(folder: Path, number: int) -> Claim:
    body = _read(_path(folder, number))
    try:
        return Claim(**body)
    except TypeError as error:
        raise CheckpointError(f"{_path(folder, number)}: not a claim of this version: {body!r}.") from error


def _create(path: Path, body: Mapping[str, object]) -> bool:
    """Whole or not at all, durable; False if there is one of this name already."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.parent / f"tmp-{uuid.uuid4().hex}"
    try:
        with aside.open("x") as file:
            json.dump(body, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)  # unlike rename it refuses to replace what is there
        except FileExistsError:
            return False
    finally:
        aside.unlink(missing_ok=True)
    fsync(path.parent)
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(path.read_text())
        return body
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error}): altered. Restore it from a backup.") from error
