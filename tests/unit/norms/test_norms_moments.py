"""RunningMoments against a loop over single records in double precision, for any cut of the stream."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_trainer.errors import ConfigError, ShapeError
from stream_trainer.norms import RunningMoments
from stream_trainer.norms.decay import decay_of_batch, half_life_of, mass_of


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def one_by_one(x, half_life_records, prior_records=0, weight=None):
    """The definition: weights q^age over all records ever, plain sums in float64."""
    x = x.double().reshape(*x.shape[:2], -1)
    weight = torch.ones(len(x)) if weight is None else weight
    q = 1.0 if half_life_records is None else 0.5 ** (1 / half_life_records)
    ages = weight.sum() - weight.double().cumsum(0)
    part = weight.double() if q == 1.0 else (1 - q ** weight.double()) / (1 - q)
    p = (q**ages * part).view(-1, 1, 1)
    prior = q ** weight.double().sum() * sum(q**age for age in range(prior_records))
    total = p.sum() + prior
    mean = (p * x).mean(2).sum(0) / total
    var = ((p * (x - mean.view(1, -1, 1)).square()).mean(2).sum(0) + prior * (1 + mean.square())) / total
    return mean, var


def learned(x, sizes, dtype, **options):
    moments = RunningMoments(x.shape[1], dtype=dtype, **options)
    for batch in x.to(dtype).split(sizes):
        moments.update(batch)
    return moments


CUTS = {"one": 1, "seven": 7, "sixty-four": 64, "all": 300, "random": [1, 40, 3, 0, 120, 2, 100, 34]}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("half_life_records", [1.0, 44.0, 5000.0, None])
@pytest.mark.parametrize("tail", [(), (5,), (3, 2)])
@pytest.mark.parametrize("cut", CUTS)
def test_any_cut_of_the_stream_gives_the_moments_of_its_records(cut, tail, half_life_records, dtype, tolerance):
    """Promise P1: the batch is an accident of load, the moments must not show it."""
    x = torch.randn(300, 4, *tail, generator=seeded(1), dtype=torch.float64) * 3 + 5
    moments = learned(x, CUTS[cut], dtype, half_life_records=half_life_records)
    mean, var = one_by_one(x.to(dtype), half_life_records)

    torch.testing.assert_close(moments.mean.double(), mean, rtol=tolerance, atol=0)
    torch.testing.assert_close(moments.var.double(), var, rtol=tolerance, atol=0)
    assert int(moments.n_records) == 300
    assert math.isclose(mass_of(300, half_life_records), float(moments.weight), rel_tol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    half_life_records=st.one_of(st.none(), st.floats(0.2, 1e6)),
    level=st.floats(-1e3, 1e3),
    scale=st.floats(1e-2, 1e4),
    seed=st.integers(0, 2**31),
)
def test_any_cut_any_memory_any_scale(sizes, half_life_records, level, scale, seed):
    """The same by search: nobody knows beforehand how a busy stream is cut."""
    x = torch.randn(max(1, sum(sizes)), 3, generator=seeded(seed), dtype=torch.float64) * scale + level
    cut = learned(x[: sum(sizes)], sizes, torch.float64, half_life_records=half_life_records)
    single = learned(x[: sum(sizes)], 1, torch.float64, half_life_records=half_life_records)

    torch.testing.assert_close(cut.mean, single.mean, rtol=1e-10, atol=1e-10 * scale)
    torch.testing.assert_close(cut.var, single.var, rtol=1e-10, atol=1e-10 * scale**2)


def test_a_plain_batch_mean_would_not_pass():
    """Guards the reason for the weights: merging 64 records alike is far off for a memory of 64."""
    x = torch.randn(64, 1, generator=seeded(2), dtype=torch.float64).cumsum(0)
    mean, _ = one_by_one(x, 44.0)

    assert abs(float(x.mean() - mean)) > 0.05


def test_prior_records_are_remembered_like_records():
    """Eight records at (0, 1) from before the start keep the first variance away from zero."""
    x = torch.randn(20, 2, generator=seeded(3), dtype=torch.float64) + 4
    moments = learned(x, [1, 19], torch.float64, half_life_records=10.0, prior_records=8)
    mean, var = one_by_one(x, 10.0, prior_records=8)

    torch.testing.assert_close(moments.mean, mean)
    torch.testing.assert_close(moments.var, var)


def test_a_variance_of_nine_stays_nine_in_small_batches():
    """An average of within-batch variances gives 0 at n = 1 and 4.4 at n = 2."""
    x = torch.randn(4000, 1, generator=seeded(4)) * 3
    for n in (1, 2, 4):
        assert 9.0 == pytest.approx(float(learned(x, n, torch.float32, half_life_records=None).var), rel=0.06)


def test_an_empty_batch_changes_nothing():
    """The batcher may close a batch of rejects only."""
    moments = learned(torch.ones(3, 2), 3, torch.float32, half_life_records=5.0)
    before = {name: value.clone() for name, value in moments.state_dict().items()}
    moments.update(torch.empty(0, 2))
    moments.update(torch.empty(0, 2), torch.empty(0))

    assert all(torch.equal(before[name], value) for name, value in moments.state_dict().items())


def test_a_record_of_weight_two_is_that_record_twice():
    """And of weight 0 not there: the definition of a weight, for every memory."""
    x = torch.randn(5, 3, generator=seeded(5), dtype=torch.float64)
    weight = torch.tensor([1.0, 0.0, 2.0, 1.0, 3.0])
    repeated = x[torch.tensor([0, 2, 2, 3, 4, 4, 4])]
    for half_life in (2.0, None):
        weighted, plain = (RunningMoments(3, half_life_records=half_life, dtype=torch.float64) for _ in range(2))
        weighted.update(x, weight)
        weighted.update(x, weight)
        plain.update(repeated)
        plain.update(repeated)
        torch.testing.assert_close(weighted.mean, plain.mean)
        torch.testing.assert_close(weighted.var, plain.var)
        torch.testing.assert_close(weighted.weight, plain.weight)


@pytest.mark.parametrize("half_life_records", [3.0, None])
def test_a_missing_value_leaves_its_feature_alone(half_life_records):
    """Each feature ages by its own values: one present in every thousandth record must not forget in between."""
    x = torch.randn(40, 3, generator=seeded(6), dtype=torch.float64)
    present = torch.rand(40, 3, generator=seeded(7)) < 0.4
    x_with_holes = torch.where(present, x, torch.nan)
    moments = RunningMoments(3, half_life_records=half_life_records, per_value=True, dtype=torch.float64)
    for batch, mask in zip(x_with_holes.split([1, 9, 25, 5]), present.split([1, 9, 25, 5]), strict=True):
        moments.update(batch, mask)
    for feature in range(3):
        alone = RunningMoments(1, half_life_records=half_life_records, dtype=torch.float64)
        alone.update(x[present[:, feature], feature : feature + 1])
        torch.testing.assert_close(moments.mean[feature : feature + 1], alone.mean)
        torch.testing.assert_close(moments.var[feature : feature + 1], alone.var)


def test_a_feature_that_never_came_keeps_its_start():
    """0/0 would be nan for ever."""
    moments = RunningMoments(2, half_life_records=3.0, per_value=True)
    moments.update(torch.tensor([[1.0, torch.nan]]), torch.tensor([[True, False]]))
    moments.update(torch.tensor([[5.0, torch.nan]]), torch.tensor([[True, False]]))

    assert (0.0, 1.0) == (float(moments.mean[1]), float(moments.var[1]))
    assert float(moments.mean[0]) > 1
    moments.update(torch.tensor([[5.0, 7.0]]))
    assert float(moments.mean[1]) == 7


def test_the_half_life_may_change_on_the_way():
    """A confirmed drift shortens the memory; what was learned keeps its weight."""
    moments = learned(
        torch.randn(50, 1, generator=seeded(8), dtype=torch.float64), 10, torch.float64, half_life_records=None
    )
    moments.half_life_records = 1.0
    moments.update(torch.full((30, 1), 9.0, dtype=torch.float64))

    assert 9.0 == pytest.approx(float(moments.mean), abs=1e-3)


def test_constant_and_huge_inputs_stay_finite_and_exact():
    """Two passes: E[x^2] - E[x]^2 at a level of 1e6 has no digit left in float32."""
    constant = learned(torch.full((100, 2), 1e6), 7, torch.float32, half_life_records=20.0)
    wide = learned(1e6 + torch.randn(1000, 2, generator=seeded(9)), 10, torch.float32, half_life_records=None)
    huge = learned(torch.full((4, 2), 1e18), 2, torch.float32, half_life_records=20.0)

    assert (0.0, 1e6) == (float(constant.var[0]), float(constant.mean[0]))
    assert 1.0 == pytest.approx(float(wide.var[0]), rel=0.15)
    assert torch.isfinite(huge.var).all()


def test_half_and_autocast_inputs_are_measured_in_float32():
    """bfloat16 holds three digits: a running mean in it would stop moving."""
    x = (torch.randn(64, 4, generator=seeded(10)) + 3).bfloat16()
    expected = learned(x.float(), 64, torch.float32, half_life_records=9.0)
    moments = RunningMoments(4, half_life_records=9.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        moments.update(x)

    torch.testing.assert_close(moments.mean, expected.mean, rtol=0, atol=0)
    torch.testing.assert_close(moments.var, expected.var, rtol=0, atol=0)


def test_casting_the_model_does_not_narrow_its_moments():
    """`model.half()` moves a step of 1/5000 of a mean below the digits that float16 has."""
    moments = RunningMoments(4, half_life_records=9.0).half()

    assert (torch.float32, torch.float64, torch.int64) == (
        moments.mean.dtype,
        moments.weight.dtype,
        moments.n_records.dtype,
    )
    assert moments.double().mean.dtype is torch.float64


def test_wrong_shapes_and_values_are_told_with_both_shapes():
    """The message is the documentation one reads at three in the morning."""
    moments = RunningMoments(3, half_life_records=2.0)
    with pytest.raises(ShapeError, match=r"moments of 3 features got \(4, 2\); expected \(N, 3\)"):
        moments.update(torch.ones(4, 2))
    with pytest.raises(ShapeError, match=r"weights have shape \(4, 3\); expected \(4,\).*per_value=True"):
        moments.update(torch.ones(4, 3), torch.ones(4, 3))
    with pytest.raises(ConfigError, match=r"half_life_records is 0; expected a number above 0"):
        RunningMoments(3, half_life_records=0)


def test_weights_of_records_sum_to_one_and_the_newest_is_heaviest():
    """Guards float32 against long half-lives, where 1 - q^n cancels."""
    share, mass, kept = decay_of_batch(1000, half_life_of(time_constant_records=1e7), torch.zeros(1))

    assert 1.0 == pytest.approx(float(share.double().sum()), abs=1e-6)
    assert 1000.0 == pytest.approx(mass, rel=1e-4)
    assert 1 - 1e-4 == pytest.approx(kept, abs=1e-8)
    assert float(decay_of_batch(3, 1.0, torch.zeros(1)).share_N.diff().min()) > 0
