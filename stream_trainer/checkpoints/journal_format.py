"""The bytes of one segment of the journal: a line of JSON, then one row per batch.

    line   {"body": {"format": 1, "first_step": S, "positions": [[topic, partition, offset], ...]}, "crc32": C}
    row    length of the payload | payload | crc32 of the payload, 4 bytes, little-endian
    payload   step - S | closed by, as in CLOSED_BY | records | for each run: place of its partition in `positions`,
              how far it begins before the offset where that partition stood, its length in offsets

Numbers are varints, seven bits a byte, the lowest first. A run begins where its partition stood: gaps count to the run
behind them. Only a log that was created again can begin before. Not here: files (journal.py).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from stream_trainer.errors import CheckpointError, CorruptCheckpoint
from stream_trainer.types import ClosedBy, Cut, Positions, RawBatch, Run, TopicPartition

__all__ = ["FORMAT", "Segment", "SegmentEncoder", "decode_segment"]

FORMAT = 1
CLOSED_BY = (ClosedBy.RECORDS, ClosedBy.BYTES, ClosedBy.AGE, ClosedBy.DRAIN)  # never reorder: the index is on disk
CRC_BYTES = 4
PAYLOAD_BYTES_MIN = 3  # so that a stretch of zeros, as a power cut leaves it, is no row


class SegmentEncoder:
    """Header and rows of one segment, in order.

    Args:
        first_step: of its first row.
        positions: before that row, of every partition that its rows may name.
    """

    def __init__(self, first_step: int, positions: Positions) -> None:
        self._first_step = first_step
        self._index = {partition: i for i, partition in enumerate(positions)}
        self._at = dict(positions)
        body = {
            "format": FORMAT,
            "first_step": first_step,
            "positions": [[tp.topic, tp.partition, offset] for tp, offset in positions.items()],
        }
        self.header = json.dumps({"body": body, "crc32": _crc32_of_json(body)}).encode() + b"\n"

    def knows(self, raw: RawBatch) -> bool:
        """Whether a row can name every partition of this batch."""
        return raw.next_offsets.keys() <= self._index.keys()

    def row(self, step: int, raw: RawBatch) -> bytes:
        payload = bytearray()
        _put(payload, step - self._first_step)
        payload.append(CLOSED_BY.index(raw.closed_by))
        _put(payload, len(raw))
        at, open_run = self._at, None
        for chunk in raw.chunks:
            partition = chunk.partition
            stood = at[partition]
            first = min(stood, chunk.offsets[0] if len(chunk) else chunk.next_offset)
            if open_run is not None and (open_run[0] != partition or first < stood):
                self._put_run(payload, *open_run)
                open_run = None
            if open_run is None:
                open_run = (partition, stood - first, first)
            at[partition] = chunk.next_offset
        if open_run is not None:
            self._put_run(payload, *open_run)
        row = bytearray()
        _put(row, len(payload))
        return bytes(row + payload + crc32(payload).to_bytes(CRC_BYTES, "little"))

    def _put_run(self, payload: bytearray, partition: TopicPartition, back: int, first: int) -> None:
        _put(payload, self._index[partition])
        _put(payload, back)
        _put(payload, self._at[partition] - first)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One segment as found on disk."""

    first_step: int
    positions: Positions  # before its first row
    cuts: tuple[Cut, ...]
    sound_bytes: int  # what lies behind was torn


def decode_segment(content: bytes, *, name: str, may_be_torn: bool, rows_max: int | None = None) -> Segment | None:
    """Header and rows. None: torn in the header, there is no row.

    Args:
        may_be_torn: it is the last segment, so that a crash may have cut off its end.
        rows_max: what lies behind so many rows is void, and not looked at.
    Raises:  CorruptCheckpoint: damage, with the step; CheckpointError: another format.
    """
    line, newline, _ = content.partition(b"\n")
    if not newline and may_be_torn and not _has_sound_row(content, 0):
        return None
    header = _header(line, name)
    first_step = header["first_step"]
    at = {TopicPartition(topic, partition): offset for topic, partition, offset in header["positions"]}
    positions, partitions = dict(at), tuple(at)
    cuts: list[Cut] = []
    place = len(line) + 1
    while place < len(content) and (rows_max is None or len(cuts) < rows_max):
        step = first_step + len(cuts)
        payload_at = _sound_payload(content, place)
        if payload_at is None:
            if may_be_torn and not _has_sound_row(content, place + 1):
                break
            raise CorruptCheckpoint(
                f"{name}: the row of step {step}, at byte {place}, does not agree with its crc32: altered, or torn in "
                "the middle. Restore the journal from a backup, or move it away: the batches since the last checkpoint "
                "are then cut anew."
            )
        begin, end = payload_at
        numbers = _numbers(content, begin, end)
        if first_step + numbers[0] != step:
            raise CorruptCheckpoint(f"{name}: found step {first_step + numbers[0]} at byte {place}, expected {step}.")
        cuts.append(
            Cut(
                step=step,
                closed_by=CLOSED_BY[numbers[1]],
                n_records=numbers[2],
                runs=tuple(
                    _run(partitions[numbers[i]], numbers[i + 1], numbers[i + 2], at) for i in range(3, len(numbers), 3)
                ),
            )
        )
        place = end + CRC_BYTES
    return Segment(first_step=first_step, positions=positions, cuts=tuple(cuts), sound_bytes=place)


def _run(partition: TopicPartition, back: int, length: int, at: Positions) -> Run:
    first = at[partition] - back
    at[partition] = first + length
    return Run(partition, first, first + length)


def _header(line: bytes, name: str) -> Mapping[str, Any]:
    try:
        header = json.loads(line)
        body, expected = header["body"], header["crc32"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(f"{name}: expected a line of JSON at its beginning ({error}).") from error
    if _crc32_of_json(body) != expected:
        raise CorruptCheckpoint(f"{name}: its first line does not agree with its crc32: altered.")
    if body["format"] != FORMAT:
        raise CheckpointError(
            f"{name}: format {body['format']}, this version reads format {FORMAT}. Run the version that wrote it."
        )
    return body


def _sound_payload(content: bytes, place: int) -> tuple[int, int] | None:
    """Where the payload of a row at `place` begins and ends; None if there is no whole row with the right crc32."""
    length, shift, begin = 0, 0, place
    while begin < len(content) and shift < 35:
        byte = content[begin]
        length |= (byte & 0x7F) << shift
        shift, begin = shift + 7, begin + 1
        if byte < 0x80:
            break
    else:
        return None
    end = begin + length
    if length < PAYLOAD_BYTES_MIN or end + CRC_BYTES > len(content):
        return None
    expected = int.from_bytes(content[end : end + CRC_BYTES], "little")
    return (begin, end) if crc32(content[begin:end]) == expected else None


def _has_sound_row(content: bytes, place: int) -> bool:
    """Whether a whole row begins anywhere from `place` on: then what is before it was whole once, too."""
    return any(_sound_payload(content, i) is not None for i in range(place, len(content)))


def _numbers(content: bytes, begin: int, end: int) -> list[int]:
    numbers, number, shift = [], 0, 0
    for byte in content[begin:end]:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(number)
            number, shift = 0, 0
    return numbers


def _put(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _crc32_of_json(body: Mapping[str, Any]) -> int:
    return crc32(json.dumps(body, sort_keys=True).encode())
