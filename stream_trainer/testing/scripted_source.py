"""A log and a source over it that does whatever a Kafka may do, as one generator says.

Several partitions; offsets with gaps; chunks of any size in any order of partitions; polls that bring nothing, that
take long, that bring only transaction markers; partitions taken away for a while and given back; one found later.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from stream_trainer.errors import DataLost
from stream_trainer.testing.fakes import ManualClock
from stream_trainer.types import Positions, RecordChunk, TopicPartition

__all__ = ["ScriptedLog", "ScriptedSource"]

TOPIC = "story"


class ScriptedLog:
    """The records of a story, by partition: (offset, value), gaps between them; what is there stays there.

    Args:
        rng: one in twelve records is bad, one in thirty a tombstone, one in ten follows a gap.
        n_records: of all partitions together.
    """

    def __init__(self, rng: random.Random, n_records: int) -> None:
        self.records: dict[TopicPartition, list[tuple[int, bytes | None]]] = {}
        self.good: list[tuple[int, int]] = []  # (partition, id): what a model must learn once
        self.bad: set[tuple[int, int]] = set()  # (partition, offset): what must be among the dead letters
        n_partitions = rng.randint(1, 4)
        for partition in range(n_partitions):
            offset, records = rng.choice([0, 17]), []
            for number in range(n_records // n_partitions):
                offset += rng.randint(2, 6) if rng.random() < 0.1 else 1
                records.append((offset, self._value(rng, partition, number, offset)))
            self.records[TopicPartition(TOPIC, partition)] = records
        self.ends = {tp: records[-1][0] + 1 + rng.choice([0, 2]) for tp, records in self.records.items()}

    def _value(self, rng: random.Random, partition: int, number: int, offset: int) -> bytes | None:
        kind = rng.random()
        if kind < 1 / 30:
            return None
        if kind < 1 / 30 + 1 / 12:
            self.bad.add((partition, offset))
            return rng.choice([b"{broken", b"\xff\xfe", b'{"partition": 0, "id": 1, "x": 2}'])
        self.good.append((partition, number))
        x = rng.gauss(0, 1)
        record = {"partition": partition, "id": number, "x": round(x, 4), "y": x + rng.gauss(0, 0.3) > 0}
        return json.dumps(record).encode()


class ScriptedSource:
    """Implements `contracts.Source` over a log; exhausted at its end.

    Args:
        rng: what each poll does.
        between: called at every poll, before anything: where the story may stop or end the process.
        committed: told of every commit.
        told: counts what happened, by name.
        misbehaves: False: every poll brings records, at once.
    """

    def __init__(
        self,
        log: ScriptedLog,
        rng: random.Random,
        clock: ManualClock,
        *,
        between: Callable[[], None] = lambda: None,
        committed: Callable[[Positions], None] = lambda positions: None,
        told: Counter[str] | None = None,
        misbehaves: bool = True,
    ) -> None:
        self._log, self._rng, self._clock, self._between = log, rng, clock, between
        self._told: Counter[str] = Counter() if told is None else told
        self._committed, self._misbehaves = committed, misbehaves
        self._positions: Positions = {}
        self._away: dict[TopicPartition, int] = {}  # taken from us, for so many polls
        self._hidden: dict[TopicPartition, int] = {}  # not found yet, for so many polls
        self._paused: frozenset[TopicPartition] = frozenset()
        self.topic_ids: Mapping[str, str] = {}

    @property
    def exhausted(self) -> bool:
        return not self._hidden and all(self._positions[tp] >= end for tp, end in self._log.ends.items())

    def start(self, positions: Positions | None, topic_ids: Mapping[str, str] | None = None) -> Positions:
        known = positions or {}
        self._told["seek"] += bool(known)
        for tp in self._log.records:
            unknown = tp not in known and tp.partition > 0
            if self._misbehaves and unknown and self._rng.random() < 0.3:
                self._hidden[tp] = self._rng.randint(1, 8)
            else:
                self._positions[tp] = known.get(tp, 0)
        return dict(self._positions)

    def poll(self, wait_s: float, records_max: int) -> Sequence[RecordChunk]:
        self._between()
        rng = self._rng
        if self._misbehaves:
            self._rebalance()
            self._clock.advance(rng.choice([0.0, 0.01, 0.1, wait_s, 1.0]))
            if rng.random() < 0.15:
                self._told["silent_poll"] += 1
                return ()
        ready = [tp for tp, at in self._positions.items() if at < self._log.ends[tp] and tp not in self._away]
        ready = [tp for tp in ready if tp not in self._paused]
        rng.shuffle(ready)
        return [self._chunk(tp, records_max) for tp in ready[: rng.randint(1, 3)]]

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self._paused = frozenset(partitions)

    def accept_loss(self, error: DataLost) -> None:
        raise error

    def end_offsets(self) -> Positions:
        return {tp: end for tp, end in self._log.ends.items() if tp in self._positions}

    def lags(self) -> Positions:
        return {tp: self._log.ends[tp] - at for tp, at in self._positions.items()}

    def commit(self, positions: Positions) -> None:
        self._committed(positions)

    def close(self) -> None:
        """Nothing is open."""

    def _chunk(self, tp: TopicPartition, records_max: int) -> RecordChunk:
        """The next few records; sometimes none, and the position moves through a gap all the same."""
        at, end = self._positions[tp], self._log.ends[tp]
        coming = [record for record in self._log.records[tp] if record[0] >= at]
        in_a_gap = bool(coming) and coming[0][0] > at
        if in_a_gap and self._misbehaves and self._rng.random() < 0.3:
            self._told["markers_only"] += 1
            taken, after = [], coming[0][0]
        else:
            taken = coming[: min(records_max, self._rng.randint(1, 12))]
            following = coming[len(taken)][0] if len(taken) < len(coming) else end
            after = self._rng.choice([taken[-1][0] + 1, following]) if taken else end
        self._positions[tp] = after
        return RecordChunk(
            partition=tp,
            offsets=[offset for offset, _ in taken],
            timestamps_ms=[-1] * len(taken),
            keys=[None] * len(taken),
            values=[value for _, value in taken],
            headers=[()] * len(taken),
            next_offset=after,
        )

    def _rebalance(self) -> None:
        """Partitions come back, are found, are taken away. Our position in them is kept, as `assign` does."""
        for waiting in (self._away, self._hidden):
            for tp in [tp for tp, polls in waiting.items() if polls <= 1]:
                del waiting[tp]
                if waiting is self._hidden:
                    self._positions[tp] = 0
                    self._told["partition_found"] += 1
                else:
                    self._told["assigned"] += 1
            for tp in waiting:
                waiting[tp] -= 1
        if self._rng.random() < 0.08:
            for tp in self._rng.sample(sorted(self._positions), k=self._rng.randint(1, len(self._positions))):
                self._away[tp] = self._rng.randint(1, 6)
                self._told["revoked"] += 1
