"""The dead letters of a run, to be counted, shown and handed back; read where the run wrote them, a file or a topic.

A letter is one record: written twice after a crash it is still one. Shown are the bytes with everything hidden that
goes by the name of a secret. Not here: handing them back (dead_letter_retry.py).
"""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from stream_trainer.clock import SystemClock
from stream_trainer.errors import ConfigError
from stream_trainer.service.config import RunConfig
from stream_trainer.service.config_text import SECRET, redacted
from stream_trainer.service.until_end import UntilEnd
from stream_trainer.streams.dead_letter_file import read_dead_letters
from stream_trainer.streams.dead_letter_topic import letter_of_record
from stream_trainer.streams.kafka import KafkaSource
from stream_trainer.streams.retried import letter_id
from stream_trainer.types import Reject, RejectReason

__all__ = ["count_letters", "letter_file", "letters_of", "show_letter"]

GROUPS_MAX = 1_000  # of counts: a topic has partitions, and reasons are few
VALUE_CHARACTERS_MAX = 4_096
POLL_RECORDS = 1_000
SECRET_IN_TEXT = re.compile(
    rf"""(["']?[\w.-]*(?:{SECRET.pattern})[\w.-]*["']?\s*[:=]\s*)("(?:[^"\\]|\\.)*"?|'[^']*'?|[^\s,;&}}]+)""",
    re.IGNORECASE,
)


def letter_file(config: RunConfig) -> Path | None:
    """Where this run writes its dead letters; None: to a topic."""
    if config.dead_letters and config.dead_letters.topic:
        return None
    if config.dead_letters and config.dead_letters.file:
        return config.dead_letters.file
    folder = config.checkpoint.directory if config.checkpoint else Path()
    return Path(folder) / f"{config.name}.dead_letters.jsonl"


def letters_of(where: RunConfig | Path, *, reason: str | None = None) -> Iterator[Reject]:
    """Every letter once, in the order in which they were written.

    Raises: ConfigError: no such file, or no such reason.
    """
    if reason is not None and reason not in {known.value for known in RejectReason}:
        raise ConfigError(f"--reason {reason}: known are {', '.join(known.value for known in RejectReason)}.")
    path = where if isinstance(where, Path) else letter_file(where)
    if isinstance(where, Path) and not where.is_file():
        raise ConfigError(f"{where}: no such file; give the configuration of the run, or its file of dead letters.")
    letters = read_dead_letters(path) if path else _letters_in_topic(where)  # type: ignore[arg-type]
    seen = set()
    for letter in letters:
        if letter_id(letter) not in seen:
            seen.add(letter_id(letter))
            if reason in (None, letter.reason.value):
                yield letter


def _letters_in_topic(config: RunConfig) -> Iterator[Reject]:
    assert config.dead_letters is not None
    assert config.dead_letters.topic is not None
    if config.source.kafka is None:
        raise ConfigError("dead_letters.topic needs source.kafka: its brokers have the topic.")
    options = replace(
        config.source.kafka, topics=(config.dead_letters.topic,), start="earliest", lost_data="earliest", group_id=None
    )
    source = UntilEnd(KafkaSource(options, SystemClock()))
    try:
        source.start(None)
        while not source.exhausted:
            for chunk in source.poll(0.2, POLL_RECORDS):
                for key, value, headers in zip(chunk.keys, chunk.values, chunk.headers):
                    if letter := letter_of_record(key, value, headers):
                        yield letter
    finally:
        source.close()


def count_letters(where: RunConfig | Path) -> list[dict[str, Any]]:
    """Rows of reason, topic, partition, letters, first and last time and offset; most letters first."""
    groups: dict[tuple[str, str, int], dict[str, Any]] = {}
    for letter in letters_of(where):
        key = (letter.reason.value, *letter.partition)
        if key not in groups and len(groups) >= GROUPS_MAX:
            key = (letter.reason.value, "(others)", -1)
        row = groups.setdefault(
            key,
            dict(zip(("reason", "topic", "partition"), key))
            | {"letters": 0, "first_offset": letter.offset, "last_offset": letter.offset}
            | {"first_time": None, "last_time": None},
        )
        row["letters"] += 1
        row["first_offset"] = min(row["first_offset"], letter.offset)
        row["last_offset"] = max(row["last_offset"], letter.offset)
        if letter.timestamp_ms >= 0:
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(letter.timestamp_ms / 1000))
            row["first_time"] = min(filter(None, (row["first_time"], when)))
            row["last_time"] = max(filter(None, (row["last_time"], when)))
    return sorted(groups.values(), key=lambda row: (-row["letters"], row["reason"], row["topic"], row["partition"]))


def show_letter(letter: Reject) -> dict[str, Any]:
    """All of it as JSON that is safe on a terminal: no control characters, nothing that is named like a secret."""
    return {
        "topic": letter.partition.topic,
        "partition": letter.partition.partition,
        "offset": letter.offset,
        "timestamp_ms": letter.timestamp_ms,
        "reason": letter.reason.value,
        "detail": _without_secrets(letter.detail),
        "key": None if letter.key is None else _text(letter.key),
        "headers": [
            [name, "(hidden)" if SECRET.search(name) else None if value is None else _text(value)]
            for name, value in letter.headers
        ],
        "value": _text(letter.value),
        "value_bytes": len(letter.value),
    }


def _text(content: bytes) -> str:
    """
    >>> _text(b'{"amount": "a lot", "api_key": "k-1"}'), _text(b'password=abc;x' + bytes([27, 255]))
    ('{"amount": "a lot", "api_key": "(hidden)"}', 'password=(hidden);x\\\\x1b\\\\xff')
    """
    try:
        return _shortened(json.dumps(redacted(json.loads(content))))
    except (ValueError, RecursionError):
        return _shortened(_without_secrets(content.decode(errors="backslashreplace")))


def _without_secrets(text: str) -> str:
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in SECRET_IN_TEXT.sub(r"\1(hidden)", text)
    )


def _shortened(text: str) -> str:
    more = len(text) - VALUE_CHARACTERS_MAX
    return f"{text[:VALUE_CHARACTERS_MAX]}... ({more} more characters)" if more > 0 else text
