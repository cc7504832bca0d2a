"""What every network must keep with every norm, by name: any batch trains, asking teaches nothing, a twin goes on.

And what each is: the sizes it accepts, the order of its layers, the formulas of its cells.
"""

import dataclasses
import json

import numpy as np
import pytest
import torch
from models_stream import cut, part, records
from torch import nn
from torch.nn import functional as F

from stream_trainer.errors import ConfigError
from stream_trainer.models import TorchModel, TorchOptions, build_network, state_sha256
from stream_trainer.models.networks.cells import LayerNormGRU, LayerNormLSTM
from stream_trainer.norms import NORMS
from stream_trainer.norms.base import Norm
from stream_trainer.norms.weight_standardised import is_standardised
from stream_trainer.schema import ArrayFeature, CategoryFeature, InputWidths, NumberFeature, Schema, Target, TargetKind
from stream_trainer.types import State

SHAPES = {"mlp": (2, 3), "lenet": (12, 12), "resnet_small": (2, 8, 9), "gru": (5, 3), "lstm": (4,)}
SMALL = {
    "mlp": {"hidden": (16, 8)},
    "lenet": {"channels": (3, 4), "hidden": (16, 8)},
    "resnet_small": {"channels": (4, 8, 8)},
    "gru": {"hidden": (8, 8)},
    "lstm": {"hidden": (8, 8)},
}
NEED_POSITIONS = {"instance", "frn", "evonorm_s0"}
CASES = [
    (net, norm)
    for net in SHAPES
    for norm in sorted(NORMS)
    if norm != "batch" and not (net == "mlp" and norm in NEED_POSITIONS)
]
# Dense layers on top: their norms pass no gradient from a single record, see norms/__init__.py.
GIVES_NO_GRADIENT_AT_ONE = {(net, norm) for net in ("mlp", "lenet") for norm in ("batch_renorm", "sync")}


def schema_of(net):
    return Schema(
        numbers=(NumberFeature(name="a"), NumberFeature(name="b", optional=True)),
        categories=(CategoryFeature(name="k", buckets=5),),
        arrays=(ArrayFeature(name="block", shape=SHAPES[net]),),
        target=Target(name="y", kind=TargetKind.CLASSES, classes=("red", "green", "blue")),
    )


def build(net, **options):
    return TorchModel(schema_of(net), TorchOptions(**{"net": net, "seed": 3, **SMALL[net], **options}))


def as_saved(state: State) -> State:
    arrays = {name: torch.as_tensor(array).clone() for name, array in state.arrays.items()}
    return State(arrays=arrays, values=json.loads(json.dumps(state.values)), pickles=state.pickles)


def first_weight(model):
    """The weight nearest to the array: what only a gradient through all norms can move."""
    return next(p for name, p in model.network.named_parameters() if "embeddings" not in name and p.dim() > 1)


@pytest.mark.parametrize(("net", "norm"), CASES)
def test_batches_of_1_2_and_7_train_and_asking_moves_nothing(net, norm):
    """The service hands over whatever arrived, and asks before it teaches."""
    model, data = build(net, norm=norm), records(schema_of(net), 10)
    for batch in cut(data, [1, 2, 7]):
        before = state_sha256(model.capture())
        p_NK = model.predict(batch)
        assert before == state_sha256(model.capture())
        report = model.learn(batch)

        np.testing.assert_allclose(1.0, p_NK.sum(axis=1), rtol=1e-12)
        assert report.skipped is None
        assert before != state_sha256(model.capture())
    assert all(torch.isfinite(torch.as_tensor(array)).all() for array in model.capture().arrays.values())


@pytest.mark.parametrize(("net", "norm"), CASES)
def test_a_single_record_reaches_the_first_layer_where_the_table_says_so(net, norm):
    """Quiet streams deliver single records for hours: it must be known which networks learn nothing below then."""
    model, data = build(net, norm=norm, optimizer={"sgd": {"lr": 0.1}}), records(schema_of(net), 9)
    model.learn(part(data, 0, 8))
    model.learn(part(data, 8, 9))
    gradient = first_weight(model).grad

    assert ((net, norm) not in GIVES_NO_GRADIENT_AT_ONE) == bool(gradient.abs().max() > 1e-9)


