"""Several trainers share a topic, each with a model of its own, and die in every way: each record counts once (P2)."""

import signal
import uuid

import pytest
from group_oracle import Group, Producer, wait_until
from real_kafka import admin, create_topic

from stream_trainer.streams import kafka_group
from stream_trainer.streams.kafka_options import GroupOptions, KafkaOptions


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


def test_a_poll_that_ends_in_the_middle_of_a_joining_costs_no_membership(broker, monkeypatch):
    """New partitions make the leader join again. Its client forgot that it did when a poll ended at the wrong moment:
    it kept three partitions in its mind, the group gave all eight to the other. Short polls end at such a moment."""
    monkeypatch.setattr(kafka_group, "POLL_S", 0.002)
    topic = create_topic(broker.bootstrap_servers, partitions=6)
    members = [
        kafka_group.GroupMembership(
            KafkaOptions(
                bootstrap_servers=broker.bootstrap_servers,
                topics=(topic,),
                discover_s=0.5,
                group=GroupOptions(id=topic, mode="sharded", instance_id=name, session_timeout_s=8.0),
            )
        )
        for name in "ab"
    ]

    def told():
        return [len(member.wanted or ()) for member in members]

    for member in members:
        member.start()
    try:
        wait_until(lambda: told() == [3, 3], lambda: f"before: {told()}")
        with admin(broker.bootstrap_servers) as client:
            client.create_partitions({topic: 8})
        wait_until(lambda: told() == [4, 4], lambda: f"after: {told()}", wait_s=40)
    finally:
        for member in members:
            member.close(5.0)

    assert members[0].wanted.isdisjoint(members[1].wanted)
