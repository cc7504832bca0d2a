"""Whoever takes what from whom, at whatever moment: the saved states of all members hold each record once (P2)."""

import re
import shutil

import pytest
from claims_story import PARTITIONS, Member, Story, damage

from stream_trainer.checkpoints.claims import PartitionClaims
from stream_trainer.checkpoints.members import MemberLife, Members
from stream_trainer.errors import ConfigError, Fenced

TP = PARTITIONS[0]


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


@pytest.mark.parametrize("rots", [False, True])
def test_any_interleaving_keeps_each_record_once(tmp_path, rots):
    """Whoever sleeps, dies, is fenced or finds its newest checkpoint damaged, at whatever moment. That all of this
    happened is asked of the stories together: a single one may well be without a fence."""
    told = [Story(tmp_path / str(seed), seed, rots=rots).tell() for seed in range(4)]

    assert [story.expected for story in told] == [story.seen for story in told]
    assert all(story.slept and sum(story.ends.values()) for story in told)
    assert sum(story.fenced for story in told) > 0
    assert rots == (sum(story.learned_again for story in told) > 0)


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


def test_who_falls_back_to_an_older_checkpoint_hears_what_nobody_knows_any_more(members):
    """The follower began where the damaged one ended; the records between are in no other model."""
    a = members("a")
    for n in (5, 3):
        a.take(TP)
        a.learn(TP, n)
        a.save()
    a.release(TP)
    b = members("b")
    assert b.take(TP) == 8
    a.die()
    damage(max(a.path.glob("checkpoint-*")))
    again = members("a")

    assert again.learned_again == 3
    assert {f"0@{offset}": 1 for offset in range(8)} == again.learned
    again.save()
    again.die()
    assert members("a").learned_again == 0


def test_of_a_partition_that_no_older_checkpoint_knew_all_is_missing(members):
    """It came and went between the one that is left and the one that is gone."""
    a = members("a")
    a.take(PARTITIONS[1])
    a.learn(PARTITIONS[1], 1)
    a.save()
    a.take(TP)
    a.learn(TP, 4)
    a.release(TP)
    a.die()
    damage(max(a.path.glob("checkpoint-*")))

    assert members("a").learned_again == 4


def test_links_from_before_checkpoints_were_named_ask_for_nothing(members):
    """Nobody can tell what they stood for, and an update must not stop a sound group."""
    a = members("a")
    a.take(TP)
    a.learn(TP, 2)
    a.release(TP)
    for path in sorted(a.claims.root.rglob("*.json")):
        path.write_text(re.sub(r', "held_in": [^]]*]', "", path.read_text()))
    shutil.rmtree(a.path)

    assert [] == a.claims.missing([TP])


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


def test_the_first_member_says_which_log_the_claims_speak_of(members):
    """A topic that is created again has other records under the same offsets; members come and go, that stays."""
    a, b = members("a"), members("b")
    assert {} == a.claims.log_ids([TP.topic])
    a.claims.note_log_ids({TP.topic: "a1"})
    b.claims.note_log_ids({TP.topic: "b2"})

    assert {TP.topic: "a1"} == b.claims.log_ids([TP.topic, "another"])
