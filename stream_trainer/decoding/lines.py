"""The way every line format goes: parse each record by itself, build the columns, tell the rejects apart.

One record, one verdict: it is the same alone, in any batch and beside any neighbour, and it is never an exception.
A format says how to parse one record and how to explain one that did not parse.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from typing import Any

from stream_trainer.decoding.columns import Columns
from stream_trainer.decoding.faults import Fault
from stream_trainer.errors import ConfigError
from stream_trainer.schema import Schema
from stream_trainer.types import Decoded, RawBatch, Reject, RejectReason

__all__ = ["RECORD_BYTES_MAX", "LineDecoder"]

RECORD_BYTES_MAX = 1_048_576  # 1 MiB, the largest message a Kafka broker takes unless told otherwise


class LineDecoder(ABC):
    """A Decoder for formats in which each record is parsed by itself.

    Args:   schema: what to read from each record; everything else in it is ignored.
            record_bytes_max: longer records are rejected unread.
    Raises: ConfigError: `record_bytes_max` is below 1.
    """

    _parse: Callable[[bytes], Any]  # one record, types checked; raises ValueError or RecursionError
    _row: Callable[[Any], Sequence[Any]]  # what `_parse` returned -> one row, as columns.py wants it

    def __init__(self, schema: Schema, *, record_bytes_max: int = RECORD_BYTES_MAX) -> None:
        if record_bytes_max < 1:
            raise ConfigError(f"record_bytes_max is {record_bytes_max}; it must be at least 1.")
        self._columns = Columns(schema)
        self._record_bytes_max = record_bytes_max
        self._unchecked_bytes_max = record_bytes_max  # records up to here need no `_refusal`: a format may lower it

    def _refusal(self, value: bytes) -> Fault | None:
        """Why a record must not even be parsed; None: it may."""
        if len(value) <= self._record_bytes_max:
            return None
        return Fault(RejectReason.OVERSIZE, f"expected at most {self._record_bytes_max} bytes, came {len(value)}")

    @abstractmethod
    def _explain(self, value: bytes, error: Exception) -> Fault:
        """What is wrong with a record for which `_parse` raised `error`. Not hurried, and never raises."""

    def decode(self, raw: RawBatch) -> Decoded:
        """Arrival order over all chunks is kept. N of the batch is 0 if every record was rejected or a tombstone."""
        values = list(chain.from_iterable(chunk.values for chunk in raw.chunks))
        timestamps_ms = list(chain.from_iterable(chunk.timestamps_ms for chunk in raw.chunks))
        parsed, faults = self._parse_each(values)
        n_tombstones = values.count(None)

        places: Sequence[int] = range(len(values))  # of each parsed record, among all that came
        if faults or n_tombstones:
            places = [place for place, value in enumerate(values) if value is not None and place not in faults]
            timestamps_ms = [timestamps_ms[place] for place in places]
        batch, row_faults = self._columns.build(map(self._row, parsed), timestamps_ms)
        faults.update((places[row], fault) for row, fault in row_faults.items())
        return Decoded(batch=batch, rejects=_rejects(raw, faults), n_tombstones=n_tombstones)

    def _parse_each(self, values: Sequence[bytes | None]) -> tuple[list[Any], dict[int, Fault]]:
        """What parsed, in order; and place -> fault for what did not. Tombstones are in neither."""
        parse, unchecked_bytes_max = self._parse, self._unchecked_bytes_max
        parsed: list[Any] = []
        faults: dict[int, Fault] = {}
        for place, value in enumerate(values):
            if value is None:
                continue
            if len(value) > unchecked_bytes_max:
                refusal = self._refusal(value)
                if refusal:
                    faults[place] = refusal
                    continue
            try:
                parsed.append(parse(value))
            except (ValueError, RecursionError) as error:  # msgspec's and Unicode's errors are ValueErrors
                faults[place] = self._explain(value, error)
        return parsed, faults


def _rejects(raw: RawBatch, faults: dict[int, Fault]) -> tuple[Reject, ...]:
    """In arrival order, each with its address in the log."""
    ends = list(accumulate(map(len, raw.chunks)))
    rejects = []
    for place, fault in sorted(faults.items()):
        which = bisect_right(ends, place)
        chunk = raw.chunks[which]
        i = place - ends[which] + len(chunk)
        rejects.append(
            Reject(
                partition=chunk.partition,
                offset=chunk.offsets[i],
                timestamp_ms=chunk.timestamps_ms[i],
                key=chunk.keys[i],
                value=chunk.values[i] or b"",
                headers=chunk.headers[i],
                reason=fault.reason,
                detail=fault.detail,
            )
        )
    return tuple(rejects)
