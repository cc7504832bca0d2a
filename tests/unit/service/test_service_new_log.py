"""A topic created again under a running service: positions and the id of their log are never saved apart."""

import json

import pytest
from test_service_crash import Batches, Crash, settle
from test_service_loop import service

from stream_trainer.engine.batcher import BatchPolicy
from stream_trainer.testing.fakes import ListSource, ManualClock, chunk_of
from stream_trainer.types import TopicPartition

TP = TopicPartition("list", 0)
POLICY = BatchPolicy(records_max=10, age_s_max=None)
OLD = [json.dumps({"x": i, "y": True}).encode() for i in range(25)]
NEW = [json.dumps({"x": 1_000 + i, "y": False}).encode() for i in range(40)]


class Replaced(ListSource):
    """25 records of log `a`, then log `b` from `begin` on. A second passes with every poll, so saves are due."""

    def __init__(self, clock, begin):
        super().__init__(NEW)
        self._clock, self._begin, self._n_polls = clock, begin, 0
        self.topic_ids = {"list": "a"}

    def start(self, positions, topic_ids=None):
        self.positions = {TP: (positions or {}).get(TP, 0)}
        return dict(self.positions)

    @property
    def exhausted(self):
        return self.topic_ids == {"list": "b"} and super().exhausted

    def poll(self, wait_s, records_max):
        self._clock.advance(1.0)
        settle()
        self._n_polls += 1
        if self._n_polls == 1:
            return [chunk_of(OLD, partition=TP)]
        if self._n_polls == 2:
            self.topic_ids = {"list": "b"}
            self.positions[TP] = self._begin
            return [chunk_of([], first_offset=self._begin, partition=TP)]
        return super().poll(wait_s, records_max)


def learned_of(snapshot):
    """(id, x of what the model knows of the old log, of the new one)."""
    seen = [int(x) for x in snapshot.parts["models/m"].values["seen"]]
    return snapshot.topic_ids["list"], [x for x in seen if x < 1_000], [x - 1_000 for x in seen if x >= 1_000]


def test_no_checkpoint_gives_a_position_in_the_old_log_the_id_of_the_new_one(tmp_path):
    """Old records wait for their batch while the topic is replaced; a crash after such a save would lose new ones."""
    clock = ManualClock()
    built, _, remarks = service(Replaced(clock, begin=0), tmp_path, policy=POLICY, every_s=0.0, clock=clock)
    built.run()

    saved = [(*learned_of(saved.snapshot), saved.snapshot.positions[TP]) for saved in remarks.saves]
    assert {"a", "b"} == {id for id, *_ in saved}
    for id, of_old, of_new, position in saved:
        assert (position if id == "a" else 25) == len(of_old)
        assert (0 if id == "a" else position) == len(of_new)
    assert [float(i) for i in range(25)] + [1_000.0 + i for i in range(40)] == built.trainer.models["m"].seen


def test_cuts_of_a_log_that_is_no_more_are_not_made_again_of_nothing(tmp_path):
    """`latest`: the new log is longer than our position, so no offset tells; its id does."""

    def life(n_records, id, begin=0, **options):
        source = ListSource((NEW * 2)[:n_records], per_poll=5)
        source.topic_ids, source.go_on = {"list": id}, True
        start = source.start
        source.start = lambda positions, topic_ids=None: start({TP: begin} if begin else positions)
        return service(source, tmp_path, policy=POLICY, **options)[0]

    life(30, "a", stop_after=2, model=Batches()).run()
    with pytest.raises(Crash):
        life(30, "a", model=Batches(crash_in_batch=3)).run()  # its cut, [20, 30), is in the journal
    again = life(60, "b", begin=50, model=Batches())
    again.run()

    [accepted] = again.source.accepted
    assert "the journal (step 3) names records of a log that is no more" in str(accepted)
    assert {TP: 60} == again.positions
    assert 30 == again.counts.consumed
