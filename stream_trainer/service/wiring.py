"""From a configuration to a service: the only file that knows which concrete class stands behind a contract."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from stream_trainer.checkpoints import CheckpointDirectory
from stream_trainer.checkpoints.claims import PartitionClaims
from stream_trainer.checkpoints.members import MemberLife, Members
from stream_trainer.clock import Clock, SystemClock
from stream_trainer.contracts import DeadLetters, Decoder, Model, Source
from stream_trainer.decoding import build_decoder
from stream_trainer.engine.bad_records import BadRecordLimit
from stream_trainer.engine.batcher import Batcher
from stream_trainer.engine.drift_monitor import DriftMonitor
from stream_trainer.engine.reaction import Reaction
from stream_trainer.engine.trainer import Trainer
from stream_trainer.errors import ConfigError
from stream_trainer.evaluation import Prequential
from stream_trainer.models import build_model
from stream_trainer.norms import kernel_in_use
from stream_trainer.optimizers import step_kernel
from stream_trainer.schema import Schema
from stream_trainer.service.config import CheckpointConfig, DeadLetterConfig, EventsConfig, RunConfig, TelemetryConfig
from stream_trainer.service.events import EventLog, EventTeller
from stream_trainer.service.guard import leave_when_stuck
from stream_trainer.service.loop import Service
from stream_trainer.service.memory import keep_freed_memory
from stream_trainer.service.metrics_observer import MetricsObserver
from stream_trainer.service.observers import Observer
from stream_trainer.service.sharded import ShardedService
from stream_trainer.service.standby import StandbyService
from stream_trainer.service.until_end import UntilEnd
from stream_trainer.streams.dead_letter_file import FileDeadLetters
from stream_trainer.streams.dead_letter_topic import TopicDeadLetters
from stream_trainer.streams.embedded import CLIENT_SETTINGS, EmbeddedBroker
from stream_trainer.streams.event_places import EventQueue, FileEvents, TopicEvents
from stream_trainer.streams.files import LINE_BYTES_MAX, FileSource
from stream_trainer.streams.kafka import KafkaSource
from stream_trainer.streams.kafka_group import KafkaGroupSource
from stream_trainer.streams.kafka_options import GroupOptions
from stream_trainer.streams.logged_dead_letters import LoggedDeadLetters
from stream_trainer.telemetry.health import Health, Heartbeat, loops_alive
from stream_trainer.telemetry.http import TelemetryServer
from stream_trainer.telemetry.metrics import Metrics

__all__ = ["assemble", "build_checkpoints", "open_file", "producer_settings", "with_embedded_broker"]

log = logging.getLogger(__name__)
EMBEDDED = "embedded"
SEED_STRIDE = 7919  # between twins: far enough that they do not meet models configured with seeds 0, 1, 2, ...


@contextmanager
def assemble(
    config: RunConfig,
    *,
    until_end: bool = False,
    observers: Sequence[Observer] = (),
    replay: FileSource | None = None,
    dead_letters: DeadLetters | None = None,
    clock: Clock | None = None,
) -> Iterator[Service]:
    """A service ready to `run`, with its metrics port, watchdog and, if asked for, embedded broker around it.

    Args:
        until_end: a Kafka source ends where the log ended at start; files end anyway.
        replay: read this instead of the configured source, and leave no traces: no checkpoint, no metrics port.
        dead_letters: instead of the configured ones.
    """
    clock = clock or SystemClock()
    torch.set_num_threads(config.limits.torch_threads)
    keep_freed_memory()
    with ExitStack() as stack:
        if replay is not None:
            # Nothing arrives from a finished file, so nothing can be old: cut by count, the same cut in every replay.
            batch = replace(config.batch, age_s_max=None)
            config = config.model_copy(update={"checkpoint": None, "telemetry": None, "events": None, "batch": batch})
        elif config.source.kafka and config.source.kafka.bootstrap_servers == EMBEDDED:
            broker = stack.enter_context(EmbeddedBroker())
            config = with_embedded_broker(config, broker, partitions=1)
        schema = config.schema_.build()
        trainer = build_trainer(config, schema, clock)
        source, decoder = _build_source(config, schema, replay, clock, until_end)
        heartbeat = Heartbeat(clock)
        metrics = _build_metrics(config, schema, trainer)
        metrics_observer = MetricsObserver(metrics, heartbeat, clock)
        told: list[Observer] = []
        if config.drift.reaction_policy != "none":
            told.append(EventLog(config.name, clock))
        if config.events:
            metrics_observer.events = _build_events(config, config.events)
            stack.callback(metrics_observer.events.close)
            told.append(EventTeller(metrics_observer.events, config.name, clock))
        service = _build_service(
            config,
            source,
            clock,
            decoder=decoder,
            batcher=Batcher(config.batch, records_seen=0),
            trainer=trainer,
            checkpoint_every_s=config.checkpoint.every_s if config.checkpoint else float("inf"),
            checkpoint_failures_max=config.checkpoint.failures_max if config.checkpoint else None,
            dead_letters=dead_letters,
            bad_records=_build_bad_records(config.dead_letters),
            observers=[metrics_observer, *told, *observers],
        )
        metrics_observer.service = service
        if config.telemetry:
            stack.enter_context(_telemetry(config.telemetry, metrics, service, heartbeat, config.limits.turn_s_max))
        stack.enter_context(leave_when_stuck(heartbeat, turn_s_max=config.limits.turn_s_max))
        yield service


def _build_service(config: RunConfig, source: Source, clock: Clock, **parts: Any) -> Service:
    """Alone, as a member of a sharded group, or as one of several of which one learns."""
    checkpoints = build_checkpoints(config, config.checkpoint.directory) if config.checkpoint else None
    dead_letters = parts.pop("dead_letters")
    group = config.source.kafka.group if config.source.kafka else None
    if checkpoints is None or config.checkpoint is None or group is None:
        letters = dead_letters or _build_dead_letters(config)
        return Service(source=source, checkpoints=checkpoints, clock=clock, dead_letters=letters, **parts)
    root = Path(config.checkpoint.directory)
    if group.mode == "standby":
        return StandbyService(
            source=source,
            checkpoints=checkpoints,
            directory=root,
            session_timeout_s=group.session_timeout_s,
            open_dead_letters=lambda: dead_letters or _build_dead_letters(config),
            dead_letters=LoggedDeadLetters(),  # of a standby: there are none
            clock=clock,
            **parts,
        )
    assert isinstance(source, KafkaGroupSource)
    life = MemberLife(Members(root), str(group.instance_id))
    return ShardedService(
        source=source,
        dead_letters=dead_letters or _build_dead_letters(config),
        life=life,
        claims=PartitionClaims(root, life, clock, hand_over_s_max=group.hand_over_s_max),
        checkpoints_in=lambda path: build_checkpoints(config, path),
        clock=clock,
        **parts,
    )


def _sharded_group(config: RunConfig) -> GroupOptions | None:
    group = config.source.kafka.group if config.source.kafka else None
    return group if group and group.mode == "sharded" else None


def build_trainer(config: RunConfig, schema: Schema, clock: Clock) -> Trainer:
    def twin_of(name: str, number: int) -> Model:
        """The model as configured; those of other numbers have seeds of their own."""
        chosen = config.models[name].torch or config.models[name].river
        assert chosen is not None
        try:
            options = replace(chosen, seed=chosen.seed + SEED_STRIDE * number)
            return build_model(schema, "torch" if config.models[name].torch else "river", options)
        except ConfigError as error:
            raise ConfigError(f"models.{name}: {error}") from error

    models = {name: twin_of(name, 0) for name in config.models}
    prequential = Prequential(schema.target, list(models), half_life_records=config.scores.half_life_records)
    drift = DriftMonitor(config.drift, schema, list(models))
    options = config.drift.reaction_options()
    reaction = Reaction(models, options, twin_of) if options else None
    return Trainer(models, prequential, drift, clock.monotonic_s, reaction)


def with_embedded_broker(config: RunConfig, broker: EmbeddedBroker, *, partitions: int) -> RunConfig:
    """The same run against a broker that was just started, its topics made."""
    kafka = config.source.kafka
    assert kafka is not None
    for topic in kafka.topics:
        broker.create_topic(topic, partitions)
    log.info("embedded broker at %s: its log is in memory and ends with this run", broker.bootstrap_servers)
    client = {**CLIENT_SETTINGS, **kafka.client}
    kafka = replace(kafka, bootstrap_servers=broker.bootstrap_servers, client=client)
    return config.model_copy(update={"source": config.source.model_copy(update={"kafka": kafka})})


def open_file(config: RunConfig, path: str, format: str | None) -> FileSource:
    """Lines are kept beyond what the decoder accepts: a dead letter should hold all of its record."""
    return FileSource(path, format, line_bytes_max=max(LINE_BYTES_MAX, config.schema_.record_bytes_max))


def _build_source(
    config: RunConfig, schema: Schema, replay: FileSource | None, clock: Clock, until_end: bool
) -> tuple[Source, Decoder]:
    limits = {"record_bytes_max": config.schema_.record_bytes_max}
    if replay is None and config.source.kafka:
        if _sharded_group(config):
            if until_end:
                raise ConfigError("--until-end: a member of a sharded group has no end of its own; stop it by SIGTERM.")
            return KafkaGroupSource(config.source.kafka, clock), build_decoder("json", schema, **limits)
        options = config.source.kafka
        if options.group:  # standby: the group only shows our progress
            options = replace(options, group=None, group_id=options.group.id)
        source: Source = KafkaSource(options, clock)
        return UntilEnd(source) if until_end else source, build_decoder("json", schema, **limits)
    if replay is None:
        assert config.source.file is not None
        replay = open_file(config, config.source.file.path, config.source.file.format)
    if replay.format == "csv":
        return replay, build_decoder("csv", schema, header=replay.header, **limits)
    return replay, build_decoder("json", schema, **limits)


def build_checkpoints(config: RunConfig, directory: Path | str) -> CheckpointDirectory:
    """The checkpoints of this run as they lie in `directory`; nothing is opened yet."""
    options = config.checkpoint or CheckpointConfig(directory=directory, trusted=False)
    versions = {name: version(name) for name in ("stream-trainer", "torch", "river", "numpy")}
    # Not versions, but last bits hang on them too: sums depend on how they are split, and on who adds them up.
    versions |= {"torch threads": str(torch.get_num_threads()), "norm kernel": kernel_in_use()}
    versions |= {"optimizer kernel": step_kernel.in_use}
    return CheckpointDirectory(
        directory,
        identity=config.identity(),
        versions=versions,
        keep=options.keep,
        keep_every_steps=options.keep_every_steps,
        trusted=options.trusted,
        journal_bytes_max=options.journal_bytes_max,
    )


def _build_dead_letters(config: RunConfig) -> DeadLetters:
    chosen = config.dead_letters
    if chosen is None:
        folder = config.checkpoint.directory if config.checkpoint else Path()
        if isinstance(folder, str):
            raise ConfigError(
                f"dead_letters: checkpoint.directory {folder} is an object store, where no line can be appended. Say "
                "dead_letters.file or dead_letters.topic."
            )
        if group := _sharded_group(config):
            folder = folder / "members" / str(group.instance_id)
        return FileDeadLetters(folder / f"{config.name}.dead_letters.jsonl")
    if chosen.file:
        return FileDeadLetters(chosen.file, bytes_max=chosen.bytes_max, files_max=chosen.files_max)
    assert chosen.topic is not None
    if config.source.kafka is None:
        raise ConfigError("dead_letters.topic needs source.kafka: its brokers get the topic. Use dead_letters.file.")
    kafka = config.source.kafka
    return TopicDeadLetters(kafka.bootstrap_servers, chosen.topic, client=producer_settings(kafka.client))


def _build_events(config: RunConfig, chosen: EventsConfig) -> EventQueue:
    if chosen.file:
        return EventQueue(FileEvents(chosen.file))
    assert chosen.topic is not None
    if config.source.kafka is None:
        raise ConfigError("events.topic needs source.kafka: its brokers get the topic. Use events.file.")
    kafka = config.source.kafka
    return EventQueue(TopicEvents(kafka.bootstrap_servers, chosen.topic, client=producer_settings(kafka.client)))


def producer_settings(client: Mapping[str, object]) -> dict[str, object]:
    """Of the consumer's settings those that a producer has too: how to reach the brokers and who we are."""
    shared = ("security_protocol", "sasl_", "ssl_", "client_id", "api_version", "socks5_proxy")
    return {key: value for key, value in client.items() if key.startswith(shared)}


def _build_bad_records(config: DeadLetterConfig | None) -> BadRecordLimit:
    if config is None:
        return BadRecordLimit()
    return BadRecordLimit(ratio_max=config.ratio_max, window_records=config.window_records)


def _build_metrics(config: RunConfig, schema: Schema, trainer: Trainer) -> Metrics:
    metrics = Metrics(models=list(trainer.models), features=schema.feature_names, signals=trainer.drift.signals)
    metrics.observe_config(run=config.name, config_sha256=config.sha256())
    return metrics


@contextmanager
def _telemetry(
    config: TelemetryConfig, metrics: Metrics, service: Service, heartbeat: Heartbeat, turn_s_max: float
) -> Iterator[None]:
    def live() -> Health:
        return loops_alive({"train": heartbeat}, age_s_max=turn_s_max)

    server = TelemetryServer(
        metrics.registry, live=live, ready=service.readiness, address=config.address, port=config.port
    )
    server.start()
    log.info("metrics on http://%s:%d/metrics", server.address, server.port)
    try:
        yield
    finally:
        server.close()
