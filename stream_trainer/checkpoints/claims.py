"""Who learns which partition, and from which offset on: a chain of claims, on the disk that all members share.

    ROOT/claims/TOPIC/first.json              where each partition of the topic begins, for all members alike
    ROOT/claims/TOPIC/log.json                which log these are positions of, where the brokers say it
    ROOT/claims/TOPIC/3/000000000012.json     the twelfth claim on partition 3: member and life, or released; position

A link of the chain comes into being whole (written aside, then linked) and under a number that only one can take: of
two members that want a partition one gets it. The next one begins where the holder's *saved* state ends:

- released: at the released position; a holder releases only what it has saved;
- held by a life that is over: at the position in its newest checkpoint, or where it began if it saved nothing;
- held by a living one: it is asked for by Kafka's assignment alone and has `hand_over_s_max` to save and release; then
  its life is ended (a fence, members.py), and what it had not saved is void.

So the parts [from, to) of a chain touch each other and never overlap, whatever Kafka believed at the time. Committed
offsets have no say.

Each link names the checkpoint of the member before it that holds what ends there. If that one is damaged later, and its
member falls back to an older one, it is the only one who still has to know those records: `missing` tells it which, and
it learns them from the log again (service/sharded.py), or ends with data lost. Not here: Kafka, threads.
"""

import json
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from stream_trainer.checkpoints.local_store import fsync
from stream_trainer.checkpoints.members import MemberLife
from stream_trainer.clock import Clock
from stream_trainer.errors import CheckpointError
from stream_trainer.types import Positions, TopicPartition

__all__ = ["Claim", "Missing", "PartitionClaims"]

log = logging.getLogger(__name__)
KEEP = 100  # links of a chain, for whoever wants to know who learned what


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One link: since `position` the partition belongs to this life of this member, or, released, to nobody.

    `held_in` is the checkpoint, (epoch, step), in which the member before it has all that it learned up to `position`.
    """

    number: int
    member: str
    life: int
    position: int
    released: bool = False
    held_in: tuple[int, int] = (0, 0)  # of links from before this was noted: nothing is asked for


class Missing(NamedTuple):
    """Records [begin, end) of a partition that we learned once and do not know any more; nobody else does, or will."""

    partition: TopicPartition
    begin: int
    end: int


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

    def log_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """Topic -> id of the log that its claims are positions of; without those that nobody has noted."""
        paths = {topic: self.root / topic / "log.json" for topic in topics}
        return {topic: _read(path)["topic_id"] for topic, path in paths.items() if path.exists()}

    def note_log_ids(self, ids: Mapping[str, str]) -> None:
        """For ever; of a topic that has one already the id stays as it is."""
        for topic in ids.keys() - self.log_ids(ids).keys():
            _create(self.root / topic / "log.json", {"topic_id": ids[topic]})

    # ------------------------------------------------------------ the chain

    def newest(self, tp: TopicPartition) -> Claim | None:
        folder = self._folder(tp)
        numbers = _numbers(folder)
        return _claim(folder, max(numbers)) if numbers else None

    def take(self, tp: TopicPartition, *, first: int) -> int | None:
        """Where to begin, now that it is ours; None: not yet, ask again. `first`: where a chain begins."""
        held = self.newest(tp)
        if held is None:
            return self._lengthen(tp, 1, first, (0, 0))
        if held.released:
            return self._lengthen(tp, held.number + 1, held.position, (0, 0))
        if held.member != self._me.name and self._members.life(held.member) == held.life:
            if not self._has_waited(tp, held):
                return None
            log.warning("%s: %s did not hand it over within %g s; it is fenced", tp, held.member, self._hand_over_s_max)
            self._members.fence(held.member, held.life)
            self.fences += 1
        newest = self._members.newest(held.member)
        position = max(held.position, newest.positions.get(tp, held.position))
        return self._lengthen(tp, held.number + 1, position, (newest.epoch, newest.step))

    def release(self, tp: TopicPartition, position: int) -> None:
        """Let the next one begin at `position`, up to which everything is saved."""
        held = self.newest(tp)
        if held is not None and (held.member, held.life, held.released) == (self._me.name, self._me.life, False):
            newest = self._members.newest(self._me.name)
            self._create(tp, held.number + 1, position, (newest.epoch, newest.step), released=True)

    def is_mine(self, tp: TopicPartition) -> bool:
        """Whether the last word on it is a life of ours, this one or an earlier."""
        held = self.newest(tp)
        return held is not None and not held.released and held.member == self._me.name

    def partitions(self, topic: str) -> list[TopicPartition]:
        """Those that somebody has claimed."""
        return sorted(TopicPartition(topic, int(path.name)) for path in (self.root / topic).glob("[0-9]*/"))

    def missing(self, partitions: Iterable[TopicPartition]) -> list[Missing]:
        """What we learned under claims that have ended and our newest checkpoint does not hold, in order.

        Nothing, unless a later checkpoint that held it is gone: damaged, or removed with its folder.
        """
        newest = self._members.newest(self._me.name)
        found = []
        for tp in partitions:
            for claim, following in pairwise(_chain(self._folder(tp))):
                if claim.released or claim.member != self._me.name:
                    continue
                known = newest.positions.get(tp)
                if known is None:  # given away before that checkpoint, or first taken after it
                    is_older = (newest.epoch, newest.step) < following.held_in
                    known = claim.position if is_older else following.position
                begin = max(claim.position, known)
                if begin < following.position:
                    found.append(Missing(tp, begin, following.position))
        return found

    def _has_waited(self, tp: TopicPartition, held: Claim) -> bool:
        now_s = self._clock.monotonic_s()
        first_s, last_s = self._asked_s.get((tp, held.number), (now_s, now_s))
        if now_s - last_s > self._hand_over_s_max:  # it was us who slept: Kafka may have given it to another since
            first_s = now_s
        self._asked_s[tp, held.number] = first_s, now_s
        return now_s - first_s >= self._hand_over_s_max

    def _lengthen(self, tp: TopicPartition, number: int, position: int, held_in: tuple[int, int]) -> int | None:
        if not self._create(tp, number, position, held_in):
            return None
        self._asked_s = {key: asked_s for key, asked_s in self._asked_s.items() if key[0] != tp}
        return position

    def _create(
        self, tp: TopicPartition, number: int, position: int, held_in: tuple[int, int], *, released: bool = False
    ) -> bool:
        folder = self._folder(tp)
        claim = Claim(
            number=number,
            member=self._me.name,
            life=self._me.life,
            position=position,
            released=released,
            held_in=held_in,
        )
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


def _chain(folder: Path) -> list[Claim]:
    """Without what others drop from its old end meanwhile."""
    found = []
    for number in sorted(_numbers(folder)):
        with suppress(FileNotFoundError):
            found.append(_claim(folder, number))
    return found


def _claim(folder: Path, number: int) -> Claim:
    body = _read(_path(folder, number))
    try:
        epoch, step = body.pop("held_in", (0, 0))
        return Claim(**body, held_in=(epoch, step))
    except (TypeError, ValueError) as error:
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
