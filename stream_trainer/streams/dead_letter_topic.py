"""Where rejected records go when they go to a Kafka topic, and back: each as it was, what was wrong with it in headers.

The promises are those of dead_letter_file.py: `flush` returns only when everything sent is acknowledged.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import kafka
from kafka import errors as kafka_errors

from stream_trainer.errors import ConfigError, DeadLettersWait, StreamTrainerError
from stream_trainer.streams.dead_letter_file import origin_and_fault
from stream_trainer.types import Headers, Reject, RejectReason, TopicPartition

__all__ = ["HEADER_PREFIX", "TopicDeadLetters", "letter_of_record", "sendable_headers"]

HEADER_PREFIX = "stream_trainer-"


class TopicDeadLetters:
    """Sends each record as it was, to another topic, with headers that say where it came from and what was wrong.

    Original headers come first. The client cannot send a header without a value: it is sent empty, and named in
    `stream_trainer-null_headers`. Keys decide the partition, as they did before.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        *,
        client: Mapping[str, object] | None = None,
        flush_s_max: float = 30.0,  # long enough for a leader to change; the checkpoint waits meanwhile
        make_producer: Callable[..., Any] = kafka.KafkaProducer,
    ) -> None:
        """`client`: kafka-python's producer settings, security_protocol and so on.

        Raises: ConfigError: no broker answers, or it refuses the settings.
        """
        self._topic = topic
        self._flush_s_max = flush_s_max
        self._unconfirmed: list[tuple[Reject, Any]] = []  # sent; what the broker says of it, or will
        try:
            # acks from all replicas, retries, no reordering: kafka-python's defaults since 3.0
            self._producer = make_producer(bootstrap_servers=bootstrap_servers.split(","), **(client or {}))
        except (kafka_errors.KafkaError, ValueError, AssertionError) as error:
            raise ConfigError(
                f"dead_letters.topic: no producer for {topic} on {bootstrap_servers}: {type(error).__name__}: {error}. "
                "Check the address, security_protocol, user and password."
            ) from error

    def write(self, rejects: Sequence[Reject]) -> None:
        try:
            for reject in rejects:
                self._unconfirmed.append((reject, self._send(reject)))
        except kafka_errors.KafkaError as error:
            raise self._not_sent(StreamTrainerError, error) from error

    def flush(self) -> None:
        """All acknowledged when it returns.

        Raises: DeadLettersWait: they are not, within `flush_s_max`, and what the client has given up is sent again;
        StreamTrainerError: the topic will not take them.
        """
        waiting: list[tuple[Reject, Any]] = []
        error: kafka_errors.KafkaError | None = None
        with suppress(kafka_errors.KafkaTimeoutError):  # each letter tells for itself
            self._producer.flush(timeout=self._flush_s_max)
        for reject, future in self._unconfirmed:
            try:
                future.get(timeout=0.0 if error else self._flush_s_max)
            except kafka_errors.KafkaError as found:
                error = error or found
                waiting.append((reject, future))
        self._unconfirmed = waiting
        if error is None:
            return
        if not isinstance(error, kafka_errors.RetriableError):
            raise self._not_sent(StreamTrainerError, error) from error
        self._send_again()
        raise self._not_sent(DeadLettersWait, error) from error

    def _send_again(self) -> None:
        for i, (reject, future) in enumerate(self._unconfirmed):
            if future.failed():
                try:
                    self._unconfirmed[i] = (reject, self._send(reject))
                except kafka_errors.KafkaError:
                    return  # it waits for the topic each time; the next flush comes here again

    def _send(self, reject: Reject) -> Any:
        return self._producer.send(self._topic, key=reject.key, value=reject.value, headers=_to_headers(reject))

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._producer.close(timeout=1.0)

    def _not_sent(self, kind: type[StreamTrainerError], error: Exception) -> StreamTrainerError:
        return kind(
            f"Dead letters were not acknowledged by topic {self._topic}: {type(error).__name__}: {error}. Nothing is "
            "lost: the checkpoint does not move without them. Check that the topic exists, its limit on sizes and this "
            "user's right to write."
        )


def _to_headers(reject: Reject) -> list[tuple[str, bytes]]:
    ours = origin_and_fault(reject)
    return sendable_headers(reject) + [(HEADER_PREFIX + name, str(value).encode()) for name, value in ours.items()]


def sendable_headers(reject: Reject) -> list[tuple[str, bytes]]:
    """Those that the record had; one without a value is sent empty, and named in a header of ours."""
    nulls = ",".join(name for name, value in reject.headers if value is None)
    original = [(name, value or b"") for name, value in reject.headers]
    return original + ([(HEADER_PREFIX + "null_headers", nulls.encode())] if nulls else [])


def letter_of_record(key: bytes | None, value: bytes | None, headers: Headers) -> Reject | None:
    """The other way: what `TopicDeadLetters` sent, read from its topic. None: it was sent by somebody else."""
    ours = {name.removeprefix(HEADER_PREFIX): v for name, v in headers if name.startswith(HEADER_PREFIX) and v}
    try:
        said = {name: text.decode() for name, text in ours.items()}
        nulls = said.get("null_headers", "").split(",")
        return Reject(
            partition=TopicPartition(said["topic"], int(said["partition"])),
            offset=int(said["offset"]),
            timestamp_ms=int(said["timestamp_ms"]),
            key=key,
            value=value or b"",
            headers=tuple(
                (name, None if name in nulls and not v else v)
                for name, v in headers
                if not name.startswith(HEADER_PREFIX)
            ),
            reason=RejectReason(said["reason"]),
            detail=said.get("detail", ""),
        )
    except (KeyError, ValueError):
        return None
