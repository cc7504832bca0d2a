"""What can be set about reading from Kafka, and the client settings that follow from it.

Everything kafka-python knows can be passed through `client`, except what decides over correctness: that is ours, and
whoever sets it is told why. Secrets live in `client` only, which is never printed. Not here: connecting
(kafka_connect.py) and reading (kafka.py).
"""

import ipaddress
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from stream_trainer.errors import ConfigError
from stream_trainer.types import TopicPartition

__all__ = [
    "GroupOptions",
    "KafkaOptions",
    "Start",
    "client_settings",
    "explicit_offsets",
    "start_timestamp_ms",
    "warn_if_readable",
]

log = logging.getLogger(__name__)

Start: TypeAlias = str | int | Mapping[str, int | Mapping[int, int]]

OWNED = {
    "bootstrap_servers": "set source.kafka.bootstrap_servers",
    "group_id": "set source.kafka.group_id; it only shows our progress, positions come from the checkpoint",
    "group_instance_id": "set source.kafka.group.instance_id",
    "session_timeout_ms": "set source.kafka.group.session_timeout_s",
    "heartbeat_interval_ms": "it follows from source.kafka.group.session_timeout_s",
    "partition_assignment_strategy": "the group moves as few partitions as it can",
    "enable_auto_commit": "committing before the model is saved would lose records",
    "auto_commit_interval_ms": "committing before the model is saved would lose records",
    "auto_offset_reset": "set source.kafka.start for a first run and source.kafka.lost_data for lost records",
    "key_deserializer": "an error inside the client would stop the stream for ever; the decoder reads bytes",
    "value_deserializer": "an error inside the client would stop the stream for ever; the decoder reads bytes",
    "check_crcs": "a record that was altered on its way must not be learned",
    "isolation_level": "set source.kafka.isolation",
    "max_poll_records": "set batch.records_max",
    "consumer_timeout_ms": "the source polls, it does not iterate",
    "fetch_max_bytes": "set source.kafka.fetch_bytes_max",
    "max_partition_fetch_bytes": "set source.kafka.partition_fetch_bytes_max",
    "metadata_max_age_ms": "set source.kafka.discover_s",
    "bootstrap_timeout_ms": "set source.kafka.connect_s_max",
    "kafka_client": "we must be able to close it when it cannot connect",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOptions:
    """Several trainers that share one checkpoint directory: each with its own partitions, or one with all of them.

    sharded: each member has a model of its own and learns the partitions that Kafka assigns to it. standby: one learns,
    the others wait with everything loaded; no Kafka group decides there, the id only shows our progress.

    Raises: ConfigError.
    """

    id: str
    mode: Literal["sharded", "standby"]
    instance_id: str | None = None  # sharded: names the member and its model; a restart under it moves nothing
    session_timeout_s: float = 10.0  # silent for so long is dead; above the 6 s that brokers ask for at least
    hand_over_s_max: float = 10.0  # to finish a batch, save and release; whoever takes longer is fenced

    def __post_init__(self) -> None:
        for name in ("session_timeout_s", "hand_over_s_max"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"source.kafka.group.{name} is {getattr(self, name)}; it must be more than 0.")
        if self.mode == "sharded" and not self.instance_id:
            raise ConfigError(
                "source.kafka.group.instance_id is missing: with mode sharded it names this member and its model, for "
                "example ${HOSTNAME} in a Kubernetes StatefulSet."
            )
        if self.mode == "standby" and self.instance_id:
            raise ConfigError(
                "source.kafka.group.instance_id belongs to mode sharded: standbys of one model are alike."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaOptions:
    """Where to read, from which record on, and what to do when the log or the broker misbehaves.

    `start` counts only where the checkpoint names no position: "earliest", "latest", a time (ISO 8601, without a zone
    it is UTC; or milliseconds since 1970), or offsets: {"orders-0": 17} or {"orders": {0: 17}}. Partitions that
    explicit offsets do not name start at their earliest record.

    >>> KafkaOptions(bootstrap_servers="localhost:9092", topics=("orders",), client={"sasl_plain_password": "secret"})
    KafkaOptions(bootstrap_servers='localhost:9092', topics=('orders',), start='earliest', lost_data='fail', ...)
    """

    bootstrap_servers: str  # host:port, comma separated
    topics: tuple[str, ...]
    start: Start = "earliest"  # a first run should learn from all there is
    lost_data: Literal["fail", "earliest", "latest"] = "fail"  # learning on would hide that records are gone
    isolation: Literal["read_committed", "read_uncommitted"] = "read_committed"  # aborted records never happened
    group_id: str | None = None  # show our progress under this group; None: nowhere
    group: GroupOptions | None = None  # None: this process alone learns all partitions
    stall_s_max: float = 60.0  # waiting, polled, with nothing from a partition; then the broker is asked why
    rebuilds_max: int = 3  # new consumers in a row that brought nothing from a partition before we give up
    discover_s: float = 300.0  # look for new partitions this often; they start at their earliest record
    connect_s_max: float = 30.0  # for brokers at the start, then exit code 5; later outages are waited out
    fetch_bytes_max: int = 52_428_800  # 50 MiB a response, the client's own default
    partition_fetch_bytes_max: int = 1_048_576  # 1 MiB a partition: a larger record still arrives, alone
    client: Mapping[str, object] = field(default_factory=dict, repr=False)  # may hold secrets: never printed

    def __post_init__(self) -> None:
        if not self.topics:
            raise ConfigError("source.kafka.topics is empty; name at least one topic.")
        for name in ("stall_s_max", "discover_s", "connect_s_max", "fetch_bytes_max", "partition_fetch_bytes_max"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"source.kafka.{name} is {getattr(self, name)}; it must be more than 0.")
        if self.rebuilds_max < 0:
            raise ConfigError(f"source.kafka.rebuilds_max is {self.rebuilds_max}; it must be 0 or more.")
        if self.group is not None and self.group_id is not None:
            raise ConfigError("source.kafka.group_id beside source.kafka.group: progress is shown under group.id.")
        for key in self.client:
            if key in OWNED:
                raise ConfigError(f"source.kafka.client.{key} cannot be set: {OWNED[key]}.")
        if isinstance(self.start, Mapping):
            explicit_offsets(self.start)
        elif self.start not in ("earliest", "latest"):
            start_timestamp_ms(self.start)


def client_settings(options: KafkaOptions) -> dict[str, Any]:
    """Keyword arguments of kafka-python's consumer: the user's, then ours."""
    settings: dict[str, Any] = {
        "allow_auto_create_topics": False,  # a misspelt topic must not come into being by being read
        "metrics_enabled": False,  # ours are in telemetry/
        "reconnect_backoff_max_ms": 5_000,  # back within seconds of an outage; the client would wait up to 30
        **options.client,
    }
    if isinstance(settings.get("api_version"), list):  # YAML has no tuples
        settings["api_version"] = tuple(settings["api_version"])
    return settings | {
        "bootstrap_servers": [server.strip() for server in options.bootstrap_servers.split(",")],
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",  # out of range is our alarm, see KafkaSource
        "isolation_level": options.isolation,
        "fetch_max_bytes": options.fetch_bytes_max,
        "max_partition_fetch_bytes": options.partition_fetch_bytes_max,
        "metadata_max_age_ms": round(options.discover_s * 1000),
        "bootstrap_timeout_ms": round(options.connect_s_max * 1000),
    }


def start_timestamp_ms(start: object) -> int:
    """Milliseconds since 1970 of a `start` that is a time.

    >>> start_timestamp_ms("1970-01-01T00:00:01Z")
    1000
    """
    if isinstance(start, int) and not isinstance(start, bool) and start >= 0:
        return start
    try:
        moment = datetime.fromisoformat(str(start))
    except ValueError:
        raise ConfigError(
            f"source.kafka.start is {start!r}; expected earliest, latest, a time like 2026-01-31T12:00:00Z, "
            "milliseconds since 1970, or offsets like {orders-0: 17}."
        ) from None
    return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)


def explicit_offsets(start: Mapping[str, int | Mapping[int, int]]) -> dict[TopicPartition, int]:
    """The offsets of a `start` that is a mapping, in either of its two spellings.

    >>> explicit_offsets({"orders": {0: 17}, "web-clicks-3": 4})
    {TopicPartition(topic='orders', partition=0): 17, TopicPartition(topic='web-clicks', partition=3): 4}
    """
    offsets: dict[TopicPartition, int] = {}
    for name, value in start.items():
        if isinstance(value, Mapping):
            offsets |= {TopicPartition(name, int(partition)): offset for partition, offset in value.items()}
            continue
        topic, _, partition = name.rpartition("-")
        if not topic or not partition.isdigit():
            raise ConfigError(f"source.kafka.start.{name}: expected TOPIC-PARTITION: OFFSET, for example orders-0: 17.")
        offsets[TopicPartition(topic, int(partition))] = value
    for partition_name, offset in offsets.items():
        if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
            raise ConfigError(f"source.kafka.start.{partition_name} is {offset!r}; expected an offset of 0 or more.")
    return offsets


def warn_if_readable(options: KafkaOptions) -> None:
    """Say it loudly when records, and perhaps the password, cross a network in the clear."""
    protocol = str(options.client.get("security_protocol", "PLAINTEXT"))
    remote = [server for server in options.bootstrap_servers.split(",") if not _is_loopback(server.strip())]
    if remote and protocol in ("PLAINTEXT", "SASL_PLAINTEXT"):
        log.warning(
            "Kafka traffic to %s is not encrypted (security_protocol %s): anybody on the way can read and alter it. "
            "Set source.kafka.client.security_protocol to SSL or SASL_SSL.",
            ",".join(remote),
            protocol,
        )
    if options.client.get("ssl_check_hostname") is False:
        log.warning(
            "ssl_check_hostname is off: whoever holds any certificate of this authority can pose as the broker."
        )


def _is_loopback(server: str) -> bool:
    host = server.rpartition(":")[0].strip("[]") or server
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
