"""Adaptive batch renormalisation against golden numbers of a float64 oracle, and what the design promises of it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stream_trainer.errors import ConfigError, ShapeError
from stream_trainer.norms import build_norm, freeze
from stream_trainer.norms.decay import half_life_of

pytestmark = pytest.mark.usefixtures("each_path")

GOLDEN = Path(__file__).parents[2] / "golden" / "norms"
CASES = {
    "dense": {"learn_floor": 0.1},
    "dense_no_floor": {"learn_floor": 0.0},
    "dense_raw": {"per_record": "none", "learn_floor": 0.1},
    "sequence": {"learn_floor": 0.1},
    "image": {"dims": 2, "learn_floor": 0.1},
}


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "adaptive_batch_renorm.safetensors")


def golden_layer(case, dtype):
    layer = build_norm(
        "adaptive_batch_renorm",
        8,
        half_life_records_slow=half_life_of(time_constant_records=1024),
        half_life_records_fast=half_life_of(time_constant_records=64),
        **CASES[case],
    ).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2, 8, dtype=torch.float64))
        layer.bias.copy_(torch.linspace(-1, 1, 8, dtype=torch.float64))
    return layer


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-4)])
@pytest.mark.parametrize("case", CASES)
def test_outputs_gradients_and_state_are_those_of_the_oracle(case, dtype, tolerance, golden):
    """The backward pass is shaped, not the derivative of anything: only an independent reckoning can check it."""
    layer = golden_layer(case, dtype)

    def check(name, got):
        expected = golden[f"{case}/{name}"]
        torch.testing.assert_close(
            got.detach().double(), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max())
        )

    for i in range(10):
        x = golden[f"{case}/{i}/x"].to(dtype, copy=True).requires_grad_()
        layer.zero_grad()
        y = layer(x)
        y.backward(golden[f"{case}/{i}/dy"].to(dtype))
        check(f"{i}/y", y)
        check(f"{i}/dx", x.grad)
        check(f"{i}/dweight", layer.weight.grad)
        check(f"{i}/dbias", layer.bias.grad)
        check(f"{i}/mean", layer.moments.mean)
        check(f"{i}/var", layer.moments.var)
        control = layer.read_control()
        got = [control.log_distance, control.correlation, control.usual_n, control.floor_logit, control.floor_power]
        check(f"{i}/scalars", torch.tensor(got, dtype=torch.float64))
    check("eval/y", layer.eval()(golden[f"{case}/eval/x"].to(dtype)))


@pytest.mark.parametrize("cut", [1, 7, 64, 500])
def test_moments_of_both_horizons_do_not_see_the_cut(cut):
    """Promise P1 for the layer: against the whole stream at once, through a drift."""
    x = torch.randn(500, 12, generator=torch.Generator().manual_seed(1))
    x[250:, :6] += 4
    whole, layer = build_norm("adaptive_batch_renorm", 12), build_norm("adaptive_batch_renorm", 12)
    whole(x)
    for batch in x.split(cut):
        layer(batch)

    torch.testing.assert_close(layer.moments.mean, whole.moments.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.moments.var, whole.moments.var, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_tiny_batch_gives_gradient_to_lower_layers(n):
    """Where Batch Renorm gives zero (n = 1) or eps (n = 2): the reason for this layer."""
    layer = build_norm("adaptive_batch_renorm", 16)
    x = torch.randn(n, 16, generator=torch.Generator().manual_seed(2), requires_grad=True)
    layer(x).backward(torch.randn(n, 16, generator=torch.Generator().manual_seed(3)))

    assert float(x.grad.abs().median()) > 0.02


def test_training_and_inference_normalise_alike():
    """One formula: predict and learn must not see different networks."""
    layer = build_norm("adaptive_batch_renorm", 16)
    generator = torch.Generator().manual_seed(4)
    for _ in range(20):
        layer(torch.randn(8, 16, generator=generator))
    x = torch.randn(4, 16, generator=generator)
    predicted = layer.eval()(x)

    torch.testing.assert_close(layer.train()(x), predicted, rtol=1e-5, atol=1e-5)


def test_a_channel_far_out_is_shifted_back_to_the_limit():
    """|mean of xhat| <= 5 whatever comes: one broken sensor must not saturate the layers above."""
    layer = build_norm("adaptive_batch_renorm", 8, per_record="none")
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(5))
    x[:, 3] += 1000
    y = layer(x).detach()

    assert 5.0 == pytest.approx(float(y[:, 3].mean()), abs=1e-3)
    assert 1 / 8 == layer.drift().clipped


def test_a_drift_raises_the_distance_over_the_usual_and_the_share_with_it():
    """The distance between the horizons is the drift signal that comes for free."""
    layer, generator = build_norm("adaptive_batch_renorm", 16, learn_floor=0.0), torch.Generator().manual_seed(6)
    for _ in range(100):
        layer(torch.randn(16, 16, generator=generator))
    calm, calm_share = layer.drift(), layer.read_control().share
    shift = 3 * torch.randn(16, generator=generator)
    for _ in range(4):
        layer(torch.randn(16, 16, generator=generator) + shift)
    drifted = layer.drift()

    assert calm.distance < 2 * calm.usual
    assert calm_share < 0.2
    assert drifted.distance > 5 * drifted.usual
    assert layer.read_control().share > 0.5


def test_damping_none_leaves_the_gradient_as_it_is():
    """StreamAdamW counts records itself: damping both ways would silence small batches."""
    x = torch.randn(1, 8, generator=torch.Generator().manual_seed(7))
    dx = {}
    for damping in ("batch", "none"):
        layer, leaf = build_norm("adaptive_batch_renorm", 8, damping=damping), x.clone().requires_grad_()
        layer(leaf).square().sum().backward()
        dx[damping] = leaf.grad

    torch.testing.assert_close(dx["batch"], dx["none"] / 2)  # n / (n + 1) at n = 1
    assert float(dx["none"].abs().max()) > 0


def test_frozen_it_moves_nothing_in_backward_either():
    """The floor and the usual n live in backward: freezing must reach there."""
    layer = freeze(build_norm("adaptive_batch_renorm", 8))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = torch.randn(5, 8, requires_grad=True, generator=torch.Generator().manual_seed(8))
    layer(x).square().sum().backward()

    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    assert float(x.grad.abs().max()) > 0
    freeze(layer, frozen=False)(x)
    assert 5 == int(layer.moments.n_records)


def test_a_gradient_that_is_not_finite_leaves_the_floor_as_it_was():
    """The model skips the step; a nan in the power of the floor's gradient would stop the floor for ever."""
    layer = build_norm("adaptive_batch_renorm", 8)
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(9))
    layer(x).square().sum().backward()
    layer(x).square().sum().backward()
    before = layer.read_control()
    layer(x).mul(torch.nan).sum().backward()

    assert before.floor_power == layer.read_control().floor_power > 0
    assert before.floor_logit == layer.read_control().floor_logit


