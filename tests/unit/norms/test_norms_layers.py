"""What every layer in NORMS promises, checked for each by name: shapes, precision, state, batches of one and none."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from stream_trainer.errors import ConfigError, ShapeError
from stream_trainer.norms import NORMS, build_norm
from stream_trainer.norms.base import StatefulNorm

GOLDEN = Path(__file__).parents[2] / "golden" / "norms"
C = 8
SHAPES = {"dense": (C,), "sequence": (C, 6), "image": (C, 3, 2), "volume": (C, 2, 3, 2)}
NEEDS_POSITIONS = {"instance", "frn", "evonorm_s0"}
GIVES_NO_GRADIENT_AT_ONE = {"batch_renorm", "sync"}  # in dense layers
STATEFUL = sorted(name for name in NORMS if issubclass(NORMS[name], StatefulNorm))
CASES = [(name, kind) for name in NORMS for kind in SHAPES if kind != "dense" or name not in NEEDS_POSITIONS]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def built(name, kind="dense", **options):
    return build_norm(name, C, dims=max(1, len(SHAPES[kind]) - 1), **options)


def batch_of(n, kind="dense", seed=1):
    return torch.randn(n, *SHAPES[kind], generator=seeded(seed)) * 2 + 1


def trained(name, kind="dense"):
    layer = built(name, kind)
    for seed, n in enumerate((3, 2, 5)):
        x = batch_of(n, kind, seed).requires_grad_()
        (layer(x) ** 3).sum().backward()
    layer.zero_grad()
    return layer


def state_of(layer):
    return {name: value.clone() for name, value in layer.state_dict().items()}


def assert_same_state(expected, layer):
    for name, value in layer.state_dict().items():
        assert torch.equal(expected[name], value), name


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("n", [2, 7])
def test_any_small_batch_gives_finite_outputs_and_gradients_of_its_shape(name, kind, n):
    """The first promise of all."""
    layer = trained(name, kind)
    x = batch_of(n, kind, 9).requires_grad_()
    y = layer(x)
    (y**3).sum().backward()

    assert x.shape == y.shape == x.grad.shape
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
    assert all(torch.isfinite(value).all() for value in layer.state_dict().values())


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case != ("batch", "dense")])
def test_a_batch_of_one_gives_gradient_where_the_table_says_so(name, kind):
    """Quiet streams deliver single records for hours: what they teach the lower layers must be known."""
    layer = trained(name, kind)
    x = batch_of(1, kind, 9).requires_grad_()
    (layer(x) * torch.randn(x.shape, generator=seeded(3))).sum().backward()

    assert torch.isfinite(x.grad).all()
    reaches_lower_layers = not (name in GIVES_NO_GRADIENT_AT_ONE and kind == "dense")
    assert reaches_lower_layers == bool(x.grad.abs().max() > 1e-4)


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[1] in ("dense", "image")])
@pytest.mark.parametrize("n", [3, 64])
def test_no_gradient_is_silently_zero(name, kind, n):
    """Of a batch that is not constant every record and every channel teaches, input and affine part alike.

    From three records on: of two a dense batch norm leaves hardly more than signs, and a gradient of order eps."""
    layer = trained(name, kind)
    x = batch_of(n, kind, 9).requires_grad_()
    (layer(x) * torch.randn(x.shape, generator=seeded(3))).sum().backward()

    assert bool((x.grad.flatten(2).abs().sum((1, 2)) if x.dim() > 2 else x.grad.abs().sum(1)).gt(1e-6).all())
    assert bool((x.grad.transpose(0, 1).flatten(1).abs().sum(1) > 1e-6).all())
    assert all(bool((parameter.grad.abs() > 0).all()) for parameter in layer.parameters() if parameter.grad is not None)
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_batch_refuses_a_single_value_per_channel_and_names_the_way_out():
    """Torch's message tells of channels; an operator needs to know what to configure instead."""
    with pytest.raises(ShapeError) as refusal:
        built("batch")(batch_of(1))

    assert str(refusal.value) == (
        "BatchNorm cannot train on input (1, 8): expected 2 or more values per channel, got 1: a single value has no "
        "variance. Use norm `adaptive_batch_renorm`, `layer` or `group`, which take batches of any size; "
        "convert_norms(model, name) exchanges the layers of a network."
    )
    assert (1, C) == tuple(built("batch").eval()(batch_of(1)).shape)


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_an_empty_batch_is_a_no_op(name, kind, training):
    """A batch of rejects only reaches nobody; if it does, nothing may move or break."""
    layer = trained(name, kind).train(training)
    before = state_of(layer)
    x = batch_of(0, kind).requires_grad_()
    y = layer(x)
    y.sum().backward()

    assert x.shape == y.shape
    assert_same_state(before, layer)


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_eval_moves_nothing_and_treats_each_record_by_itself(name, kind):
    """Prediction comes before learning; were it to leave a trace, the score would not be honest."""
    layer = trained(name, kind).eval()
    before = state_of(layer)
    x = batch_of(6, kind, 9).requires_grad_()
    y = layer(x)
    y.square().sum().backward()

    assert_same_state(before, layer)
    one_by_one = torch.cat([layer(record) for record in x.detach().split(1)])
    torch.testing.assert_close(one_by_one, y.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[1] in ("dense", "image")])
