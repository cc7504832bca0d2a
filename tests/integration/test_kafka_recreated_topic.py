"""A topic deleted and created again on a real Kafka: the name is the same, the log is another, its id says so."""

import pytest
from kafka.admin import NewTopic
from real_kafka import PATIENCE_S, admin, create_topic, produce, read_to, until

from stream_trainer.errors import DataLost
from stream_trainer.types import TopicPartition


def create_again(bootstrap_servers, topic, values):
    """Under the same name, with a longer log: no offset of ours is out of its range."""
    with admin(bootstrap_servers) as client:
        client.create_topics([NewTopic(topic, 1, 1)])
    produce(bootstrap_servers, topic, values)


def delete(bootstrap_servers, topic):
    with admin(bootstrap_servers) as client:
        client.delete_topics([topic])
        until(lambda: topic not in client.list_topics(), lambda: None, PATIENCE_S, lambda: f"{topic} was not deleted")


@pytest.fixture
def replaced(bootstrap_servers, open_source):
    """A topic of which we learned two records, and its id then; now it is another one with nine."""
    topic = create_topic(bootstrap_servers)
    produce(bootstrap_servers, topic, [b"old"] * 3)
    source = open_source(bootstrap_servers, topic)
    source.start(None)
    ids = source.topic_ids
    source.close()
    delete(bootstrap_servers, topic)
    create_again(bootstrap_servers, topic, [b"new"] * 9)
    return topic, ids


def test_a_checkpoint_of_the_topic_before_is_refused(bootstrap_servers, open_source, replaced):
    """Its positions fit into the new log, and mean nothing there."""
    topic, ids = replaced
    source = open_source(bootstrap_servers, topic)

    with pytest.raises(DataLost, match=rf"{topic}-0: we are at offset 2, .* deleted and created again \(its id was"):
        source.start({TopicPartition(topic, 0): 2}, ids)
    assert ids == source.topic_ids, "what is saved now must be refused again"


@pytest.mark.parametrize(("policy", "expected"), [("earliest", 0), ("latest", 9)])
def test_the_operator_may_go_on_in_the_new_log(bootstrap_servers, open_source, replaced, policy, expected):
    topic, ids = replaced
    source = open_source(bootstrap_servers, topic, lost_data=policy)

    assert {TopicPartition(topic, 0): expected} == source.start({TopicPartition(topic, 0): 2}, ids)
    assert 1 == source.lost_resets
    assert {topic} == source.topic_ids.keys()
    assert ids != source.topic_ids


@pytest.fixture
def reading(bootstrap_servers, open_source):
    """reading(policy) -> a source that has read three records of a new topic."""

    def start(policy):
        topic = create_topic(bootstrap_servers)
        produce(bootstrap_servers, topic, [b"old"] * 3)
        source = open_source(bootstrap_servers, topic, lost_data=policy, discover_s=0.5)
        source.start(None)
        read_to(source, {TopicPartition(topic, 0): 3})
        return source, topic

    return start


def test_no_record_of_the_new_log_comes_from_an_offset_of_the_old_one(bootstrap_servers, reading):
    """The deletion interrupts the fetch, and that makes the client ask what became of the topic."""
    source, topic = reading("earliest")
    ids = source.topic_ids
    delete(bootstrap_servers, topic)
    for _ in range(5):
        assert not source.poll(0.2, 500)
    create_again(bootstrap_servers, topic, [b"%d" % i for i in range(9)])
    rows = []
    until(
        lambda: len(rows) >= 9,
        lambda: rows.extend(value for chunk in source.poll(0.2, 500) for value in chunk.values),
        PATIENCE_S,
        lambda: f"only {rows} came",
    )

    assert [b"%d" % i for i in range(9)] == rows
    assert ids != source.topic_ids


def test_a_topic_replaced_while_we_look_away_is_noticed_at_the_next_look(bootstrap_servers, reading):
    """Between two polls, in a long step: the fetch that waits is interrupted."""
    source, topic = reading("fail")
    ids = source.topic_ids
    delete(bootstrap_servers, topic)
    create_again(bootstrap_servers, topic, [b"new"] * 9)

    with pytest.raises(DataLost, match=rf"{topic}-0: we are at offset \d+, .* deleted and created again"):
        read_to(source, {TopicPartition(topic, 0): 10})
    assert ids == source.topic_ids


def test_a_topic_replaced_while_no_fetch_waits_is_never_read_from_the_old_offset(bootstrap_servers, open_source):
    """Nothing interrupts, nobody asks for ids for an hour: the fetch itself says which log it means."""
    topic = create_topic(bootstrap_servers)
    produce(bootstrap_servers, topic, [b"old"] * 3)
    source = open_source(bootstrap_servers, topic, lost_data="earliest", discover_s=3_600.0)
    source.start(None)
    read_to(source, {TopicPartition(topic, 0): 3})
    source.pause([TopicPartition(topic, 0)])
    source.poll(1.0, 500)  # the fetch that was under way comes back empty, and no other is sent
    delete(bootstrap_servers, topic)
    create_again(bootstrap_servers, topic, [b"%d" % i for i in range(9)])
    source.pause([])
    rows = read_to(source, {TopicPartition(topic, 0): 9})[0]

    assert [b"%d" % i for i in range(9)] == [value for _, _, value in rows]
    assert 1 == source.lost_resets


def test_a_topic_that_stays_deleted_ends_the_run(bootstrap_servers, open_source):
    """Silence for ever would look like an empty night."""
    topic = create_topic(bootstrap_servers)
    source = open_source(bootstrap_servers, topic, stall_s_max=0.5, discover_s=0.5)
    source.start(None)
    delete(bootstrap_servers, topic)

    with pytest.raises(DataLost, match=f"{topic}-0: no longer there, the topic was deleted"):
        read_to(source, {TopicPartition(topic, 0): 1})
