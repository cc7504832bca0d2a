"""Batch Renorm against the paper's formulas, against torch's BatchNorm, and the known defects of public versions."""

import pytest
import torch
from torch import nn

from stream_trainer.errors import ConfigError, ShapeError
from stream_trainer.norms import build_norm
from stream_trainer.norms.batch_renorm import RENORM_PRESETS, RenormPreset

pytestmark = pytest.mark.usefixtures("each_path")

SHAPES = [(7, 5), (6, 5, 4), (3, 5, 4, 3), (2, 5, 3, 2, 2)]
TORCH = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def layer_for(shape, dtype=torch.float64, **options):
    layer = build_norm("batch_renorm", shape[1], dims=max(1, len(shape) - 2), **options).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2, shape[1]))
        layer.bias.copy_(torch.linspace(-1, 1, shape[1]))
    return layer


def paper_formula(x, layer, r_max, d_max):
    """Algorithm 1, differentiable by autograd, with r and d detached; moments from before the batch."""
    axes, view = (0, *range(2, x.dim())), (1, -1, *[1] * (x.dim() - 2))
    mean_B, std_B = x.mean(axes), (x.var(axes, correction=0) + layer.eps).sqrt()
    std = (layer.moments.var + layer.eps).sqrt()
    r = (std_B / std).clamp(1 / r_max, r_max).detach()
    d = ((mean_B - layer.moments.mean) / std).clamp(-d_max, d_max).detach()
    xhat = (x - mean_B.view(view)) / std_B.view(view) * r.view(view) + d.view(view)
    return layer.weight.view(view) * xhat + layer.bias.view(view)


@pytest.mark.parametrize("limits", [(3.0, 5.0), (1.1, 0.1)])
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients_are_the_papers(shape, limits):
    """The fused backward is two folded batch norms: it must be what autograd makes of algorithm 1."""
    layer = layer_for(shape, r_max=limits[0], d_max=limits[1])
    layer(torch.randn(shape, generator=seeded(1), dtype=torch.float64) * 2 + 1)  # something to renormalise with
    x = (torch.randn(shape, generator=seeded(2), dtype=torch.float64) * 3 - 1).requires_grad_()
    dy = torch.randn(shape, generator=seeded(3), dtype=torch.float64)
    expected = paper_formula(x, layer, *limits)
    expected_grads = torch.autograd.grad(expected, (x, layer.weight, layer.bias), dy)
    y = layer(x)

    torch.testing.assert_close(y, expected)
    for got, wanted in zip(torch.autograd.grad(y, (x, layer.weight, layer.bias), dy), expected_grads, strict=True):
        torch.testing.assert_close(got, wanted)


def test_without_limits_gradcheck_agrees():
    """With r = 1, d = 0 nothing is detached: the backward pass is the true derivative."""
    layer = layer_for((5, 3), r_max=1.0, d_max=0.0)
    x = torch.randn(5, 3, generator=seeded(4), dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda x, w, b: _with_affine(layer, x, w, b), (x, layer.weight, layer.bias))


def _with_affine(layer, x, weight, bias):
    return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))


@pytest.mark.parametrize("shape", SHAPES)
def test_with_r_1_and_d_0_it_is_torchs_batch_norm(shape):
    """The warm-up of the schedule is plain batch normalisation."""
    layer, reference = layer_for(shape, torch.float32, r_max=1.0, d_max=0.0), TORCH[len(shape)](shape[1])
    reference.load_state_dict({"weight": layer.weight, "bias": layer.bias}, strict=False)
    x = torch.randn(shape, generator=seeded(5), requires_grad=True)
    dy = torch.randn(shape, generator=seeded(6))
    y, expected = layer(x), reference(x)

    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(*(torch.autograd.grad(out, x, dy)[0] for out in (y, expected)))


def test_where_nothing_is_limited_training_and_inference_agree():
    """The point of the method: (x - mean_B)/std_B r + d is (x - mean)/std."""
    layer = layer_for((64, 5))
    for seed in range(5):
        layer(torch.randn(64, 5, generator=seeded(seed), dtype=torch.float64))
    x = torch.randn(64, 5, generator=seeded(9), dtype=torch.float64)
    predicted = layer.eval()(x)

    torch.testing.assert_close(layer.train()(x), predicted)


