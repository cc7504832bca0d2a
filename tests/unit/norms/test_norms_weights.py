"""Records that count otherwise than once: weighted by the caller, or refused because they hold no numbers."""

import pytest
import torch

from stream_trainer.norms import build_norm

pytestmark = pytest.mark.usefixtures("each_path")

C = 8
REFUSING = ["batch_renorm", "adaptive_batch_renorm", "continual"]


def draw(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 1


@pytest.mark.parametrize(
    ("name", "bad"),
    [(name, bad) for name in REFUSING for bad in (torch.nan, torch.inf)] + [("batch_renorm", 1e30)],
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

    torch.testing.assert_close(layer.moments.mean, spared.moments.mean)
    torch.testing.assert_close(layer.moments.var, spared.moments.var)
    assert 47 == int(layer.moments.n_records)
    assert 2 == layer.records_refused
    assert all(torch.isfinite(value).all() for value in layer.state_dict().values())


@pytest.mark.parametrize("name", REFUSING)
def test_what_is_no_number_is_not_hidden_either(name):
    """Who watches the loss must see it: outputs made whole again would be believed."""
    layer = build_norm(name, C)
    x = draw(5, C)
    x[2, 1] = torch.nan

    assert bool(layer(x)[:, 1].isnan().any())


@pytest.mark.parametrize("name", REFUSING)
def test_a_batch_without_one_usable_record_moves_no_moment(name):
    """Also the very first: a weight of 0 over 0 must not become the memory."""
    layer = build_norm(name, C)
    layer(torch.full((3, C), torch.nan))

    assert 3 == layer.records_refused
    assert 0 == int(layer.moments.n_records)
    assert torch.equal(torch.zeros_like(layer.moments.mean), layer.moments.mean)
    assert torch.equal(torch.ones_like(layer.moments.var), layer.moments.var)


def test_frozen_or_in_eval_nothing_is_refused_because_nothing_is_learned():
    """The count says what the memory has missed."""
    layer = build_norm("batch_renorm", C)
    layer.frozen = True
    layer(torch.full((3, C), torch.nan))
    layer.frozen = False
    layer.eval()(torch.full((3, C), torch.nan))

    assert 0 == layer.records_refused