@pytest.mark.parametrize(("net", "norm"), CASES)
def test_a_restored_twin_of_every_network_goes_on_bit_for_bit(net, norm):
    """A restart must not be visible, whatever the layers remember."""
    data = records(schema_of(net), 30)
    model, twin = build(net, norm=norm, dropout=0.2), build(net, norm=norm, dropout=0.2)
    for batch in cut(part(data, 0, 20), [1, 7, 2]):
        model.learn(batch)
    twin.restore(as_saved(model.capture()))

    assert [model.learn(part(data, 20, 30))] == [twin.learn(part(data, 20, 30))]
    assert state_sha256(model.capture()) == state_sha256(twin.capture())


@pytest.mark.parametrize(("net", "norm"), CASES)
def test_activations_that_are_not_finite_leave_no_moment_behind(net, norm):
    """A layer by itself would remember them for ever; the model gives every layer its memory back."""
    model, data = build(net, norm=norm), records(schema_of(net), 20)
    model.learn(part(data, 0, 10))
    weight = first_weight(model)
    good = weight.detach().clone()
    with torch.no_grad():
        weight.view(-1)[0] = float("nan")
    before = state_sha256(model.capture())
    assert model.learn(part(data, 10, 20)).skipped == "non_finite"
    assert before == state_sha256(model.capture())
    with torch.no_grad():
        weight.copy_(good)

    assert model.learn(part(data, 10, 20)).skipped is None
    assert all(torch.isfinite(torch.as_tensor(array)).all() for array in model.capture().arrays.values())


@pytest.mark.parametrize("net", sorted(SHAPES))
def test_every_record_is_predicted_by_itself(net):
    """Whoever shares the batch, and in whatever order they came."""
    model, data = build(net), records(schema_of(net), 9)
    model.learn(data)
    together = model.predict(data)

    np.testing.assert_allclose(together[4:5], model.predict(part(data, 4, 5)), rtol=1e-4)


@pytest.mark.parametrize("net", sorted(SHAPES))
def test_columns_beside_the_array_are_read(net):
    """A number or a category that no output depends on would be lost in silence."""
    model, data = build(net), records(schema_of(net), 9)
    model.learn(data)
    p_NK = model.predict(data)
    other_number = dataclasses.replace(data, x_NF=data.x_NF + 3.0)
    other_category = dataclasses.replace(data, category_NC=(data.category_NC + 1) % 5)

    assert not np.allclose(p_NK, model.predict(other_number), rtol=1e-5)
    assert not np.allclose(p_NK, model.predict(other_category), rtol=1e-5)


@pytest.mark.parametrize("net", sorted(SHAPES))
def test_plain_batch_norm_is_refused_in_every_network(net):
    """With positions it would even run, on statistics of a single record."""
    with pytest.raises(ConfigError, match="The network has a BatchNorm at"):
        build(net, norm="batch")


@pytest.mark.parametrize("net", ["gru", "lstm"])
@pytest.mark.parametrize("norm", sorted(set(NORMS) - {"none", "layer"}))
def test_other_norms_inside_the_cell_are_refused_with_the_reason(net, norm):
    """Each time step would need moments of its own."""
    with pytest.raises(ConfigError) as caught:
        build(net, norm_in_cell=norm)

    assert str(caught.value) == (
        f"net {net!r}: norm_in_cell is {norm!r}; expected none or layer. Moments over a batch inside the cell would "
        "differ at every time step and for every length, and a later step would have none. Set it as norm: there it "
        "stands between the layers, over records and time steps."
    )


@pytest.mark.parametrize("net", ["gru", "lstm"])
def test_a_norm_between_recurrent_layers_counts_records_not_time_steps(net):
    """The one clock: a record of five steps ages the memory by one."""
    network = build_network(net, InputWidths(numbers=0, arrays=((5, 3),)), 2, norm="batch_renorm", hidden=(4, 4))
    network(torch.randn(7, 5, 3, generator=torch.Generator().manual_seed(1)))

    assert [7, 7] == [int(norm.moments.n_records) for norm in network.norms]


# ------------------------------------------------------------ what each is


def images(*shape):
    return InputWidths(numbers=0, arrays=(shape,))


