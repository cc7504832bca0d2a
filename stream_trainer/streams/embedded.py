"""A Kafka broker in a process of its own, for demos and tests: no Java, no Docker, real TCP.

It is the mock cluster of librdkafka, the library inside confluent-kafka. What it cannot do: keep more than 5 MB or
100,000 batches a partition (older ones vanish; see paced_producer.py), TLS, passwords, look-ups by time, transactions.
kafka-python must be told `api_version=(2, 3)` and a small `fetch_max_wait_ms`, for a waiting fetch is not woken by new
records: `CLIENT_SETTINGS` holds both. The broker ends with the process that started it, however that ends.
"""

import ctypes
import importlib.util
import json
import sys
from types import TracebackType
from typing import Any, Self

from stream_trainer.errors import ConfigError, StreamTrainerError
from stream_trainer.streams.child_process import ChildProcess

__all__ = ["CLIENT_SETTINGS", "EmbeddedBroker"]

CLIENT_SETTINGS: dict[str, Any] = {"api_version": (2, 3), "fetch_max_wait_ms": 20}


class EmbeddedBroker:
    """A context manager around the child process.

    >>> with EmbeddedBroker() as broker:
    ...     broker.create_topic("flights", partitions=2)
    ...     print(broker.bootstrap_servers.startswith("127.0.0.1:"))
    True
    """

    def __init__(self, *, brokers: int = 1) -> None:
        """Raises: ConfigError: confluent-kafka is not installed."""
        if importlib.util.find_spec("confluent_kafka") is None:
            raise ConfigError(
                "The embedded broker comes with confluent-kafka, which is not installed: "
                "pip install 'stream-trainer[demo]'. Or name a real broker in source.kafka.bootstrap_servers."
            )
        self._child = ChildProcess("stream_trainer.streams.embedded", str(brokers))
        self.bootstrap_servers: str = self._answer()

    def create_topic(self, name: str, partitions: int) -> None:
        """Raises: StreamTrainerError: it exists already, or the broker is gone."""
        self._child.tell([name, partitions])
        self._answer()

    def close(self) -> None:
        self._child.close()
        self._child.close_output()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self) -> str:
        answer = self._child.answer()
        if answer is None:
            code = self._child.exit_code()
            raise StreamTrainerError(f"The embedded broker ended with exit code {code}; see its messages.")
        if answer["error"]:
            raise StreamTrainerError(f"The embedded broker: {answer['error']}.")
        return str(answer["result"])


# ---------------------------------------------------------------- the child process

RD_KAFKA_PRODUCER = 0


def _serve(brokers: int) -> None:
    """Answer one JSON line per JSON line until our standard input ends, which it does when the parent dies."""
    import confluent_kafka.cimpl

    library = ctypes.CDLL(confluent_kafka.cimpl.__file__)
    library.rd_kafka_conf_new.restype = ctypes.c_void_p
    library.rd_kafka_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    library.rd_kafka_err2str.restype = ctypes.c_char_p
    why = ctypes.create_string_buffer(512)
    settings = ctypes.c_void_p(library.rd_kafka_conf_new())
    why_size = ctypes.c_size_t(len(why))
    library.rd_kafka_conf_set(settings, b"log_level", b"3", why, why_size)  # not that this client has no brokers
    handle = library.rd_kafka_new(RD_KAFKA_PRODUCER, settings, why, why_size)
    cluster = library.rd_kafka_mock_cluster_new(ctypes.c_void_p(handle), brokers) if handle else None
    if not cluster:
        _say(error=why.value.decode() or "librdkafka made no mock cluster")
        return
    _say(result=library.rd_kafka_mock_cluster_bootstraps(ctypes.c_void_p(cluster)).decode())
    for line in sys.stdin:
        name, partitions = json.loads(line)
        code = library.rd_kafka_mock_topic_create(ctypes.c_void_p(cluster), name.encode(), partitions, 1)
        _say(error=f"topic {name}: {library.rd_kafka_err2str(code).decode()}" if code else None)


def _say(*, result: str | None = None, error: str | None = None) -> None:
    print(json.dumps({"result": result, "error": error}), flush=True)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
