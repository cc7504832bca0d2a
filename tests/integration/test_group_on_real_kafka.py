"""Several trainers share a topic, each with a model of its own, and die in every way: each record counts once (P2)."""

import signal
import uuid

import pytest
import yaml
from group_oracle import Group, Producer, wait_until
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from real_kafka import admin, create_topic, produce

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


def shared_by(group, *names, n_partitions=6):
    """Whether every partition is held, and each of these, and nobody else, holds one."""
    owners = group.owners()
    return len(owners) == n_partitions and set(owners.values()) == set(names)


def test_joining_dying_leaving_and_being_stopped_lose_no_record_and_teach_none_twice(group, producer):
    """Every way in which a partition can move, in one story; the counts of all members united are one of each, and
    `replay --journal` computes the model of each member again (P2, P3)."""
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
    assert [{"oracle": True}] * 2 == [group.rebuilt(name) for name in ("a", "b")], "partitions came and went"


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


def test_a_member_of_the_same_name_with_another_directory_is_refused_and_harms_nobody(group, producer, tmp_path):
    """It forgot to mount what the others share. Had it joined first, the sound one would be out."""
    group.start("a")
    wait_until(lambda: shared_by(group, "a"), group.logs)
    wait_until(lambda: group.committed(), group.logs)
    other = group.twin(tmp_path / "other")
    other.start("a")

    assert other.end("a") == 2
    assert "knows nothing of it: the directory must be one that all members share" in other.log("a").read_text()
    assert group.members["a"].is_alive()
    assert shared_by(group, "a")


def test_before_anything_is_committed_the_later_of_two_directories_fences_the_first(broker, tmp_path):
    """Nobody can tell then which of them is meant; Kafka lets the later one in, and the first leaves with code 6 when
    it would commit."""
    topic = create_topic(broker.bootstrap_servers)
    group = Group(tmp_path, broker.bootstrap_servers, topic)
    other = group.twin(tmp_path / "other")
    try:
        for each in (group, other):
            each.start("a")
            wait_until(lambda each=each: shared_by(each, "a", n_partitions=1), each.logs)
        produce(broker.bootstrap_servers, topic, [b'{"partition": 0, "id": 0, "y": true}'])

        assert group.end("a") == 6
        said = group.log("a").read_text()
        assert "another process has joined as 'a', and this one is out" in said
        assert "Give each member a source.kafka.group.instance_id of its own" in said
        wait_until(lambda: other.saved() == {0: 1}, other.logs)
        assert other.members["a"].is_alive()
    finally:
        group.kill_all()
        other.kill_all()


def test_a_user_without_read_on_the_group_is_told_what_to_grant(broker, start, tmp_path):
    """By `doctor`, and by the run, with exit code 2: no restart helps."""
    group = Group(tmp_path, broker.bootstrap_servers, create_topic(broker.bootstrap_servers))
    pattern = ResourcePattern(ResourceType.GROUP, f"g-{group.topic}")
    with admin(broker.bootstrap_servers) as client:
        rule = {"host": "*", "operation": ACLOperation.READ, "permission_type": ACLPermissionType.ALLOW}
        client.create_acls([ACL(principal="User:somebody-else", resource_pattern=pattern, **rule)])
    run = yaml.safe_load(group.path.read_text())
    run["source"]["kafka"] |= {"bootstrap_servers": broker.secure_servers, "client": broker.credentials()}
    run["models"] = {"tree": {"river": {"estimator": "river.tree.HoeffdingTreeClassifier"}}}
    group.path.write_text(yaml.safe_dump(run))
    group.root.mkdir()

    out, _ = (doctor := start("doctor", group.path)).popen.communicate(timeout=60)
    assert doctor.popen.returncode == 1
    text = " ".join(out.decode().split())
    assert f"Not allowed to join or commit to the Kafka group g-{group.topic}" in text
    assert "Grant this user Read on the group" in text
    refused = start("run", group.path)
    assert refused.end()[0] == 2
    assert f"Not allowed to join or commit to the Kafka group g-{group.topic}" in refused.log.read_text()
