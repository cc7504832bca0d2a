"""Records that count otherwise than once: weighted by the caller, or refused because they hold no numbers."""

import pytest
import torch

from stream_trainer.errors import ConfigError, ShapeError
from stream_trainer.norms import build_norm

C = 8
WITH_MOMENTS = ["batch_renorm", "adaptive_batch_renorm", "continual", "sync"]
REFUSING = [*WITH_MOMENTS, "online"]
WEIGHTED = [*REFUSING, "batch"]


def memory(layer):
    holder = layer if hasattr(layer, "mean") else getattr(layer, "moments", None)
    names = ("running_mean", "running_var") if holder is None else ("mean", "var")
    return [getattr(holder or layer, name) for name in names]


def assert_same_memory(layer, expected, **tolerances):
    for got, value in zip(memory(layer), memory(expected), strict=True):
        torch.testing.assert_close(got, value, **tolerances)


def draw(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 1


@pytest.mark.usefixtures("each_path")
@pytest.mark.parametrize(
    ("name", "bad"),
    [(name, bad) for name in REFUSING for bad in (torch.nan, torch.inf)] + [("batch_renorm", 1e30), ("online", 1e30)],
)
@pytest.mark.parametrize("tail", [(), (3, 2)])
def test_a_record_that_holds_no_number_is_not_learned_and_the_others_are(name, tail, bad):
    """A bare layer has nobody around it that takes a batch back, and its memory outlives the batch.

    Of 1e30 the square is no number; the layers that normalise each record first make something usable of it."""
    layer, spared = (build_norm(name, C, dims=max(1, len(tail))) for _ in range(2))
    for model in (layer, spared):
        model(draw(40, C, *tail))
    x = draw(9, C, *tail, seed=2)
    good = torch.tensor([0, 1, 2, 3, 5, 6, 8])
    x[4, 3], x[7] = bad, -bad
    layer(x.clone().requires_grad_()).square().sum().backward()
    spared(x[good].requires_grad_()).square().sum().backward()

    assert_same_memory(layer, spared)
    assert 2 == layer.records_refused
    assert all(torch.isfinite(value).all() for value in layer.state_dict().values())


@pytest.mark.usefixtures("each_path")
@pytest.mark.parametrize("name", REFUSING)
def test_what_is_no_number_is_not_hidden_either(name):
    """Who watches the loss must see it: outputs made whole again would be believed."""
    layer = build_norm(name, C)
    x = draw(5, C)
    x[2, 1] = torch.nan

    assert bool(layer(x)[:, 1].isnan().any())


@pytest.mark.usefixtures("each_path")
@pytest.mark.parametrize("name", REFUSING)
def test_a_batch_without_one_usable_record_moves_no_moment(name):
    """Also the very first: a weight of 0 over 0 must not become the memory."""
    layer = build_norm(name, C)
    layer(torch.full((3, C), torch.nan))

    assert 3 == layer.records_refused
    assert_same_memory(layer, build_norm(name, C), rtol=0, atol=0)


@pytest.mark.usefixtures("each_path")
def test_frozen_or_in_eval_nothing_is_refused_because_nothing_is_learned():
    """The count says what the memory has missed."""
    layer = build_norm("batch_renorm", C)
    layer.frozen = True
    layer(torch.full((3, C), torch.nan))
    layer.frozen = False
    layer.eval()(torch.full((3, C), torch.nan))

    assert 0 == layer.records_refused


@pytest.mark.usefixtures("each_path")
def test_a_gradient_that_is_no_number_leaves_the_controls_of_online_as_they_were():
    """u and v carry the past of the gradient; a nan in them would stay for ever."""
    layer = build_norm("online", C)
    x = draw(5, C).requires_grad_()
    layer(x).square().sum().backward()
    before = layer.u.clone(), layer.v.clone()
    layer(x).mul(torch.nan).sum().backward()

    assert float(before[0].abs().sum()) > 0
    assert torch.equal(before[0], layer.u)
    assert torch.equal(before[1], layer.v)


# ------------------------------------------------------------ weights: torch's operations on every path


def one_pass(layer, x, dy, weight=None):
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x) if weight is None else layer(x, weight)
    y.backward(dy)
    return y.detach(), x.grad, layer.weight.grad, layer.bias.grad


def double(name, tail=()):
    return build_norm(name, C, dims=max(1, len(tail))).double()


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("tail", [(), (3, 2)])
def test_a_record_of_weight_0_is_not_there_whatever_it_holds(name, tail):
    """Padding: neither outputs and gradients of the others nor any state may see it."""
    padded, plain = double(name, tail), double(name, tail)
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    there = weight > 0
    for seed in (1, 2):
        x, dy = draw(6, C, *tail, seed=seed).double(), draw(6, C, *tail, seed=seed + 5).double()
        dy[~there] = 0
        y, dx, dweight, dbias = one_pass(padded, x, dy, weight)
        expected = one_pass(plain, x[there], dy[there])
        torch.testing.assert_close(y[there], expected[0])
        torch.testing.assert_close(dx[there], expected[1])
        torch.testing.assert_close((dweight, dbias), expected[2:])
        assert bool((dx[~there] == 0).all())
    x[1] = torch.nan  # gradients would be nan too, 0 * nan; outputs of the others and the memory must not
    with torch.no_grad():
        torch.testing.assert_close(padded(x, weight)[there], plain(x[there]))
    torch.testing.assert_close(padded.state_dict(), plain.state_dict())
    assert 0 == padded.records_refused


