"""Drift events: learning never waits for them, none is told twice, and what is lost is counted."""

import json
import threading
from types import SimpleNamespace

import pytest
from kafka import errors as kafka_errors

from stream_trainer.errors import ConfigError
from stream_trainer.streams import event_places
from stream_trainer.streams.event_places import EventQueue, FileEvents, TopicEvents


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """A second between two attempts is right for a broker and long for a test."""
    monkeypatch.setattr(event_places, "RETRY_S", 0.001)


def line(key):
    return json.dumps({"id": key}).encode()


class Gate:
    """A place that cannot be reached until it is opened."""

    def __init__(self):
        self.open, self.tried, self.written = threading.Event(), threading.Event(), []

    def write(self, key, line):
        self.tried.set()
        if not self.open.is_set():
            return "closed"
        self.written.append(key)
        return None

    def close(self):
        self.written.append("closed")


def test_a_place_that_is_away_delays_events_and_not_the_teller():
    """In order, each once, as soon as it is back."""
    gate = Gate()
    events = EventQueue(gate)
    for key in ("a", "b", "c"):
        events.tell(key, line(key))
    assert gate.tried.wait(10)
    assert ([], 0) == (gate.written, events.delivered)
    gate.open.set()
    events.close()

    assert ["a", "b", "c", "closed"] == gate.written
    assert (3, 0) == (events.delivered, events.lost)


def test_what_finds_no_room_or_waits_beyond_the_end_is_lost_and_counted(caplog):
    """Nobody should have to guess how many there were."""
    events = EventQueue(gate := Gate(), waiting_max=2, close_s_max=0.01)
    events.tell("a", line("a"))
    assert gate.tried.wait(10)  # `a` is under way, two more may wait
    for key in "bcde":
        events.tell(key, line(key))
    assert 2 == events.lost
    events.close()

    assert (0, 5) == (events.delivered, events.lost)
    assert "3 drift events are lost: not delivered within 0.01 s of the end" in caplog.text
    assert "drift events cannot be delivered, 1 wait: closed" in caplog.text


def test_a_file_holds_each_id_once_over_restarts_and_torn_lines(tmp_path):
    """A run that learns batches again tells their events again; a crash may have cut the last one in half."""
    path = tmp_path / "new" / "events.jsonl"
    first = FileEvents(path)
    assert [None, None] == [first.write(key, line(key)) for key in ("r/1/a", "r/2/a")]
    with path.open("ab") as file:
        file.write(b'{"id": "r/3')
    again = FileEvents(path)
    assert [None, None] == [again.write(key, line(key)) for key in ("r/2/a", "r/3/a")]

    assert ["r/1/a", "r/2/a", "r/3/a"] == [json.loads(each)["id"] for each in path.read_text().splitlines()]


def test_a_file_may_be_rotated_away_and_a_full_disk_is_an_attempt_to_repeat(tmp_path):
    path = tmp_path / "events.jsonl"
    place = FileEvents(path)
    place.write("a", line("a"))
    path.rename(tmp_path / "events.jsonl.1")
    assert place.write("b", line("b")) is None
    assert line("b") + b"\n" == path.read_bytes()
    path.unlink()
    path.mkdir()

    assert "Is a directory" in place.write("c", line("c"))
    with pytest.raises(ConfigError, match=r"events\.file: .* cannot be written: Is a directory"):
        FileEvents(path)


def test_only_ids_in_the_last_mib_are_looked_for(tmp_path, monkeypatch):
    """A file of years must not be read whole at each start; the first of those lines may be half a line."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(line(f"r/{i}") + b"\n" for i in range(100)))
    monkeypatch.setattr(event_places, "TAIL_BYTES", 100)
    place = FileEvents(path)
    place.write("r/99", line("r/99"))
    assert 100 == len(path.read_text().splitlines())
    place.write("r/0", line("r/0"))

    assert 101 == len(path.read_text().splitlines())


class Sent:
    """A future that is acknowledged, fails, or is still under way."""

    def __init__(self, error=None, done=True):
        self.error, self.is_done = error, done

    def get(self, timeout):
        if self.error:
            raise self.error


def test_a_topic_gets_one_record_per_event_whatever_the_broker_does_meanwhile():
    """Away at first, then slow, then failing for good once: only the last is sent anew."""
    slow = Sent(kafka_errors.KafkaTimeoutError(), done=False)
    futures = [slow, Sent(kafka_errors.NotLeaderForPartitionError()), Sent()]
    sent, starts = [], iter([kafka_errors.KafkaConnectionError(), None])

    def send(topic, key, value):
        sent.append((topic, key, value))
        return futures[len(sent) - 1]

    def make_producer(**settings):
        assert ["a:1", "b:2"] == settings["bootstrap_servers"]
        if error := next(starts):
            raise error
        return SimpleNamespace(send=send, close=lambda timeout: sent.append("closed"))

    place = TopicEvents("a:1,b:2", "drift", make_producer=make_producer)
    assert "KafkaConnectionError" in place.write("r/1", b"{}")
    assert "KafkaTimeoutError" in place.write("r/1", b"{}")
    assert 1 == len(sent)
    slow.error, slow.is_done = None, True
    assert place.write("r/1", b"{}") is None
    assert "NotLeader" in place.write("r/2", b"{}")
    assert place.write("r/2", b"{}") is None
    place.close()

    assert [("drift", b"r/1", b"{}"), ("drift", b"r/2", b"{}"), ("drift", b"r/2", b"{}"), "closed"] == sent
