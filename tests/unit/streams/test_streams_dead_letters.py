"""Dead letters: nothing lost, nothing altered, whatever dies in between."""

import json
import os
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import errors as kafka_errors

from stream_trainer.errors import ConfigError, DeadLettersWait, StreamTrainerError
from stream_trainer.streams.dead_letter_file import FileDeadLetters, read_dead_letters
from stream_trainer.streams.dead_letter_topic import TopicDeadLetters, letter_of_record
from stream_trainer.types import Reject, RejectReason, TopicPartition


def reject(offset=0, **changes):
    fields = {
        "partition": TopicPartition("orders", 2),
        "offset": offset,
        "timestamp_ms": 1_700_000_000_000,
        "key": b"k",
        "value": b'{"x": "a lot"}',
        "headers": (("trace", b"\xff"), ("none", None)),
        "reason": RejectReason.WRONG_TYPE,
        "detail": "x: expected a number, got a string",
    }
    return Reject(**(fields | changes))


@given(
    key=st.none() | st.binary(),
    value=st.binary(),
    headers=st.lists(st.tuples(st.text(), st.none() | st.binary()), max_size=3),
    detail=st.text(),
)
@settings(max_examples=50, deadline=None)
def test_any_record_comes_back_as_it_was(tmp_path_factory, key, value, headers, detail):
    """Whoever sends it again must send the same bytes."""
    path = tmp_path_factory.mktemp("dead") / "letters.jsonl"
    written = [reject(key=key, value=value, headers=tuple(headers), detail=detail), reject(1)]
    letters = FileDeadLetters(path)
    letters.write(written)
    letters.close()

    assert written == list(read_dead_letters(path))


def test_a_line_is_readable_by_people_and_tools(tmp_path):
    """The file is opened in an editor when something is wrong."""
    letters = FileDeadLetters(tmp_path / "new" / "letters.jsonl")
    letters.write([reject(17, key=None), reject(18, value=b"\xff")])
    letters.close()
    first, second = map(json.loads, (tmp_path / "new" / "letters.jsonl").read_text().splitlines())

    assert ("orders", 2, 17, "wrong_type", '{"x": "a lot"}', None) == tuple(
        first[name] for name in ("topic", "partition", "offset", "reason", "value_text", "key")
    )
    assert "value_text" not in second


def test_what_was_flushed_survives_and_a_torn_line_is_cut_off(tmp_path):
    """A crash in the middle of a line must not spoil the one that is written next."""
    path = tmp_path / "letters.jsonl"
    letters = FileDeadLetters(path)
    letters.write([reject(1)])
    letters.flush()
    with open(path, "ab") as file:
        file.write(b'{"topic": "orders", "par')
    assert [1] == [letter.offset for letter in read_dead_letters(path)]

    after_the_crash = FileDeadLetters(path)
    after_the_crash.write([reject(2)])
    after_the_crash.close()
    letters.close()

    assert [1, 2] == [letter.offset for letter in read_dead_letters(path)]


def test_full_files_are_put_aside_and_the_oldest_is_deleted(tmp_path):
    """A producer gone mad must not fill the disk."""
    path = tmp_path / "letters.jsonl"
    letters = FileDeadLetters(path, bytes_max=1, files_max=3)
    letters.write([reject(offset) for offset in range(5)])
    letters.close()

    assert [2, 3, 4] == [letter.offset for letter in read_dead_letters(path)]
    assert ["letters.jsonl", "letters.jsonl.3", "letters.jsonl.4", "letters.jsonl.5"] == sorted(os.listdir(tmp_path))


def test_a_place_that_cannot_be_written_is_said_at_start(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match=r"dead_letters.file: .* cannot be written"):
        FileDeadLetters(tmp_path / "file" / "letters.jsonl")