def test_narrow_inputs_are_normalised_in_float32(name, kind, dtype, autocast):
    """Squares of float16 overflow at 256; the output is as narrow as the input, the memory never."""
    narrow, reference = trained(name, kind), trained(name, kind)
    x = (batch_of(5, kind, 9) * 100).to(dtype)
    leaf = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        y = narrow(leaf)
    y.float().sum().backward()
    expected = reference(x.float())

    assert dtype is y.dtype
    torch.testing.assert_close(y, expected.to(dtype))
    assert torch.isfinite(leaf.grad).all()
    for key, value in reference.state_dict().items():
        assert torch.equal(value, narrow.state_dict()[key]) or key in ("u", "v", "control")  # moved in backward


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("name", sorted(NORMS))
def test_a_model_cast_to_bfloat16_keeps_its_norms_in_float32(name):
    """`model.bfloat16()` would stop moments and gains from moving in small steps."""
    layer = built(name, "image").bfloat16()
    y = layer(batch_of(4, "image").bfloat16())

    assert torch.bfloat16 is y.dtype
    assert all(tensor.dtype is not torch.bfloat16 for tensor in layer.state_dict().values())


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", sorted(NORMS))
def test_memory_layout_does_not_matter(name, training):
    """channels_last, transposed and strided inputs, and gradients that arrive so."""
    x, dy = batch_of(4, "image", 9), torch.randn(4, *SHAPES["image"], generator=seeded(8))
    results = []
    for arrange in (
        lambda t: t,
        lambda t: t.to(memory_format=torch.channels_last),
        lambda t: t.transpose(0, 3).contiguous().transpose(0, 3),
        lambda t: torch.stack([t, t], -1)[..., 0],
    ):
        layer = trained(name, "image").train(training)
        leaf = x.clone().requires_grad_()
        y = layer(arrange(leaf))
        y.backward(arrange(dy))
        results.append((y.detach(), leaf.grad, state_of(layer)))
    for y, dx, state in results[1:]:
        torch.testing.assert_close(y, results[0][0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(dx, results[0][1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state, results[0][2], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_constant_and_huge_inputs_stay_finite(name, kind):
    """A sensor that hangs, and one that explodes."""
    layer = built(name, kind)
    for scale in (0.0, 1.0, 1e12):
        x = torch.full((5, *SHAPES[kind]), scale).requires_grad_()
        y = layer(x)
        y.sum().backward()
        assert torch.isfinite(y).all()
        assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(value).all() for value in layer.state_dict().values())


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("name", sorted(NORMS))
def test_state_survives_a_round_trip_through_a_file_and_learning_goes_on_bit_for_bit(name, tmp_path):
    """Checkpoints: a restored twin must not differ in a single bit after the next batches."""
    kind = "image" if name in NEEDS_POSITIONS else "dense"
    layer = trained(name, kind)
    save_file({key: value.contiguous() for key, value in layer.state_dict().items()}, tmp_path / "state.safetensors")
    twin = built(name, kind)
    twin.load_state_dict(load_file(tmp_path / "state.safetensors"))
    for n in (1, 3) if name != "batch" else (2, 3):
        ys = [model(batch_of(n, kind, n)) for model in (layer, twin)]
        for y in ys:
            if y.requires_grad:
                y.square().sum().backward()
        assert torch.equal(*ys)
    assert_same_state(state_of(layer), twin)


@pytest.mark.parametrize("name", STATEFUL)
def test_a_state_file_of_the_first_release_loads_for_ever(name):
    """Renaming a buffer would orphan every checkpoint out there."""
    golden = load_file(GOLDEN / f"state_1_{name}.safetensors")
    layer = built(name).eval()
    layer.load_state_dict({key.removeprefix("state/"): value for key, value in golden.items() if "state/" in key})

    torch.testing.assert_close(layer(golden["x"]), golden["y"])


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("name", sorted(NORMS))
def test_a_deep_copy_is_a_twin_that_shares_nothing(name):
    """The race of a drift reaction learns on copies."""
    layer = trained(name, "image")
    twin, before = copy.deepcopy(layer), state_of(layer)
    assert torch.equal(layer.eval()(batch_of(2, "image", 4)), twin.eval()(batch_of(2, "image", 4)))
    y = twin.train()(batch_of(5, "image"))
    if y.requires_grad:
        y.sum().backward()

    assert_same_state(before, layer)


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("name", STATEFUL)
def test_training_moves_the_memory(name):
    """Guards all tests above against a layer that never learns."""
    before, layer = state_of(built(name)), trained(name)

    assert any(not torch.equal(before[key], value) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("name", sorted(NORMS))
def test_it_exports_for_serving(name):
    """torch.export in eval mode, batch size left open."""
    layer = trained(name, "image").eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(layer, (batch_of(4, "image"),), dynamic_shapes=({0: batch},))

    torch.testing.assert_close(program.module()(batch_of(7, "image", 5)), layer(batch_of(7, "image", 5)))


@pytest.mark.parametrize("name", sorted(NORMS))
def test_its_text_names_width_and_dims(name):
    """print(model) is how one finds out what was configured."""
    assert f"{C}, dims=2" in repr(built(name, "image"))


@pytest.mark.parametrize("name", sorted(NORMS))
def test_a_wrong_shape_is_told_with_both_shapes_and_the_fix(name):
    """One message for all layers."""
    label = type(built(name)).__name__
    with pytest.raises(ShapeError) as width:
        built(name, "image")(torch.ones(4, 5, 3, 3))
    with pytest.raises(ShapeError) as dims:
        built(name, "image")(torch.ones(4, C))

    assert str(width.value) == (
        f"{label} expected input (N, 8, H, W), got (4, 5, 3, 3). "
        "Build the layer with num_features=5, or move the features to axis 1."
    )
    assert str(dims.value) == (
        f"{label} expected input (N, 8, H, W), got (4, 8). "
        "Build the layer with dims=1 for (N, C) and (N, C, L), 2 for images, 3 for volumes."
    )


def test_unknown_names_and_options_are_answered_with_the_known_ones():
    """The configuration is written by hand."""
    with pytest.raises(
        ConfigError, match="norm is 'batchnorm'; known norms: adaptive_batch_renorm, batch, batch_renorm"
    ):
        build_norm("batchnorm", 4)
    with pytest.raises(ConfigError, match="norm 'group' has no option 'momentum'; known options: affine, eps, groups"):
        build_norm("group", 4, momentum=0.1)
    with pytest.raises(ConfigError, match="known options: none"):
        build_norm("none", 4, eps=0.1)
    with pytest.raises(ConfigError, match="num_features is 0; expected 1 or more"):
        build_norm("layer", 0)
    with pytest.raises(ConfigError, match="dims is 4; expected 1"):
        build_norm("layer", 4, dims=4)
    with pytest.raises(ConfigError, match="eps is 0; expected a number above 0"):
        build_norm("layer", 4, eps=0)


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("name", sorted(name for name in NORMS if name != "none"))
def test_it_learns_inside_a_network(name):
    """Forward, backward and optimiser together, in batches of uneven size, lower the loss."""
    torch.manual_seed(0)
    shape = (C, 4) if name in NEEDS_POSITIONS else (C,)
    lower = nn.Conv1d(C, C, 1) if name in NEEDS_POSITIONS else nn.Linear(C, C)
    net = nn.Sequential(lower, build_norm(name, C), nn.Flatten(), nn.Linear(C * (4 if len(shape) > 1 else 1), 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    x = torch.randn(512, *shape, generator=seeded(1))
    y = x.flatten(1)[:, :1] - x.flatten(1)[:, 1:2]
    losses = []
    for _ in range(3):
        for start, n in zip(range(0, 500, 10), [2, 10, 3, 10, 7] * 10, strict=True):
            loss = (net(x[start : start + n]) - y[start : start + n]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))

    assert sum(losses[-30:]) < 0.6 * sum(losses[:30])
