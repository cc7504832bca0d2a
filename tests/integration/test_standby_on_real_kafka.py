"""One model, two processes: one learns, the other waits, and takes over whatever becomes of the first (P2)."""

import signal
import uuid

import pytest
from group_oracle import Group, Producer, wait_until


@pytest.fixture
def producer(bootstrap_servers, standbys):
    """Sends to the topic of `standbys` until it is stopped."""
    producer = Producer(bootstrap_servers, standbys.topic, partitions=2, records_per_s=1_000, seed=5)
    yield producer
    producer.stop()


@pytest.fixture
def standbys(bootstrap_servers, tmp_path):
    """Nobody has started yet."""
    group = Group(tmp_path, bootstrap_servers, f"standby-{uuid.uuid4().hex[:8]}", mode="standby")
    yield group
    group.kill_all()


def test_a_standby_takes_over_from_one_that_died_and_from_one_that_slept(standbys, producer):
    """Each time with a higher epoch, from the newest checkpoint; the sleeper is fenced when it wakes up."""
    standbys.start("a")
    wait_until(lambda: standbys.active() == (1, "a"), standbys.logs)
    standbys.start("b")
    wait_until(lambda: "waiting as standby" in standbys.log("b").read_text(), standbys.logs)
    wait_until(lambda: sum(standbys.saved().values()) > 0, standbys.logs)

    standbys.kill("a")
    wait_until(lambda: standbys.active() == (2, "b"), standbys.logs)
    saved_by_a = sum(standbys.saved().values())
    wait_until(lambda: sum(standbys.saved().values()) > saved_by_a, standbys.logs)

    standbys.start("a")
    wait_until(lambda: "waiting as standby" in standbys.log("a").read_text(), standbys.logs)
    standbys.signal("b", signal.SIGSTOP)
    wait_until(lambda: standbys.active() == (3, "a"), standbys.logs)
    standbys.signal("b", signal.SIGCONT)
    assert standbys.end("b") == 6

    producer.stop()
    wait_until(lambda: standbys.saved() == dict(producer.ends), standbys.logs)
    standbys.start("b")
    wait_until(lambda: standbys.log("b").read_text().count("waiting as standby") == 2, standbys.logs)
    standbys.signal("b", signal.SIGTERM)  # one that only waits leaves at once, and takes nothing along
    assert standbys.end("b") == 0
    standbys.signal("a", signal.SIGTERM)
    assert standbys.end("a") == 0
    assert dict.fromkeys(producer.sent, 1) == standbys.counts()
    assert standbys.active() == (3, "a")
