"""Several trainers share a topic, each with a model of its own, and die in every way: each record counts once (P2)."""

import signal
import uuid

import pytest
from group_oracle import Group, Producer, wait_until


@pytest.fixture
def group(broker, tmp_path):
    """A group on a topic of six partitions; nobody has joined yet."""
    group = Group(tmp_path, broker.bootstrap_servers, f"group-{uuid.uuid4().hex[:8]}")
    yield group
    group.kill_all()


@pytest.fixture
def producer(broker, group):
    """Sends to the topic of `group` until it is stopped."""
    producer = Producer(broker.bootstrap_servers, group.topic, partitions=6, records_per_s=1_000, seed=3)
    yield producer
    producer.stop()


def shared_by(group, *names):
    """Whether every partition is held, and each of these, and nobody else, holds one."""
    owners = group.owners()
    return len(owners) == 6 and set(owners.values()) == set(names)


def test_joining_dying_leaving_and_being_stopped_lose_no_record_and_teach_none_twice(group, producer):
    """Every way in which a partition can move, in one story; the counts of all members united are one of each."""
    group.start("a")
    group.start("b")
    wait_until(lambda: shared_by(group, "a", "b"), group.logs)
    group.start("c")
    wait_until(lambda: shared_by(group, "a", "b", "c"), group.logs)

    group.kill("a")  # unsaved records are learned again, by whoever gets the partitions
    wait_until(lambda: shared_by(group, "b", "c"), group.logs)

    group.signal("b", signal.SIGSTOP)  # longer than its session: evicted, and fenced
    wait_until(lambda: shared_by(group, "c"), group.logs)
    group.signal("b", signal.SIGCONT)
    assert group.end("b") == 6

    group.start("b")  # goes on from its last checkpoint, with whatever it is given now
    group.start("a")
    wait_until(lambda: shared_by(group, "a", "b", "c"), group.logs)
    group.signal("c", signal.SIGTERM)
    assert group.end("c") == 0
    wait_until(lambda: shared_by(group, "a", "b"), group.logs)

    producer.stop()
    wait_until(lambda: group.saved() == dict(producer.ends), group.logs)
    for name in ("a", "b"):
        group.signal(name, signal.SIGTERM)
        assert group.end(name) == 0
    assert dict.fromkeys(producer.sent, 1) == group.counts()


def test_a_restart_within_the_session_moves_nothing(group, producer):
    """Static membership: the partitions wait for their member, and the others never hear of it."""
    group.session_timeout_s = 20.0
    group.start("a")
    group.start("b")
    wait_until(lambda: shared_by(group, "a", "b"), group.logs)
    before = group.owners()
    group.kill("a")
    group.start("a")
    wait_until(lambda: group.lives()["a"] == 2 and group.holds("a", life=2, partitions=3), group.logs)

    assert before == group.owners()
    producer.stop()
    wait_until(lambda: group.saved() == dict(producer.ends), group.logs)
    for name in ("a", "b"):
        group.signal(name, signal.SIGTERM)
        assert group.end(name) == 0
    assert dict.fromkeys(producer.sent, 1) == group.counts()


def test_two_members_of_one_name_are_told_apart_at_once(group, producer):
    """The second would be a second writer of the same model."""
    group.start("a")
    wait_until(lambda: shared_by(group, "a"), group.logs)
    first = group.members["a"]
    group.start("a")

    assert group.end("a") == 6
    assert "another process is the member 'a'" in group.log("a").read_text()
    assert first.is_alive()
    first.kill()
