"""A member of a group, its Kafka a script: what it learns again after a crash, or after the loss of a checkpoint."""

import json
import sys
import threading
from itertools import cycle

import pytest
from test_service_crash import Batches, Crash, settle
from test_service_loop import SCHEMA

from stream_trainer.checkpoints import BackgroundWriter, CheckpointDirectory
from stream_trainer.checkpoints.claims import PartitionClaims
from stream_trainer.checkpoints.journal import BatchJournal
from stream_trainer.checkpoints.members import MemberLife, Members
from stream_trainer.decoding import build_decoder
from stream_trainer.engine.bad_records import BadRecordLimit
from stream_trainer.engine.batcher import Batcher, BatchPolicy
from stream_trainer.engine.drift_monitor import DriftMonitor, DriftOptions
from stream_trainer.engine.trainer import Trainer
from stream_trainer.errors import DataLost, Fenced
from stream_trainer.evaluation import Prequential
from stream_trainer.service.observers import Observer
from stream_trainer.service.sharded import ShardedService
from stream_trainer.testing.fakes import ListSource, ManualClock, MemoryDeadLetters
from stream_trainer.types import TopicPartition

P0, P1 = BOTH = [TopicPartition("list", i) for i in range(2)]
N_RECORDS = 120  # of each partition; x numbers them all


class GroupList(ListSource):
    """What KafkaGroupSource is to the service: `wanted` is what the test sets; the log of P1 may have lost its begin.

    Every poll takes as many seconds as `ticks` says, so that batches are cut by age wherever time falls.
    """

    topics = ("list",)
    exhausted = False

    def __init__(self, clock, *, per_poll=7, ticks=(0.3, 0.9, 0.1)):
        values = [
            [json.dumps({"x": i + p * N_RECORDS, "y": i % 3 == 0}).encode() for i in range(N_RECORDS)] for p in (0, 1)
        ]
        super().__init__(*values, per_poll=per_poll)
        self._clock, self._pace = clock, cycle(ticks)
        self._all, self._values = self._values, {}
        self.wanted, self.log_begin = None, 0

    def start(self, positions, topic_ids=None):
        return {}

    def join(self):
        pass

    def first_positions(self, topic):
        return dict.fromkeys(BOTH, 0)

    def earliest(self, partitions):
        return {tp: self.log_begin if tp == P1 else 0 for tp in partitions}

    def read(self, positions):
        self._values = {tp: self._all[tp] for tp in positions}
        self.positions = dict(positions)
        return dict(positions)

    def poll(self, wait_s, records_max):
        self._clock.advance(next(self._pace))
        settle()
        return super().poll(wait_s, records_max)


class Plan(Observer):
    """What the group wants, turn by turn; {} at the end: stop."""

    def __init__(self, source, *wishes):
        self.source, self.wishes, self.service = source, iter(wishes), None

    def turned(self):
        wish = next(self.wishes, None)
        if wish is None:
            self.service.request_stop()
        else:
            self.source.wanted = frozenset(wish)


def member(root, name, *wishes, model=None, every_s=1e9, log_begin=0, go_on=False, **pace):
    """A service that turns as often as there are wishes."""
    clock = ManualClock()
    source = GroupList(clock, **pace)
    source.log_begin, source.go_on = log_begin, go_on
    plan = Plan(source, *wishes)
    life = MemberLife(Members(root), name)
    model = model or Batches()
    prequential, drift = Prequential(SCHEMA.target, ["m"]), DriftMonitor(DriftOptions(), SCHEMA, ["m"])
    plan.service = ShardedService(
        source=source,
        life=life,
        claims=PartitionClaims(root, life, clock, hand_over_s_max=1.0),
        checkpoints_in=lambda path: CheckpointDirectory(path, identity={}, versions={}),
        decoder=build_decoder("json", SCHEMA),
        batcher=Batcher(BatchPolicy(records_max=1_000, age_s_max=1.0), records_seen=0),
        trainer=Trainer({"m": model}, prequential, drift, clock.monotonic_s),
        checkpoint_every_s=every_s,
        dead_letters=MemoryDeadLetters(),
        bad_records=BadRecordLimit(),
        observers=[plan],
        clock=clock,
    )
    return plan.service, model


def crash(root, name, *wishes, in_batch, every_s):
    service, model = member(root, name, *wishes, model=Batches(crash_in_batch=in_batch), every_s=every_s)
    with pytest.raises(Crash):
        service.run()
    settle()
    return model


def run(root, name, *wishes, **options):
    service, model = member(root, name, *wishes, **options)
    service.run()
    return service, model


def damage_newest(root, name):
    """Its last checkpoint, and only that, can no longer be read."""
    members = Members(root)
    newest = max(members.path(name, members.life(name)).glob("checkpoint-*"))
    (newest / "state.json").write_bytes(b"rotten")


def learned_by(*models):
    return sorted(x for model in models for x in model.seen)


ALL = [float(x) for x in range(2 * N_RECORDS)]
A_WHILE = [BOTH] * 200


@pytest.mark.parametrize("every_s", [2.0, 1e9], ids=["with a checkpoint", "before the first checkpoint"])
def test_after_a_crash_an_unchanged_assignment_is_cut_as_before(tmp_path, every_s):
    """The polls come in other pieces and at another pace; the journal decides."""
    first = crash(tmp_path, "a", *A_WHILE, in_batch=12, every_s=every_s)
    _, again = run(tmp_path, "a", *A_WHILE, per_poll=11, ticks=(0.2,))

    assert first.batches == again.batches[:12]
    assert learned_by(again) == ALL


