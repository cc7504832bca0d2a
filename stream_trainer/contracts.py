"""The five seams of the house: what a source, a decoder, a model, a detector and a dead-letter sink must do.

Structural types: a plugin needs no base class. The shared checks in `testing.checks` run on everything registered.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from stream_trainer.errors import DataLost
from stream_trainer.types import (
    Batch,
    Decoded,
    Detection,
    LearnReport,
    Positions,
    Prediction,
    RawBatch,
    RecordChunk,
    Reject,
    State,
    TopicPartition,
)

__all__ = ["CapturesLate", "DeadLetters", "Decoder", "DriftDetector", "Model", "Source", "Stateful"]


class Stateful(Protocol):
    """Whoever remembers. Capture, restore into a freshly built twin, go on: bit for bit the same."""

    def capture(self) -> State:
        """A copy of everything remembered; later steps do not change it."""

    def restore(self, state: State) -> None:
        """Become what was captured. Raises CheckpointError if it came from another configuration."""


@runtime_checkable
class CapturesLate(Protocol):
    """Whoever remembers so much that learning would stand still for the copy. Optional, beside `capture`."""

    def capture_late(self) -> tuple[State, Callable[[], None]]:
        """A state whose arrays are whole once the function beside it has run, in whatever thread; until then its owner
        changes no original without running it first."""


class Source(Protocol):
    """A log that is pulled, from positions that we keep."""

    @property
    def exhausted(self) -> bool:
        """Nothing will ever come again: the end of a file. Never true of a live log."""

    @property
    def topic_ids(self) -> Mapping[str, str]:
        """Which log each topic is: the positions say nothing in another of the same name. Empty where none is known."""

    def start(self, positions: Positions | None, topic_ids: Mapping[str, str] | None = None) -> Positions:
        """Connect and seek: to `positions` where they name a partition, to the configured start elsewhere.

        Args:    topic_ids: as they were when the positions were kept.
        Returns: the next offset of every partition that will be read. Raises: DataLost, ConfigError, Stalled.
        """

    def poll(self, wait_s: float, records_max: int) -> Sequence[RecordChunk]:
        """What has arrived, in arrival order; waits at most about `wait_s` for the first record. Never decodes.

        Returns nothing in silence; raises Stalled once silence cannot be explained by an empty log.
        """

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Until told otherwise poll only the others: enough of these waits here. Whoever has but one may ignore it."""

    def accept_loss(self, error: DataLost) -> None:
        """Raise `error`; or count and log it, where the operator chose to go on without records that are gone."""

    def end_offsets(self) -> Positions:
        """Where the log ends now, per partition; asks the broker."""

    def lags(self) -> Positions:
        """Records not yet polled, per partition, from what the client last heard: no round trip."""

    def commit(self, positions: Positions) -> None:
        """Tell the outside world how far we are. A display only: failing here is logged, never raised."""

    def close(self) -> None: ...


class Decoder(Protocol):
    """Bytes to columns. Never raises for the content of a record."""

    def decode(self, raw: RawBatch) -> Decoded: ...


class DeadLetters(Protocol):
    """Where rejected records go. `flush` returns only when they are safe: it is called before each checkpoint."""

    def write(self, rejects: Sequence[Reject]) -> None: ...

    def flush(self) -> None:
        """Raises: DeadLettersWait: not now, ask again later; StreamTrainerError: never."""

    def close(self) -> None: ...


class Model(Stateful, Protocol):
    """Something that predicts and learns, whatever the size of the batch."""

    def predict(self, batch: Batch) -> Prediction:
        """With the state as it is, changing nothing: twice the same answer, and learning goes on as if never asked."""

    def learn(self, batch: Batch) -> LearnReport:
        """From every record, once. A step on a loss or gradient that is not finite is not taken, and is told."""


@runtime_checkable
class DriftDetector(Stateful, Protocol):
    """Watches the mean of a stream of values, for example errors: 1 = wrong, 0 = right."""

    def update(self, values_N: np.ndarray) -> Sequence[Detection]:
        """The values of one batch in arrival order. Detections in order of their index; re-arms itself."""