def test_dead_channels_and_constant_records_stay_finite():
    """A channel behind a dead ReLU has variance 0 for ever."""
    layer = build_norm("adaptive_batch_renorm", 8)
    for n in (1, 2, 30) * 10:
        x = torch.zeros(n, 8, requires_grad=True)
        layer(x).square().sum().backward()
        assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(value).all() for value in layer.state_dict().values())


def test_what_it_refuses():
    """Of a record of one value LayerNorm leaves 0, whatever the value."""
    with pytest.raises(ShapeError, match=r"normalises over 1 value.*per_record='none'"):
        build_norm("adaptive_batch_renorm", 1)(torch.ones(4, 1))
    with pytest.raises(ConfigError, match="expected 0 < fast < slow"):
        build_norm("adaptive_batch_renorm", 8, half_life_records_fast=9_000.0)
    with pytest.raises(ConfigError, match="expected per_record layer or none, and damping batch or none"):
        build_norm("adaptive_batch_renorm", 8, damping="records")
    with pytest.raises(ConfigError, match="learn_floor is -1"):
        build_norm("adaptive_batch_renorm", 8, learn_floor=-1)


@pytest.mark.parametrize(
    ("n", "spread", "at_least", "at_most"), [(16, 0.1, 0.6, 1.0), (64, 2.0, 0.2, 0.8), (16, None, 0.0, 0.02)]
)
def test_what_the_records_of_a_batch_share_is_learned_as_far_as_they_come_alike(n, spread, at_least, at_most):
    """Sixteen flights of one stormy hour are one record of weather: projecting their mean away unlearns the weather.

    Counted as Kish's effective sample size does, and with no more trust than that many values deserve. Either mistake
    cost the layer its place: with a third of the correlation, or with 64 records of correlation .2 (worth five) taken
    for the truth, it lost to LayerNorm on the flights (log-loss .479 against .464, .484 against .452). Independent
    records keep Batch Renorm's projection.
    """
    generator = torch.Generator().manual_seed(10)
    layer = build_norm("adaptive_batch_renorm", 16, learn_floor=0.0, damping="none")
    for _ in range(200):
        common = torch.randn(n if spread is None else 1, 16, generator=generator)
        layer(common + (spread or 0.1) * torch.randn(n, 16, generator=generator)).sum().backward()
    x = torch.randn(n, 16, generator=generator).requires_grad_()
    shared = torch.randn(1, 16, generator=generator).expand(n, 16)
    layer(x).backward(shared)
    (of_layer_norm,) = torch.autograd.grad(torch.nn.functional.layer_norm(x, (16,)), x, shared)

    assert at_least < float(x.grad.mean(0).norm() / of_layer_norm.mean(0).norm()) < at_most
