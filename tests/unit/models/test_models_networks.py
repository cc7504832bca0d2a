"""Networks by name: what they are given, what they hold, and what the registry answers to a typing error."""

import pytest
import torch
from torch import nn

from stream_trainer.errors import ConfigError
from stream_trainer.models import build_network
from stream_trainer.schema import InputWidths


@pytest.mark.parametrize(
    "widths",
    [
        InputWidths(numbers=3),
        InputWidths(numbers=0, categories=(5, 9)),
        InputWidths(numbers=0, arrays=((2, 3),)),
        InputWidths(numbers=2, categories=(4,), arrays=((2,), (3, 3))),
    ],
)
def test_forward_takes_only_the_inputs_that_the_schema_has(widths):
    """So that for numbers alone any nn.Sequential is a network."""
    inputs = [torch.zeros(2, widths.numbers)] if widths.numbers else []
    inputs += [torch.zeros(2, len(widths.categories), dtype=torch.int64)] if widths.categories else []
    inputs += [torch.zeros(2, *shape) for shape in widths.arrays]

    assert tuple(build_network("mlp", widths, 3)(*inputs).shape) == (2, 3)


@pytest.mark.parametrize(("width", "expected"), [(1, 2), (32, 4), (4096, 13), (2**20, 16)])
def test_embeddings_grow_slowly_with_the_number_of_values(width, expected):
    """min(16, ceil(1.6 width^¼))."""
    net = build_network("mlp", InputWidths(numbers=0, categories=(width,)), 2, norm="none", hidden=(4,))

    assert net.embeddings[0].embedding_dim == expected


@pytest.mark.parametrize(("norm", "biases"), [("none", 3), ("layer", 1), ("batch_renorm", 1), ("rms", 3)])
def test_a_bias_that_a_norm_would_take_away_does_not_exist(norm, biases):
    """Only a norm that shifts by itself replaces the bias below it."""
    net = build_network("mlp", InputWidths(numbers=3), 2, norm=norm)

    assert sum(layer.bias is not None for layer in net.modules() if isinstance(layer, nn.Linear)) == biases


def test_norm_options_reach_the_norm():
    """Whatever a norm of ours can be told, the configuration can say."""
    net = build_network("mlp", InputWidths(numbers=3), 2, norm="group", norm_options={"groups": 4}, hidden=(8,))

    assert net.body[1].groups == 4


def test_a_wrong_network_or_option_is_answered_with_the_right_ones():
    """Whole sentences, for they are all the operator sees."""
    with pytest.raises(ConfigError) as caught:
        build_network("mpl", InputWidths(numbers=3), 2)
    assert str(caught.value) == "net is 'mpl'; known networks: gru, lenet, lstm, mlp, resnet_small."
    with pytest.raises(ConfigError) as caught:
        build_network("mlp", InputWidths(numbers=3), 2, layers=3)
    assert str(caught.value) == (
        "net 'mlp' has no option 'layers'; known options: dropout, embedding_dim, hidden, norm, norm_options, "
        "sparse_embeddings."
    )
