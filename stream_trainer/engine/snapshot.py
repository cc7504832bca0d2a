"""Everything learned and the position it was learned up to, as one unit.

A part is whatever implements Stateful; its name says where it goes back. Not here: files (checkpoints/).
"""

from collections.abc import Mapping
from types import MappingProxyType

from stream_trainer.contracts import CapturesLate, Stateful
from stream_trainer.errors import CheckpointError
from stream_trainer.types import Counts, Positions, Snapshot, State

__all__ = ["capture", "restore"]


def capture(
    parts: Mapping[str, Stateful],
    positions: Positions,
    counts: Counts,
    topic_ids: Mapping[str, str] = MappingProxyType({}),
) -> Snapshot:
    """All parts between two batches; later batches do not change it. Call its `finish` before reading arrays."""
    states: dict[str, State] = {}
    unfinished = []
    for name, part in parts.items():
        if isinstance(part, CapturesLate):
            states[name], finish = part.capture_late()
            unfinished.append(finish)
        else:
            states[name] = part.capture()
    return Snapshot(
        positions=dict(positions), counts=counts, parts=states, topic_ids=dict(topic_ids), unfinished=tuple(unfinished)
    )


def restore(parts: Mapping[str, Stateful], snapshot: Snapshot) -> None:
    """Put every part back. Raises CheckpointError if the snapshot has other parts than this run."""
    missing, unknown = parts.keys() - snapshot.parts.keys(), snapshot.parts.keys() - parts.keys()
    if missing or unknown:
        raise CheckpointError(
            f"The snapshot of step {snapshot.counts.batches} has the parts {sorted(snapshot.parts)}; this run has "
            f"{sorted(parts)}. Start with the configuration that wrote it, or with another checkpoint.directory."
        )
    for name, part in parts.items():
        part.restore(snapshot.parts[name])
