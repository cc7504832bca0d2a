"""Shows our progress under a group id, so that the usual lag tools can see it.

The checkpoint holds the truth; this is a courtesy, so it must be unable to hurt: it has a thread and a connection of
its own (a consumer with a group id stops polling while the group's coordinator is away), keeps only the newest
positions, and logs its failures.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

import kafka
from kafka.structs import OffsetAndMetadata

from stream_trainer.streams.kafka_connect import open_consumer
from stream_trainer.streams.kafka_options import KafkaOptions, client_settings
from stream_trainer.types import Positions

__all__ = ["ProgressDisplay"]

log = logging.getLogger(__name__)

COMMIT_S_MAX = 5.0


class ProgressDisplay:
    """Commits the newest positions it was shown, one at a time, in the background."""

    def __init__(self, options: KafkaOptions, make_consumer: Callable[..., Any] = kafka.KafkaConsumer) -> None:
        self.failures = 0
        self._group = options.group_id
        self._settings = client_settings(options) | {
            "group_id": options.group_id,
            "bootstrap_timeout_ms": round(COMMIT_S_MAX * 1000),
        }
        self._make_consumer = make_consumer
        self._newest: Positions | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="kafka-progress-display", daemon=True)
        self._thread.start()

    def show(self, positions: Positions) -> None:
        """Returns at once."""
        with self._changed:
            self._newest = dict(positions)
            self._changed.notify()

    def close(self, wait_s: float) -> None:
        """Let the newest positions out, within `wait_s`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(wait_s)

    def _run(self) -> None:
        consumer = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._closing)
                positions, self._newest = self._newest, None
            if positions is None:
                break
            try:
                consumer = consumer or open_consumer(self._make_consumer, self._settings)
                consumer.commit(
                    {kafka.TopicPartition(*tp): OffsetAndMetadata(at, "", -1) for tp, at in positions.items()},
                    timeout_ms=round(COMMIT_S_MAX * 1000),
                )
            except Exception as error:  # whatever it is, it is only the display
                self.failures += 1
                log.warning(
                    "Could not show progress under group %s: %s: %s. Learning goes on; the checkpoint holds the truth.",
                    self._group,
                    type(error).__name__,
                    error,
                )
        if consumer is not None:
            consumer.close(autocommit=False, timeout_ms=1000)
