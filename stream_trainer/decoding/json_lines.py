"""One JSON object a record, straight into typed values.

The schema becomes a msgspec Struct, so that parsing, type checks and skipping unknown fields are one pass in C.
Records are never joined into one document: a record could then close the bracket and speak for its neighbours.
What is refused: numbers written as strings, true as a number, 1.0 as a class. Of a key that comes twice the last
counts, as in most parsers. Bytes inside undeclared fields are skipped, not checked for UTF-8.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np

from stream_trainer.decoding.columns import FLOAT32_MAX
from stream_trainer.decoding.faults import Fault, described, number_fault
from stream_trainer.decoding.lines import RECORD_BYTES_MAX, LineDecoder
from stream_trainer.errors import ConfigError
from stream_trainer.schema import ArrayFeature, Schema, Target, TargetKind
from stream_trainer.types import RejectReason

__all__ = ["JsonDecoder"]

# Parsers give up on nesting where their stack ends: another depth in every Python, and below every caller. Ours is
# fixed, far above any real record and far below any stack, so that a verdict never depends on who asks.
NESTING_MAX = 200

Check = Callable[[str, Any], Fault | None]
"""(field, value) -> what is wrong with it, in the same order of strictness as the Struct's type."""


class JsonDecoder(LineDecoder):
    """Decodes JSON objects: about a million records of eight fields a second on one core.

    number: a JSON number within float32, integer or not. category: a string or an integer. array: nested lists of
    exactly the declared shape or, where the schema says so, a base64 string (RFC 4648, padded) of exactly its bytes.
    Optional features may be absent or null. Target: a number; or a class as string or integer, and for binary also true
    and false.

    Args:   schema: the declared fields; others are ignored.
            record_bytes_max: longer records are rejected unread.
    Raises: ConfigError: a field name that a JSON key cannot be compared with (quotes, backslash, control characters).

    >>> from stream_trainer.schema import NumberFeature
    >>> from stream_trainer.types import ClosedBy, RawBatch, RecordChunk, TopicPartition
    >>> decoder = JsonDecoder(Schema(numbers=(NumberFeature(name="distance"),), target=Target.binary("late")))
    >>> chunk = RecordChunk(partition=TopicPartition("flights", 0), offsets=[7, 8], timestamps_ms=[0, 0],
    ...     keys=[None, None], values=[b'{"distance": 1.5, "late": true}', b'{"distance": "far", "late": true}'],
    ...     headers=[(), ()], next_offset=9)
    >>> decoded = decoder.decode(RawBatch(chunks=(chunk,), next_offsets={}, closed_by=ClosedBy.RECORDS))
    >>> decoded.batch.x_NF.tolist(), decoded.batch.y_N.tolist()
    ([[1.5]], [1])
    >>> decoded.rejects[0].offset, decoded.rejects[0].detail
    (8, "distance: expected a number, came the string 'far'")
    """

    def __init__(self, schema: Schema, *, record_bytes_max: int = RECORD_BYTES_MAX) -> None:
        super().__init__(schema, record_bytes_max=record_bytes_max)
        self._fields = _fields(schema)
        self._parse = msgspec.json.Decoder(_struct(self._fields)).decode
        self._row = msgspec.structs.astuple
        self._unchecked_bytes_max = min(record_bytes_max, 2 * NESTING_MAX)  # every bracket that opens has to close

    def _refusal(self, value: bytes) -> Fault | None:
        refusal = super()._refusal(value)
        if refusal is None and _is_nested_too_deep(value):
            return Fault(RejectReason.BAD_SYNTAX, f"expected at most {NESTING_MAX} levels of nesting, came more")
        return refusal

    def _explain(self, value: bytes, error: Exception) -> Fault:
        """Reads the record again, field by field and leniently, to say what the strict parser only refused."""
        try:
            record = _LENIENT.decode(value.decode())
        except UnicodeDecodeError as bad:
            return Fault(RejectReason.BAD_UTF8, f"byte {bad.start} (0x{value[bad.start]:02x}) is not UTF-8")
        except (ValueError, RecursionError):
            return _syntax_fault(error)
        if not isinstance(record, dict):
            return Fault(RejectReason.WRONG_TYPE, f"the record: expected an object, came {described(record)}")
        for field in self._fields:
            fault = field.fault(record)
            if fault:
                return fault
        return _syntax_fault(error)  # what is declared reads well: NaN elsewhere, a broken escape, a bad twin


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """One declared field: the type the Struct checks, and the check that finds the words for it."""

    name: str
    type: Any
    optional: bool = False
    absent: RejectReason = RejectReason.MISSING_FEATURE
    check: Check

    def fault(self, record: dict[str, Any]) -> Fault | None:
        value = record.get(self.name)
        if value is not None:
            return self.check(self.name, value)
        if self.optional:
            return None
        came = "null" if self.name in record else "nothing"
        return Fault(self.absent, f"{self.name}: expected a value, came {came}")


def _fields(schema: Schema) -> list[_Field]:
    """In the order of a row: numbers, categories, arrays, target."""
    fields = [
        *(_Field(name=f.name, type=float, optional=f.optional, check=_check_number) for f in schema.numbers),
        *(_Field(name=f.name, type=str | int, optional=f.optional, check=_check_category) for f in schema.categories),
        *(_Field(name=f.name, type=_array_type(f), check=_array_check(f)) for f in schema.arrays),
    ]
    return [*fields, _target_field(schema.target)]


