"""Dead letters handed back: decoded again with the configuration of today, and those that are good now learned.

Kafka: each is sent to the partition it came from, as it was, with the header `stream_trainer-retry_of` that names its
first place; the run that reads the topic learns it once, as it learns any record. Files: a new file of lines is
written beside the dead letters, to be run with `--set source.file.path=...` and the same checkpoint directory.

What was handed back is marked in a side file (streams/retried.py), so that a second retry leaves it alone. The order is
hand back, then mark. A crash between the two: a file has a name that follows from the letters in it, so it is written
again, not doubled; of letters sent to Kafka at most BATCH are sent a second time. That is at-least-once in that one
window; who cannot have it looks for the header with `kafka-console-consumer` before the next retry.

For a run that goes on: one that begins anew at the earliest record, because its schema has changed, reads the records
in their first place too, and would learn them twice.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import kafka
from kafka import errors as kafka_errors

from stream_trainer.contracts import Decoder
from stream_trainer.decoding import build_decoder
from stream_trainer.errors import ConfigError, StreamTrainerError
from stream_trainer.service.config import RunConfig
from stream_trainer.service.dead_letter_queue import letter_file, letters_of
from stream_trainer.service.wiring import open_file, producer_settings
from stream_trainer.streams.dead_letter_topic import HEADER_PREFIX, sendable_headers
from stream_trainer.streams.retried import Retried, letter_id, write_whole
from stream_trainer.types import ClosedBy, RawBatch, RecordChunk, Reject, TopicPartition

__all__ = ["retry_letters"]

BATCH = 500
CONFIRM_S_MAX = 30.0
HERE = TopicPartition("dead letters", 0)


def retry_letters(config: RunConfig, *, reason: str | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Returns counts: `handed_back`, `retried_before`, `still_bad` by reason, and the `file` written, if any.

    Args:   dry_run: decode and count; nothing is sent, written or marked.
    Raises: Fenced: another retry is at work; StreamTrainerError: a broker or a disk did not take them; what was taken
            is marked.
    """
    retried = Retried(_side_file(config))
    if dry_run:
        return _hand_back(config, retried, reason, lambda letters: None, dry_run=True)
    retried.path.parent.mkdir(parents=True, exist_ok=True)
    with retried.alone():
        if config.source.kafka:
            with _Sender(config) as sender:
                return _hand_back(config, retried, reason, sender.send)
        ready: list[Reject] = []
        summary = _hand_back(config, retried, reason, ready.extend, mark=False)
        if ready:
            summary["file"] = str(_write_file(config, ready))
            retried.mark(map(letter_id, ready))
        return summary


def _hand_back(
    config: RunConfig,
    retried: Retried,
    reason: str | None,
    give: Callable[[Sequence[Reject]], None],
    *,
    dry_run: bool = False,
    mark: bool = True,
) -> dict[str, Any]:
    decoder, before = _decoder(config), retried.load()
    handed_back = retried_before = 0
    still_bad: Counter[str] = Counter()
    letters = letters_of(config, reason=reason)
    while batch := list(islice(letters, BATCH)):
        new = [letter for letter in batch if letter_id(letter) not in before]
        retried_before += len(batch) - len(new)
        good, reasons = _sorted_out(decoder, new)
        still_bad.update(reasons)
        handed_back += len(good)
        if good and not dry_run:
            give(good)
            if mark:
                retried.mark(map(letter_id, good))
    return {
        "handed_back": handed_back,
        "retried_before": retried_before,
        "still_bad": dict(sorted(still_bad.items())),
        "file": None,
        "dry_run": dry_run,
    }


def _sorted_out(decoder: Decoder, letters: Sequence[Reject]) -> tuple[list[Reject], list[str]]:
    """Those that decode now, and the reasons of the others."""
    if not letters:
        return [], []
    chunk = RecordChunk(
        partition=HERE,
        offsets=range(len(letters)),
        timestamps_ms=[letter.timestamp_ms for letter in letters],
        keys=[letter.key for letter in letters],
        values=[letter.value for letter in letters],
        headers=[letter.headers for letter in letters],
        next_offset=len(letters),
    )
    raw = RawBatch(chunks=(chunk,), next_offsets={HERE: len(letters)}, closed_by=ClosedBy.DRAIN)
    bad = {reject.offset: reject.reason.value for reject in decoder.decode(raw).rejects}
    return [letter for i, letter in enumerate(letters) if i not in bad], list(bad.values())


