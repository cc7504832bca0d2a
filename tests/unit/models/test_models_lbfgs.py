"""L-BFGS asks for the loss of a batch again and again; the rest of the model must not notice, and no step may harm."""

import json

import numpy as np
import pytest
import torch
from models_stream import MIXED, NUMBERS, REGRESSION, cut, part, records

from stream_trainer.models import TorchModel, TorchOptions, state_sha256
from stream_trainer.types import State

SMALL = {"lbfgs": {"max_iter": 5, "history_size": 3}}
OVERSHOOTING = {"lbfgs": {"lr": 1e4, "max_iter": 2, "line_search_fn": None}}


def build(schema=MIXED, optimizer=SMALL, **options):
    return TorchModel(
        schema, TorchOptions(**{"hidden": (16, 8), "norm": "layer", "seed": 3, "optimizer": optimizer, **options})
    )


def as_saved(state: State) -> State:
    arrays = {name: torch.as_tensor(array).clone() for name, array in state.arrays.items()}
    return State(arrays=arrays, values=json.loads(json.dumps(state.values)))


def buffers(model):
    return {name: buffer.clone() for name, buffer in model.network.named_buffers()}


@pytest.mark.parametrize("schema", [NUMBERS, REGRESSION], ids=["classes", "number"])
def test_large_batches_are_learned_in_few_steps(schema):
    """What it is for: some hundred records, from which curvature can be told."""
    model, data = build(schema), records(schema, 5_120)
    losses = [model.learn(batch).loss for batch in cut(data, [256])]

    assert np.mean([loss for loss in losses[-5:] if loss is not None]) < 0.6 * losses[0]


@pytest.mark.parametrize("norm", ["batch_renorm", "adaptive_batch_renorm", "online", "continual"])
def test_norm_moments_move_once_a_batch_as_with_any_optimizer(norm):
    """Moved by every evaluation, a memory counted in records would forget five times as fast."""
    by_lbfgs, by_sgd = build(norm=norm), build(norm=norm, optimizer="sgd", step_records_max=None)
    for model in (by_lbfgs, by_sgd):
        assert model.learn(records(MIXED, 64)).skipped is None

    for name, buffer in buffers(by_sgd).items():
        assert torch.equal(buffer, buffers(by_lbfgs)[name]), name


@pytest.mark.parametrize("norm", ["layer", "adaptive_batch_renorm"])
@pytest.mark.parametrize("lr", [1e4, 1e30])
def test_a_step_that_raises_the_loss_of_its_batch_never_happened(norm, lr):
    """Too high, or not finite: weights, moments, scales and the optimizer's memory are as before."""
    model = build(norm=norm, optimizer={"lbfgs": {"lr": 0.1, "max_iter": 2, "line_search_fn": None}})
    data = records(MIXED, 90)
    assert model.learn(part(data, 0, 40)).skipped is None
    model.optimizer.param_groups[0]["lr"] = lr
    before = state_sha256(model.capture())
    report = model.learn(part(data, 40, 90))

    assert ("worse", None) == (report.skipped, report.loss)
    assert before == state_sha256(model.capture())
    model.optimizer.param_groups[0]["lr"] = 0.1
    assert model.learn(part(data, 40, 90)).skipped is None


def test_a_handful_of_records_is_not_learned_from():
    """Fitted perfectly they ruin the rest: after 200 single records, 5,000 in proper batches did not mend the model."""
    model, data = build(NUMBERS), records(NUMBERS, 5_120)
    model.learn(part(data, 0, 16))
    before = state_sha256(model.capture())
    reports = [model.learn(part(data, 16, 16 + n)) for n in range(1, 16)]
    assert ["too_few"] * 15 == [report.skipped for report in reports]
    assert before == state_sha256(model.capture())
    for batch in cut(part(data, 16, 5_120), [256]):
        model.learn(batch)
    test = records(NUMBERS, 1_000, seed=1)

    assert (model.predict(test).argmax(axis=1) != test.y_N).mean() < 0.1


@pytest.mark.parametrize("norm", ["layer", "adaptive_batch_renorm"])
@pytest.mark.parametrize("learned", [0, 1, 9])
def test_a_restored_twin_goes_on_with_the_same_history(norm, learned):
    """Lists of tensors are part of its memory; before the first step there are none."""
    batches = list(cut(records(MIXED, 900), [64, 20, 41]))
    model, twin = build(norm=norm, dropout=0.2), build(norm=norm, dropout=0.2)
    for batch in batches[:learned]:
        model.learn(batch)
    twin.restore(as_saved(model.capture()))

    assert state_sha256(model.capture()) == state_sha256(twin.capture())
    assert [model.learn(batch) for batch in batches[learned:]] == [twin.learn(batch) for batch in batches[learned:]]
    assert state_sha256(model.capture()) == state_sha256(twin.capture())


def test_a_captured_history_does_not_change_when_learning_goes_on():
    """A checkpoint is written while the next batches are learned."""
    model, batches = build(), list(cut(records(MIXED, 600), [100]))
    for batch in batches[:3]:
        model.learn(batch)
    state = model.capture()
    before = state_sha256(state)
    for batch in batches[3:]:
        model.learn(batch)

    assert before == state_sha256(state)


def test_it_searches_along_the_line_unless_told_otherwise():
    """Torch's default is a fixed step, which overshoots."""
    assert build().optimizer.param_groups[0]["line_search_fn"] == "strong_wolfe"
    assert build(optimizer=OVERSHOOTING).optimizer.param_groups[0]["line_search_fn"] is None
