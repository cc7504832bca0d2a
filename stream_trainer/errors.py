"""Everything that can go wrong, by what the operator should do about it.

Each class carries the exit code of the command line and whether starting again may help. A message says
what was expected, what came, where, and what to do next. Not here: the reasons for which a single record is
rejected (types.RejectReason): a bad record never raises.
"""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "CorruptCheckpoint",
    "DataLost",
    "DeadLettersWait",
    "Fenced",
    "ModelError",
    "ShapeError",
    "Stalled",
    "StreamTrainerError",
    "TooManyBadRecords",
]


class StreamTrainerError(Exception):
    """Base of all our errors; a supervisor reads `exit_code`, a human the message."""

    exit_code = 1
    retriable = False


class ConfigError(StreamTrainerError, ValueError):
    """The configuration, or an argument that stands for one, cannot be used as written."""

    exit_code = 2


class ShapeError(StreamTrainerError, ValueError):
    """A tensor has another shape than the layer was built for."""


class ModelError(StreamTrainerError):
    """A model, or a part of one that the user supplied, did not keep its contract."""


class DataLost(StreamTrainerError):
    """Records we have not learned are no longer in the log; learning on would hide it."""

    exit_code = 3


class TooManyBadRecords(StreamTrainerError):
    """More of the stream is rejected than the configuration allows: the producer or the schema is wrong."""

    exit_code = 4


class DeadLettersWait(StreamTrainerError):
    """Rejected records are not safe yet: no checkpoint may move past them, and learning need not end for it."""

    retriable = True


class Stalled(StreamTrainerError):
    """Nothing reaches us: no broker answered at the start, or the log grows although the consumer was rebuilt."""

    exit_code = 5
    retriable = True


class Fenced(StreamTrainerError):
    """Another instance writes this checkpoint directory; two writers would teach records twice."""

    exit_code = 6


class CheckpointError(StreamTrainerError):
    """A checkpoint exists but must not be loaded into this run."""


class CorruptCheckpoint(CheckpointError):
    """A checkpoint file is missing, torn or altered."""