def _decoder(config: RunConfig) -> Decoder:
    schema, limits = config.schema_.build(), {"record_bytes_max": config.schema_.record_bytes_max}
    file = config.source.file
    if file is None or file.path == "-":
        if file and file.format == "csv":
            raise ConfigError("dlq retry: lines of CSV from standard input have no header here. Use a file.")
        return build_decoder("json", schema, **limits)
    source = open_file(config, file.path, file.format)
    try:
        if source.format == "csv":
            return build_decoder("csv", schema, header=source.header, **limits)
        return build_decoder("json", schema, **limits)
    finally:
        source.close()


def _side_file(config: RunConfig) -> Path:
    path = letter_file(config)
    if path is not None:
        return path.with_name(path.name + ".retried")
    folder = config.checkpoint.directory if config.checkpoint else Path()
    if isinstance(folder, str):
        folder = Path()  # an object store: the side file lies where the command is given
    return folder / f"{config.name}.dead_letters.retried"


def _write_file(config: RunConfig, letters: Sequence[Reject]) -> Path:
    """Lines to be run. The same letters give the same name, so that a crash doubles nothing."""
    beside, file = letter_file(config), config.source.file
    assert beside is not None
    assert file is not None
    digest = hashlib.sha256(json.dumps([letter_id(letter) for letter in letters]).encode()).hexdigest()[:16]
    lines = [letter.value for letter in letters]
    source = open_file(config, file.path, file.format) if file.path != "-" else None
    if source is not None and source.format == "csv":
        lines.insert(0, ",".join(source.header or ()).encode())
    path = beside.with_name(f"{config.name}.retry-{digest}.{source.format if source else 'jsonl'}")
    write_whole(path, b"".join(line + b"\n" for line in lines))
    if source is not None:
        source.close()
    return path


class _Sender:
    """Sends letters back to where they came from; all acknowledged when `send` returns."""

    def __init__(self, config: RunConfig) -> None:
        assert config.source.kafka is not None
        self._topics = config.source.kafka.topics
        servers = config.source.kafka.bootstrap_servers.split(",")
        try:
            self._producer = kafka.KafkaProducer(
                bootstrap_servers=servers, **producer_settings(config.source.kafka.client)
            )
        except (kafka_errors.KafkaError, ValueError, AssertionError) as error:
            raise ConfigError(f"dlq retry: no producer for {servers}: {type(error).__name__}: {error}.") from error

    def __enter__(self) -> "_Sender":
        return self

    def __exit__(self, *exception: object) -> None:
        self._producer.close(timeout=CONFIRM_S_MAX)

    def send(self, letters: Sequence[Reject]) -> None:
        strangers = {letter.partition.topic for letter in letters} - set(self._topics)
        if strangers:
            raise ConfigError(
                f"dlq retry: letters from {', '.join(sorted(strangers))}, which source.kafka does not read: they would "
                "be learned by nobody. Give the configuration that reads it."
            )
        try:
            sent = [self._send(letter) for letter in letters]
            self._producer.flush(timeout=CONFIRM_S_MAX)
            for future in sent:
                future.get(timeout=CONFIRM_S_MAX)
        except kafka_errors.KafkaError as error:
            raise StreamTrainerError(
                f"dlq retry: not acknowledged: {type(error).__name__}: {error}. Letters before this batch of "
                f"{len(letters)} are marked; some of it may have arrived. Look at the brokers, then retry."
            ) from error

    def _send(self, letter: Reject) -> Any:
        topic, partition, offset = letter_id(letter)
        return self._producer.send(
            topic,
            key=letter.key,
            value=letter.value,
            partition=partition,
            timestamp_ms=letter.timestamp_ms if letter.timestamp_ms >= 0 else None,
            headers=[
                *sendable_headers(letter),
                (HEADER_PREFIX + "retry_of", f"{topic}/{partition}/{offset}".encode()),
            ],
        )
