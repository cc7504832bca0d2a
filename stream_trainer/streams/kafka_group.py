"""The source of one member of a group: Kafka says which partitions we should have, the disk says which we do have.

Two clients. One is a member of the group and reads nothing: it only hears what is assigned to us (a thread of its own
polls it, so that neither a long step nor a full queue keeps it from answering a rebalance in time). The other reads the
partitions that we hold, with all that kafka.py stands up to, and is not in the group at all. So a rebalance by itself
changes nothing about what is read: it is a wish. `service/sharded.py` fulfils it in its own time, between two batches:
save, release (checkpoints/claims.py), and only then does the next owner begin, at the saved position.

The rebalance listener, which would run on the client's IO thread and hold up its heartbeats, is not used: after each
poll the assignment is looked at, on our thread. A member that was evicted goes on until it hears a new assignment, and
hands over then like any other; if that takes too long, it is fenced: by the disk, not by Kafka.

What is committed for the group is a display here, too. Not here: who holds what (claims.py), who is fenced
(members.py).
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import kafka
from kafka import errors as kafka_errors
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.structs import MemberState, OffsetAndMetadata

from stream_trainer.clock import Clock
from stream_trainer.errors import ConfigError, DataLost, Fenced, StreamTrainerError
from stream_trainer.streams.kafka import KafkaSource
from stream_trainer.streams.kafka_codecs import check_codecs
from stream_trainer.streams.kafka_connect import is_auth_error, open_consumer
from stream_trainer.streams.kafka_log import KafkaLog
from stream_trainer.streams.kafka_options import GroupOptions, KafkaOptions, client_settings, warn_if_readable
from stream_trainer.streams.kafka_rights import group_not_allowed
from stream_trainer.streams.kafka_seam import keep_joining
from stream_trainer.types import Positions, RecordChunk, TopicPartition

__all__ = ["GroupMembership", "KafkaGroupSource"]

log = logging.getLogger(__name__)

POLL_S = 0.1  # how late we hear of an assignment
ASK_S_MAX = 5.0
CLOSE_S_MAX = 5.0


class GroupMembership:
    """Is a member of the group and tells what is assigned to it; commits what it is shown.

    Any thread may ask for `wanted`; what went wrong for good is raised there.
    """

    def __init__(self, options: KafkaOptions, make_consumer: Callable[..., Any] = kafka.KafkaConsumer) -> None:
        assert options.group is not None
        self.rebalances = 0
        self.changed = threading.Event()  # for whoever waits for a new `wanted`
        self._options, self._group = options, options.group
        self._make_consumer = make_consumer
        self._wanted: frozenset[TopicPartition] | None = None
        self._error: StreamTrainerError | None = None
        self._shown: Positions | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-group-member", daemon=True)

    @property
    def wanted(self) -> frozenset[TopicPartition] | None:
        """What Kafka assigns to us; None: it has said nothing yet. Raises: Fenced, ConfigError: it never will."""
        if self._error is not None:
            raise self._error
        return self._wanted

    def start(self) -> None:
        self._thread.start()

    def show(self, positions: Positions) -> None:
        """Commit these when it is possible. Returns at once."""
        self._shown = dict(positions)

    def close(self, wait_s: float) -> None:
        """Commit the last that was shown, and go. A static member keeps its place for `session_timeout_s`."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    # ------------------------------------------------------------ on the thread

    def _run(self) -> None:
        consumer = None
        while not self._closing.is_set() and self._error is None:
            try:
                consumer = consumer or self._join()
                consumer.poll(timeout_ms=_ms(POLL_S), max_records=1)
                self._look(consumer)
                self._commit(consumer)
            except Exception as error:
                self._error = self._fatal(error)
                if self._error is None:
                    log.warning("Kafka group %s: %s: %s. Trying again.", self._group.id, type(error).__name__, error)
                    self._closing.wait(POLL_S)
                if not isinstance(error, kafka_errors.RetriableError):
                    _close(consumer)
                    consumer = None
                self.changed.set()
        if consumer is not None and self._error is None:
            self._commit(consumer)
        _close(consumer)

    def _join(self) -> Any:
        consumer = open_consumer(self._make_consumer, _member_settings(self._options, self._group))
        consumer.subscribe(list(self._options.topics))
        return consumer

    def _look(self, consumer: Any) -> None:
        if consumer.group_metadata().state is not MemberState.STABLE:
            keep_joining(consumer)
            return  # not in the group just now: the last wish stands, and who has other plans will fence us
        assigned = consumer.assignment()
        if fresh := assigned - consumer.paused():
            consumer.pause(*fresh)  # this client only keeps the place
        wanted = frozenset(TopicPartition(*tp) for tp in assigned)
        if wanted != self._wanted:
            self.rebalances += 1
            log.info("Kafka group %s: assigned to %s: %s", self._group.id, self._group.instance_id, _listed(wanted))
            self._wanted = wanted
            self.changed.set()

    def _commit(self, consumer: Any) -> None:
        shown, self._shown = self._shown, None
        if not shown:
            return
        try:
            offsets = {kafka.TopicPartition(*tp): OffsetAndMetadata(at, "", -1) for tp, at in shown.items()}
            consumer.commit(offsets, timeout_ms=_ms(ASK_S_MAX))
        except kafka_errors.KafkaError as error:
            if self._fatal(error):
                raise
            # In the middle of a rebalance, or late: a display may be behind; the next save shows more.
            log.debug("not committed for group %s: %s: %s", self._group.id, type(error).__name__, error)

    def _fatal(self, error: Exception) -> StreamTrainerError | None:
        """What trying again cannot help against."""
        if isinstance(error, kafka_errors.FencedInstanceIdError):
            return Fenced(
                f"Kafka group {self._group.id}: another process has joined as {self._group.instance_id!r}, and this "
                "one is out. Give each member a source.kafka.group.instance_id of its own."
            )
        if is_auth_error(error):
            return group_not_allowed(self._group.id, f"{type(error).__name__}: {error}")
        if isinstance(error, kafka_errors.InvalidSessionTimeoutError):
            return ConfigError(
                f"source.kafka.group.session_timeout_s is {self._group.session_timeout_s:g}; the broker refuses it: "
                "see group.min.session.timeout.ms and group.max.session.timeout.ms in its configuration."
            )
        return None


