"""convert_norms on networks built by others: weights kept, statistics kept where they mean the same."""

import pytest
import torch
from torch import nn

from stream_trainer.errors import ConfigError
from stream_trainer.norms import NORMS, build_norm, convert_norms
from stream_trainer.norms.weight_standardised import is_standardised


class Block(nn.Module):
    """Registered as torchvision does: conv, bn, conv, bn, and a shortcut."""

    def __init__(self, channels):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x):
        return x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))


def trained_net():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=1e-3), Block(8), nn.Flatten(), nn.LazyLinear(8), nn.BatchNorm1d(8)
    )
    for _ in range(30):
        net(torch.randn(16, 3, 6, 6) * 2 + 1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return net


@pytest.mark.parametrize("name", sorted(set(NORMS) - {"instance", "frn", "evonorm_s0", "batch"}))
def test_every_batch_norm_of_a_network_is_exchanged_and_it_takes_one_record(name):
    """What torch refused before."""
    net = convert_norms(trained_net(), name)
    x = torch.randn(1, 3, 6, 6, requires_grad=True)
    net(x).square().sum().backward()

    assert [2, 2, 2, 1] == [module.dims for module in net.modules() if type(module) is NORMS[name]]
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("name", ["batch", "batch_renorm", "sync"])
def test_predictions_are_unchanged_where_statistics_are_kept(name):
    """A trained network goes on where it was."""
    net, x = trained_net().eval(), torch.randn(5, 3, 6, 6)
    expected = net(x)
    converted = convert_norms(net, name)

    assert not converted[1].training
    assert 1e-3 == converted[1].eps
    torch.testing.assert_close(converted(x), expected)


def test_affine_weights_devices_and_modes_are_kept():
    """And requires_grad, for those who froze them."""
    norm = nn.BatchNorm1d(4)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    norm.bias.requires_grad_(False)
    converted = convert_norms(norm, "layer")

    assert [1.0, 2.0, 3.0, 4.0] == converted.weight.tolist()
    assert converted.weight.requires_grad
    assert not converted.bias.requires_grad
    assert convert_norms(nn.BatchNorm1d(4, affine=False), "group").weight is None
    assert convert_norms(nn.BatchNorm1d(4, track_running_stats=False), "batch_renorm").moments.n_records == 0


def test_a_norm_used_twice_stays_one_norm():
    """Shared modules share their memory."""
    shared = nn.BatchNorm1d(4)
    net = convert_norms(nn.ModuleDict({"a": shared, "b": shared}), "online")

    assert net["a"] is net["b"]


def test_group_ws_standardises_the_layer_before_each_norm():
    """The attachment that a norm cannot make by itself."""
    net = convert_norms(trained_net(), "group_ws")

    assert [True, True, True, True] == [
        is_standardised(m) for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)
    ]


def test_sync_batch_norm_takes_its_dims_from_the_convolution_before():
    """Its class does not say."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SyncBatchNorm(8), nn.Flatten())
    net3, net1 = nn.Sequential(nn.Conv3d(3, 8, 3), nn.SyncBatchNorm(8)), nn.Sequential(nn.SyncBatchNorm(8))

    assert [2, 3, 1] == [
        convert_norms(net, "sync")[1].dims,
        convert_norms(net3, "sync")[1].dims,
        convert_norms(net1, "sync")[0].dims,
    ]


def test_our_own_batch_layers_are_exchanged_too_and_others_left():
    """`batch` is the baseline that one wants to leave."""
    net = convert_norms(nn.Sequential(build_norm("batch", 4), nn.LayerNorm(4), build_norm("group", 4)), "layer")

    assert ["LayerNorm", "LayerNorm", "GroupNorm"] == [type(module).__name__ for module in net]
    assert isinstance(net[1], nn.LayerNorm)


def test_what_it_refuses():
    """A wrong option must be told even where there is nothing to convert."""
    with pytest.raises(ConfigError, match="norm is 'bn'; known norms"):
        convert_norms(nn.Linear(2, 2), "bn")
    with pytest.raises(ConfigError, match="has no option 'groups'"):
        convert_norms(nn.Linear(2, 2), "layer", groups=2)
    with pytest.raises(ConfigError, match="LazyBatchNorm1d does not know its width yet"):
        convert_norms(nn.LazyBatchNorm1d(), "layer")
