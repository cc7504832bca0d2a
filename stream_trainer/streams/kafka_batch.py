"""One record batch of Kafka (format 2), straight into columns; several times the speed of kafka-python's own reader.

A batch is a header and a body of records, perhaps compressed. Whatever is wrong with it is one exception:
`CorruptBatch`. Not here: unpacking (kafka_codecs.py); formats 0 and 1, which Kafka 4 no longer writes.
Source: Kafka's documentation, section "Message Format".
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from crc32c import crc32c

from stream_trainer.streams.kafka_codecs import decompress
from stream_trainer.types import Headers

__all__ = ["Columns", "CorruptBatch", "Header", "check_batch", "joined", "marker_type", "read_batch"]

HEADER = struct.Struct(">qiibIhiqqqhii")
BEFORE_SIZE, MAGIC_AT, ATTRIBUTES_AT = 12, 16, 21  # bytes: what `size` does not count; one byte; where the CRC starts
CODEC, LOG_APPEND_TIME, TRANSACTIONAL, CONTROL = 0x07, 0x08, 0x10, 0x20  # bits of the attributes
ABORT = 0  # type of a control record; 1 is a commit


class CorruptBatch(Exception):
    """A batch that cannot be read. `next_offset` is behind it, None where its header cannot be believed either."""

    partition: Any = None  # set on the way out

    def __init__(self, offset: int, next_offset: int | None, detail: str, *, codec_missing: bool = False) -> None:
        super().__init__(f"offset {offset}: {detail}")
        self.offset = offset
        self.next_offset = next_offset
        self.detail = detail
        self.codec_missing = codec_missing


@dataclass(frozen=True, slots=True)
class Columns:
    """Records of one partition, in log order; the columns of a RecordChunk without its address."""

    offsets: Sequence[int]
    timestamps_ms: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Headers]
    next_offset: int

    def __len__(self) -> int:
        return len(self.offsets)

    def between(self, start: int, stop: int) -> "Columns":
        """The records from index `start` up to, not including, `stop`, or the end."""
        if start == 0 and stop >= len(self):
            return self
        part = slice(start, stop)
        return Columns(
            self.offsets[part],
            self.timestamps_ms[part],
            self.keys[part],
            self.values[part],
            self.headers[part],
            self.offsets[stop] if stop < len(self) else self.next_offset,
        )


def joined(parts: list[Columns], next_offset: int) -> Columns:
    """All parts as one, ending at `next_offset`."""
    if len(parts) == 1:
        return replace(parts[0], next_offset=next_offset)
    return Columns(
        [offset for part in parts for offset in part.offsets],
        [timestamp for part in parts for timestamp in part.timestamps_ms],
        [key for part in parts for key in part.keys],
        [value for part in parts for value in part.values],
        [headers for part in parts for headers in part.headers],
        next_offset,
    )


class Header(NamedTuple):
    """What stands before the records of a batch; its size counts from the field after `size` on."""

    base_offset: int
    size: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp_ms: int
    max_timestamp_ms: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    n_records: int

    @property
    def next_offset(self) -> int:
        """Behind the last offset this batch ever held, whatever compaction left of it."""
        return self.base_offset + self.last_offset_delta + 1


def check_batch(header: Header, data: bytes, at: int, end: int) -> None:
    """Whether the batch that stands in `data` from `at` to `end` is what its header says. Raises: CorruptBatch."""
    if header.size < HEADER.size - BEFORE_SIZE or header.last_offset_delta < 0 or header.n_records < 0:
        raise CorruptBatch(header.base_offset, None, f"its header makes no sense: {header}")
    if crc32c(memoryview(data)[at + ATTRIBUTES_AT : end]) != header.crc:
        raise CorruptBatch(header.base_offset, header.next_offset, "its CRC does not fit its content")


def read_batch(header: Header, body: bytes) -> Columns:
    """Raises: CorruptBatch."""
    codec_number = header.attributes & CODEC
    try:
        data = decompress(body, codec_number) if codec_number else body
        offsets, timestamps_ms, keys, values, headers = _read_records(
            data, header.n_records, header.base_offset, header.base_timestamp_ms
        )
    except NotImplementedError as error:
        raise CorruptBatch(header.base_offset, header.next_offset, str(error), codec_missing=True) from error
    except (ValueError, IndexError) as error:
        raise CorruptBatch(header.base_offset, header.next_offset, f"{type(error).__name__}: {error}") from error
    if header.attributes & LOG_APPEND_TIME:
        timestamps_ms = [header.max_timestamp_ms] * len(offsets)
    return Columns(offsets, timestamps_ms, keys, values, headers, header.next_offset)


def marker_type(header: Header, body: bytes) -> int | None:
    """What a control batch says: `ABORT`, or another number. Raises: CorruptBatch."""
    keys = read_batch(header, body).keys
    return int.from_bytes(keys[0][2:4], "big") if keys and keys[0] else None


# ---------------------------------------------------------------- the body


def _rest_of_varint(data: bytes, at: int, low: int) -> tuple[int, int]:
    """An unsigned varint whose first byte, already read, was `low` (128 or more); its value and what follows it."""
    value, shift = low & 0x7F, 7
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _signed(data: bytes, at: int) -> tuple[int, int]:
    value = data[at]
    at += 1
    if value > 127:
        value, at = _rest_of_varint(data, at, value)
    return (value >> 1) ^ -(value & 1), at


def _headers(data: bytes, at: int, count: int) -> tuple[Headers, int]:
    if count < 0:
        raise ValueError(f"{count} headers")
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        size = data[at]
        at += 1
        if size > 127:
            size, at = _rest_of_varint(data, at, size)
        stop = at + (size >> 1)
        name = str(data[at:stop], "utf-8")
        size = data[stop]
        at = stop + 1
        if size == 1:  # -1 as it is written: none
            headers.append((name, None))
            continue
        if size > 127:
            size, at = _rest_of_varint(data, at, size)
        stop = at + (size >> 1)
        headers.append((name, data[at:stop]))
        at = stop
    return tuple(headers), at


Fields = tuple[list[int], list[int], list[bytes | None], list[bytes | None], list[Headers]]


def _read_records(data: bytes, count: int, base_offset: int, base_timestamp_ms: int) -> Fields:
    """The records of one uncompressed batch body.

    Short numbers are read in place: a call for each would double the time.
    Sizes are trusted only until the end of the record, where all of them together must fit.
    Raises: ValueError, IndexError: the body is not what its header says.
    """
    offsets: list[int] = []
    timestamps_ms: list[int] = []
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    headers: dict[int, Headers] = {}  # of the few records that have some
    at = 0
    for i in range(count):
        number = data[at]
        at += 1
        if number > 127:
            if data[at] < 128:
                number += (data[at] - 1) << 7
                at += 1
            else:
                number, at = _rest_of_varint(data, at, number)
        end = at + (number >> 1)
        number = data[at + 1]  # one byte of attributes, unused so far, then the time
        at += 2
        if number > 127:
            number, at = _rest_of_varint(data, at, number)
        timestamps_ms.append(base_timestamp_ms + ((number >> 1) ^ -(number & 1)))
        number = data[at]
        at += 1
        if number > 127:
            if data[at] < 128:
                number += (data[at] - 1) << 7
                at += 1
            else:
                number, at = _rest_of_varint(data, at, number)
        offsets.append(base_offset + (number >> 1))
        number = data[at]
        at += 1
        if number == 1:  # -1 as it is written: none
            keys.append(None)
        else:
            if number > 127:
                number, at = _rest_of_varint(data, at, number)
            stop = at + (number >> 1)
            keys.append(data[at:stop])
            at = stop
        number = data[at]
        at += 1
        if number == 1:
            values.append(None)
        else:
            if number > 127:
                if data[at] < 128:
                    number += (data[at] - 1) << 7
                    at += 1
                else:
                    number, at = _rest_of_varint(data, at, number)
            stop = at + (number >> 1)
            values.append(data[at:stop])
            at = stop
        if data[at]:
            number, at = _signed(data, at)
            headers[i], at = _headers(data, at, number)
        else:
            at += 1
        if at != end:
            raise ValueError(f"record {i + 1} of {count} ends at byte {at}, its size says {end}")
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes are left after {count} records")
    headers_of_all: list[Headers] = [headers.get(i, ()) for i in range(count)] if headers else [()] * count
    return offsets, timestamps_ms, keys, values, headers_of_all
