"""The parts of the scores that a short stream does not reach: very long memories, very sure models, very many bins."""

import math
from itertools import pairwise

import numpy as np
import pytest
from evaluation_helpers import auc_of, macro_auc
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_trainer.errors import ConfigError
from stream_trainer.evaluation.memory import UNIT_MAX, Memory, WeightTable
from stream_trainer.evaluation.outcomes import ClassOutcomes
from stream_trainer.evaluation.scores import ClassScores


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    half_life=st.floats(0.01, 1e6),
    cells=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    edges=st.lists(st.integers(0, 60), max_size=5),
)
def test_a_weight_table_is_the_same_for_any_cut(half_life, cells, edges):
    """Also where the unit grows out of bounds within a few records, and where a batch outlives all that was before."""
    memory = Memory(half_life)
    ages = np.arange(len(cells) - 1, -1, -1)
    expected = np.bincount(cells, weights=0.5 ** (ages / half_life), minlength=5)
    table = WeightTable((5,), memory)
    bounds = [0, *sorted(edges), len(cells)]
    for start, end in pairwise(bounds):
        table.add(np.array(cells[start:end], dtype=np.int64))

    np.testing.assert_allclose(table.weights(), expected, rtol=1e-9, atol=1 / UNIT_MAX)


def test_forgotten_cells_become_zero_and_not_denormal():
    """A million records later the cell would hold 1e-310, and every step would be tens of times slower, for ever."""
    table = WeightTable((2,), Memory(half_life_records=10))
    table.add(np.array([0]))
    for _ in range(1_000):
        table.add(np.array([1] * 10))

    assert 0.0 == table.weights()[0]
    assert pytest.approx(1 / (1 - 2**-0.1)) == table.weights()[1]


def test_weights_of_a_batch_are_read_only():
    """They are shared by all scores: one in-place product would bend them all."""
    with pytest.raises(ValueError, match="read-only"):
        Memory(5).aging(3).weights_N[0] = 7


def test_a_memory_must_be_positive():
    with pytest.raises(ConfigError, match=r"half_life_records is 0; it must be above 0\."):
        Memory(0)


def auc(y: np.ndarray, p: np.ndarray) -> float:
    scores = ClassScores(p.shape[1], Memory())
    scores.update(ClassOutcomes.of(y, p))
    return scores.values()["auc"]


def two_columns(p: np.ndarray) -> np.ndarray:
    return np.stack([1 - p, p], axis=1)


@pytest.mark.parametrize(("centre", "error"), [(0.5, 0.001), (0.3, 0.001), (0.02, 0.001), (1e-3, 0.002), (1e-6, 0.004)])
def test_auc_resolves_rare_events_and_narrow_bands(centre, error):
    """A fraud model lives below 0.1 %, a hard problem within a few percent of the base rate."""
    rng = np.random.default_rng(1)
    y = rng.integers(2, size=4_000)
    p = centre * np.exp(0.3 * rng.normal(size=4_000) + 0.2 * y)

    assert pytest.approx(auc_of(p, y == 1, np.ones(4_000)), abs=error) == auc(y, two_columns(np.minimum(p, 1)))


def test_auc_tells_very_sure_from_surer():
    """1 - p has no digits left there; the other column has."""
    rest = np.array([1e-17, 1e-20, 1e-25, 1e-30, 1e-40])
    p = np.stack([rest, np.ones(5)], axis=1)

    assert 1.0 == auc(np.array([0, 0, 1, 1, 1]), p)
    assert 0.0 == auc(np.array([1, 1, 0, 0, 0]), p)


def test_auc_is_exact_for_certain_and_for_constant_models():
    y = np.array([0, 1, 0, 1, 1])

    assert 1.0 == auc(y, np.eye(2)[y])
    assert 0.0 == auc(y, np.eye(2)[1 - y])
    assert 0.5 == auc(y, np.full((5, 2), 0.5))
    assert 1.0 == auc(np.array([0, 2, 0, 2]), np.eye(3)[[0, 2, 0, 2]])  # class 1 never came, and is not averaged


def test_macro_auc_is_the_mean_over_the_classes():
    rng = np.random.default_rng(2)
    p = rng.dirichlet(np.ones(6), size=2_000)
    y = np.array([rng.choice(6, p=row) for row in p])

    assert pytest.approx(macro_auc(y, p, np.ones(2_000)), abs=0.002) == auc(y, p)


def test_log_loss_of_a_sure_mistake_is_large_and_finite():
    scores = ClassScores(2, Memory())
    scores.update(ClassOutcomes.of(np.array([0]), np.array([[0.0, 1.0]])))

    assert pytest.approx(-math.log(1e-15)) == scores.values()["log_loss"]
