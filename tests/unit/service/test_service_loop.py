"""The loop, on fakes: nothing is lost, nothing is learned twice, and a stop changes nothing."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from stream_trainer.checkpoints import CheckpointDirectory
from stream_trainer.decoding import build_decoder
from stream_trainer.engine.bad_records import BadRecordLimit
from stream_trainer.engine.batcher import Batcher, BatchPolicy
from stream_trainer.engine.drift_monitor import DriftMonitor, DriftOptions
from stream_trainer.engine.lifecycle import LifecycleState
from stream_trainer.engine.trainer import Trainer
from stream_trainer.errors import CheckpointError, TooManyBadRecords
from stream_trainer.evaluation import Prequential
from stream_trainer.schema import NumberFeature, Schema, Target
from stream_trainer.service.loop import Service
from stream_trainer.service.observers import Observer
from stream_trainer.service.until_end import UntilEnd
from stream_trainer.testing.fakes import ListSource, ManualClock, MemoryDeadLetters, chunk_of
from stream_trainer.types import LearnReport, State, TopicPartition

SCHEMA = Schema(numbers=(NumberFeature(name="x"),), target=Target.binary("y"))


def records(n: int, *, seed: int = 5) -> list[bytes | None]:
    """`x` numbers them, so that a model can tell which it has seen; some are bad, some are tombstones."""
    rng = random.Random(seed)
    values: list[bytes | None] = []
    for i in range(n):
        kind = rng.random()
        good = json.dumps({"x": i, "y": i % 3 == 0}).encode()
        values.append(None if kind < 0.05 else b"{broken" if kind < 0.1 else good)
    return values


class Remembering:
    """A model that knows every record it learned, and what it had learned whenever it was asked."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.asked_before_learning = True

    def predict(self, batch):
        self.asked_before_learning &= not set(batch.x_NF[:, 0].tolist()) & set(self.seen)
        return np.full((len(batch), 2), 0.5)

    def learn(self, batch):
        self.seen.extend(batch.x_NF[:, 0].tolist())
        return LearnReport(loss=0.0)

    def capture(self):
        return State(values={"seen": list(self.seen)})

    def restore(self, state):
        self.seen = list(state.values["seen"])


class Remarks(Observer):
    """Writes down what it is told; may stop the service at a given batch."""

    def __init__(self, stop_after_batches: int | None = None) -> None:
        self.stop_after_batches, self.service = stop_after_batches, None
        self.states, self.saves, self.reports = [], [], []

    def entered(self, state):
        self.states.append(state)

    def stepped(self, report, step_s):
        self.reports.append(report)
        if len(self.reports) == self.stop_after_batches:
            self.service.request_stop()

    def saved(self, saved):
        self.saves.append(saved)


def service(values, tmp_path=None, *, stop_after=None, policy=None, every_s=1e9, model=None, ratio_max=0.9, clock=None):
    clock = clock or ManualClock()
    model = model or Remembering()
    trainer = Trainer(
        {"m": model},
        Prequential(SCHEMA.target, ["m"]),
        DriftMonitor(DriftOptions(), SCHEMA, ["m"]),
        clock.monotonic_s,
    )
    remarks = Remarks(stop_after)
    built = Service(
        source=ListSource(values) if not hasattr(values, "poll") else values,
        decoder=build_decoder("json", SCHEMA),
        batcher=Batcher(policy or BatchPolicy(records_max=10, age_s_max=None), records_seen=0),
        trainer=trainer,
        checkpoints=CheckpointDirectory(tmp_path, identity={}, versions={}) if tmp_path else None,
        checkpoint_every_s=every_s,
        dead_letters=MemoryDeadLetters(),
        bad_records=BadRecordLimit(ratio_max=ratio_max, window_records=50),
        observers=[remarks],
        clock=clock,
    )
    remarks.service = built
    return built, model, remarks


def conserved(counts) -> bool:
    return counts.consumed == counts.learned + counts.dead_lettered + counts.skipped


def test_every_record_is_learned_dead_lettered_or_skipped():
    """P6: consumed = learned + dead-lettered + skipped, exactly."""
    values = records(1_003)
    built, model, remarks = service(values)
    built.run()

    counts = built.counts
    assert conserved(counts)
    assert (1_003, values.count(None), values.count(b"{broken")) == (
        counts.consumed,
        counts.skipped,
        counts.dead_lettered,
    )
    assert [float(i) for i, v in enumerate(values) if v and v != b"{broken"] == model.seen
    assert {TopicPartition("list", 0): 1_003} == built.positions
    assert sum(len(report.rejects) for report in remarks.reports) == counts.dead_lettered
    S = LifecycleState
    assert [S.RUNNING, S.DRAINING, S.STOPPED] == remarks.states


def test_no_record_is_learned_before_it_was_predicted():
    """P4: a score that has seen its label is no score."""
    built, model, _ = service(records(300))
    built.run()

    assert model.asked_before_learning


def test_a_batch_of_bad_records_alone_moves_the_position():
    """Else it would be read again for ever."""
    built, _, remarks = service([b"{broken"] * 20, ratio_max=1.0)
    built.run()

    assert (20, 0) == (built.counts.dead_lettered, built.counts.learned)
    assert [0, 0] == [report.batch_records for report in remarks.reports]
    assert {TopicPartition("list", 0): 20} == built.positions


