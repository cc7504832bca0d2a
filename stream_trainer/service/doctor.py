"""Can this run work on this machine, now? Each check is one finding; nothing is changed, committed or learned.

The most telling one is the sample: the newest records of each partition, decoded as the run would decode them.
"""

import fcntl
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from stream_trainer.checkpoints.object_store import ObjectStore
from stream_trainer.clock import SystemClock
from stream_trainer.contracts import Decoder
from stream_trainer.decoding import build_decoder
from stream_trainer.drift import drift_kernel
from stream_trainer.engine.batcher import Batcher, BatchPolicy
from stream_trainer.errors import StreamTrainerError
from stream_trainer.evaluation import score_kernel
from stream_trainer.norms import kernel_in_use
from stream_trainer.optimizers import step_kernel
from stream_trainer.service.config import RunConfig
from stream_trainer.service.runs import check_buildable
from stream_trainer.service.wiring import open_file
from stream_trainer.streams.kafka import KafkaSource
from stream_trainer.streams.kafka_codecs import check_codecs
from stream_trainer.streams.kafka_options import KafkaOptions
from stream_trainer.streams.kafka_rights import check_group_rights
from stream_trainer.types import RecordChunk

__all__ = ["Finding", "examine"]

SAMPLE_RECORDS = 100  # of each partition
SAMPLE_S_MAX = 5.0
CLOCK_S_MAX = 5.0  # a record from further in the future than this means that a clock is wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`text` says what was found, and if that is not good, what to do."""

    check: str
    ok: bool
    text: str


def examine(config: RunConfig) -> Iterator[Finding]:
    """All checks, in the order in which a run would stumble over them."""
    yield _check("models", lambda: _models(config))
    yield _check("codecs", _codecs)
    for name, path in _folders(config):
        yield _folder(name, path)
    if config.checkpoint and isinstance(config.checkpoint.directory, str):
        address = config.checkpoint.directory
        yield _check("checkpoint.directory", lambda: _object_store(address))
    if config.checkpoint and config.source.kafka and config.source.kafka.group:
        root = Path(config.checkpoint.directory)
        yield _shared_root(root)
    if config.telemetry and config.telemetry.port:
        yield _port(config.telemetry.address, config.telemetry.port)
    chunks: list[RecordChunk] = []
    source = _check("source", lambda: _source(config, chunks))
    yield source
    if source.ok and (kafka := config.source.kafka) and (group_id := _group_id(kafka)):
        yield _check("group rights", lambda: check_group_rights(kafka, group_id))
    if chunks:
        yield _sample(config, chunks)
        yield _clock(chunks)


def _check(name: str, call: Callable[[], str]) -> Finding:
    try:
        return Finding(check=name, ok=True, text=call())
    except StreamTrainerError as error:
        return Finding(check=name, ok=False, text=str(error))


def _models(config: RunConfig) -> str:
    check_buildable(config)
    made_with = f"torch {version('torch')}, river {version('river')}"
    parts = {"drift": drift_kernel, "scores": score_kernel, "optimizer": step_kernel}
    kernels = ", ".join([f"norm {kernel_in_use()}", *(f"{name} {part.in_use}" for name, part in parts.items())])
    return f"{', '.join(config.models)} can be built ({made_with}, kernels: {kernels})"


def _codecs() -> str:
    check_codecs()
    return "gzip, snappy, lz4, zstd and a fast CRC are installed"


def _folders(config: RunConfig) -> Iterator[tuple[str, Path]]:
    if config.checkpoint and isinstance(config.checkpoint.directory, Path):
        yield "checkpoint.directory", config.checkpoint.directory
    if config.dead_letters and config.dead_letters.file:
        yield "dead_letters.file", config.dead_letters.file.parent
    if config.events and config.events.file:
        yield "events.file", config.events.file.parent


def _folder(name: str, path: Path) -> Finding:
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    ok = existing.is_dir() and os.access(existing, os.W_OK)
    text = f"{path} can be written" if ok else f"{existing} cannot be written by user {os.geteuid()}"
    return Finding(check=name, ok=ok, text=text)


def _shared_root(root: Path) -> Finding:
    """What a group asks of its file system, tried out in a folder that is removed again; by one machine, alas."""
    check = "source.kafka.group"
    if not root.is_dir():
        text = f"{root} is not there: mount what all members share, or make it once, by hand, before the first of them"
        return Finding(check=check, ok=False, text=text)
    try:
        with TemporaryDirectory(dir=root, prefix="tmp-doctor-") as folder:
            path = Path(folder) / "lock"
            with path.open("w") as first, path.open("w") as second:
                fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _gets_lock(second):
                    return Finding(check=check, ok=False, text=f"{root}: two processes get one lock (NFS before 4?)")
            os.link(path, Path(folder) / "linked")
            Path(folder).rename(f"{folder}-renamed")
            Path(f"{folder}-renamed").rename(folder)
    except OSError as error:
        text = f"{root}: the file system must lock, link and rename: {error.strerror}"
        return Finding(check=check, ok=False, text=text)
    return Finding(check=check, ok=True, text=f"{root} locks, links and renames; see that all members mount the same")