def test_a_full_disk_stops_the_checkpoint_and_says_so():
    """/dev/full answers every write as a full disk does."""
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    letters = FileDeadLetters.__new__(FileDeadLetters)
    letters._path, letters._bytes_max = "letters.jsonl", 10**9
    letters._file = open("/dev/full", "wb")  # noqa: SIM115  closed by the failing flush
    letters.write([reject()])

    with pytest.raises(StreamTrainerError, match=r"No space left on device. Nothing is lost"):
        letters.flush()
    letters._file.raw.close()


class Producer:
    """Stands for kafka-python's; acknowledges, or does not."""

    def __init__(self, **settings):
        self.sent, self.failure, self.settings = [], None, settings

    def send(self, topic, **record):
        self.sent.append((topic, record))
        return SimpleNamespace(get=self._get, failed=lambda: self.failure is not None)

    def _get(self, timeout):
        if self.failure:
            raise self.failure

    def flush(self, timeout):
        pass

    def close(self, timeout):
        pass


def test_a_topic_gets_the_record_as_it_was_and_headers_that_explain_it():
    """Null header values exist in Kafka, but the client refuses to send them."""
    producer = Producer()
    letters = TopicDeadLetters("a:1,b:2", "dead", client={"client_id": "me"}, make_producer=lambda **_: producer)
    letters.write([reject(17)])
    letters.flush()
    ((topic, record),) = producer.sent

    assert ("dead", b"k", b'{"x": "a lot"}') == (topic, record["key"], record["value"])
    assert {
        "trace": b"\xff",
        "none": b"",
        "stream_trainer-topic": b"orders",
        "stream_trainer-partition": b"2",
        "stream_trainer-offset": b"17",
        "stream_trainer-timestamp_ms": b"1700000000000",
        "stream_trainer-reason": b"wrong_type",
        "stream_trainer-detail": b"x: expected a number, got a string",
        "stream_trainer-null_headers": b"none",
    } == dict(record["headers"])


def test_a_letter_read_from_the_topic_is_the_one_that_was_written():
    """Null headers included; what somebody else sent to the topic is no letter."""
    producer = Producer()
    letters = TopicDeadLetters("a:1", "dead", make_producer=lambda **_: producer)
    letters.write([reject(17)])
    ((_, record),) = producer.sent

    assert reject(17) == letter_of_record(record["key"], record["value"], tuple(record["headers"]))
    assert letter_of_record(b"k", b"v", (("trace", b"1"),)) is None


def test_a_record_that_is_not_acknowledged_stops_the_checkpoint():
    """Flush may not say "safe" for a record that the broker refused."""
    producer = Producer()
    letters = TopicDeadLetters("a:1", "dead", make_producer=lambda **_: producer)
    letters.write([reject()])
    producer.failure = kafka_errors.MessageSizeTooLargeError("too large")

    with pytest.raises(StreamTrainerError, match="not acknowledged by topic dead: MessageSizeTooLargeError"):
        letters.flush()


def test_a_letter_that_the_client_gave_up_is_sent_again_until_it_is_acknowledged():
    """The topic was away for longer than the client tries: nothing may be lost for that, nor learning end."""
    producer = Producer()
    letters = TopicDeadLetters("a:1", "dead", make_producer=lambda **_: producer)
    letters.write([reject(17)])
    producer.failure = kafka_errors.KafkaTimeoutError("delivery timed out")
    with pytest.raises(DeadLettersWait, match="not acknowledged by topic dead: KafkaTimeoutError"):
        letters.flush()
    producer.failure = None
    letters.flush()

    assert 2 == len(producer.sent)
    assert producer.sent[0] == producer.sent[1]
    letters.flush()
    assert 2 == len(producer.sent), "what is acknowledged is not sent again"


def test_nobody_else_can_read_the_file(tmp_path):
    """Dead letters hold whole records, and records hold what people typed."""
    letters = FileDeadLetters(tmp_path / "dead.jsonl")
    letters.close()

    assert 0o600 == (tmp_path / "dead.jsonl").stat().st_mode & 0o777
