"""Freeze, re-estimate, ask: what one does to the norms of a built network."""

import pytest
import torch
from torch import nn

from stream_trainer.errors import ConfigError
from stream_trainer.norms import NORMS, build_norm, drift_numbers, freeze, recompute_moments
from stream_trainer.norms.base import StatefulNorm

STATEFUL = sorted(name for name in NORMS if issubclass(NORMS[name], StatefulNorm))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def net_of(name, **options):
    torch.manual_seed(0)
    layers = (
        nn.Linear(6, 8),
        build_norm(name, 8, **options),
        nn.ReLU(),
        nn.Linear(8, 8),
        build_norm(name, 8, **options),
    )
    return nn.Sequential(*layers)


def norm_state(net):
    return {name: value.clone() for name, value in net.named_buffers()}


@pytest.mark.parametrize("name", STATEFUL)
def test_frozen_norms_keep_every_bit_in_train_mode_and_thaw_again(name):
    """Fine-tuning on a handful of records must not overwrite the moments of millions."""
    net, x = net_of(name), torch.randn(5, 6, generator=seeded(1))
    net(x).square().sum().backward()
    before = norm_state(freeze(net))
    net(x).square().sum().backward()
    assert all(torch.equal(before[key], value) for key, value in net.named_buffers())
    freeze(net, frozen=False)(x).square().sum().backward()
    assert any(not torch.equal(before[key], value) for key, value in net.named_buffers())


@pytest.mark.parametrize("name", sorted({*STATEFUL, "torch"} - {"adaptive_batch_renorm", "continual"}))
@pytest.mark.parametrize("cut", [1, 7, 50])
def test_recomputed_moments_are_those_of_all_records_for_any_cut(name, cut):
    """Count-weighted, layer after layer: the upper layer must see what the corrected lower one sends."""
    net = net_of("batch" if name == "torch" else name)
    if name == "torch":
        net[1], net[4] = nn.BatchNorm1d(8), nn.BatchNorm1d(8)
    net.train()
    x = torch.randn(50, 6, generator=seeded(2)) * 3 + 1
    recompute_moments(net, list(x.split(cut)))

    lower = net[0](x)
    expected = torch.relu(
        net[1].weight * (lower - lower.mean(0)) / (lower.var(0, correction=0) + 1e-5).sqrt() + net[1].bias
    )
    upper = net[3](expected if name != "online" else torch.relu(net[1].eval()(lower)))
    net.eval()
    y = net(x)
    assert all(not module.training for module in net)
    torch.testing.assert_close(
        y, (upper - upper.mean(0)) / (upper.var(0, correction=0) + 1e-5).sqrt(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["adaptive_batch_renorm", "continual"])
def test_recomputed_moments_of_the_adaptive_layers_are_of_what_they_normalise(name):
    """After LayerNorm or groups, not before; both horizons take them over."""
    net = net_of(name)
    x = torch.randn(50, 6, generator=seeded(3)) * 3 + 1
    recompute_moments(net, [(part,) for part in x.split(9)])
    u = net[1].moments_input(net[0](x))

    assert net.training
    torch.testing.assert_close(net[1].moments.mean, u.mean(0).expand(2, 8), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net[1].moments.var, u.var(0, correction=0).expand(2, 8), rtol=1e-4, atol=1e-5)
    assert 50 == int(net[1].moments.n_records)


def test_re_estimation_never_turns_a_schedule_back():
    """Ten thousand records seen, fifty re-measured: the limits must not close again."""
    net = net_of("batch_renorm")
    for _ in range(3):
        net(torch.randn(50, 6, generator=seeded(4)))
    recompute_moments(net, [torch.randn(20, 6, generator=seeded(5))])

    assert 150 == int(net[1].moments.n_records)


def test_re_estimation_refuses_what_it_could_not_do_exactly():
    """A generator would be empty after the first layer."""
    net = net_of("batch_renorm")
    with pytest.raises(ConfigError, match="give it a list"):
        recompute_moments(net, iter([torch.ones(3, 6)]))
    with pytest.raises(ConfigError, match="was given no record"):
        recompute_moments(net, [torch.ones(0, 6)])


def test_drift_numbers_name_the_layer_that_drifted():
    """A shift at the input of the upper norm only."""
    net = net_of("adaptive_batch_renorm")
    assert {} == drift_numbers(net)
    for seed in range(60):
        net(torch.randn(32, 6, generator=seeded(seed)))
    calm = drift_numbers(net)
    with torch.no_grad():
        net[3].bias += 2 * torch.randn(8, generator=seeded(99))
    for seed in range(3):
        net(torch.randn(32, 6, generator=seeded(seed)))
    drifted = drift_numbers(net)

    assert ["1", "4"] == list(drifted)
    assert drifted["1"].distance < 3 * calm["1"].distance
    assert drifted["4"].distance > 10 * calm["4"].distance
    assert all(isinstance(number, float) for drift in drifted.values() for number in drift)
    assert calm["4"].strain < 2 < drifted["4"].strain


def test_drift_numbers_leave_out_layers_that_cannot_tell():
    """Bounded by the layers that keep moments of both kinds."""
    net = nn.Sequential(build_norm("layer", 4), build_norm("online", 4), build_norm("batch_renorm", 4))
    net(torch.randn(8, 4, generator=seeded(1)))

    assert ["2"] == list(drift_numbers(net))