@pytest.mark.parametrize("stop_after", [1, 3, 7])
def test_a_stop_and_a_restart_change_nothing(tmp_path, stop_after):
    """Batches cut by count: the stopped run, continued, is the run without the stop."""
    values = records(200)
    whole, whole_model, _ = service(values, tmp_path / "whole")
    whole.run()
    first, _, _ = service(values, tmp_path / "parts", stop_after=stop_after)
    first.run()
    second, second_model, _ = service(values, tmp_path / "parts")
    second.run()

    assert first.counts.batches == stop_after
    assert whole_model.seen == second_model.seen
    assert (whole.counts, whole.positions) == (second.counts, second.positions)
    assert whole.trainer.prequential.scores() == second.trainer.prequential.scores()


def test_positions_are_committed_only_after_the_save(tmp_path):
    """Kafka's copy may lag behind the truth, never run ahead of it."""
    clock = ManualClock()
    built, _, remarks = service(records(60), tmp_path, every_s=0.0, clock=clock)
    built.run()

    saved = [saved.snapshot.positions for saved in remarks.saves if saved.error is None]
    assert saved == built.source.committed
    assert built.positions == saved[-1]
    assert built.dead_letters.flushed == len(built.dead_letters.written)


def test_a_checkpoint_that_fails_stops_nothing_and_commits_nothing(tmp_path, monkeypatch):
    """A full disk costs the promise, not the service; at the very end it is an error."""
    built, model, remarks = service(records(60), tmp_path, every_s=0.0)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CheckpointDirectory, "save", full)
    with pytest.raises(CheckpointError, match="the last checkpoint could not be saved"):
        built.run()

    assert len(model.seen) == built.counts.learned > 40
    assert [] == built.source.committed
    assert remarks.saves
    assert all(saved.error for saved in remarks.saves)


def test_too_many_bad_records_stop_the_run_with_everything_saved(tmp_path):
    """The stream is not what was declared: to learn on from what is left would be to learn something else."""
    values = [*records(100), *[b"{broken"] * 100]
    built, _, remarks = service(values, tmp_path, ratio_max=0.5)
    with pytest.raises(
        TooManyBadRecords, match=r"of the last \d+ records were rejected; dead_letters.ratio_max is 0.5"
    ):
        built.run()

    assert LifecycleState.FAILED == remarks.states[-1]
    assert built.positions == remarks.saves[-1].snapshot.positions
    assert conserved(built.counts)
    assert built.source.closed


def test_a_model_that_breaks_in_mid_batch_is_not_saved(tmp_path):
    """Half of the models have learned the batch and half have not: that state belongs to no position."""

    class Breaking(Remembering):
        def learn(self, batch):
            if len(self.seen) > 30:
                raise RuntimeError("broken model")
            return super().learn(batch)

    built, _, remarks = service(records(200), tmp_path, model=Breaking())
    with pytest.raises(RuntimeError, match="broken model"):
        built.run()

    assert [] == remarks.saves
    assert [] == list(tmp_path.glob("checkpoint-*"))


def test_until_end_hides_what_came_after_the_start():
    """`--until-end` must end, although the producer does not."""

    class Growing(ListSource):
        def poll(self, wait_s, records_max):
            for values in self._values.values():
                values.append(b'{"x": 999, "y": 1}')
            return super().poll(wait_s, records_max)

    built, model, _ = service(UntilEnd(Growing(records(100), records(50, seed=6))))
    built.run()

    assert 999.0 not in model.seen
    assert 150 == built.counts.consumed


def test_until_end_reaches_an_end_made_of_gaps():
    """Markers of transactions and compacted records take offsets, at the very end too."""

    class Gappy(ListSource):
        def end_offsets(self):
            return {TopicPartition("list", 0): 9}

        def poll(self, wait_s, records_max):
            if self.positions[TopicPartition("list", 0)] == 0:
                self.positions[TopicPartition("list", 0)] = 20
                return [chunk_of([b'{"x": 1, "y": 0}'] * 3), chunk_of([b'{"x": 2, "y": 0}'], first_offset=19)]
            return []

    built, model, _ = service(UntilEnd(Gappy([])))
    built.run()

    assert [1.0, 1.0, 1.0] == model.seen


def test_markers_after_the_last_batch_move_the_position():
    """Offsets without records at the very end, after a batch that was full: the run must not stop short of them."""

    class Marked(ListSource):
        @property
        def exhausted(self):
            return self.positions[TopicPartition("list", 0)] >= 12

        def poll(self, wait_s, records_max):
            if self.positions[TopicPartition("list", 0)] == 0:
                self.positions[TopicPartition("list", 0)] = 10
                return [chunk_of([b'{"x": 1, "y": 0}'] * 10)]
            self.positions[TopicPartition("list", 0)] = 12
            return [replace(chunk_of([], first_offset=10), next_offset=12)]

    built, model, _ = service(Marked([]))
    built.run()

    assert 10 == len(model.seen)
    assert {TopicPartition("list", 0): 12} == built.positions


def test_two_partitions_keep_their_own_positions(tmp_path):
    """And a restart continues each where it was."""
    built, _, _ = service(ListSource(records(40), records(90, seed=9)), tmp_path, stop_after=4)
    built.run()
    again, model_again, _ = service(ListSource(records(40), records(90, seed=9)), tmp_path)
    again.run()

    assert {TopicPartition("list", 0): 40, TopicPartition("list", 1): 90} == again.positions
    assert 130 == again.counts.consumed
    good = [i for v in (records(40), records(90, seed=9)) for i, r in enumerate(v) if r and r != b"{broken"]
    assert sorted(map(float, good)) == sorted(model_again.seen)
