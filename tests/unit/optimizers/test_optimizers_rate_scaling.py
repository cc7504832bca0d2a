"""Learning rates that follow the size of the batch, without a trace in what is saved."""

import copy

import pytest
import torch
from torch import nn

from stream_trainer.errors import ConfigError
from stream_trainer.optimizers import OPTIMIZERS, RateScaling, Stepper, StreamAdamW, build_optimizer


def weight(value: float = 0.0) -> nn.Parameter:
    return nn.Parameter(torch.full((2,), value, dtype=torch.float64))


@pytest.mark.parametrize(
    ("rule", "expected"), [("none", 0.1), ("sqrt", 0.2), ("linear", 0.4), ("momentum_exact", 0.1 * 4 * 0.3439 / 0.1)]
)
def test_the_rate_of_a_batch_four_times_the_reference(rule, expected):
    """momentum_exact: m' = .9^4 = .6561, so lr 4 (1-m')/(1-m)."""
    p = weight()
    stepper = Stepper(torch.optim.SGD([p], lr=0.1, momentum=0.9), RateScaling(rule=rule, reference_records=8))
    p.grad = torch.ones_like(p)

    assert stepper.step(records=32) == pytest.approx(expected)
    torch.testing.assert_close(torch.full_like(p, -expected), p.detach())


@pytest.mark.parametrize("rule", ["none", "sqrt", "linear", "momentum_exact"])
def test_the_base_rate_never_drifts(rule):
    """Multiplying and dividing again would lose a bit a step, for months."""
    p = weight()
    optimizer = torch.optim.SGD([p], lr=0.1, momentum=0.9)
    stepper = Stepper(optimizer, RateScaling(rule=rule, reference_records=7))
    settings = copy.deepcopy(optimizer.state_dict()["param_groups"])
    for records in (1, 3, 299, 7, 64):
        p.grad = torch.ones_like(p)
        stepper.step(records=records)

    assert settings == optimizer.state_dict()["param_groups"]


def test_a_step_that_fails_gives_the_base_rate_back():
    """Or the next checkpoint would hold the scaled one."""
    p = weight()
    optimizer = torch.optim.SGD([p], lr=0.1)
    stepper = Stepper(optimizer, RateScaling(rule="linear", reference_records=1))
    optimizer.register_step_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("device lost")))
    with pytest.raises(RuntimeError, match="device lost"):
        stepper.step(records=50)

    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("cut", [1, 3, 12])
def test_momentum_exact_moves_as_far_for_any_cut(cut):
    """A constant gradient for 1200 records: the speed at the end is the same whatever the batches were."""
    p = weight()
    stepper = Stepper(
        torch.optim.SGD([p], lr=0.01, momentum=0.9), RateScaling(rule="momentum_exact", reference_records=4)
    )
    before = p.detach().clone()
    for _ in range(1200 // cut):
        before = p.detach().clone()
        p.grad = torch.ones_like(p)
        stepper.step(records=cut)
    speed_per_record = (before - p.detach()) / cut

    torch.testing.assert_close(torch.full_like(p, 0.01 / (1 - 0.9) / 4), speed_per_record, rtol=1e-6, atol=0)


def test_stream_adamw_is_told_the_records_and_may_not_be_scaled():
    """It counts records itself: scaled twice, the rate would grow with n."""
    p = weight()
    stepper = Stepper(StreamAdamW([p], lr=0.1))
    p.grad = torch.ones_like(p)

    assert stepper.step(records=64) == pytest.approx(0.2)
    with pytest.raises(ConfigError) as caught:
        Stepper(StreamAdamW([p]), RateScaling(rule="sqrt"))
    assert str(caught.value) == (
        "lr_scaling.rule is 'sqrt', but stream_adamw counts records itself: the rate would be scaled twice. "
        "Remove lr_scaling."
    )


@pytest.mark.parametrize(
    "optimizer", [torch.optim.Adam([weight()]), torch.optim.SGD([weight()], momentum=0.9, dampening=0.1)]
)
def test_momentum_exact_is_for_plain_momentum_only(optimizer):
    """For anything else the formula says nothing."""
    with pytest.raises(ConfigError, match="defined for the optimizer sgd with dampening 0 only"):
        Stepper(optimizer, RateScaling(rule="momentum_exact"))


def test_an_unknown_rule_or_reference_is_named():
    """The known ones are in the message."""
    with pytest.raises(ConfigError, match=r"rule is 'cubic'; known rules: linear, momentum_exact, none, sqrt\."):
        RateScaling(rule="cubic")
    with pytest.raises(ConfigError, match=r"reference_records is 0; it must be at least 1\."):
        RateScaling(reference_records=0)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_is_built_by_name_and_steps(name):
    """The registry is what the configuration can say."""
    p = weight(1.0)
    stepper = Stepper(build_optimizer(name, [p], lr=0.1))
    p.grad = torch.ones_like(p)

    assert stepper.step(16, (lambda: p.sum().item()) if name == "lbfgs" else None) == pytest.approx(0.1)
    assert (p < 1.0).all()


def test_a_wrong_optimizer_or_option_is_answered_with_the_right_ones():
    """Whole sentences, for they are all the operator sees."""
    with pytest.raises(ConfigError) as caught:
        build_optimizer("adagrad", [weight()])
    assert str(caught.value) == "optimizer is 'adagrad'; known optimizers: adam, adamw, lbfgs, sgd, stream_adamw."
    with pytest.raises(ConfigError) as caught:
        build_optimizer("stream_adamw", [weight()], betas=(0.9, 0.99))
    assert str(caught.value) == (
        "optimizer.stream_adamw: no option 'betas'; known options: beta1, horizon_records, lr, pull_horizon_records, "
        "row_lr_ratio, warmup_records."
    )