def _gets_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _object_store(address: str) -> str:
    store = ObjectStore(address)
    store.open(take_over=False)
    store.close()
    return f"{address} can be written"


def _port(address: str, port: int) -> Finding:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return Finding(check="telemetry.port", ok=False, text=f"{address}:{port}: {error.strerror}")
    return Finding(check="telemetry.port", ok=True, text=f"{address}:{port} is free")


def _source(config: RunConfig, chunks: list[RecordChunk]) -> str:
    """Read a sample into `chunks`, and say what is there."""
    if config.source.kafka:
        if config.source.kafka.bootstrap_servers == "embedded":
            return "embedded broker: starts with the run, nothing to look at before"
        return _kafka(config.source.kafka, chunks)
    assert config.source.file is not None
    source = open_file(config, config.source.file.path, config.source.file.format)
    if config.source.file.path == "-":
        return "standard input: not touched"
    source.start(None)
    while not source.exhausted and sum(map(len, chunks)) < SAMPLE_RECORDS:
        chunks.extend(source.poll(0.0, SAMPLE_RECORDS))
    source.close()
    return f"{config.source.file.path} can be read as {source.format}"


def _kafka(options: KafkaOptions, chunks: list[RecordChunk]) -> str:
    source = KafkaSource(
        replace(options, lost_data="earliest", group_id=None, group=None, start="latest"), SystemClock()
    )
    try:
        ends = source.start(None)
    finally:
        source.close()
    newest = {partition: max(0, end - SAMPLE_RECORDS) for partition, end in ends.items()}
    source = KafkaSource(replace(options, lost_data="earliest", group_id=None, group=None), SystemClock())
    try:
        positions = source.start(newest)
        until_s = time.monotonic() + SAMPLE_S_MAX
        while any(positions[p] < end for p, end in ends.items()) and time.monotonic() < until_s:
            for chunk in source.poll(0.5, SAMPLE_RECORDS):
                positions[chunk.partition] = chunk.next_offset
                chunks.append(chunk)
    finally:
        source.close()
    return f"{options.bootstrap_servers} answers; next offsets " + ", ".join(f"{p}: {end}" for p, end in ends.items())


def _group_id(options: KafkaOptions) -> str | None:
    """Where we commit, if anywhere; the embedded broker comes and goes with the run."""
    if options.bootstrap_servers == "embedded":
        return None
    return options.group.id if options.group else options.group_id


def _sample(config: RunConfig, chunks: list[RecordChunk]) -> Finding:
    batcher = Batcher(BatchPolicy(records_max=1_000_000, bytes_max=2**40), records_seen=0)
    for chunk in chunks:
        batcher.add(chunk, now_s=0.0)
    raw = batcher.take(now_s=0.0, drain=True)
    assert raw is not None
    try:
        decoded = _decoder(config).decode(raw)
    except StreamTrainerError as error:
        return Finding(check="sample", ok=False, text=str(error))
    text = f"{len(decoded.batch)} of {len(raw)} records looked at can be learned, {decoded.n_tombstones} are tombstones"
    if decoded.rejects:
        reason, n = Counter(reject.reason.value for reject in decoded.rejects).most_common(1)[0]
        first = next(reject for reject in decoded.rejects if reject.reason.value == reason)
        text += f"; {n} rejected as {reason}, for example {first.partition}@{first.offset}: {first.detail}"
    return Finding(check="sample", ok=len(decoded.batch) > 0 or len(raw) == 0, text=text)


def _decoder(config: RunConfig) -> Decoder:
    schema, limit = config.schema_.build(), config.schema_.record_bytes_max
    if config.source.file:
        source = open_file(config, config.source.file.path, config.source.file.format)
        header, format = source.header, source.format
        source.close()
        if format == "csv":
            return build_decoder("csv", schema, header=header, record_bytes_max=limit)
    return build_decoder("json", schema, record_bytes_max=limit)


def _clock(chunks: list[RecordChunk]) -> Finding:
    newest_ms = max((ms for chunk in chunks for ms in chunk.timestamps_ms), default=-1)
    if newest_ms < 0:
        return Finding(check="clock", ok=True, text="the records carry no time to compare with")
    ahead_s = newest_ms / 1000 - time.time()
    if ahead_s > CLOCK_S_MAX:
        text = f"the newest record is from {ahead_s:.0f} s in the future: this clock or the producer's is wrong"
        return Finding(check="clock", ok=False, text=text)
    return Finding(check="clock", ok=True, text=f"the newest record is {max(0.0, -ahead_s):.0f} s old")
