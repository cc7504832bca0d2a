"""Whoever takes what from whom, at whatever moment: the saved states of all members hold each record once (P2)."""

import random

import pytest

from stream_trainer.checkpoints import CheckpointDirectory, claims
from stream_trainer.checkpoints.claims import PartitionClaims
from stream_trainer.checkpoints.members import MemberLife, Members
from stream_trainer.errors import ConfigError, Fenced
from stream_trainer.types import Counts, Snapshot, State, TopicPartition

PARTITIONS = [TopicPartition("t", partition) for partition in range(3)]
TP = PARTITIONS[0]


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

    def is_mine(self, tp):
        return self.claims.is_mine(tp)

    def take(self, tp):
        at = None if tp in self.owned else self.claims.take(tp, first=0)
        if at is not None:
            self.positions[tp] = at
            self.owned.add(tp)
        return at

    def learn(self, tp, n):
        if tp in self.owned:
            for offset in range(self.positions[tp], self.positions[tp] + n):
                key = f"{tp.partition}@{offset}"
                self.learned[key] = self.learned.get(key, 0) + 1
            self.positions[tp] += n
            self.steps += 1

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

    def die(self):
        self.directory.close()
        self.life.close()


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


@pytest.fixture
def members(tmp_path):
    """members(name) -> Member on one shared root; closed at the end."""
    alive = []

    def start(name, **options):
        alive.append(Member(tmp_path, name, **options))
        return alive[-1]

    yield start
    for member in alive:
        member.die()


@pytest.mark.parametrize("seed", range(4))
def test_any_interleaving_keeps_each_record_once(tmp_path, monkeypatch, seed):
    """Members that believe what they like of the assignment act at random, and before each link of a chain and each
    fence another one may act, or several: as if the first had been stopped there."""
    rng = random.Random(seed)
    names = ["a", "b", "c"]
    alive = {name: Member(tmp_path, name) for name in names}
    busy, fenced, slept = set(), 0, 0

    def somebody_acts():
        nonlocal fenced
        name = rng.choice([name for name in names if name not in busy])
        member, tp = alive[name], rng.choice(PARTITIONS)
        busy.add(name)
        try:
            match rng.choices(["take", "learn", "save", "release", "die"], [6, 6, 2, 2, 1])[0]:
                case "take":
                    member.life.check()
                    member.take(tp)
                case "learn":
                    member.learn(tp, rng.randint(1, 4))
                case "save":
                    member.save()
                case "release":
                    member.release(tp)
                case "die":
                    raise Fenced("dies")
        except Exception as error:  # a fenced one may meet a folder that was renamed before it hears why
            if not isinstance(error, Fenced) and not member.life.is_over:
                raise
            fenced += member.life.is_over
            member.die()
            alive[name] = Member(tmp_path, name)
        busy.remove(name)

    def interrupted(function):
        def call(*arguments, **options):
            nonlocal slept
            while len(busy) < len(names) and rng.random() < 0.3:
                slept += 1
                somebody_acts()
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(claims, "_create", interrupted(claims._create))
    monkeypatch.setattr(Members, "fence", interrupted(Members.fence))
    monkeypatch.setattr(Members, "saved_positions", interrupted(Members.saved_positions))
    monkeypatch.setattr(CheckpointDirectory, "save", interrupted(CheckpointDirectory.save))
    for _ in range(150):
        somebody_acts()
    monkeypatch.undo()
    for name in names:
        if not alive[name].life.is_over:
            alive[name].save()
        alive[name].die()
    seen, ends = known_to_all(tmp_path)

    assert {f"{tp.partition}@{offset}": 1 for tp in PARTITIONS for offset in range(ends[tp])} == seen
    assert fenced > 0
    assert slept > 0
    assert sum(ends.values()) > 0


def test_a_holder_has_time_to_hand_over(members):
    """It is not fenced while the bound lasts, and what it releases is taken at once."""
    a, b = members("a"), members("b", hand_over_s_max=1e9)
    assert a.take(TP) == 0
    a.learn(TP, 5)

    assert b.take(TP) is None
    a.release(TP)
    assert b.take(TP) == 5
    assert not a.life.is_over


def test_a_dead_member_is_followed_from_where_it_saved(members):
    """What it had learned since is in no saved state."""
    a = members("a")
    a.take(TP)
    a.learn(TP, 5)
    a.save()
    a.learn(TP, 3)
    b = members("b")

    assert [None, 5] == [b.take(TP), b.take(TP)]
    with pytest.raises(Fenced, match="another member took our partitions"):
        a.save()


def test_who_was_fenced_goes_on_from_its_last_checkpoint(members):
    """And keeps the partitions that nobody took."""
    a = members("a")
    for tp in PARTITIONS[:2]:
        a.take(tp)
        a.learn(tp, 5)
    a.save()
    a.learn(TP, 3)
    b = members("b")
    b.take(TP)
    b.take(TP)
    a.die()
    again = members("a")

    assert {"0@0", "0@4", "1@0"} <= again.learned.keys()
    assert "0@5" not in again.learned
    assert {PARTITIONS[1]: 5} == again.positions
    assert again.take(PARTITIONS[1]) == 5


def test_who_slept_through_the_wait_waits_again(tmp_path):
    """After SIGCONT the clock has run on, and Kafka may have given the partition to the very holder we would fence."""

    class Clock:
        now_s = 0.0

        def monotonic_s(self):
            return self.now_s

    holder = Member(tmp_path, "a")
    holder.take(TP)
    clock, life = Clock(), MemberLife(Members(tmp_path), "b")
    life.open()
    late = PartitionClaims(tmp_path, life, clock, hand_over_s_max=2.0)
    asked = []
    for clock.now_s in (0.0, 1.0, 60.0, 61.0):
        asked.append(late.take(TP, first=0))
    clock.now_s = 62.0
    asked.append(late.take(TP, first=0))

    assert [None, None, None, None, 0] == asked
    holder.die()
    life.close()


def test_the_first_member_decides_where_a_topic_begins(members, tmp_path):
    """`start: latest` must mean one moment for all of them."""
    a, b = members("a"), members("b")

    assert {TP: 7} == a.claims.first_positions("t", lambda: {TP: 7})
    assert {TP: 7} == b.claims.first_positions("t", lambda: {TP: 99})


def test_a_second_process_of_one_name_is_refused(members, tmp_path):
    """Before it touches anything."""
    a = members("a")
    with pytest.raises(Fenced, match="another process is the member 'a'"):
        MemberLife(Members(tmp_path), "a").open()

    a.take(TP)
    a.learn(TP, 1)
    a.save()


@pytest.mark.parametrize("name", ["", "../a", ".hidden", "a/b", "a b"])
def test_a_name_that_is_no_folder_is_refused(tmp_path, name):
    """It becomes a path."""
    with pytest.raises(ConfigError, match="it names a folder"):
        MemberLife(Members(tmp_path), name)
