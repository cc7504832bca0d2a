"""A snapshot whose large copies are made beside the next batch is the snapshot of this one."""

import threading

import pytest
import torch
from models_stream import MIXED, cut, records

from stream_trainer.checkpoints import BackgroundWriter
from stream_trainer.engine.snapshot import capture
from stream_trainer.models import TorchModel, TorchOptions, late_copy, state_sha256
from stream_trainer.types import Counts

OPTIMIZERS = [
    "stream_adamw",
    {"stream_adamw": {"beta1": 0.0}},
    "adam",
    {"sgd": {"lr": 0.05, "momentum": 0.9}},
    "lbfgs",
]


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(late_copy, "LATE_BYTES_MIN", 0)


def learned(optimizer="stream_adamw", n=2):
    model = TorchModel(MIXED, TorchOptions(hidden=(16, 8), optimizer=optimizer, norm="adaptive_batch_renorm", seed=3))
    for batch in cut(records(MIXED, 24 * n), [24] * n):
        model.learn(batch)
    return model


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_learning_fills_in_what_nobody_has_copied_yet(optimizer):
    """The thread that saves may come late: then the copy is made just before the first weight moves."""
    model = learned(optimizer)
    expected = state_sha256(model.capture())
    state, finish = model.capture_late()
    model.learn(records(MIXED, 24, seed=9))
    finish()

    assert expected == state_sha256(state)
    assert expected != state_sha256(model.capture())


def test_a_restore_fills_in_first():
    """Going back writes weights, too."""
    model, other = learned(), learned(n=3)
    expected = state_sha256(model.capture())
    state, finish = model.capture_late()
    model.restore(other.capture())
    finish()

    assert expected == state_sha256(state)


def test_the_next_snapshot_fills_in_the_one_before():
    """Two may be under way where someone beside the saving thread captures."""
    model = learned()
    expected = state_sha256(model.capture())
    first, finish_first = model.capture_late()
    model.capture_late()
    model.learn(records(MIXED, 24, seed=9))
    finish_first()

    assert expected == state_sha256(first)


def test_two_threads_at_the_copy_leave_it_whole():
    """Learning and saving meet at the copy: one does it, the other waits."""
    model = learned()
    for seed in range(100):
        expected = state_sha256(model.capture())
        state, finish = model.capture_late()
        at_once = threading.Barrier(2)

        def save(at_once=at_once, finish=finish):
            at_once.wait()
            finish()

        thread = threading.Thread(target=save)
        thread.start()
        at_once.wait()
        model.learn(records(MIXED, 3, seed=seed))
        thread.join()

        assert expected == state_sha256(state)


def test_the_writer_saves_whole_copies():
    """What goes to the disk is read after the last copy."""
    model, saved = learned(), []
    expected = state_sha256(model.capture())
    writer = BackgroundWriter(lambda snapshot: saved.append(state_sha256(snapshot.parts["mlp"])) or 0, lambda: 0.0)
    writer.start(capture({"mlp": model}, {}, Counts()))

    assert writer.collect(wait=True).error is None
    assert [expected] == saved


def test_no_save_makes_the_initial_weights_again(monkeypatch):
    """That takes longer than the copy, so the first batch pays for it, where everything is slow."""
    model = learned(n=1)
    monkeypatch.setattr(model._initial, "_build", lambda seed: pytest.fail("built in a save"))

    assert not [name for name in model.capture().arrays if name.endswith(".initial")]


def test_what_the_forward_pass_moves_is_copied_at_once():
    """The moments of a norm change before the optimizer's turn, where the late copy ends."""
    model = learned()
    state, _ = model.capture_late()
    moments = {
        name: torch.as_tensor(t).clone()
        for name, t in state.arrays.items()
        if ".moments." in name or "standardiser" in name
    }
    assert moments
    model.network.train()
    with torch.no_grad():
        for seed in range(3):
            model._forward(records(MIXED, 24, seed=seed))

    assert all(torch.equal(t, torch.as_tensor(state.arrays[name])) for name, t in moments.items())