class KafkaGroupSource(KafkaSource):
    """A Kafka source that begins without partitions, and reads those that `read` names.

    `wanted` is what the group would have us read; for metrics also `rebalances`.
    """

    def __init__(
        self, options: KafkaOptions, clock: Clock, *, make_consumer: Callable[..., Any] = kafka.KafkaConsumer
    ) -> None:
        super().__init__(options, clock, make_consumer=make_consumer)
        self._membership = GroupMembership(options, make_consumer)

    @property
    def wanted(self) -> frozenset[TopicPartition] | None:
        """Raises: Fenced, ConfigError: we cannot be a member."""
        return self._membership.wanted

    @property
    def topics(self) -> tuple[str, ...]:
        return self._options.topics

    @property
    def rebalances(self) -> int:
        return self._membership.rebalances

    def start(self, positions: Positions | None, topic_ids: Mapping[str, str] | None = None) -> Positions:
        check_codecs()
        warn_if_readable(self._options)
        self._log.open()
        self._log.find_all_partitions(self._clock)
        self._ids.keep(topic_ids or {})
        self._refuse_another_log(self._ids.recreated(self._log.topic_ids()))
        self._ids.keep(self._log.topic_ids())
        return {}

    def join(self) -> None:
        """Become a member; not before `first_positions` found that we belong here: Kafka puts out who has our name."""
        self._membership.start()

    def first_positions(self, topic: str) -> Positions:
        """Where a run that has never learned from this topic begins in each of its partitions.

        Raises: ConfigError: the group has learned from it before, so that the shared directory must be another one.
        """
        partitions = self._log.find_partitions(topic)
        if committed := self._committed(partitions):
            raise ConfigError(
                f"The Kafka group {self._group_id} has committed {_listed(committed)}, and checkpoint.directory knows "
                "nothing of it: the directory must be one that all members share. To learn everything anew, choose "
                "another source.kafka.group.id."
            )
        return self._where_to_begin(partitions, {}, self._log.topic_ids())

    def earliest(self, partitions: Collection[TopicPartition]) -> Positions:
        """Where the log begins now."""
        return self._opened().begins(partitions) if partitions else {}

    def read(self, positions: Positions) -> Positions:
        """Read these partitions from here, and no others. Returns where, which `lost_data` may have moved."""
        if not positions:
            self._next = {}
            return {}
        ids = self._opened().topic_ids()
        self._assign(self._where_to_begin(positions, positions, ids))
        return dict(self._next)

    def poll(self, wait_s: float, records_max: int) -> Sequence[RecordChunk]:
        if self._next:
            return super().poll(wait_s, records_max)
        self._membership.changed.wait(wait_s)  # the client refuses to poll nothing
        self._membership.changed.clear()
        return ()

    def commit(self, positions: Positions) -> None:
        self._membership.show({tp: at for tp, at in positions.items() if tp in self._next})

    def close(self) -> None:
        self._membership.close(CLOSE_S_MAX)
        super().close()

    def _follow(
        self, recreated: Mapping[str, str], ids: Mapping[str, str], chunks: Sequence[RecordChunk]
    ) -> Sequence[RecordChunk]:
        self._refuse_another_log(recreated)
        return ()

    def _refuse_another_log(self, recreated: Mapping[str, str]) -> None:
        """Whatever `lost_data` says: where the others go on is said in offsets of the log before."""
        for topic, what in recreated.items():
            raise DataLost(
                f"{topic}: {what}. What the group has learned, and who goes on where, belongs to the log before: give "
                "the new one another source.kafka.group.id and another checkpoint.directory."
            )

    def _added_partitions(self) -> list[RecordChunk]:
        return []  # the group hears of them, and assigns them

    def _opened(self) -> KafkaLog:
        if not self._log.is_open:
            self._log.open()
        return self._log

    @property
    def _group_id(self) -> str:
        assert self._options.group is not None
        return self._options.group.id

    def _committed(self, partitions: list[TopicPartition]) -> Positions:
        consumer = open_consumer(self._make_consumer, client_settings(self._options) | {"group_id": self._group_id})
        try:
            offsets = {
                tp: consumer.committed(kafka.TopicPartition(*tp), timeout_ms=_ms(ASK_S_MAX)) for tp in partitions
            }
        except kafka_errors.GroupAuthorizationFailedError as error:
            raise group_not_allowed(self._group_id, type(error).__name__) from error
        finally:
            _close(consumer)
        return {tp: at for tp, at in offsets.items() if at is not None}


def _member_settings(options: KafkaOptions, group: GroupOptions) -> dict[str, Any]:
    return client_settings(options) | {
        "group_id": group.id,
        "group_instance_id": group.instance_id,
        "session_timeout_ms": _ms(group.session_timeout_s),
        "heartbeat_interval_ms": _ms(group.session_timeout_s / 4),
        "partition_assignment_strategy": [StickyPartitionAssignor],  # what need not move stays
        "auto_offset_reset": "latest",  # it reads nothing: any position will do
        "fetch_max_bytes": 1,
        "max_partition_fetch_bytes": 1,
    }


def _close(consumer: Any) -> None:
    if consumer is not None:
        consumer.close(autocommit=False, timeout_ms=1000)


def _listed(partitions: Iterable[TopicPartition]) -> str:
    return ", ".join(map(str, sorted(partitions))) or "nothing"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