@pytest.mark.parametrize("name", [*WITH_MOMENTS, "batch"])
@pytest.mark.parametrize("tail", [(), (3, 2)])
def test_a_record_of_weight_2_is_that_record_twice(name, tail):
    """With half the gradient for each copy: a weight says how often a record counts, the loss is the caller's."""
    weighted, repeated = double(name, tail), double(name, tail)
    times = torch.tensor([1, 2, 0, 3, 1])
    for seed in (1, 2):
        x, dy = draw(5, C, *tail, seed=seed).double(), draw(5, C, *tail, seed=seed + 5).double()
        dy[2] = 0
        copies = torch.arange(5).repeat_interleave(times)
        shared = dy[copies] / times[copies].view(-1, 1, *[1] * len(tail))
        y, dx, dweight, dbias = one_pass(weighted, x, dy, times.double())
        y_all, dx_all, *expected = one_pass(repeated, x[copies], shared)
        if seed == 1:  # the scalars of the adaptive layer count records, so its second batch may differ a little
            torch.testing.assert_close(y[copies], y_all)
            torch.testing.assert_close(dx, torch.zeros_like(dx).index_add_(0, copies, dx_all))
            torch.testing.assert_close([dweight, dbias], expected)
        assert_same_memory(weighted, repeated)


@pytest.mark.parametrize("name", REFUSING)
@pytest.mark.parametrize("tail", [(), (3, 2)])
def test_weighted_batches_move_the_memory_as_the_slow_loop_over_single_records(name, tail):
    """The definition: each record by itself, as often as it counts."""
    batched, slow = double(name, tail), double(name, tail)
    x = draw(100, C, *tail).double()
    times = torch.randint(0, 4, (100,), generator=torch.Generator().manual_seed(2))
    for part, weight in zip(x.split([1, 70, 29]), times.split([1, 70, 29]), strict=True):
        batched(part, weight)
    for record, count in zip(x.split(1), times.tolist(), strict=True):
        for _ in range(count):
            slow(record)

    assert_same_memory(batched, slow)


@pytest.mark.parametrize("name", WEIGHTED)
def test_fractions_count_and_nothing_that_counts_moves_nothing(name):
    """Importance weights are rarely whole; and a batch of padding alone is like an empty one."""
    layer = double(name)
    x = draw(4, C).double().requires_grad_()
    layer(x, torch.tensor([0.5, 0.25, 1e-9, 2.5])).square().sum().backward()
    assert torch.isfinite(x.grad).all()
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    y = layer(x, torch.zeros(4))

    torch.testing.assert_close(layer.eval()(x), y)
    assert all(torch.equal(value, layer.state_dict()[key]) for key, value in before.items())
    assert all(torch.isfinite(value).all() for value in before.values())


@pytest.mark.parametrize("name", WEIGHTED)
def test_what_is_no_weight_is_refused(name):
    """One for each record, and a number: -1 would unlearn, nan would spread."""
    layer = build_norm(name, C)
    with pytest.raises(ShapeError, match=r"record_weight_N has shape \(3,\); expected \(4,\)"):
        layer(draw(4, C), torch.ones(3))
    with pytest.raises(ConfigError, match=r"record_weight_N\[2\] is -1.0; expected a number of 0 or more"):
        layer(draw(4, C), torch.tensor([1.0, 1.0, -1.0, 1.0]))
    with pytest.raises(ConfigError, match=r"record_weight_N\[1\] is nan"):
        layer(draw(4, C), torch.tensor([1.0, torch.nan, 1.0, 1.0]))


def test_batch_refuses_weights_that_leave_one_value():
    """torch's rule, by weight: one value has no variance."""
    with pytest.raises(ShapeError, match="weights that add up to 1 value"):
        build_norm("batch", C)(draw(4, C), torch.tensor([1.0, 0.0, 0.0, 0.0]))


def test_controls_of_online_under_weights_are_those_of_the_loop():
    """Record by record from the equations: kept^w of v and of u, w controls in the gradient."""
    layer = build_norm("online", C, half_life_records=20.0, half_life_records_backward=5.0).double()
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0, 0.0]).double()
    rate = 1 - 0.5 ** (1 / 5.0)
    for seed in (1, 2):
        x, dy = draw(5, C, seed=seed).double(), draw(5, C, seed=seed + 5).double()
        stds = (layer._walk(x, None, weight)[1] + layer.eps).sqrt()
        u, v = layer.u.clone(), layer.v.clone()
        y, dx, *_ = one_pass(layer, x, dy, weight)
        for xhat, std, g, w, got in zip(y, stds, dy, weight, dx, strict=True):
            g = torch.where(xhat.abs() < 5, g, 0.0)
            controlled = g - w * rate * v * xhat
            torch.testing.assert_close(got, controlled / std - w * rate * u)
            if w > 0:
                v = (1 - rate * xhat**2).clamp(min=0) ** w * v + g * xhat
                u = (1 - rate) ** w * u + controlled / std
        torch.testing.assert_close((layer.u, layer.v), (u, v))
