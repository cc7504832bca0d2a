"""A service that dies without a word: the next one learns the same batches, and the state is the same in every bit."""

import re
import threading
from itertools import cycle

import pytest
from test_service_loop import Remembering, records, service

from stream_trainer.checkpoints import BatchJournal
from stream_trainer.engine.batcher import BatchPolicy
from stream_trainer.errors import DataLost
from stream_trainer.testing.fakes import ListSource, ManualClock, chunk_of
from stream_trainer.types import State

POLICY = BatchPolicy(records_max=1_000, age_s_max=1.0)


class Crash(BaseException):
    """As kill -9 does: nobody saves, nobody closes."""


class Batches(Remembering):
    """Remembers not only the records but the batches: another cut is another state."""

    def __init__(self, crash_in_batch=None):
        super().__init__()
        self.batches, self.crash_in_batch = [], crash_in_batch

    def learn(self, batch):
        self.batches.append(batch.x_NF[:, 0].tolist())
        if len(self.batches) == self.crash_in_batch:
            raise Crash
        return super().learn(batch)

    def capture(self):
        return State(values={"seen": list(self.seen), "batches": [list(b) for b in self.batches]})

    def restore(self, state):
        super().restore(state)
        self.batches = [list(b) for b in state.values["batches"]]


def settle():
    """Let a save under way end, or chance decides whether it comes before the crash."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint-writer":
            thread.join()


def partitions(per_poll, clock, ticks):
    """Two partitions whose polls take `ticks` seconds, in turn: age cuts wherever time says so."""
    pace = cycle(ticks)

    class Slow(ListSource):
        def poll(self, wait_s, records_max):
            clock.advance(next(pace))
            settle()
            return super().poll(wait_s, records_max)

    return Slow(records(150), records(170, seed=9), per_poll=per_poll)


def crash(tmp_path, *, in_batch, every_s, per_poll=7, ticks=(0.3, 0.9, 0.1)):
    clock = ManualClock()
    model = Batches(crash_in_batch=in_batch)
    source = partitions(per_poll, clock, ticks)
    built, _, _ = service(source, tmp_path, policy=POLICY, every_s=every_s, model=model, clock=clock)
    with pytest.raises(Crash):
        built.run()
    settle()
    return model, max((int(path.name[-12:]) for path in tmp_path.glob("checkpoint-*")), default=0)


@pytest.mark.parametrize("every_s", [2.0, 1e9], ids=["with a checkpoint", "before the first checkpoint"])
def test_after_a_crash_the_batches_are_those_of_the_journal(tmp_path, every_s):
    """Cut by age, read again in other pieces at another pace: the state is that of the first cut, bit for bit."""
    died, saved_step = crash(tmp_path, in_batch=12, every_s=every_s)
    clock = ManualClock()
    model = Batches()
    built, _, again = service(
        partitions(31, clock, (0.01, 2.0)), tmp_path, policy=POLICY, every_s=every_s, model=model, clock=clock
    )
    built.run()

    assert (every_s < 1e9) == (saved_step > 0)
    assert died.batches == model.batches[:12]
    assert len(set(map(len, died.batches))) > 1, "or a cut by count would pass, too"
    assert (320, built.counts.learned) == (built.counts.consumed, len(model.seen))
    assert len(again.reports) == built.counts.batches - saved_step


def test_a_second_crash_and_a_stop_while_cutting_again_change_nothing(tmp_path):
    """The journal rules until its last row, however many lives that takes."""
    died, _ = crash(tmp_path, in_batch=12, every_s=1e9)
    again, _ = crash(tmp_path, in_batch=5, every_s=1e9, per_poll=40, ticks=(0.0,))
    clock = ManualClock()
    stopped, model, _ = service(
        partitions(90, clock, (0.0,)), tmp_path, policy=POLICY, model=Batches(), clock=clock, stop_after=7
    )
    stopped.run()
    last, last_model, _ = service(partitions(3, clock, (5.0,)), tmp_path, policy=POLICY, model=Batches(), clock=clock)
    last.run()

    assert died.batches[:5] == again.batches
    assert died.batches[:7] == model.batches
    assert died.batches == last_model.batches[:12]
    assert 320 == last.counts.consumed


def test_saving_does_not_change_what_is_learned(tmp_path):
    """The state is a function of configuration and batches only: a save after every batch, or none."""
    states = []
    for every_s in (0.0, 1e9):
        clock = ManualClock()
        built, model, _ = service(
            partitions(7, clock, (0.3, 0.9)),
            tmp_path / str(every_s),
            policy=POLICY,
            every_s=every_s,
            model=Batches(),
            clock=clock,
        )
        built.run()
        states.append((model.capture(), built.trainer.prequential.capture().values, built.counts))

    assert states[0] == states[1]


def test_the_journal_names_every_batch(tmp_path):
    """One row per batch, each before it was learned."""
    died, _ = crash(tmp_path, in_batch=9, every_s=1e9)
    _, cuts = BatchJournal(tmp_path / "journal").cuts()

    assert list(range(1, 10)) == [cut.step for cut in cuts]
    assert 9 == len(died.batches)


def test_a_log_that_lost_its_end_is_not_learned_in_silence(tmp_path):
    """The records that were learned before the crash are gone: exit code 3, and the way out is in the message."""
    crash(tmp_path, in_batch=12, every_s=1e9)
    shorter = ListSource(records(150)[:20], records(170, seed=9))
    built, _, _ = service(shorter, tmp_path, policy=POLICY, model=Batches())
    with pytest.raises(DataLost, match="move the directory journal, beside the checkpoints, away"):
        built.run()


def test_with_the_operator_s_word_it_goes_on_with_what_is_left(tmp_path):
    """`lost_data: earliest`: the batches that can be cut again are; the journal forgets those that cannot."""
    died, _ = crash(tmp_path, in_batch=12, every_s=1e9)
    shorter = ListSource(records(150)[:20], records(170, seed=9))
    shorter.go_on = True
    built, model, _ = service(shorter, tmp_path, policy=POLICY, model=Batches())
    built.run()

    assert 1 == len(shorter.accepted)
    step = int(re.search(r"\(step (\d+)\)", str(shorter.accepted[0]))[1])
    assert died.batches[: step - 1] == model.batches[: step - 1]
    assert 190 == built.counts.consumed
    _, cuts = BatchJournal(tmp_path / "journal").cuts()
    assert 190 == sum(cut.n_records for cut in cuts)


def test_a_restart_holds_one_partition_back_while_another_is_missed(tmp_path, monkeypatch):
    """Memory: a source that brings all of one partition first is told to pause it, and all batches are the same."""
    monkeypatch.setattr("stream_trainer.engine.recut.WAITING_BYTES_MAX", 1_000)
    died, _ = crash(tmp_path, in_batch=15, every_s=1e9)
    waiting = []

    class Greedy(ListSource):
        """Reads a partition to its end before the next, unless it is paused."""

        def poll(self, wait_s, records_max):
            waiting.append(getattr(built.batcher, "bytes_waiting", 0))
            for partition, end in self.end_offsets().items():
                first = self.positions[partition]
                if first < end and partition not in self.paused:
                    self.positions[partition] = min(end, first + 3)
                    values = self._values[partition][first : first + 3]
                    return [chunk_of(values, first_offset=first, partition=partition)]
            return []

    built, model, _ = service(Greedy(records(150), records(170, seed=9)), tmp_path, policy=POLICY, model=Batches())
    built.run()

    assert died.batches[:14] == model.batches[:14]
    assert 320 == built.counts.consumed
    assert max(waiting) < 1_000 + 6_000, "the bound and what one batch needs; 150 records cost 30,000 and more"
