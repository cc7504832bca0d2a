"""Saving, seen from the loop: in every kind of store, when it fails, and when somebody else has taken over."""

import shutil
import uuid

import fsspec
import pytest
from test_service_crash import settle
from test_service_loop import Remembering, records, service

from stream_trainer.checkpoints import CheckpointDirectory
from stream_trainer.engine.batcher import BatchPolicy
from stream_trainer.engine.lifecycle import LifecycleState
from stream_trainer.errors import CheckpointError, DeadLettersWait, Fenced
from stream_trainer.service.config import check_config
from stream_trainer.service.rebuild import rebuild
from stream_trainer.service.runs import run_service
from stream_trainer.testing.fakes import ListSource, ManualClock, MemoryDeadLetters

POLICY = BatchPolicy(records_max=10, age_s_max=None)


class Ticking(ListSource):
    """A second passes with every poll; a save is done by the next one."""

    def __init__(self, values, clock):
        super().__init__(values)
        self.clock = clock

    def poll(self, wait_s, records_max):
        self.clock.advance(1.0)
        settle()
        return super().poll(wait_s, records_max)


def ticking(tmp_path, *, every_s=0.0, model=None, **options):
    clock = ManualClock()
    built, model, remarks = service(
        Ticking(records(400), clock), tmp_path, policy=POLICY, every_s=every_s, clock=clock, model=model
    )
    for name, value in options.items():
        setattr(built, name, value)
    return built, model, remarks


def failing(directory: CheckpointDirectory, n: int, monkeypatch) -> None:
    """The first `n` saves fail."""
    real, calls = directory.save, []

    def save(snapshot, **options):
        calls.append(snapshot)
        if len(calls) <= n:
            raise OSError(28, "No space left on device")
        return real(snapshot, **options)

    monkeypatch.setattr(directory, "save", save)


def test_saves_that_fail_are_tried_again_and_counted_while_learning_goes_on(tmp_path, monkeypatch):
    """A full disk is no reason to stop learning; nothing is committed until a save succeeds."""
    built, model, remarks = ticking(tmp_path)
    failing(built.checkpoints, 3, monkeypatch)
    built.run()

    assert LifecycleState.STOPPED == remarks.states[-1]
    assert [True] * 3 == [saved.error is not None for saved in remarks.saves[:3]]
    assert remarks.saves[3].error is None
    assert len(remarks.saves[3].snapshot.parts) > 0
    assert built.source.committed[0] == remarks.saves[3].snapshot.positions
    again, restored, _ = ticking(tmp_path)
    again.run()
    assert model.seen == restored.seen


def test_a_failed_save_is_tried_again_soon_even_where_saves_are_rare(tmp_path, monkeypatch):
    """Every hour as a rule; a save that failed must not cost another hour."""
    built, _, remarks = ticking(tmp_path, every_s=20.0)
    failing(built.checkpoints, 1, monkeypatch)
    times_s = []
    monkeypatch.setattr(remarks, "saved", lambda saved: times_s.append(built.clock.monotonic_s()))
    built.run()

    assert times_s[1] - times_s[0] < 20.0


def test_the_run_ends_when_the_configuration_says_that_too_many_failed(tmp_path, monkeypatch):
    """`checkpoint.failures_max`: for whoever would rather restart elsewhere than learn what is never kept."""
    built, _, remarks = ticking(tmp_path, _failures_max=2)
    failing(built.checkpoints, 99, monkeypatch)
    with pytest.raises(CheckpointError, match=r"2 checkpoints in a row could not be saved, .*failures_max"):
        built.run()

    assert LifecycleState.FAILED == remarks.states[-1]


def test_one_that_was_overtaken_stops_with_its_exit_code_and_the_other_goes_on(tmp_path):
    """As after SIGSTOP and SIGCONT: it learns on until its next save, and no word of that is kept."""

    class Overtaken(Remembering):
        def learn(self, batch):
            if len(self.seen) > 100 and not taken:
                other = CheckpointDirectory(tmp_path, identity={}, versions={})
                other.open(take_over=True)
                taken.append(other.load_newest().counts.batches)
                other.close()
            return super().learn(batch)

    taken = []
    built, _, remarks = ticking(tmp_path, model=Overtaken())
    with pytest.raises(Fenced, match="was taken over") as fenced:
        built.run()

    assert 6 == fenced.value.exit_code
    assert LifecycleState.FAILED == remarks.states[-1]
    assert taken[0] <= CheckpointDirectory(tmp_path, identity={}, versions={}).load_newest().counts.batches
    again, model, _ = ticking(tmp_path)
    again.run()
    good = [float(i) for i, value in enumerate(records(400)) if value and value != b"{broken"]
    assert good == model.seen


def test_topic_ids_of_the_source_go_into_the_checkpoint(tmp_path):
    """So that a topic that was created again is known by its id."""
    built, _, _ = ticking(tmp_path)
    built.source.topic_ids = {"list": "00ff"}
    built.run()

    assert {"list": "00ff"} == CheckpointDirectory(tmp_path, identity={}, versions={}).load_newest().topic_ids


