"""Online Normalization against a loop over single records, written from the paper's equations."""

import pytest
import torch

from stream_trainer.errors import ConfigError
from stream_trainer.norms import build_norm

MOMENTS = ("mean", "var")
CONTROLS = ("u", "v")


def draw(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 1


def built(channels=4, **options):
    return build_norm("online", channels, half_life_records=20.0, half_life_records_backward=5.0, **options).double()


def by_the_paper(layer, x, dy):
    """Outputs, input gradients and the state after, one record and one equation at a time; weight 1, bias 0."""
    keep_f, keep_b = (0.5 ** (1 / h) for h in (layer.half_life_records, layer.half_life_records_backward))
    mean, var, u, v = (getattr(layer, name).clone() for name in (*MOMENTS, *CONTROLS))
    ys, stds = [], []
    for record in x.flatten(2) if x.dim() > 2 else x.unsqueeze(2):
        stds.append((var + layer.eps).sqrt())
        ys.append(((record - mean[:, None]) / stds[-1][:, None]).clamp(-5, 5))
        step = record.mean(1) - mean
        var = keep_f * var + (1 - keep_f) * record.var(1, correction=0) + keep_f * (1 - keep_f) * step**2
        mean = mean + (1 - keep_f) * step
    dxs = []
    for xhat, std, g in zip(ys, stds, dy.reshape(len(x), x.shape[1], -1), strict=True):
        g = torch.where(xhat.abs() < 5, g, 0.0)
        g_controlled = g - (1 - keep_b) * v[:, None] * xhat
        kept = (1 - (1 - keep_b) * xhat.square().mean(1)).clamp(min=0)
        v = kept * v + (g * xhat).mean(1)
        dx = g_controlled / std[:, None] - (1 - keep_b) * u[:, None]
        u = u + dx.mean(1)
        dxs.append(dx)
    return torch.stack(ys).view_as(x), torch.stack(dxs).view_as(x), {"mean": mean, "var": var, "u": u, "v": v}


@pytest.mark.parametrize("tail", [(), (3,)])
@pytest.mark.parametrize("n", [1, 2, 64, 65, 200])
def test_outputs_gradients_and_state_are_those_of_the_loop(n, tail):
    """64 and 65: the edge of a block of the vectorised forward pass."""
    layer = built()
    for seed in (1, 2):  # the second batch starts from a state that has seen something
        x, dy = draw(n, 4, *tail, seed=seed).requires_grad_(), draw(n, 4, *tail, seed=seed + 10)
        y, dx, state = by_the_paper(layer, x.detach(), dy)
        got = layer(x)
        got.backward(dy)

        torch.testing.assert_close(got, y)
        torch.testing.assert_close(x.grad, dx)
        for name, value in state.items():
            torch.testing.assert_close(getattr(layer, name), value)


@pytest.mark.parametrize("cut", [1, 7, 64, [3, 0, 90, 1, 26]])
def test_exact_mode_gives_the_same_outputs_for_any_cut(cut):
    """Stronger than equal moments: record by record the same output, whoever came in the same batch."""
    x = draw(120, 4)
    whole, layer = built(), built()
    expected = whole(x)

    torch.testing.assert_close(torch.cat([layer(batch) for batch in x.split(cut)]), expected)
    torch.testing.assert_close(
        {name: getattr(layer, name) for name in MOMENTS}, {name: getattr(whole, name) for name in MOMENTS}
    )


def test_without_exact_the_batch_lags_but_its_moments_do_not():
    """One merge a batch: outputs by the moments from before it, moments as exact as ever."""
    exact, merged = built(), built(exact=False)
    for seed in range(3):
        x = draw(40, 4, seed=seed)
        expected = ((x - merged.mean) / (merged.var + merged.eps).sqrt()).clamp(-5, 5)
        exact(x)
        torch.testing.assert_close(merged(x), expected)
        torch.testing.assert_close(merged.var, exact.var)


def test_without_exact_the_controls_move_as_the_loop_for_equal_records():
    """n moves at once by a closed form: exact where all records are the same, and never unstable."""
    exact, merged = built(), built(exact=False)
    for layer in (exact, merged):
        layer.mean.fill_(1.0)
        layer.half_life_records = 1e12  # the moments stand still
        x = torch.full((30, 4), 1.0, dtype=torch.float64).requires_grad_()  # xhat = 0: only u moves
        layer(x).backward(torch.ones(30, 4, dtype=torch.float64))
    torch.testing.assert_close(merged.u, exact.u)
    for seed in range(20):
        x = (draw(1000, 4, seed=seed) * 10).requires_grad_()
        merged(x).backward(draw(1000, 4, seed=seed))
    assert torch.isfinite(merged.v).all()
    assert float(merged.v.abs().max()) < 1e3


def test_badly_scaled_inputs_at_the_start_do_not_blow_up_the_controls():
    """With unclamped xhat = 1000 each record would multiply v by -10,000."""
    layer = built()
    for seed in range(30):
        x = (draw(4, 4, seed=seed) * 1000).requires_grad_()
        layer(x).backward(draw(4, 4, seed=seed))

    assert float(layer.v.abs().max()) < 1e3
    assert torch.isfinite(x.grad).all()


def test_what_it_refuses():
    """A half-life of 0 would divide by it."""
    with pytest.raises(ConfigError, match=r"half_life_records is 0.*expected numbers above 0"):
        build_norm("online", 4, half_life_records=0)