def test_lenet_is_the_classic_one_on_28_by_28():
    """Two 5x5 convolutions of 6 and 16 maps, 400 values, 120 and 84 units; norm before each activation."""
    network = build_network("lenet", images(28, 28), 10, norm="group")
    shapes = [tuple(m.weight.shape) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    kinds = [type(module).__name__ for module in network.convolutions]

    assert [(6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)] == shapes
    assert ["Conv2d", "GroupNorm", "ReLU", "MaxPool2d"] * 2 + ["Flatten"] == kinds
    assert ["Linear", "GroupNorm", "ReLU"] * 2 + ["Linear"] == [type(module).__name__ for module in network.body]


def test_lenet_with_sigmoids_has_no_relu():
    """The activation of the paper's time."""
    network = build_network("lenet", images(28, 28), 10, activation="sigmoid")

    assert [4, 0] == [sum(isinstance(m, kind) for m in network.modules()) for kind in (nn.Sigmoid, nn.ReLU)]


@pytest.mark.parametrize(("blocks", "expected"), [(1, 8), (3, 20)])
def test_resnet_small_has_the_layers_of_its_name(blocks, expected):
    """ResNet-8 and ResNet-20: 6 blocks + 2 layers with weights, shortcuts without."""
    network = build_network("resnet_small", images(3, 32, 32), 10, blocks=blocks)

    assert expected == sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules())


def test_a_block_whose_branch_is_silent_passes_its_input_on():
    """The shortcut: every second pixel, new channels zero."""
    network = build_network("resnet_small", images(8, 8), 2, channels=(4, 6))
    block = network.body[2]
    nn.init.zeros_(block.branch[-1].weight)
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))

    assert torch.equal(F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 2)), block(x))


@pytest.mark.parametrize("net", ["lenet", "resnet_small"])
@pytest.mark.parametrize("norm", ["frn", "evonorm_s0"])
def test_norms_with_an_activation_of_their_own_get_no_second_one(net, norm):
    """After convolutions; the dense layers of lenet have no such norm, and keep their activation."""
    network = build_network(net, images(12, 12), 2, norm=norm)
    relus = sum(isinstance(module, nn.ReLU) for module in network.modules())

    assert {"lenet": 2, "resnet_small": 0}[net] == relus


@pytest.mark.parametrize("net", ["mlp", "lenet", "resnet_small"])
def test_group_ws_standardises_every_layer_below_a_norm(net):
    """Without, it would be `group` under another name."""
    network = build_network(net, images(12, 12), 2, norm="group_ws")
    weighted = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]

    assert [True] * (len(weighted) - 1) + [False] == [is_standardised(module) for module in weighted]


@pytest.mark.parametrize("net", ["lenet", "resnet_small", "gru", "lstm"])
@pytest.mark.parametrize("norm", sorted(set(NORMS) - {"batch", "sync"}))
def test_what_a_restored_twin_learns_the_original_does_not(net, norm):
    """A challenger starts as a copy of the live model."""
    model, data = build(net, norm=norm), records(schema_of(net), 4)
    model.learn(data)
    before = state_sha256(model.capture())
    twin = build(net, norm=norm)
    twin.restore(model.capture())
    twin.learn(data)

    assert before == state_sha256(model.capture())
    assert before != state_sha256(twin.capture())


def by_hand(cell, x_TF):
    """The formulas of cells.py for one record, written out."""

    def normed(v, norm):
        return F.layer_norm(v, v.shape, norm.weight, norm.bias)

    h = c = torch.zeros(cell.hidden)
    for x in x_TF:
        sent, recurred = normed(cell.of_input(x), cell.norm_input), normed(cell.of_state(h), cell.norm_state)
        if isinstance(cell, LayerNormGRU):
            (r, z, n), (r_h, z_h, n_h) = sent.chunk(3), recurred.chunk(3)
            r, z = torch.sigmoid(r + r_h), torch.sigmoid(z + z_h)
            h = (1 - z) * torch.tanh(n + r * n_h) + z * h
        else:
            i, f, g, o = (sent + recurred).chunk(4)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(normed(c, cell.norm_cell))
    return h


@pytest.mark.parametrize("kind", [LayerNormGRU, LayerNormLSTM])
def test_cells_with_layer_norm_compute_their_formulas(kind):
    """For each record alone, whoever is beside it."""
    torch.manual_seed(5)
    cell, x_NTF = kind(3, 4), torch.randn(2, 6, 3)
    states, last = cell(x_NTF)

    assert (2, 6, 4) == tuple(states.shape)
    torch.testing.assert_close(torch.stack([by_hand(cell, x_TF) for x_TF in x_NTF]), last)
    torch.testing.assert_close(states[:, -1], last)