# ---------------------------------------------------------------- whole runs in an object store


@pytest.fixture(params=["file", "memory"])
def bucket(request, tmp_path):
    """The address of an empty object store."""
    if request.param == "file":
        yield f"file://{tmp_path}/bucket"
    else:
        address = f"memory://{uuid.uuid4().hex}"
        yield address
        fsspec.filesystem("memory").rm(address, recursive=True)


def run_in(place, tmp_path, **changes):
    values = {
        "name": "stored",
        "source": {"file": {"path": str(tmp_path / "records.jsonl")}},
        "schema": {"features": {"amount": "number", "country": {"category": 16}}, "target": {"fraud": "binary"}},
        "batch": {"records_max": 32, "age_s_max": None},
        "models": {
            "mlp": {"torch": {"net": "mlp", "hidden": [16, 8], "dropout": 0.1}},
            "tree": {"river": {"estimator": "river.tree.HoeffdingTreeClassifier"}},
        },
        "checkpoint": {"directory": place, "every_s": 0.05, "trusted": True},
        "dead_letters": {"file": str(tmp_path / "dead.jsonl")},
        "telemetry": None,
    }
    return check_config(values | changes, "test")


def test_a_run_in_an_object_store_stops_and_goes_on_with_the_same_bits(bucket, tmp_path, events):
    """The same state as a run that never stopped, beside a disk; and the journal there rebuilds it."""
    lines = tmp_path / "records.jsonl"
    lines.write_bytes(b"\n".join(events[:3_000]) + b"\n")
    whole = run_service(run_in(str(tmp_path / "disk"), tmp_path))
    lines.write_bytes(b"\n".join(events[:1_600]) + b"\n")  # a whole number of batches
    run_service(run_in(bucket, tmp_path))
    lines.write_bytes(b"\n".join(events[:3_000]) + b"\n")
    continued = run_service(run_in(bucket, tmp_path))

    assert 3_000 == continued["records_learned"]
    assert {name: model["state_sha256"] for name, model in whole["models"].items()} == {
        name: model["state_sha256"] for name, model in continued["models"].items()
    }
    rebuilt = rebuild(run_in(bucket, tmp_path), bucket)
    assert {"mlp": True, "tree": True} == rebuilt["rebuilt"]["equal"]


def test_an_object_store_wants_a_word_of_trust_and_a_place_for_dead_letters(tmp_path):
    """What a disk answers by itself has to be said."""
    with pytest.raises(Exception, match="an object store does not say who else may write it"):
        run_in("memory://x", tmp_path, checkpoint={"directory": "memory://x"})
    (tmp_path / "records.jsonl").write_bytes(b"")
    with pytest.raises(Exception, match=r"Say dead_letters\.file or dead_letters\.topic"):
        run_service(run_in("memory://x", tmp_path, dead_letters=None))


def test_a_copy_of_the_bucket_is_a_directory(tmp_path, events):
    """The way back to a disk: copy the objects, change the address."""
    lines = tmp_path / "records.jsonl"
    lines.write_bytes(b"\n".join(events[:320]) + b"\n")
    run_service(run_in(f"file://{tmp_path}/bucket", tmp_path))
    shutil.copytree(tmp_path / "bucket", tmp_path / "disk")
    (tmp_path / "disk").chmod(0o700)
    lines.write_bytes(b"\n".join(events[:640]) + b"\n")

    assert 640 == run_service(run_in(str(tmp_path / "disk"), tmp_path))["records_learned"]


class Away(MemoryDeadLetters):
    """Its first `n` flushes find nobody there."""

    def __init__(self, n):
        super().__init__()
        self.n = n

    def flush(self):
        self.n -= 1
        if self.n >= 0:
            raise DeadLettersWait("the topic of dead letters is away")
        super().flush()


def test_dead_letters_that_wait_hold_back_the_checkpoint_and_nothing_else(tmp_path):
    """Their topic is away while ours is not: learning goes on, and no save promises what is not safe."""
    built, _, remarks = ticking(tmp_path, dead_letters=(letters := Away(3)))
    built.run()

    assert [True] * 3 == [isinstance(saved.error, DeadLettersWait) for saved in remarks.saves[:3]]
    assert all(saved.error is None for saved in remarks.saves[3:])
    assert built.source.committed[0] == remarks.saves[3].snapshot.positions
    assert letters.flushed == len(letters.written) > 0
    assert 400 == built.counts.consumed


def test_dead_letters_that_wait_for_too_long_end_the_run_as_other_saves_do(tmp_path):
    """`checkpoint.failures_max`; what was learned is not saved then, for its rejects are nowhere."""
    built, _, _ = ticking(tmp_path, dead_letters=Away(1_000), _failures_max=2)
    with pytest.raises(CheckpointError, match=r"2 checkpoints in a row .*the topic of dead letters is away"):
        built.run()

    assert CheckpointDirectory(tmp_path, identity={}, versions={}).load_newest() is None
