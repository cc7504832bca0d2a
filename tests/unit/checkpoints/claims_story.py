"""A random story of members, claims and checkpoints on one disk: who learned what in the end?

Used by test_claims.py for some seeds, by tests/benchmarks/many_claims.py for many.
"""

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stream_trainer.checkpoints import CheckpointDirectory, claims
from stream_trainer.checkpoints.claims import PartitionClaims
from stream_trainer.checkpoints.members import MemberLife, Members
from stream_trainer.errors import Fenced
from stream_trainer.types import Counts, Snapshot, State, TopicPartition

__all__ = ["PARTITIONS", "Asks", "Member", "Story", "Told", "damage"]

PARTITIONS = [TopicPartition("t", partition) for partition in range(3)]
NAMES = ["a", "b", "c"]


class Asks:
    """A clock that goes on by a second whenever somebody looks: the bound is so many asks."""

    def __init__(self):
        self.now_s = 0.0

    def monotonic_s(self):
        self.now_s += 1.0
        return self.now_s


class Member:
    """What service/sharded.py does with the disk, without Kafka and without models: it learns numbers of records."""

    def __init__(self, root, name, *, hand_over_s_max=1.0):
        self.life = MemberLife(Members(root), name)
        self.path = self.life.open()
        self.claims = PartitionClaims(root, self.life, Asks(), hand_over_s_max=hand_over_s_max)
        self.directory = directory(self.path)
        self.directory.open()
        snapshot = self.directory.load_newest()
        self.learned = dict(snapshot.parts["m"].values["learned"]) if snapshot else {}
        self.steps = snapshot.counts.batches if snapshot else 0
        self.positions = {tp: at for tp, at in (snapshot.positions if snapshot else {}).items() if self.is_mine(tp)}
        self.owned = set()
        self.learned_again = 0
        self.learn_again(self.claims.partitions("t"))

    def is_mine(self, tp):
        return self.claims.is_mine(tp)

    def take(self, tp):
        at = None if tp in self.owned else self.claims.take(tp, first=0)
        if at is not None:
            self.save()
            self.learn_again([tp])
            self.positions[tp] = at
            self.owned.add(tp)
        return at

    def learn(self, tp, n):
        if tp in self.owned:
            self.learn_to(tp, self.positions[tp] + n)

    def learn_to(self, tp, end):
        for offset in range(self.positions[tp], end):
            key = f"{tp.partition}@{offset}"
            self.learned[key] = self.learned.get(key, 0) + 1
        self.positions[tp] = end
        self.steps += 1

    def learn_again(self, partitions):
        for tp, begin, end in self.claims.missing(partitions):  # as the newest save tells
            self.positions[tp] = begin
            self.learn_to(tp, end)
            self.learned_again += end - begin
            if not self.is_mine(tp):
                del self.positions[tp]

    def save(self):
        parts = {"m": State(values={"learned": dict(self.learned)})}
        snapshot = Snapshot(positions=dict(self.positions), counts=Counts(batches=self.steps), parts=parts)
        try:
            self.directory.save(snapshot, saved_at_s=0.0)
        finally:
            self.life.check()

    def release(self, tp):
        if tp in self.owned:
            self.save()
            self.life.check()
            self.claims.release(tp, self.positions.pop(tp))
            self.owned.remove(tp)

    def rot(self):
        """A disk that forgets: one byte of the newest checkpoint, if there is another to fall back to."""
        sound = [info for info in self.directory.infos(verify=True) if info.problem is None]
        if len(sound) > 1:
            damage(Path(sound[0].path))

    def die(self):
        self.directory.close()
        self.life.close()


def damage(checkpoint):
    """The manifest still says where it is; what it says is no longer there."""
    part = next(path for path in checkpoint.iterdir() if path.name != "manifest.json" and path.stat().st_size)
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)


def directory(path):
    return CheckpointDirectory(path, identity={}, versions={}, keep=2)


def known_to_all(root):
    """partition@offset -> how often it is in the newest checkpoints of all members; and the end of each partition."""
    members, seen = Members(root), {}
    chains = PartitionClaims(root, MemberLife(members, "onlooker"), Asks(), hand_over_s_max=1.0)
    newest = {tp: chains.newest(tp) for tp in PARTITIONS}
    ends = {tp: claim.position if claim else 0 for tp, claim in newest.items()}
    for home in members.root.iterdir():
        snapshot = directory(members.path(home.name, members.life(home.name))).load_newest()
        for key, n in snapshot.parts["m"].values["learned"].items() if snapshot else ():
            seen[key] = seen.get(key, 0) + n
        for tp, at in (snapshot.positions if snapshot else {}).items():
            ends[tp] = max(ends[tp], at)
    return seen, ends


@dataclass
class Told:
    """What happened in a story, so that nobody takes an empty one for a proof."""

    ends: dict[TopicPartition, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    fenced: int = 0
    slept: int = 0
    learned_again: int = 0

    @property
    def expected(self):
        return {f"{tp.partition}@{offset}": 1 for tp in PARTITIONS for offset in range(self.ends[tp])}


class Story:
    """Members that believe what they like of the assignment act at random; before each link of a chain and each fence
    another one may act, or several: as if the first had been stopped there. Checkpoints rot if `rots`."""

    def __init__(self, root, seed, *, rots):
        self.root, self.rng, self.told = root, random.Random(seed), Told()
        self.acts = {"take": 6, "learn": 6, "save": 2, "release": 2, "die": 1} | ({"rot": 1} if rots else {})
        self.alive, self.busy = {}, set()

    def tell(self, n_acts=150):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda fd: None)  # no power fails here, and it is most of the time
            for name in NAMES:
                self.alive[name] = Member(self.root, name)
            with pytest.MonkeyPatch.context() as interrupted:
                for owner, name in INTERRUPTED:
                    interrupted.setattr(owner, name, self._interrupted(getattr(owner, name)))
                for _ in range(n_acts):
                    self._somebody_acts()
            for name in NAMES:  # what is damaged by now is noticed and learned again
                self.alive[name].die()
                self._start(name)
                self.alive[name].save()
                self.alive[name].die()
        self.told.seen, self.told.ends = known_to_all(self.root)
        return self.told

    def _somebody_acts(self):
        name = self.rng.choice([name for name in NAMES if name not in self.busy])
        member, tp = self.alive[name], self.rng.choice(PARTITIONS)
        self.busy.add(name)
        try:
            match self.rng.choices(list(self.acts), list(self.acts.values()))[0]:
                case "take":
                    member.life.check()
                    member.take(tp)
                case "learn":
                    member.learn(tp, self.rng.randint(1, 4))
                case "save":
                    member.save()
                case "release":
                    member.release(tp)
                case "rot":
                    member.rot()
                case "die":
                    raise Fenced("dies")
        except Exception as error:  # a fenced one may meet a folder that was renamed before it hears why
            if not isinstance(error, Fenced) and not member.life.is_over:
                raise
            self.told.fenced += member.life.is_over
            member.die()
            self._start(name)
        self.busy.remove(name)

    def _start(self, name):
        self.alive[name] = Member(self.root, name)
        self.told.learned_again += self.alive[name].learned_again

    def _interrupted(self, function):
        def call(*arguments, **options):
            while len(self.busy) < len(NAMES) and self.rng.random() < 0.3:
                self.told.slept += 1
                self._somebody_acts()
            return function(*arguments, **options)

        return call


INTERRUPTED = [
    (claims, "_create"),
    (Members, "fence"),
    (Members, "newest"),
    (CheckpointDirectory, "save"),
]
