"""Running scales: the same for every cut, blind to what is missing, and quiet where there is nothing to say."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_stream import MIXED, NUMBERS, cut, part, records

from stream_trainer.errors import CheckpointError, ConfigError
from stream_trainer.models.standardise import InputStandardiser, RunningScale
from stream_trainer.schema import InputWidths

OPTIONS = {"half_life_records": 50.0, "abs_max": 10.0}


def weighed(x_N: np.ndarray, half_life_records: float) -> tuple[float, float]:
    """Mean and variance by definition: a value weighs 2^(-age/H), its age being the values after it."""
    weight_N = 0.5 ** (np.arange(len(x_N))[::-1] / half_life_records)
    mean = np.average(x_N, weights=weight_N)
    return mean, np.average((x_N - mean) ** 2, weights=weight_N)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(0, 2**32 - 1), st.sampled_from([0.7, 30, 1e6])
)
def test_moments_are_their_definition_for_any_cut(sizes, seed, half_life):
    """Batches are cut by the clock and the load; what is known of a column must not be."""
    rng = np.random.default_rng(seed)
    x_NC = rng.normal(size=(sum(sizes), 2)) * [1.0, 1e4] + [0.0, 1e6]
    missing_NC = rng.random(x_NC.shape) < [0.0, 0.4]
    missing_NC[0] = False
    scale = RunningScale(columns=2, half_life_records=half_life)
    for start, stop in zip(np.cumsum([0, *sizes[:-1]]), np.cumsum(sizes)):
        scale.observe(x_NC[start:stop], missing_NC[start:stop])
    for column in (0, 1):
        mean, var = weighed(x_NC[~missing_NC[:, column], column], half_life)

        np.testing.assert_allclose(mean, scale.mean_C[column], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(var, scale.var_C[column], rtol=1e-6, atol=1e-9)


def test_the_fast_path_without_missing_values_is_the_same_arithmetic():
    """Most schemas have no optional number, and pay nothing for those that have."""
    x_NC = np.random.default_rng(1).normal(size=(30, 3))
    one, other = (RunningScale(columns=3, half_life_records=9.0) for _ in range(2))
    for start in (0, 10, 20):
        one.observe(x_NC[start : start + 10])
        other.observe(x_NC[start : start + 10], np.zeros((10, 3), dtype=bool))

    np.testing.assert_allclose(one.mean_C, other.mean_C, rtol=1e-12)
    np.testing.assert_allclose(one.var_C, other.var_C, rtol=1e-12)


def test_an_image_counts_as_one_entry_with_a_variance_of_its_own():
    """All pixels share one scale: mean and variance over every pixel of the weighed images."""
    x_NP = np.random.default_rng(2).normal(3.0, 2.0, size=(200, 12))
    scale = RunningScale(columns=1, half_life_records=1e9)
    for start in (0, 150):
        rows_NP = x_NP[start : start + 150]
        scale.observe(rows_NP.mean(axis=1, keepdims=True), within_NC=rows_NP.var(axis=1, keepdims=True))

    np.testing.assert_allclose(x_NP.mean(), scale.mean_C[0], rtol=1e-6)
    np.testing.assert_allclose(x_NP.var(), scale.var_C[0], rtol=1e-6)


def test_nothing_known_gives_zero():
    """The first record is predicted too; an unscaled 1e9 would drive the network to its edge."""
    schema_inputs = InputStandardiser(MIXED, **OPTIONS).inputs(records(MIXED, 3))

    assert torch.equal(torch.zeros(3, 3), schema_inputs[0][:, :3])
    assert torch.equal(torch.zeros(3, 2, 3), schema_inputs[2])


@pytest.mark.parametrize("value", [0.0, 7.3, -1.7e9, 3e38])
def test_a_constant_column_gives_zero(value):
    """Rounding is no signal: dividing by it would make noise of size 1 out of nothing."""
    scale = RunningScale(columns=1, half_life_records=100.0)
    x_N1 = np.full((64, 1), value, dtype=np.float32)
    for n in (1, 3, 60):
        scale.observe(x_N1[:n])

    np.testing.assert_array_equal(np.zeros((64, 1)), scale.standardise(x_N1))
    np.testing.assert_allclose(np.full((64, 1), value), scale.restore_units(np.ones((64, 1))), rtol=1e-6)


def test_a_broken_sensor_says_no_more_than_far_out():
    """One value of 1e30 after a thousand ordinary ones."""
    standardiser = InputStandardiser(NUMBERS, **OPTIONS)
    data = records(NUMBERS, 1000)
    standardiser.observe(data)
    x_NF = data.x_NF.copy()
    x_NF[0, 0], x_NF[1, 0] = 1e30, -1e30
    (z_NF,) = standardiser.inputs(dataclasses.replace(data, x_NF=x_NF))

    assert z_NF[:2, 0].tolist() == [10.0, -10.0]
    assert z_NF.dtype == torch.float32


def test_missing_numbers_are_the_mean_with_a_flag_beside_them():
    """`InputWidths.numbers` counts the flags; absent categories keep a bucket of their own."""
    standardiser, data = InputStandardiser(MIXED, **OPTIONS), records(MIXED, 200)
    standardiser.observe(data)
    numbers_NF, category_NC, image = standardiser.inputs(data)

    assert InputWidths(numbers=4, categories=(7, 3), arrays=((2, 3),)) == MIXED.widths
    assert (tuple(numbers_NF.shape), tuple(image.shape)) == ((200, 4), (200, 2, 3))
    np.testing.assert_array_equal(data.missing_NF[:, 1], numbers_NF[:, 3].numpy() == 1.0)
    assert (numbers_NF[data.missing_NF[:, 1], 1] == 0.0).all()
    assert (numbers_NF[~data.missing_NF[:, 1], 1] != 0.0).all()
    np.testing.assert_array_equal(data.category_NC, category_NC.numpy())


def test_recall_undoes_what_was_observed_since():
    """The way back from a batch whose loss is not finite."""
    standardiser, data = InputStandardiser(MIXED, **OPTIONS), records(MIXED, 60)
    standardiser.observe(part(data, 0, 30))
    memory, before = standardiser.memory, standardiser.inputs(data)
    standardiser.observe(part(data, 30, 60))
    standardiser.recall(memory)

    assert all(torch.equal(a, b) for a, b in zip(before, standardiser.inputs(data)))


def test_a_restored_standardiser_goes_on_exactly():
    """Bit for bit, also when the arrays come back as tensors."""
    data = records(MIXED, 90)
    one, twin = InputStandardiser(MIXED, **OPTIONS), InputStandardiser(MIXED, **OPTIONS)
    one.observe(part(data, 0, 45))
    twin.restore({name: torch.from_numpy(array) for name, array in one.capture().items()})
    for batch in cut(part(data, 45, 90), [7]):
        one.observe(batch)
        twin.observe(batch)

    assert all(torch.equal(a, b) for a, b in zip(one.inputs(data), twin.inputs(data)))


def test_state_of_another_width_and_an_impossible_half_life_are_refused():
    """A half-life of 0 remembers nothing; a foreign state means nothing."""
    with pytest.raises(CheckpointError, match="expected weight, mean and var for 3 columns"):
        RunningScale(columns=3, half_life_records=9.0).restore(RunningScale(columns=2, half_life_records=9.0).capture())
    with pytest.raises(ConfigError, match=r"half_life_records is 0; expected a positive number of records\."):
        RunningScale(columns=1, half_life_records=0)
