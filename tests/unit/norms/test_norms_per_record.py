"""The layers without memory against torch's where they coincide, and against their papers' formulas in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stream_trainer.errors import ConfigError, ShapeError
from stream_trainer.norms import build_norm, standardise_weights
from stream_trainer.norms.weight_standardised import is_standardised


def draw(*shape, seed=1):
    return (
        torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 1
    ).requires_grad_()


def with_affine(layer):
    layer = layer.double()
    with torch.no_grad():
        for index, parameter in enumerate(layer.parameters()):
            parameter.add_(torch.linspace(0.1, 0.9, parameter.numel(), dtype=torch.float64) * (index + 1))
    return layer


def assert_same_function(layer, reference, x):
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y, expected = layer(x), reference(x)
    torch.testing.assert_close(y, expected)
    inputs = (x, *layer.parameters())
    torch.testing.assert_close(torch.autograd.grad(y, inputs, dy), torch.autograd.grad(expected, inputs, dy))


@pytest.mark.parametrize("shape", [(3, 12), (3, 12, 5), (3, 12, 2, 4), (2, 12, 2, 2, 3)])
@pytest.mark.parametrize("groups", [1, 3, 6])
def test_group_is_torchs_group_norm_with_1_and_3_groups_and_in_dense_layers(groups, shape):
    """Dense groups take another path, for speed: the numbers must not tell."""
    layer = with_affine(build_norm("group", 12, dims=max(1, len(shape) - 2), groups=groups))
    assert_same_function(layer, lambda x: F.group_norm(x, groups, layer.weight, layer.bias), draw(*shape))


def test_layer_is_torchs_layer_norm_and_group_norm_of_one_group():
    """G = 1."""
    dense, image = with_affine(build_norm("layer", 12)), with_affine(build_norm("layer", 12, dims=2))

    assert_same_function(dense, lambda x: F.layer_norm(x, (12,), dense.weight, dense.bias), draw(3, 12))
    assert_same_function(image, lambda x: F.group_norm(x, 1, image.weight, image.bias), draw(3, 12, 4, 2))


def test_instance_is_torchs_instance_norm_and_group_norm_of_one_channel():
    """G = C."""
    layer = with_affine(build_norm("instance", 6, dims=2))

    assert_same_function(layer, lambda x: F.instance_norm(x, None, None, layer.weight, layer.bias), draw(3, 6, 4, 2))
    assert_same_function(layer, lambda x: F.group_norm(x, 6, layer.weight, layer.bias), draw(3, 6, 4, 2))


def test_rms_is_torchs_rms_norm_and_has_no_bias():
    """On images: over all values of the record."""
    dense, image = with_affine(build_norm("rms", 12)), with_affine(build_norm("rms", 12, dims=2))

    assert_same_function(dense, lambda x: F.rms_norm(x, (12,), dense.weight, 1e-6), draw(3, 12))
    assert_same_function(
        image,
        lambda x: x / (x.square().mean((1, 2, 3), keepdim=True) + 1e-6).sqrt() * image.weight.view(1, -1, 1, 1),
        draw(3, 12, 4, 2),
    )
    assert dense.bias is None


@pytest.mark.parametrize("learn_eps", [True, False])
def test_frn_is_the_papers_formula(learn_eps):
    """max(gamma x / sqrt(nu^2 + |eps|) + beta, tau)."""
    layer = with_affine(build_norm("frn", 4, dims=2, learn_eps=learn_eps))

    def paper(x):
        view = (1, -1, 1, 1)
        eps = 1e-6 + (layer.eps_learned.abs().view(view) if learn_eps else 0)
        y = layer.weight.view(view) * x / (x.square().mean((2, 3), keepdim=True) + eps).sqrt() + layer.bias.view(view)
        return torch.max(y, layer.tau.view(view))

    assert_same_function(layer, paper, draw(3, 4, 4, 2))


def test_evonorm_is_the_papers_formula():
    """gamma x sigmoid(v x) / std of the group + beta."""
    layer = with_affine(build_norm("evonorm_s0", 6, dims=2, groups=2))

    def paper(x):
        view, (n, c, h, w) = (1, -1, 1, 1), x.shape
        std = (x.view(n, 2, c // 2, h, w).var((2, 3, 4), correction=0, keepdim=True) + layer.eps).sqrt()
        std = std.expand(n, 2, c // 2, h, w).reshape(x.shape)
        return x * torch.sigmoid(layer.v.view(view) * x) / std * layer.weight.view(view) + layer.bias.view(view)

    assert_same_function(layer, paper, draw(3, 6, 4, 2))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("layer", (2, 8)),
        ("rms", (2, 8)),
        ("group", (2, 8, 3)),
        ("instance", (2, 3, 4)),
        ("frn", (2, 3, 4)),
        ("evonorm_s0", (2, 8, 4)),
    ],
)
def test_gradcheck_agrees(name, shape):
    """The derivative by differences, in float64."""
    layer = with_affine(build_norm(name, shape[1]))

    assert torch.autograd.gradcheck(layer, (draw(*shape),))


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("instance", (4, 8), "normalises over 1 value.*Use fewer groups, more channels, or `adaptive_batch_renorm`"),
        ("layer", (4, 1), "normalises over 1 value"),
        ("frn", (4, 8, 3), "normalises over 3 value.*expected at least 4. Use learn_eps=True"),
        ("evonorm_s0", (4, 8), "normalises over 1 value.*expected at least 4. Use norm `group` or `layer`"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_statistic_that_would_erase_the_record_is_refused_at_every_n(name, shape, words, training):
    """torch raises for one value a group at n = 1 only, and silently returns the bias at n = 2."""
    with pytest.raises(ShapeError, match=words):
        build_norm(name, shape[1]).train(training)(torch.ones(shape))


def test_groups_must_divide_the_channels():
    """Told when the layer is built, not when the first batch comes."""
    for name in ("group", "evonorm_s0"):
        with pytest.raises(ConfigError, match="8 channels cannot be cut into 3 equal groups"):
            build_norm(name, 8, groups=3)


@pytest.mark.parametrize("lower", [nn.Linear(6, 4), nn.Conv1d(6, 4, 3), nn.Conv2d(6, 4, 3), nn.Conv3d(6, 4, 1)])
def test_standardised_weights_have_mean_0_and_std_1_per_output_and_still_learn(lower):
    """The second half of group_ws; what the optimiser sees is the free weight."""
    free = lower.weight.detach().clone()
    standardise_weights(standardise_weights(lower))  # twice is once
    rows = lower.weight.flatten(1)
    lower.weight.square()[0, 0].sum().backward()

    assert is_standardised(lower)
    torch.testing.assert_close(rows.mean(1), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows.std(1, correction=0), torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(lower.parametrizations.weight.original.detach(), free)
    assert lower.parametrizations.weight.original.grad.abs().max() > 0


def test_weights_that_cannot_be_standardised_are_refused():
    """One input per output would leave zeros only."""
    with pytest.raises(ConfigError, match="is for Linear, Conv1d, Conv2d, Conv3d; got Bilinear"):
        standardise_weights(nn.Bilinear(2, 2, 2))
    with pytest.raises(ConfigError, match="needs 2 or more inputs per output channel, got 1"):
        standardise_weights(nn.Linear(1, 3))
