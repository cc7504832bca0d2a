"""Each promise broken on purpose, in the real code: the stories must find it, or they guard nothing.

When it was written each was found within 44 seeds.
"""

import os
from contextlib import contextmanager

import pytest

from stream_trainer.checkpoints import BatchJournal, local_store
from stream_trainer.checkpoints.local_store import LocalStore
from stream_trainer.service.loop import Service
from stream_trainer.streams.dead_letter_file import FileDeadLetters
from stream_trainer.testing.simulation import StoryBroken, simulate

SEEDS = 60


def commit_before_save(monkeypatch):
    """Kafka is told of positions that no checkpoint holds yet."""
    start_save = Service._start_save

    def mutant(self):
        self.source.commit(self.positions)
        start_save(self)

    monkeypatch.setattr(Service, "_start_save", mutant)


def journal_after_learning(monkeypatch):
    """The cut is written down when it is too late."""
    append, learn = BatchJournal.append, Service._learn
    late = []

    def mutant(self, raw):
        learn(self, raw)
        for arguments in late:
            append(*arguments)
        late.clear()

    monkeypatch.setattr(
        BatchJournal, "append", lambda self, step, raw, positions: late.append((self, step, raw, dict(positions)))
    )
    monkeypatch.setattr(Service, "_learn", mutant)


def no_fsync_of_files(monkeypatch):
    """The name of a checkpoint may survive a power cut that its bytes do not."""

    def mutant(self, descriptor, chunks):
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                file.write(chunk)

    monkeypatch.setattr(LocalStore, "_fill", mutant)


def no_fsync_of_the_directory(monkeypatch):
    """The rename is not safe when Kafka is told."""
    fsync = local_store.fsync
    monkeypatch.setattr(local_store, "fsync", lambda path: None if path.name == "state" else fsync(path))


def no_fsync_of_the_journal(monkeypatch):
    """A checkpoint whose batches nobody can cut again."""
    monkeypatch.setattr(BatchJournal, "sync", lambda self: None)


def no_flush_of_dead_letters(monkeypatch):
    """The checkpoint passes records that are nowhere."""
    monkeypatch.setattr(FileDeadLetters, "flush", lambda self: None)


def name_before_content(monkeypatch):
    """A checkpoint has its name before it is whole."""

    @contextmanager
    def mutant(self, name):
        (self.path / name).mkdir(mode=0o700)
        yield name
        local_store.fsync(self.path / name)
        local_store.fsync(self.path)

    monkeypatch.setattr(LocalStore, "publishing", mutant)


def positions_forgotten(monkeypatch):
    """The state goes on, and reading begins where Kafka's log begins."""
    resume = Service.resume

    def mutant(self, snapshot, positions, cuts):
        resume(self, snapshot, positions, cuts)
        self.positions.clear()

    monkeypatch.setattr(Service, "resume", mutant)


def journal_ignored(monkeypatch):
    """After a crash batches are cut as they come."""
    resume = Service.resume
    monkeypatch.setattr(
        Service, "resume", lambda self, snapshot, positions, cuts: resume(self, snapshot, positions, ())
    )


def saved_in_the_middle_of_a_batch(monkeypatch):
    """The state of no position."""
    learn = Service._learn

    def mutant(self, raw):
        self.positions.update(raw.next_offsets)
        if self.checkpoints and not self._writer.busy:
            self._start_save()
        learn(self, raw)

    monkeypatch.setattr(Service, "_learn", mutant)


def drift_not_restored(monkeypatch):
    """A part that was captured and never put back."""
    from stream_trainer.engine.drift_monitor import DriftMonitor

    monkeypatch.setattr(DriftMonitor, "restore", lambda self, state: None)


def half_a_row_in_the_next_segment(monkeypatch):
    """What a full disk did not take is forgotten to be of the old segment: a bug that was there."""
    monkeypatch.setattr(BatchJournal, "_refuse_unwritten", lambda self: None)


@pytest.mark.parametrize(
    "mutation",
    [
        commit_before_save,
        journal_after_learning,
        no_fsync_of_files,
        no_fsync_of_the_directory,
        no_fsync_of_the_journal,
        no_flush_of_dead_letters,
        name_before_content,
        positions_forgotten,
        journal_ignored,
        saved_in_the_middle_of_a_batch,
        drift_not_restored,
        half_a_row_in_the_next_segment,
    ],
    ids=lambda mutation: mutation.__name__,
)
def test_a_broken_promise_is_found(monkeypatch, mutation):
    """By a story whose seed can be told again."""
    mutation(monkeypatch)

    with pytest.raises(StoryBroken):
        _tell_all()


def _tell_all():
    for seed in range(SEEDS):
        simulate(seed)
