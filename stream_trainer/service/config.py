"""What a run is: one YAML file, checked whole before anything starts.

Options live beside the class they configure, as frozen dataclasses; here they are only put together. Unknown keys are
errors that name the known ones. Not here: reading the file (config_text.py), what a record looks like
(config_schema.py), how a mistake is told (config_problems.py), building the parts (wiring.py).
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import BeforeValidator, Field, model_validator

from stream_trainer.checkpoints import is_object_store
from stream_trainer.engine.bad_records import RATIO_MAX, WINDOW_RECORDS
from stream_trainer.engine.batcher import BatchPolicy, Growth
from stream_trainer.engine.drift_monitor import DriftOptions
from stream_trainer.errors import ConfigError
from stream_trainer.models import RiverOptions, TorchOptions
from stream_trainer.service.config_problems import explain
from stream_trainer.service.config_schema import STRICT, SchemaConfig, Strict
from stream_trainer.service.config_text import read_config_text
from stream_trainer.streams.dead_letter_file import FILE_BYTES_MAX, FILES_MAX
from stream_trainer.streams.kafka_options import GroupOptions, KafkaOptions

__all__ = ["CheckpointConfig", "DeadLetterConfig", "RunConfig", "TelemetryConfig", "json_schema", "load_config"]

for options in (BatchPolicy, Growth, GroupOptions, KafkaOptions, TorchOptions, RiverOptions, DriftOptions):
    setattr(options, "__pydantic_config__", STRICT)  # noqa: B010  how pydantic is told about a plain dataclass

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


def _topics(value: Any) -> Any:
    """`topic: a` is `topics: [a]`."""
    if isinstance(value, dict) and "topic" in value:
        if "topics" in value:
            raise ValueError("expected topic or topics, found both")
        value = {**value, "topics": [value["topic"]]}
        del value["topic"]
    return value


class FileConfig(Strict):
    """A finished file of lines; `-` is standard input."""

    path: str
    format: Literal["csv", "jsonl"] | None = None  # None: by the suffix


class SourceConfig(Strict):
    kafka: Annotated[KafkaOptions | None, BeforeValidator(_topics)] = None
    file: FileConfig | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.kafka is None) == (self.file is None):
            raise ValueError("expected exactly one of kafka, file")
        return self


class ModelConfig(Strict):
    torch: TorchOptions | None = None
    river: RiverOptions | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.torch is None) == (self.river is None):
            raise ValueError("expected exactly one of torch, river")
        return self


class ScoresConfig(Strict):
    half_life_records: int = Field(default=10_000, ge=1)  # of the fading scores


def _place(value: Any) -> Any:
    """A path of this machine, or the address of an object store as it is: a path would lose one of its slashes."""
    return value if isinstance(value, str) and is_object_store(value) else Path(value)


class CheckpointConfig(Strict):
    directory: Annotated[Path | str, BeforeValidator(_place)]
    every_s: float = Field(default=30, gt=0)
    keep: int = Field(default=5, ge=1)
    keep_every_steps: int | None = Field(default=None, ge=1)  # of older ones, one in so many batches stays for ever
    failures_max: int | None = Field(default=None, ge=1)  # failed saves in a row that end the run. null: learn on
    trusted: bool | Literal["auto"] = "auto"
    journal_bytes_max: int | None = Field(default=268_435_456, ge=0)  # 256 MiB: 20 million batches. null: all of it

    @model_validator(mode="after")
    def _trust_is_said(self) -> Self:
        if is_object_store(self.directory) and self.trusted == "auto":
            raise ValueError(
                "an object store does not say who else may write it: say trusted: true if only people who may run code "
                "here can, else trusted: false (then no River model can be loaded)"
            )
        return self


class DeadLetterConfig(Strict):
    """Where bad records go, and how many of them are too many."""

    file: Path | None = None
    topic: str | None = None
    bytes_max: int = Field(default=FILE_BYTES_MAX, ge=1)  # of one file; a full one is set aside as FILE.1, FILE.2, ...
    files_max: int = Field(default=FILES_MAX, ge=1)  # full ones that are kept; then the oldest letters are deleted
    ratio_max: float = Field(default=RATIO_MAX, gt=0, le=1)
    window_records: int = Field(default=WINDOW_RECORDS, ge=1)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.file is None) == (self.topic is None):
            raise ValueError("expected exactly one of file, topic")
        return self


class EventsConfig(Strict):
    """Where each drift alarm and each reaction to one is told as JSON, beside the log."""

    file: Path | None = None
    topic: str | None = None  # on the brokers of the source

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.file is None) == (self.topic is None):
            raise ValueError("expected exactly one of file, topic")
        return self


class TelemetryConfig(Strict):
    address: str = "127.0.0.1"
    port: int = Field(default=9464, ge=0, le=65535)


class LimitsConfig(Strict):
    """How long things may take before someone steps in, and how much of the machine we take."""

    torch_threads: int = Field(default=1, ge=1)  # at these batch sizes a second thread costs more than it brings
    stop_s_max: float = Field(default=25, gt=0)  # below the 30 s that Kubernetes waits before it kills
    turn_s_max: float = Field(
        default=120, gt=0
    )  # a loop turn longer than this is stuck: exit, let a supervisor restart


class RunConfig(Strict):
    name: Name
    source: SourceConfig
    schema_: SchemaConfig = Field(alias="schema")
    batch: BatchPolicy = BatchPolicy()
    models: dict[Name, ModelConfig] = Field(min_length=1)
    drift: DriftOptions = DriftOptions()
    scores: ScoresConfig = ScoresConfig()
    checkpoint: CheckpointConfig | None = None
    dead_letters: DeadLetterConfig | None = None
    events: EventsConfig | None = None
    telemetry: TelemetryConfig | None = TelemetryConfig()
    limits: LimitsConfig = LimitsConfig()

    @model_validator(mode="after")
    def _group_has_a_place(self) -> Self:
        kafka = self.source.kafka
        if kafka is None or kafka.group is None:
            return self
        if self.checkpoint is None:
            raise ValueError(
                "source.kafka.group needs checkpoint.directory: what its members share decides who learns which record"
            )
        if is_object_store(self.checkpoint.directory):
            raise ValueError(
                "source.kafka.group needs a checkpoint.directory on a file system that all its members share: it works "
                "by renames and locks, which an object store does not have"
            )
        if kafka.bootstrap_servers == "embedded":
            raise ValueError("source.kafka.group needs a broker of its own: the embedded one serves this process alone")
        return self

    def sha256(self) -> str:
        """Of the whole configuration, to tell two runs apart."""
        return _hash(self.model_dump(mode="json", by_alias=True))

    def identity(self) -> dict[str, str]:
        """Part -> hash of what gave its saved state a meaning. How batches are cut or where files lie may change."""
        # Only what differs from a default: an option that a later version adds must not make old states strangers.
        dumped = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        parts = {name: dumped.get(name, {}) for name in ("schema", "drift", "scores")}
        parts["schema"].pop("record_bytes_max", None)
        for feature in parts["schema"].get("features", {}).values():
            if "array" in feature:  # how its numbers are written is a matter of the log, too
                feature["array"] = feature["array"]["shape"]
        if parts["drift"].get("reaction") in ("none", "alert"):  # a matter of the log, not of the state
            parts["drift"].pop("reaction")
        parts.update({f"models.{name}": model for name, model in dumped["models"].items()})
        return {name: _hash(part) for name, part in parts.items()}


def load_config(path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read, substitute, check. Raises ConfigError that lists every problem with its path."""
    return check_config(read_config_text(path, overrides), str(path))


def check_config(values: dict[str, Any], where: str) -> RunConfig:
    try:
        config = RunConfig.model_validate(values)
        config.schema_.build()
    except pydantic.ValidationError as error:
        schema = json_schema()
        problems = [f"  {explain(problem, schema)}" for problem in error.errors(include_url=False)]
        raise ConfigError(f"{where}: {len(problems)} problem(s)\n" + "\n".join(problems)) from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return config


def json_schema() -> dict[str, Any]:
    """JSON Schema of the configuration file, for editors."""
    return RunConfig.model_json_schema()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
