"""With the compiled kernel of the scores and without: the same errors, the same scores, the same refusals."""

import numpy as np
import pytest
from compiled_part import REPEATABLY, functions_of
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_trainer.compiled import use_compiled_parts
from stream_trainer.errors import ModelError
from stream_trainer.evaluation import Prequential, score_kernel
from stream_trainer.schema import Target, TargetKind


@pytest.fixture
def compiled():
    """The functions of the kernel, and the choice as it was when the test is over."""
    yield from functions_of(score_kernel)


def target_of(classes):
    return Target(name="y", kind=TargetKind.CLASSES, classes=tuple("abcdefg"[:classes]))


@settings(max_examples=15, **REPEATABLY)
@given(
    classes=st.integers(2, 5),
    sizes=st.lists(st.sampled_from([1, 16, 256, 2048, 3000]), min_size=1, max_size=8),
    sure=st.sampled_from([0.5, 1.0, 30.0]),
    half_life_records=st.sampled_from([3, 10_000]),
    seed=st.integers(0, 2**16),
)
def test_it_scores_what_numpy_scores(compiled, classes, sizes, sure, half_life_records, seed):
    """Errors, everything that is kept, and ties: of equally likely classes the first one counts as guessed."""
    found = []
    for choice in (True, False):
        use_compiled_parts(choice)
        rng, scores = np.random.default_rng(seed), []
        prequential = Prequential(target_of(classes), ["m", "n"], half_life_records=half_life_records)
        for n in sizes:
            y_N = rng.integers(0, rng.integers(1, classes + 1), n)
            odds_NK = rng.integers(0, 4, (n, classes)) ** sure + 1e-9  # small whole numbers: there are ties
            p_NK = odds_NK / odds_NK.sum(axis=1, keepdims=True)
            scores.append(prequential.update(y_N, {"m": p_NK, "n": np.full((n, classes), 1 / classes)}))
        found.append((scores, prequential.capture()))
    (result, state), (expected, expected_state) = found

    for one, other in zip(result, expected, strict=True):
        for name in ("m", "n"):
            np.testing.assert_array_equal(other[name], one[name])  # all three of a Verdict
            assert [array.dtype for array in other[name]] == [array.dtype for array in one[name]]
    assert expected_state.values == state.values
    assert set(expected_state.arrays) == set(state.arrays)
    for name, array in expected_state.arrays.items():
        np.testing.assert_array_equal(array, state.arrays[name], err_msg=name)


@pytest.mark.parametrize("choice", [True, False])
@pytest.mark.parametrize("row", [[np.nan, 0.5], [1.2, -0.2], [0.5, 0.4], [np.inf, 0.0], [-np.inf, np.inf]])
def test_what_is_no_probability_is_refused_on_either_path(compiled, choice, row):
    """And nothing of the batch is scored."""
    use_compiled_parts(choice)
    prequential = Prequential(target_of(2), ["m"])
    with pytest.raises(ModelError, match="for record 1 of the batch"):
        prequential.update(np.array([0, 1]), {"m": np.array([[0.5, 0.5], row])})

    assert np.isnan(prequential.scores()["m"].cumulative["accuracy"])


def test_arrays_of_another_kind_are_refused(compiled):
    """The kernel reads and writes memory: what it is given is checked, not believed."""
    p_NK, y_N, error_N, doubt_N = np.full((3, 2), 0.5), np.zeros(3, np.int64), np.zeros(3), np.zeros(3)
    with pytest.raises(TypeError, match="expected an array of type l and 1 dimensions, got type d"):
        compiled.class_verdict(p_NK, error_N, error_N, y_N, doubt_N, 1e-3)
    with pytest.raises(ValueError, match="do not belong together"):
        compiled.class_verdict(p_NK, y_N[:2], error_N, y_N, doubt_N, 1e-3)
