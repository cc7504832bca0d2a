"""Feeds a topic of the embedded broker no faster than it is read, so that the broker drops nothing.

A child process makes the records, by calling `records` ("package.module:function") with `kwargs`; that returns an
iterator of (key, value), bytes, key may be None. Record i goes to partition i % partitions, where it has offset
i // partitions: the topic must be new, and nobody else may write to it. So whoever counts can tell what was lost.
"""

import importlib
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from stream_trainer.errors import StreamTrainerError
from stream_trainer.streams.child_process import ChildProcess
from stream_trainer.types import Positions

__all__ = ["PacedProducer"]

RECORD_OVERHEAD_BYTES = 80  # of a batch of one record: what a record adds at most to the broker's 5 MB
STATUS_S = 0.2  # the child says this often how far it is


class PacedProducer:
    """Produces in the background, at most so many records and bytes a partition ahead of what was reported.

    Report positions that will never be asked for again: after a restart the trainer reads from its last checkpoint.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        *,
        partitions: int,
        records: str,
        kwargs: Mapping[str, Any] | None = None,  # JSON
        records_ahead_max: int = 50_000,  # the broker keeps 100,000 batches, a batch may be one record
        bytes_ahead_max: int = 3_000_000,  # the broker keeps 5 MB
        rate_per_s: float | None = None,  # None: as fast as it is read
    ) -> None:
        self._topic = topic
        self._status: dict[str, Any] = {"produced": 0, "done": False, "error": None}
        self._child = ChildProcess("stream_trainer.streams.paced_producer")
        self._child.tell(
            {
                "bootstrap_servers": bootstrap_servers,
                "topic": topic,
                "partitions": partitions,
                "records": records,
                "kwargs": dict(kwargs or {}),
                "import_from": sys.path,
                "records_ahead_max": records_ahead_max,
                "bytes_ahead_max": bytes_ahead_max,
                "rate_per_s": rate_per_s,
            }
        )
        self._listener = threading.Thread(target=self._listen, name="paced-producer", daemon=True)
        self._listener.start()

    def report(self, positions: Positions) -> None:
        """The consumer is done with everything before these; other topics are passed over."""
        ours = {tp.partition: offset for tp, offset in positions.items() if tp.topic == self._topic}
        if not self._checked()["done"]:
            self._child.tell(ours)

    @property
    def produced(self) -> int:
        """Records that the broker has acknowledged. Raises: StreamTrainerError: the child failed."""
        return int(self._checked()["produced"])

    @property
    def done(self) -> bool:
        """Whether the iterator ended and all its records are acknowledged. Raises: StreamTrainerError."""
        return bool(self._checked()["done"])

    def close(self) -> None:
        """Stop, finished or not."""
        self._child.close()
        self._listener.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self) -> None:
        for status in self._child.answers():
            self._status = status
        self._child.close_output()
        if not self._status["done"] and not self._status["error"]:
            code = self._child.exit_code()
            self._status = self._status | {"error": f"its process ended early, with exit code {code}"}

    def _checked(self) -> dict[str, Any]:
        status = self._status
        if status["error"]:
            raise StreamTrainerError(f"The producer of {self._topic} failed: {status['error']}.")
        return status


# ---------------------------------------------------------------- the child process


class _Reports:
    """The newest positions from the parent; when it goes away, so do we."""

    def __init__(self) -> None:
        self.positions: dict[int, int] = {}
        self.gone = False
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self.positions |= {int(partition): offset for partition, offset in json.loads(line).items()}
        self.gone = True


class _Ahead:
    """What one partition holds that was not yet reported as consumed."""

    def __init__(self) -> None:
        self.n_bytes = 0
        self._sizes: deque[int] = deque()
        self._consumed = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, n_bytes: int) -> None:
        self._sizes.append(n_bytes)
        self.n_bytes += n_bytes

    def consumed_to(self, offset: int) -> None:
        while self._consumed < offset and self._sizes:
            self.n_bytes -= self._sizes.popleft()
            self._consumed += 1


class _Feeder:
    """Sends record after record, waiting where it must."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        from confluent_kafka import Producer

        self._order = order
        self._producer = Producer({"bootstrap.servers": order["bootstrap_servers"], "linger.ms": 5})
        self._reports = _Reports()
        self._ahead = [_Ahead() for _ in range(order["partitions"])]
        self._acknowledged = 0
        self._said_s = 0.0
        self._started_s = time.monotonic()

    def run(self) -> None:
        for i, (key, value) in enumerate(self._records()):
            partition = i % len(self._ahead)
            n_bytes = len(key or b"") + len(value) + RECORD_OVERHEAD_BYTES
            while not self._may_send(i, partition, n_bytes):
                if self._reports.gone:
                    return
                self._producer.poll(0.01)
                self._say_now_and_then()
            self._producer.produce(self._order["topic"], value, key, partition, on_delivery=self._delivered)
            self._ahead[partition].add(n_bytes)
            self._producer.poll(0)
            self._say_now_and_then()
        while self._producer.flush(STATUS_S) and not self._reports.gone:
            self._say_now_and_then()
        _say(produced=self._acknowledged, done=True)

    def _records(self) -> Iterator[tuple[bytes | None, bytes]]:
        sys.path[:] = self._order["import_from"]
        module, _, function = self._order["records"].partition(":")
        records: Iterator[tuple[bytes | None, bytes]] = getattr(importlib.import_module(module), function)(
            **self._order["kwargs"]
        )
        return records

    def _may_send(self, i: int, partition: int, n_bytes: int) -> bool:
        rate_per_s = self._order["rate_per_s"]
        if rate_per_s and time.monotonic() < self._started_s + i / rate_per_s:
            return False
        ahead = self._ahead[partition]
        if self._has_room(ahead, n_bytes):
            return True
        ahead.consumed_to(self._reports.positions.get(partition, 0))
        return self._has_room(ahead, n_bytes)

    def _has_room(self, ahead: _Ahead, n_bytes: int) -> bool:
        fits = ahead.n_bytes + n_bytes <= self._order["bytes_ahead_max"]
        return not ahead or (fits and len(ahead) < self._order["records_ahead_max"])

    def _delivered(self, error: Any, message: Any) -> None:
        if error is not None:
            raise RuntimeError(f"a record was not delivered: {error}")
        self._acknowledged += 1

    def _say_now_and_then(self) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s >= STATUS_S:
            self._said_s = now_s
            _say(produced=self._acknowledged)


def _say(*, produced: int, done: bool = False, error: str | None = None) -> None:
    print(json.dumps({"produced": produced, "done": done, "error": error}), flush=True)


def _main() -> None:
    try:
        _Feeder(json.loads(sys.stdin.readline())).run()
    except BrokenPipeError:  # the parent is gone, nobody listens
        return
    except Exception as error:
        _say(produced=0, error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    _main()
