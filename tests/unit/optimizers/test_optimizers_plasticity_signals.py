"""The signs of plasticity, one function at a time."""

import math

import pytest
import torch

from stream_trainer.optimizers.plasticity_signals import (
    dead_share,
    dormant_share,
    effective_rank,
    stable_rank,
    update_ratio,
)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_layer_of_which_nothing_answers_is_dead_and_dormant():
    """0 <= 0: without activity there is no mean that a unit could be compared with."""
    assert dead_share(torch.zeros(3)) == dormant_share(torch.zeros(3)) == 1.0


def test_a_unit_on_the_threshold_is_dormant_and_not_dead():
    """The paper says at most."""
    activity_U = torch.tensor([0.025, 1.975, 1.0, 1.0])

    assert 0.25 == dormant_share(activity_U)
    assert 0.0 == dead_share(activity_U)


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (1, 5), (64, 32), (8, 3, 5, 5)])
def test_the_stable_rank_is_that_of_the_singular_values_or_a_little_above(shape):
    """Power steps find too small a singular value, never too large a one."""
    weight = numbers(*shape)
    values = torch.linalg.svdvals(weight.flatten(start_dim=1))
    exact = float(values.square().sum() / values[0].square())

    assert exact * (1 - 1e-5) <= stable_rank(weight) <= 1.2 * exact


def test_the_stable_rank_of_weights_that_are_gone_is_not_a_number():
    """Zero has no direction; a gauge shows that as NaN and no rule fires on it by chance."""
    assert math.isnan(stable_rank(torch.zeros(3, 4)))
    assert math.isnan(stable_rank(torch.full((3, 4), math.nan)))


def test_the_effective_rank_counts_directions_and_not_units():
    """Eight units that all say one of two things span two directions."""
    two_NU = numbers(100, 2) @ torch.eye(2).repeat(1, 4)

    assert 1.9 < effective_rank(two_NU) <= 2.0 + 1e-4
    assert 0.0 == effective_rank(torch.zeros(4, 3))


def test_a_step_away_from_zero_is_infinitely_long():
    """And no step is none, whatever it was a step of."""
    assert math.inf == update_ratio(torch.zeros(2, 2), torch.ones(2, 2))
    assert 0.0 == update_ratio(torch.zeros(2, 2), torch.zeros(2, 2))
