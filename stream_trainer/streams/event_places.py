"""Where drift events go: a file of JSON lines or a Kafka topic, written by a thread that learning never waits for.

An event is delivered, or it waits, or it is lost. It waits while the place cannot be reached, `WAITING_MAX` of them at
most. Lost, and counted: those that find the waiting room full, and those that still wait `close_s_max` after the end of
the run. Lost and not counted: what waits when the process is killed, of batches that a checkpoint already covers;
those of later batches are told again, for the batches are learned again.
Told again means the same id: the file leaves out ids that it holds (looked for in its last MiB); in a topic the id is
the key, so that a reader, or compaction, keeps one of each.
"""

import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import kafka
from kafka import errors as kafka_errors

from stream_trainer.errors import ConfigError

__all__ = ["EventPlace", "EventQueue", "FileEvents", "TopicEvents"]

log = logging.getLogger(__name__)

WAITING_MAX = 10_000  # events of 400 bytes: 4 MB at worst; a broker may be away for as many
RETRY_S = 1.0
TAIL_BYTES = 2**20  # about 2,500 events: far more than follow one checkpoint


class EventPlace(Protocol):
    """Called by one thread; may take its time."""

    def write(self, key: str, line: bytes) -> str | None:
        """One attempt. None: it is there. Otherwise why not; the same event is tried again."""

    def close(self) -> None: ...


class EventQueue:
    """Takes events without ever waiting, and hands them to `place` in their order, in a thread of its own.

    >>> class Shelf:
    ...     def write(self, key, line):
    ...         print(key, line)
    ...     def close(self): pass
    >>> events = EventQueue(Shelf())
    >>> events.tell("run/1/error", b"{}")
    >>> events.close()
    run/1/error b'{}'
    >>> events.delivered, events.lost
    (1, 0)
    """

    def __init__(self, place: EventPlace, *, waiting_max: int = WAITING_MAX, close_s_max: float = 5.0) -> None:
        self.delivered = self.lost = 0  # of this process
        self._place, self._close_s_max = place, close_s_max
        self._waiting: queue.Queue[tuple[str, bytes] | None] = queue.Queue(waiting_max + 1)  # one for the end mark
        self._waiting_max = waiting_max
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._deliver_all, name="events", daemon=True)
        self._thread.start()

    def tell(self, key: str, line: bytes) -> None:
        """Never waits, never raises; from one thread."""
        if self._waiting.qsize() < self._waiting_max:
            self._waiting.put_nowait((key, line))
        else:
            self.lost += 1

    def close(self) -> None:
        """Deliver what waits; what cannot be delivered within `close_s_max` is lost, counted and logged."""
        self._waiting.put_nowait(None)
        self._thread.join(self._close_s_max)
        if self._thread.is_alive():
            self._hurry.set()
            waiting = self._waiting.qsize()  # the end mark among them, the event under way not
            self.lost += waiting
            log.error("%d drift events are lost: not delivered within %g s of the end", waiting, self._close_s_max)

    def _deliver_all(self) -> None:
        while (event := self._waiting.get()) is not None:
            self._deliver(*event)
            if self._hurry.is_set():
                return
        self._place.close()

    def _deliver(self, key: str, line: bytes) -> None:
        told = False
        while (problem := self._place.write(key, line)) is not None:
            if not told:
                log.warning("drift events cannot be delivered, %d wait: %s", self._waiting.qsize() + 1, problem)
                told = True
            if self._hurry.wait(RETRY_S):
                return
        self.delivered += 1


class FileEvents:
    """Appends JSON lines. Opened for each event, so that whoever rotates logs may move the file away.

    Raises: ConfigError: the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._known = self._cut_off_torn_line()
        except OSError as error:
            raise ConfigError(f"events.file: {self._path} cannot be written: {error.strerror}.") from error

    def write(self, key: str, line: bytes) -> str | None:
        if key in self._known:
            return None
        try:
            with self._path.open("ab") as file:
                file.write(line + b"\n")
        except OSError as error:
            return f"{self._path}: {error.strerror or error}"
        return None

    def close(self) -> None:
        """Nothing is open between two events."""

    def _cut_off_torn_line(self) -> set[str]:
        """A crash may leave half a line. Returns: the ids in the last MiB."""
        with self._path.open("a+b") as file:
            start = max(0, file.seek(0, 2) - TAIL_BYTES)
            file.seek(start)
            tail = file.read()
            whole = tail.rfind(b"\n") + 1
            if whole < len(tail):
                file.truncate(start + whole)
        lines = tail[:whole].splitlines()[1 if start else 0 :]
        return {json.loads(line)["id"] for line in lines if line.strip()}


class TopicEvents:
    """One record an event, the id as its key, acknowledged by all replicas before the next one is sent."""

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        *,
        client: Mapping[str, object] | None = None,
        make_producer: Callable[..., Any] = kafka.KafkaProducer,
    ) -> None:
        """`client`: kafka-python's producer settings. Connects with the first event, not before."""
        self._topic = topic
        # Short waits, many attempts: the end of the run must not hang on a broker that is away.
        waits = {"max_block_ms": 1000, "bootstrap_timeout_ms": 2000}
        self._settings = {"bootstrap_servers": bootstrap_servers.split(","), **waits, **(client or {})}
        self._make_producer = make_producer
        self._producer: Any = None
        self._sent: Any = None  # the future of the event under way

    def write(self, key: str, line: bytes) -> str | None:
        try:
            if self._producer is None:
                self._producer = self._make_producer(**self._settings)
            if self._sent is None:
                self._sent = self._producer.send(self._topic, key=key.encode(), value=line)
            self._sent.get(timeout=RETRY_S)
        except (kafka_errors.KafkaError, ValueError, AssertionError, OSError) as error:
            if self._sent is not None and self._sent.is_done:
                self._sent = None  # it failed for good: send it again; else it is still under way
            return f"topic {self._topic}: {type(error).__name__}: {error}"
        self._sent = None
        return None

    def close(self) -> None:
        if self._producer is not None:
            self._producer.close(timeout=1.0)