def test_a_partition_that_moved_meanwhile_is_cut_anew(tmp_path):
    """Rows of the journal name records that somebody else has learned: they are of no life that counts."""
    first = crash(tmp_path, "a", *A_WHILE, in_batch=12, every_s=2.0)
    _, other = run(tmp_path, "b", *[[P1]] * 30, per_poll=3)
    _, again = run(tmp_path, "a", *A_WHILE, per_poll=11, ticks=(0.2,))

    assert first.batches != again.batches[:12]
    assert other.seen, "or nothing moved"
    assert learned_by(again, other) == ALL


def hand_over(root):
    """`a` learns both and saves, learns on, saves and gives away one; then that second checkpoint is damaged."""
    run(root, "a", *[BOTH] * 6)
    run(root, "a", *[BOTH] * 8, *[[P0]] * 3)
    _, other = run(root, "b", *[[P1]] * 100)
    damage_newest(root, "a")
    return other


def test_who_lost_a_checkpoint_learns_again_what_nobody_else_knows(tmp_path):
    """The follower began where the lost one ended."""
    other = hand_over(tmp_path)
    service, again = run(tmp_path, "a", *[[P0]] * 100)

    assert 1 == service.checkpoints.corrupt_found
    assert learned_by(again, other) == ALL


def test_a_stop_in_the_middle_of_learning_again_is_gone_on_from(tmp_path):
    """A save there is as good as any: positions say how far it came."""
    other = hand_over(tmp_path)
    models = []
    for _ in range(3):
        _, again = run(tmp_path, "a", *[[P0]] * 4, per_poll=1)
        models.append(len(again.seen))
    _, again = run(tmp_path, "a", *[[P0]] * 200)

    assert models == sorted(set(models)), "or it went on three times from the same place"
    assert learned_by(again, other) == ALL


def test_what_the_log_no_longer_has_is_data_lost_by_name(tmp_path):
    """Learning on would hide it."""
    hand_over(tmp_path)
    service, _ = member(tmp_path, "a", *[[P0]] * 50, log_begin=N_RECORDS)

    with pytest.raises(
        DataLost, match=r"list-1: records \d+ to \d+ were learned by this member and by no other"
    ) as error:
        service.run()
    assert 3 == error.value.exit_code


def test_an_operator_may_go_on_without(tmp_path):
    """source.kafka.lost_data; asked once, and not again after the next save."""
    other = hand_over(tmp_path)
    service, again = run(tmp_path, "a", *[[P0]] * 100, log_begin=N_RECORDS, go_on=True)
    after, _ = run(tmp_path, "a", *[[P0]] * 3, log_begin=N_RECORDS)

    assert 1 == len(service.source.accepted)
    assert [] == after.source.accepted
    lost = set(ALL) - set(learned_by(again, other))
    assert lost
    assert min(lost) >= N_RECORDS, "only of the partition that was given away"


def test_a_hand_over_in_the_middle_of_a_save_waits_for_it_and_saves_the_rest(tmp_path, monkeypatch):
    """The save under way knows less than the model by then: what is released is what is on the disk, all of it."""
    disk, held_up, released = threading.Event(), [], []
    save, collect, release = CheckpointDirectory.save, BackgroundWriter.collect, PartitionClaims.release

    def save_when_the_disk_lets_it(self, snapshot, **options):
        if not disk.is_set():
            held_up.append(snapshot.positions[P1])
            assert disk.wait(60)
        return save(self, snapshot, **options)

    def collect_when_the_disk_is_back(self, *, wait=False):
        if wait:
            disk.set()
        return collect(self, wait=wait)

    def release_what_is_saved(self, tp, position):
        released.append((tp, position, Members(tmp_path).newest(self._me.name).positions[tp]))
        release(self, tp, position)

    monkeypatch.setattr(sys.modules[__name__], "settle", lambda: None)  # it would wait for the save
    monkeypatch.setattr(CheckpointDirectory, "save", save_when_the_disk_lets_it)
    monkeypatch.setattr(BackgroundWriter, "collect", collect_when_the_disk_is_back)
    monkeypatch.setattr(PartitionClaims, "release", release_what_is_saved)
    service, first = member(tmp_path, "a", *[BOTH] * 12, *[[P0]] * 3, every_s=1.0)
    service.observers.append(Hangs(disk, after_turns=2))
    service.run()
    disk.set()
    _, second = run(tmp_path, "b", *A_WHILE)

    handed_over = next(position for tp, position, _ in released if tp == P1)
    assert held_up[0] < handed_over, "or the save under way held all of it"
    assert all(position == saved for _, position, saved in released)
    assert learned_by(first, second) == ALL


def test_one_that_was_fenced_as_it_began_a_journal_says_so(tmp_path, monkeypatch):
    """Its folder has another name now. Told as a disk that cannot be written, somebody would look at the disk."""
    append = BatchJournal.append

    def fenced_just_before(self, *row):
        Members(tmp_path).fence("a", 1)
        append(self, *row)

    monkeypatch.setattr(BatchJournal, "append", fenced_just_before)
    with pytest.raises(Fenced, match="another member took our partitions"):
        run(tmp_path, "a", *A_WHILE)


class Hangs(Observer):
    """A disk that takes nothing from some turn on, until it is let."""

    def __init__(self, disk, after_turns):
        disk.set()
        self._disk, self._left = disk, after_turns

    def turned(self):
        self._left -= 1
        if self._left == 0:
            self._disk.clear()