@pytest.mark.parametrize("cut", [1, 7, 64])
def test_its_moments_do_not_see_the_cut(cut):
    """Promise P1."""
    x = torch.randn(200, 5, generator=seeded(10)) * 3 + 2
    whole, layer = layer_for((1, 5), torch.float32), layer_for((1, 5), torch.float32)
    whole(x)
    for batch in x.split(cut):
        layer(batch)

    torch.testing.assert_close(layer.moments.mean, whole.moments.mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(layer.moments.var, whole.moments.var, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("tail", "expected"), [((), 0.0), ((4,), None)])
def test_a_batch_of_one_gives_no_gradient_below_in_dense_layers_only(tail, expected):
    """Documented, not hidden: with one value per channel the statistic follows the input."""
    layer = layer_for((1, 5), torch.float32)
    layer(torch.randn(8, 5, *tail, generator=seeded(11)))
    x = torch.randn(1, 5, *tail, generator=seeded(12), requires_grad=True)
    layer(x).backward(torch.randn(1, 5, *tail, generator=seeded(13)))

    assert torch.isfinite(x.grad).all()
    assert (float(x.grad.abs().max()) == 0.0) == (expected == 0.0)


def test_nan_at_a_batch_of_one_as_in_torchrl():
    """Its running variance takes N/(N-1): one record made the layer nan for ever."""
    layer = layer_for((1, 3), torch.float32)
    for seed in range(20):
        assert torch.isfinite(layer(torch.randn(1, 3, generator=seeded(seed)))).all()

    assert torch.isfinite(layer.moments.var).all()
    assert float(layer.moments.var.min()) > 0.1


@pytest.mark.parametrize("name", RENORM_PRESETS)
def test_limits_past_the_end_of_the_warm_up_as_in_torchrl(name):
    """Its warm-up factor kept growing: past the end r_max became 1 + (r - 1)k, and 1/r_max negative."""
    preset = RENORM_PRESETS[name]
    end = max(preset.r_full_records, preset.d_full_records, 1)
    for n_records in (end, 10 * end, 1000 * end):
        assert (preset.r_max, preset.d_max) == preset.limits(n_records)


def test_statistics_lost_in_the_state_dict_as_in_avalanche():
    """Its running statistics are plain attributes: a restored model predicted with mean 1, std 0."""
    layer = layer_for((8, 5), torch.float32)
    layer(torch.randn(8, 5, generator=seeded(14)) + 3)
    twin = build_norm("batch_renorm", 5)
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(4, 5, generator=seeded(15))

    assert torch.equal(layer.eval()(x), twin.eval()(x))
    assert torch.equal(layer.train()(x), twin.train()(x))
    assert torch.equal(layer.moments.var, twin.moments.var)


def test_the_schedule_counts_records_not_batches():
    """Plain, then growing, then full: wherever the batches are cut."""
    preset = RenormPreset(plain_records=100, d_full_records=200, r_full_records=300, r_max=3.0, d_max=5.0)

    assert (1.0, 0.0) == preset.limits(0) == preset.limits(99)
    assert (1.5, 2.5) == preset.limits(150)
    assert (2.0, 5.0) == preset.limits(200)
    assert (3.0, 5.0) == preset.limits(300)
    for cut in (1, 30):
        layer = build_norm("batch_renorm", 3, preset=preset)
        for batch in torch.randn(150, 3, generator=seeded(16)).split(cut):
            layer(batch)
        assert (1.5, 2.5) == layer.preset.limits(int(layer.moments.n_records))


def test_presets_are_the_published_settings_in_records():
    """5,000 / 25,000 / 40,000 steps of 32; 100,000 updates of 512 rows at once; 4.1e-5 a record."""
    assert (3.0, 5.0) == RENORM_PRESETS["paper"].limits(40_000 * 32)
    assert (1.0, 0.0) == RENORM_PRESETS["paper"].limits(5_000 * 32 - 1)
    assert (1.0, 0.0) == RENORM_PRESETS["crossq"].limits(51_199_999)
    assert (3.0, 5.0) == RENORM_PRESETS["crossq"].limits(51_200_000)
    assert 1 + 1000 * 4.1e-5 == pytest.approx(RENORM_PRESETS["continual"].limits(1000)[0], rel=1e-4)
    assert 0.99 == pytest.approx(0.5 ** (32 / RENORM_PRESETS["paper"].half_life_records), abs=1e-5)


def test_padding_of_weight_zero_is_not_there():
    """A mask is a weight: rows of padding must move neither statistics, nor gradients, nor the schedule."""
    padded, plain = layer_for((1, 5)), layer_for((1, 5))
    x = torch.randn(6, 5, generator=seeded(17), dtype=torch.float64)
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    kept = weight.bool()
    for _ in range(2):
        x_padded, x_plain = x.clone().requires_grad_(), x[kept].clone().requires_grad_()
        y, expected = padded(x_padded, weight), plain(x_plain)
        torch.testing.assert_close(y[kept], expected)
        (y[kept] ** 3).sum().backward()
        (expected**3).sum().backward()
        torch.testing.assert_close(x_padded.grad[kept], x_plain.grad)
    torch.testing.assert_close(padded.moments.state_dict(), plain.moments.state_dict())


def test_drift_of_the_batch_against_the_moments():
    """d and r are a drift meter for nothing: about 1/n at rest, and far above after a jump."""
    layer = layer_for((1, 5), torch.float32)
    assert layer.drift() is None
    for seed in range(10):
        layer(torch.randn(64, 5, generator=seeded(seed)))
    calm = layer.drift()
    layer(torch.randn(64, 5, generator=seeded(20)) + torch.tensor([0.0, 0.0, 0.0, 0.0, 9.0]))

    assert calm.distance < 0.2
    assert 0.0 == calm.clipped
    assert layer.drift().distance > 5
    assert 0.2 == pytest.approx(layer.drift().clipped)


def test_what_it_refuses():
    """Each message names the value, what is possible, and the fix."""
    with pytest.raises(ConfigError, match="preset is 'fast'; known presets: stream, paper, crossq, continual"):
        build_norm("batch_renorm", 3, preset="fast")
    with pytest.raises(ConfigError, match=r"r_max is 0\.5"):
        build_norm("batch_renorm", 3, r_max=0.5)
    with pytest.raises(ConfigError, match="expected 0 <= plain <= both others"):
        RenormPreset(plain_records=10)
    with pytest.raises(ShapeError, match=r"record_weight_N has shape \(3,\); expected \(4,\)"):
        build_norm("batch_renorm", 3)(torch.ones(4, 3), torch.ones(3))
