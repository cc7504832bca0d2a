"""What is proven without a test must be what the test would have said, to the last bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_trainer.drift.adwin import AdwinOptions, WeightedAdwin


class AlwaysTesting(WeightedAdwin):
    """Proves nothing, so it tests at the end of every block."""

    def _stays_calm(self, n_blocks):
        return False


def stream(seed, rates, values):
    """Errors, or losses with the same means, whose mean changes after each 1,500."""
    rng = np.random.default_rng(seed)
    p = np.repeat(rates, 1500)
    return (rng.random(len(p)) < p).astype(float) if values == "errors" else rng.exponential(p)


def told(detector, values_N, batch):
    """Every detection as it was told, with the record it was told of."""
    return [
        (start + found.index, found)
        for start in range(0, len(values_N), batch)
        for found in detector.update(values_N[start : start + batch])
    ]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    rates=st.lists(st.sampled_from([0.0, 0.02, 0.1, 0.12, 0.3, 0.5]), min_size=2, max_size=5),
    values=st.sampled_from(["errors", "losses"]),
    batch=st.sampled_from([1, 16, 100, 256, 1024]),
    value_max=st.sampled_from([1.0, None]),
    min_effect=st.sampled_from([0.0, 0.01]),
)
def test_a_detector_that_skips_what_is_proven_tells_and_remembers_the_same(
    seed, rates, values, batch, value_max, min_effect
):
    """With a delta at which ordinary noise comes near its bound, and through changes of both directions."""
    options = AdwinOptions(delta=0.05, direction="both", value_max=value_max, min_effect=min_effect)
    skipping, testing, values_N = WeightedAdwin(options), AlwaysTesting(options), stream(seed, rates, values)

    assert told(testing, values_N, batch) == told(skipping, values_N, batch)
    assert testing.evidence() == skipping.evidence()
    for name, array in testing.capture().arrays.items():
        np.testing.assert_array_equal(array, skipping.capture().arrays[name])
    assert testing.capture().values == skipping.capture().values


@pytest.mark.parametrize("batch", [16, 256])
def test_most_of_a_steady_stream_is_never_tested(batch):
    """Else the proof costs more than it saves. Counted in looks, not in seconds."""
    looks = []

    class Counting(WeightedAdwin):
        def _look(self, n_before):
            looks.append(n_before)
            return super()._look(n_before)

    assert [] == told(Counting(), stream(0, [0.2] * 20, "errors"), batch)
    assert len(looks) < 30_000 / 512
