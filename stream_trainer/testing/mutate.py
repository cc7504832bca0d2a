"""Damage for records: what broken producers, cut connections and attackers send.

Everything is drawn from the generator handed in, so a seed names a test case. Not here: what must hold after it
(a decoder never raises, and accounts for every record).
"""

import json
from collections.abc import Callable

import numpy as np

__all__ = ["mutate_record"]

# Each has broken some parser: beyond float32, beyond float64, beyond int64, no number at all, half a character, ...
JUNK_VALUES = (
    b"1e39",
    b"-1e999",
    b"1e-320",
    b"9" * 400,
    b"9" * 5000,
    b"NaN",
    b"-Infinity",
    b"0x10",
    b"01",
    b"1_000",
    b"null",
    b"true",
    b'"1"',
    b'""',
    b"1.0",
    b"[]",
    b"{}",
    b"[[1, 2], [3]]",
    b'{"a": {"b": null}}',
    b'"\\ud800"',
    b'"\\u0000"',
    b'"a\\nb"',
    b'"' + b"x" * 300 + b'"',
)
JUNK_BYTES = (
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"]",
    b",",
    b"\n",
    b"\r",
    b"\x1b[31m",
)


def mutate_record(rng: np.random.Generator, value: bytes) -> bytes:
    """`value` with one to three injuries: text formats of any kind, JSON objects also field by field.

    The result may still be a valid record, and may be empty.

    >>> mutate_record(np.random.default_rng(4), b'{"x": 1, "y": true}') != b'{"x": 1, "y": true}'
    True
    """
    for _ in range(rng.integers(1, 4)):
        value = INJURIES[rng.integers(len(INJURIES))](rng, value)
    return value


def _flip_bit(rng: np.random.Generator, value: bytes) -> bytes:
    if not value:
        return value
    damaged = bytearray(value)
    damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
    return bytes(damaged)


def _truncate(rng: np.random.Generator, value: bytes) -> bytes:
    return value[: rng.integers(len(value) + 1)]


def _cut_out(rng: np.random.Generator, value: bytes) -> bytes:
    start, end = sorted(rng.integers(len(value) + 1, size=2))
    return value[:start] + value[end:]


def _splice(rng: np.random.Generator, value: bytes) -> bytes:
    """A piece of the record once more, somewhere else."""
    start, end = sorted(rng.integers(len(value) + 1, size=2))
    return _insert(rng, value, value[start:end])


def _insert_junk(rng: np.random.Generator, value: bytes) -> bytes:
    return _insert(rng, value, JUNK_BYTES[rng.integers(len(JUNK_BYTES))])


def _insert_random(rng: np.random.Generator, value: bytes) -> bytes:
    return _insert(rng, value, rng.bytes(int(rng.integers(1, 9))))


def _nest(rng: np.random.Generator, value: bytes) -> bytes:
    """Brackets around the whole, now and then deeper than a recursive parser can go."""
    depth = int(rng.choice([1, 3, 2_000]))
    return b"[" * depth + value + b"]" * depth


def _replace_value(rng: np.random.Generator, value: bytes) -> bytes:
    """One field of a JSON object gets another value, for example of another type; other bytes get it anywhere."""
    junk = JUNK_VALUES[rng.integers(len(JUNK_VALUES))]
    fields = _fields(value)
    if not fields:
        return _insert(rng, value, junk)
    fields[rng.integers(len(fields))][1] = junk
    return _object(fields)


def _drop_field(rng: np.random.Generator, value: bytes) -> bytes:
    fields = _fields(value)
    if fields:
        del fields[rng.integers(len(fields))]
    return _object(fields) if fields else value


def _repeat_field(rng: np.random.Generator, value: bytes) -> bytes:
    """The same key twice, with different values."""
    fields = _fields(value)
    if not fields:
        return value
    name = fields[rng.integers(len(fields))][0]
    return _object([*fields, [name, JUNK_VALUES[rng.integers(len(JUNK_VALUES))]]])


INJURIES: tuple[Callable[[np.random.Generator, bytes], bytes], ...] = (
    _flip_bit,
    _truncate,
    _cut_out,
    _splice,
    _insert_junk,
    _insert_random,
    _nest,
    _replace_value,
    _drop_field,
    _repeat_field,
)


def _insert(rng: np.random.Generator, value: bytes, piece: bytes) -> bytes:
    at = rng.integers(len(value) + 1)
    return value[:at] + piece + value[at:]


def _fields(value: bytes) -> list[list[bytes]]:
    """Name and value of each field, both as JSON; empty if `value` is not (or no longer) a JSON object."""
    try:
        record = json.loads(value)
        pairs = record.items() if isinstance(record, dict) else ()
        return [[json.dumps(name).encode(), json.dumps(field).encode()] for name, field in pairs]
    except (ValueError, RecursionError):
        return []


def _object(fields: list[list[bytes]]) -> bytes:
    return b"{" + b", ".join(name + b": " + field for name, field in fields) + b"}"
