"""One line of CSV a record; the header is known beforehand, since a stream has no first line.

Same verdicts as JSON, as far as text can tell: an empty field is an absent one, numbers are plain decimal numbers
(no spaces, no 1_000, no words), categories and classes are taken as written. A quoted field may hold delimiters and
line breaks; a record is never more than the bytes it came in, so an open quote cannot swallow its neighbours.
"""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stream_trainer.decoding.faults import Fault, described
from stream_trainer.decoding.lines import RECORD_BYTES_MAX, LineDecoder
from stream_trainer.errors import ConfigError
from stream_trainer.schema import Schema, Target, TargetKind
from stream_trainer.types import RejectReason

__all__ = ["CsvDecoder"]

BINARY = {"true": True, "false": False}


class CsvDecoder(LineDecoder):
    """Decodes lines of CSV, with or without their line end.

    Args:   schema: the declared fields; arrays have no form in CSV.
            header: the names of the columns, in order; undeclared columns are ignored.
            delimiter: one character between fields.
            record_bytes_max: longer records are rejected unread.
    Raises: ConfigError: a declared field is not in the header, a name is there twice, the schema has an array, or the
            delimiter is not one ordinary character.

    >>> from stream_trainer.schema import NumberFeature
    >>> from stream_trainer.types import ClosedBy, RawBatch, RecordChunk, TopicPartition
    >>> schema = Schema(numbers=(NumberFeature(name="distance"),), target=Target.binary("late"))
    >>> chunk = RecordChunk(partition=TopicPartition("flights.csv", 0), offsets=[0, 1], timestamps_ms=[-1, -1],
    ...     keys=[None, None], values=[b"7,1.5,true", b"8,,false"], headers=[(), ()], next_offset=2)
    >>> decoder = CsvDecoder(schema, header=["id", "distance", "late"])
    >>> decoded = decoder.decode(RawBatch(chunks=(chunk,), next_offsets={}, closed_by=ClosedBy.RECORDS))
    >>> decoded.batch.x_NF.tolist(), decoded.batch.y_N.tolist(), decoded.rejects[0].detail
    ([[1.5]], [1], 'distance: expected a value, came nothing')
    """

    def __init__(
        self,
        schema: Schema,
        header: Sequence[str],
        *,
        delimiter: str = ",",
        record_bytes_max: int = RECORD_BYTES_MAX,
    ) -> None:
        super().__init__(schema, record_bytes_max=record_bytes_max)
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise ConfigError(f"delimiter is {delimiter!r}; expected one character, and no quote or line end.")
        if schema.arrays:
            raise ConfigError(f"schema.features.{schema.arrays[0].name}: CSV cannot hold arrays; use JSON.")
        self._delimiter = delimiter
        self._header = tuple(header)
        self._fields = _fields(schema, self._header)
        self._readers = [(field.column, field.read) for field in self._fields]
        self._parse = self._parse_line
        self._row = tuple  # returns a tuple as it is

    def _parse_line(self, line: bytes) -> tuple[Any, ...]:
        texts = self._split(line.decode())
        return tuple([read(texts[column]) for column, read in self._readers])

    def _split(self, text: str) -> list[str]:
        text = text.removesuffix("\n").removesuffix("\r")
        if '"' in text:
            try:
                rows = list(csv.reader([text], delimiter=self._delimiter, strict=True))
            except csv.Error as error:
                raise ValueError(str(error)) from error
            texts = rows[0] if len(rows) == 1 else []
        elif "\n" in text or "\r" in text:
            raise ValueError("a line break outside quotes")
        else:
            texts = text.split(self._delimiter)  # the common case, several times faster
        if len(texts) != len(self._header):
            raise ValueError(f"{len(texts)} fields, the header has {len(self._header)}")
        return texts

    def _explain(self, value: bytes, error: Exception) -> Fault:
        try:
            texts = self._split(value.decode())
        except UnicodeDecodeError as bad:
            return Fault(RejectReason.BAD_UTF8, f"byte {bad.start} (0x{value[bad.start]:02x}) is not UTF-8")
        except ValueError as bad:
            return Fault(RejectReason.BAD_SYNTAX, f"expected one line of CSV: {bad}")
        faults = (field.fault(texts[field.column]) for field in self._fields)
        return next(fault for fault in faults if fault)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """One declared field: where it stands, and how its text becomes a value."""

    name: str
    column: int
    read: Callable[[str], Any]  # raises ValueError
    absent: RejectReason

    def fault(self, text: str) -> Fault | None:
        try:
            self.read(text)
        except ValueError:
            if not text:
                return Fault(self.absent, f"{self.name}: expected a value, came nothing")
            if _is_not_finite(text):
                return Fault(RejectReason.NOT_FINITE, f"{self.name}: expected a finite number, came {described(text)}")
            return Fault(RejectReason.WRONG_TYPE, f"{self.name}: expected a number, came {described(text)}")
        return None


def _fields(schema: Schema, header: tuple[str, ...]) -> list[_Field]:
    """In the order of a row: numbers, categories, target."""
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise ConfigError(f"CSV header names {', '.join(sorted(twice))} twice: {', '.join(header)}. Rename one.")
    readers: list[tuple[str, Callable[[str], Any]]] = [
        *((f.name, _optional(_number) if f.optional else _number) for f in schema.numbers),
        *((f.name, _optional(_text) if f.optional else _text) for f in schema.categories),
        (schema.target.name, _target_reader(schema.target)),
    ]
    for name, _ in readers:
        if name not in header:
            raise ConfigError(
                f"schema: {name!r} is not a column; the CSV header is: {', '.join(header)}. Correct either of them."
            )
    return [
        _Field(
            name=name,
            column=header.index(name),
            read=read,
            absent=RejectReason.MISSING_TARGET if name == schema.target.name else RejectReason.MISSING_FEATURE,
        )
        for name, read in readers
    ]


# ---------------------------------------------------------------- text -> value


def _number(text: str) -> float:
    """float() alone would also take nan and inf, spaces around, underscores within, and digits of other scripts."""
    number = float(text)
    if text[-1] not in "0123456789." or text[0] <= " " or "_" in text or not text.isascii():
        raise ValueError(text)
    return number


def _text(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text


def _binary(text: str) -> str | bool:
    return BINARY[text] if text in BINARY else _text(text)


def _optional(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: read(text) if text else None


def _target_reader(target: Target) -> Callable[[str], Any]:
    if target.kind is TargetKind.NUMBER:
        return _number
    return _binary if target.classes == Target.binary(target.name).classes else _text


def _is_not_finite(text: str) -> bool:
    """Whether the text is one of the many ways to write NaN or infinity."""
    try:
        return not math.isfinite(float(text))
    except ValueError:
        return False
