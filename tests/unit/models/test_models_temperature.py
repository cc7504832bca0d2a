"""How sure a network says it is: learned from answers given before learning, and never which class it names."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models_stream import MIXED, NUMBERS, REGRESSION, cut, part, records

from stream_trainer.models import TorchModel, TorchOptions, state_sha256
from stream_trainer.models.temperature import LOG_SCALE_MAX, LOG_SCALE_MIN, PRIOR, PULL, Temperature
from stream_trainer.types import State


def build(schema=MIXED, **options):
    return TorchModel(schema, TorchOptions(**{"hidden": (16, 8), "norm": "layer", "seed": 3, **options}))


def log_loss(p_NK, y_N):
    return float(-np.log(p_NK[np.arange(len(y_N)), y_N]).mean())


@given(seed=st.integers(0, 99), n_classes=st.integers(2, 6), log_scale=st.floats(-1.5, 0.7))
def test_a_step_is_fisher_scoring_on_the_log_loss(seed, n_classes, log_scale):
    """Slope and curvature against autograd, to the last digits."""
    random = np.random.default_rng(seed)
    outputs_NK, y_N = random.normal(size=(40, n_classes)) * 3, random.integers(n_classes, size=40)
    temperature = Temperature()
    temperature.log_scale = log_scale
    temperature.observe(outputs_NK, y_N)

    a = torch.tensor(log_scale, dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(
        torch.from_numpy(outputs_NK) * a.exp(), torch.from_numpy(y_N), reduction="sum"
    )
    (graph,) = torch.autograd.grad(loss, a, create_graph=True)
    slope = graph.item()
    # Fisher information in place of the second derivative: the part of it that is never negative.
    curvature = torch.autograd.grad(graph, a)[0].item() - slope
    expected = log_scale - (slope + 40 * PULL * log_scale) / (PRIOR + curvature + 40 * PULL)
    assert temperature.curvature == pytest.approx(curvature, rel=1e-9, abs=1e-9)
    assert temperature.log_scale == pytest.approx(min(LOG_SCALE_MAX, max(LOG_SCALE_MIN, expected)), rel=1e-9)


@pytest.mark.parametrize(("truth", "said"), [(1.0, 3.0), (1.5, 1.0)], ids=["too sure", "not sure enough"])
def test_it_finds_the_factor_that_is_true(truth, said):
    """Labels drawn by one scale, answers given at another: the factor is their ratio."""
    random = np.random.default_rng(5)
    z_NK = random.normal(size=(20_000, 3))
    p_NK = np.exp(truth * z_NK) / np.exp(truth * z_NK).sum(axis=1, keepdims=True)
    y_N = (random.random((len(z_NK), 1)) > p_NK.cumsum(axis=1)).sum(axis=1)
    temperature = Temperature()
    for start in range(0, len(z_NK), 50):
        temperature.observe(said * z_NK[start : start + 50], y_N[start : start + 50])

    assert np.exp(temperature.log_scale) == pytest.approx(truth / said, rel=0.15)


@pytest.mark.parametrize(("size", "apart"), [(7, 0.01), (64, 0.05), (500, 0.2)])
def test_how_records_are_cut_hardly_matters(size, apart):
    """Counted in records, like everything that remembers."""
    random = np.random.default_rng(1)
    z_NK = random.normal(size=(4_000, 2)) * 4
    y_N = (random.random(len(z_NK)) < 0.5 + 0.2 * np.sign(z_NK[:, 1] - z_NK[:, 0])).astype(int)
    by_cut, singly = Temperature(), Temperature()
    for start in range(0, len(z_NK), size):
        by_cut.observe(z_NK[start : start + size], y_N[start : start + size])
    for i in range(len(z_NK)):
        singly.observe(z_NK[i : i + 1], y_N[i : i + 1])

    assert by_cut.log_scale == pytest.approx(singly.log_scale, abs=apart)
    assert singly.log_scale < -0.8


@given(seed=st.integers(0, 99), scale=st.sampled_from([0.0, 1e-9, 1.0, 1e3, 1e12]))
def test_whatever_it_is_shown_it_stays_finite_and_names_the_same_class(seed, scale):
    """Outputs of all sizes, always right or always wrong."""
    random = np.random.default_rng(seed)
    z_NK = random.normal(size=(30, 4)) * scale
    temperature = Temperature()
    for y_N in (z_NK.argmax(axis=1), z_NK.argmin(axis=1)):
        for _ in range(50):
            temperature.observe(z_NK, y_N)
            p_NK = temperature.probabilities(z_NK)

            assert LOG_SCALE_MIN <= temperature.log_scale <= LOG_SCALE_MAX
            np.testing.assert_allclose(p_NK.sum(axis=1), 1, rtol=1e-12)
            assert (p_NK.max(axis=1) == p_NK[np.arange(30), z_NK.argmax(axis=1)]).all()


def test_asking_leaves_no_trace():
    """The outputs kept from a question are those that learning would have found; stale ones are not used."""
    asked, silent, data = build(), build(), records(MIXED, 200)
    for batch in cut(data, [40]):
        asked.predict(batch)
        asked.learn(batch)
        silent.learn(batch)
    assert state_sha256(asked.capture()) == state_sha256(silent.capture())

    late = part(data, 0, 40)
    asked.predict(late)
    for model in (asked, silent):
        model.learn(part(data, 40, 80))
        model.learn(late)
    assert state_sha256(asked.capture()) == state_sha256(silent.capture())
    assert asked._temperature.log_scale != 0


def test_a_batch_that_is_not_learned_does_not_count():
    """Nothing of it may be left, this number included."""
    model, data = build(), records(MIXED, 60)
    model.learn(part(data, 0, 30))
    before = state_sha256(model.capture())
    hook = next(iter(model.network.parameters())).register_hook(lambda gradient: gradient * float("nan"))
    assert model.learn(part(data, 30, 60)).skipped == "non_finite"
    hook.remove()

    assert before == state_sha256(model.capture())


def test_a_checkpoint_has_it_and_one_from_before_begins_with_one():
    """Old states load for ever."""
    model, data = build(), records(MIXED, 300)
    for batch in cut(data, [30]):
        model.learn(batch)
    state, again, older = model.capture(), build(), build()
    again.restore(state)
    values = {name: value for name, value in state.values.items() if name != "temperature"}
    older.restore(State(arrays=state.arrays, values=values))

    np.testing.assert_array_equal(model.predict(data), again.predict(data))
    assert older._temperature.capture() == Temperature().capture()
    assert not np.array_equal(model.predict(data), older.predict(data))


def test_numbers_have_none():
    """A temperature is for probabilities."""
    model = build(REGRESSION)
    model.learn(records(REGRESSION, 50))

    assert model._temperature.capture() == Temperature().capture()


def test_a_network_that_is_too_sure_says_so():
    """What it is for: a world that has moved on by the time that the labels of a batch are there."""
    data = records(NUMBERS, 4_000)
    data.y_N[:] = data.y_N ^ (np.arange(4_000) // 300 % 2)
    told = {}
    for calibrated in (True, False):
        model = build(NUMBERS, calibrated=calibrated, optimizer={"stream_adamw": {"lr": 0.005}})
        losses = []
        for batch in cut(data, [200]):
            losses.append(log_loss(model.predict(batch), batch.y_N))
            model.learn(batch)
        told[calibrated] = np.mean(losses)

    assert told[True] < told[False] - 0.02


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_model_reports_the_factor_that_it_will_answer_with(calibrated):
    """None where outputs are taken as they are."""
    model = build(calibrated=calibrated)
    scale = model.learn(records(MIXED, 50)).output_scale
    log_scale = model.capture().values["temperature"]["log_scale"]

    assert scale == (pytest.approx(np.exp(log_scale)) if calibrated else None)
    assert calibrated == (log_scale != 0.0)