def test_forget_gates_start_open():
    """In both kinds of LSTM: one in all, and no other bias is touched."""
    plain = build_network("lstm", images(4, 3), 2, hidden=(5,)).layers[0]
    normed = build_network("lstm", images(4, 3), 2, hidden=(5,), norm_in_cell="layer").layers[0]

    assert torch.equal(torch.ones(5), (plain.bias_ih_l0 + plain.bias_hh_l0)[5:10])
    assert torch.equal(torch.eye(4)[1].repeat_interleave(5), normed.norm_input.bias)


def test_norms_that_stand_between_layers_see_records_channels_and_steps():
    """So that their memory is that of the channel, over all steps."""
    network = build_network("gru", images(6, 3), 2, hidden=(5, 4))
    seen = []
    for norm in network.norms:
        norm.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    network(torch.zeros(2, 6, 3))

    assert [(2, 5, 6), (2, 4, 6)] == seen
    assert all(isinstance(norm, Norm) for norm in network.norms)


# ------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("net", "arrays", "message"),
    [
        (
            "lenet",
            (),
            "net 'lenet' reads exactly one array feature of shape [h, w] or [c, h, w]; the schema has none. Declare "
            "one as {array: [h, w]}, or take net: mlp, which reads any number of arrays, each as one row of numbers.",
        ),
        ("resnet_small", ((9, 9), (8, 8)), "the schema has 2: [9, 9], [8, 8]. Declare one as {array: [h, w]}"),
        ("lenet", ((784,),), "the schema has one of shape [784]. Declare it, and send it, in such a shape, or take"),
        (
            "lenet",
            ((28, 28, 3),),
            "net 'lenet' needs images of 12 x 12 pixels or more, channels first; the schema has an array of shape "
            "[28, 28, 3]. Send [c, h, w] in this order and large enough, or take net: mlp.",
        ),
        ("resnet_small", ((7, 8),), "needs images of 8 x 8 pixels or more"),
        ("gru", ((2, 29, 12),), "reads exactly one array feature of shape [time, features] or [time]"),
        ("lstm", ((3, 12),), "needs 4 time steps or more; the schema has an array of shape [3, 12]."),
    ],
)
def test_inputs_that_a_network_cannot_read_are_named_with_the_fix(net, arrays, message):
    """Whole sentences: what was expected, what came, what to do."""
    with pytest.raises(ConfigError) as caught:
        build_network(net, InputWidths(numbers=2, arrays=arrays), 2)

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        ("lenet", {"activation": "gelu"}, "activation is 'gelu'; known activations: relu, sigmoid."),
        ("lenet", {"channels": (6,)}, "channels is [6]; expected two"),
        ("gru", {"hidden": ()}, "net 'gru': hidden is empty"),
        ("resnet_small", {"hidden": (3,)}, "net 'resnet_small' has no option 'hidden'; known options: blocks,"),
        ("resnet_small", {"blocks": 0}, "net 'resnet_small': blocks is 0, channels [16, 32, 64]; expected 1 or more"),
        ("mlp", {"norm": "instance"}, "net 'mlp': norm 'instance' normalises over the positions of an image"),
    ],
)
def test_options_that_a_network_cannot_take_are_named(net, options, message):
    """At birth, before any record."""
    with pytest.raises(ConfigError) as caught:
        build_network(net, images(12, 12), 2, **options)

    assert message in str(caught.value)


@pytest.mark.parametrize("net", SHAPES)
def test_the_layer_that_reads_the_inputs_can_begin_anew(net):
    """One tensor has the values again that it began with, the rest stays, and learning goes on."""
    model, data = build(net), records(schema_of(net), 64)
    began = {name: value.clone() for name, value in model.network.named_parameters()}
    for batch in cut(data, [16]):
        model.learn(batch)
    learned = {name: value.detach().clone() for name, value in model.network.named_parameters()}
    model.renew_input_layer()
    now = dict(model.network.named_parameters())

    [renewed] = [name for name in now if not torch.equal(now[name], learned[name])]
    assert now[renewed] is first_weight(model)
    assert torch.equal(now[renewed], began[renewed])
    assert model.learn(records(schema_of(net), 16)).skipped is None