def _target_field(target: Target) -> _Field:
    type_: Any = str | int
    check = _check_class
    if target.kind is TargetKind.NUMBER:
        type_, check = float, _check_number
    elif target.classes == Target.binary(target.name).classes:
        type_, check = bool | int | str, _check_binary
    return _Field(name=target.name, type=type_, absent=RejectReason.MISSING_TARGET, check=check)


def _struct(fields: list[_Field]) -> type[msgspec.Struct]:
    members: list[Any] = [
        (f"field_{i}", field.type | None, None) if field.optional else (f"field_{i}", field.type)
        for i, field in enumerate(fields)
    ]
    try:
        # gc=False: the values cannot form cycles, and millions of records a minute need no visit by the collector.
        return msgspec.defstruct(
            "Record",
            members,
            rename={f"field_{i}": field.name for i, field in enumerate(fields)},
            gc=False,
            kw_only=True,
        )
    except ValueError as error:
        raise ConfigError(f"schema: a field name cannot be a JSON key: {error}. Rename the field.") from error


def _array_type(array: ArrayFeature) -> Any:
    if array.n_bytes is not None:
        return Annotated[bytes, msgspec.Meta(min_length=array.n_bytes, max_length=array.n_bytes)]  # decodes the base64
    inner: Any = float
    for size in reversed(array.shape):
        inner = Annotated[list[inner], msgspec.Meta(min_length=size, max_length=size)]
    return inner


def _is_nested_too_deep(value: bytes) -> bool:
    if value.count(b"[") + value.count(b"{") <= NESTING_MAX:
        return False
    signs = np.frombuffer(_STRING.sub(b"", value), dtype=np.uint8)
    opens = (signs == ord("[")) | (signs == ord("{"))
    closes = (signs == ord("]")) | (signs == ord("}"))
    return bool(np.cumsum(opens.astype(np.int64) - closes).max(initial=0) > NESTING_MAX)


# The closing quote is optional: a pattern that cannot fail takes linear time, whatever an attacker sends.
_STRING = re.compile(rb'"(?:[^"\\]+|\\.)*"?', re.DOTALL)


_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=]|=(?=[^=])")  # padding stands at the end only


# ---------------------------------------------------------------- the words for what the Struct refused


def _check_number(field: str, value: Any) -> Fault | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Fault(RejectReason.WRONG_TYPE, f"{field}: expected a number, came {described(value)}")
    if value != value:
        return Fault(RejectReason.NOT_FINITE, f"{field}: expected a finite number, came NaN or Infinity")
    return number_fault(field, value) if abs(value) > FLOAT32_MAX else None


def _check_category(field: str, value: Any) -> Fault | None:
    return _check_text_or_integer(field, value, "a string or an integer")


def _check_class(field: str, value: Any) -> Fault | None:
    return _check_text_or_integer(field, value, "a class as string or integer")


def _check_binary(field: str, value: Any) -> Fault | None:
    return None if isinstance(value, bool) else _check_text_or_integer(field, value, "true, false, 1 or 0")


def _check_text_or_integer(field: str, value: Any, expected: str) -> Fault | None:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return None
    return Fault(RejectReason.WRONG_TYPE, f"{field}: expected {expected}, came {described(value)}")


def _array_check(array: ArrayFeature) -> Check:
    return _nested_check(array.shape) if array.n_bytes is None else _base64_check(array.n_bytes)


def _base64_check(n_bytes: int) -> Check:
    """Whether `value` is the base64 of so many bytes; says which character is none of it."""
    n_characters = 4 * -(-n_bytes // 3)

    def check(field: str, value: Any) -> Fault | None:
        expected = f"{field}: expected base64 of {n_bytes} bytes, {n_characters} characters"
        if not isinstance(value, str) or len(value) != n_characters:
            return Fault(RejectReason.WRONG_TYPE, f"{expected}, came {described(value)}")
        stray = _NOT_BASE64.search(value)
        if stray:
            return Fault(RejectReason.WRONG_TYPE, f"{expected}, came {stray[0]!r} as character {stray.start()}")
        n_padding = n_characters - len(value.rstrip("="))
        if n_padding != -n_bytes % 3:
            return Fault(RejectReason.WRONG_TYPE, f"{expected} with {-n_bytes % 3} '=' at the end, came {n_padding}")
        return None

    return check


def _nested_check(shape: tuple[int, ...]) -> Check:
    """Whether `value` is nested lists of numbers of this shape; says at which index it is not."""

    def check(field: str, value: Any) -> Fault | None:
        if not shape:
            return _check_number(field, value)
        if not isinstance(value, list) or len(value) != shape[0]:
            detail = f"{field}: expected an array of {shape[0]}, came {described(value)}"
            return Fault(RejectReason.WRONG_TYPE, detail)
        faults = (inner(f"{field}[{i}]", item) for i, item in enumerate(value))
        return next(filter(None, faults), None)

    inner = _nested_check(shape[1:]) if shape else _check_number
    return check


def _syntax_fault(error: Exception) -> Fault:
    return Fault(RejectReason.BAD_SYNTAX, f"expected one JSON object: {str(error)[:200]!r}")


def _lenient_integer(digits: str) -> int | float:
    """Python refuses to read thousands of digits; infinity says as much here: too large."""
    try:
        return int(digits)
    except ValueError:
        return math.copysign(math.inf, float(digits))


# Python's own parser takes NaN and Infinity, as Python's own writer makes them: the commonest cause of bad numbers,
# and worth a better answer than "syntax error". All three become NaN, so that 1e999 stays the only infinity.
_LENIENT = json.JSONDecoder(parse_constant=lambda _: math.nan, parse_int=_lenient_integer)
