"""With the compiled kernel and without: the same alarms, the same memory, to the last bit; and when it steps aside."""

import numpy as np
import pytest
from compiled_part import REPEATABLY, functions_of
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_trainer.compiled import use_compiled_parts
from stream_trainer.drift import FeatureSignal, HistogramOptions, PredictionSignal
from stream_trainer.drift.adwin import AdwinOptions, WeightedAdwin
from stream_trainer.drift.adwin_window import AdwinWindow
from stream_trainer.drift.bins import CategoryBins, NumberBins
from stream_trainer.drift.distances import DISTANCES
from stream_trainer.drift.histograms import Histograms
from stream_trainer.drift.kernel import drift_kernel
from stream_trainer.schema import CategoryFeature, NumberFeature, Schema, Target, TargetKind
from stream_trainer.types import Batch

cuts = st.lists(st.sampled_from([1, 7, 16, 100, 256, 1024]), min_size=1, max_size=6)


@pytest.fixture
def compiled():
    """The functions of the kernel, and the choice as it was when the test is over."""
    yield from functions_of(drift_kernel)


def assert_same_state(expected, state):
    assert expected.values == state.values
    assert set(expected.arrays) == set(state.arrays)
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(array, state.arrays[name], err_msg=name)


def with_and_without(build, batches):
    """What each update returns, and what is remembered after the last: [with the kernel, by numpy]."""
    found = []
    for compiled in (True, False):
        use_compiled_parts(compiled)
        part = build()
        found.append(([list(part.update(batch)) for batch in batches], part.scores(), part.capture()))
    return found


def parts(values, sizes):
    """`values` in batches of these sizes, again and again."""
    start, i, found = 0, 0, []
    while start < len(values):
        found.append(values[start : start + sizes[i % len(sizes)]])
        start, i = start + sizes[i % len(sizes)], i + 1
    return found


class Adwin(WeightedAdwin):
    scores = WeightedAdwin.evidence


@settings(max_examples=25, **REPEATABLY)
@given(
    seed=st.integers(0, 2**16),
    rates=st.lists(st.sampled_from([0.0, 0.02, 0.1, 0.12, 0.3, 0.5]), min_size=2, max_size=5),
    losses=st.booleans(),
    sizes=cuts,
    value_max=st.sampled_from([1.0, None]),
    min_effect=st.sampled_from([0.0, 0.01]),
    block_records=st.sampled_from([5, 32, 300]),
)
def test_adwin_tells_and_remembers_the_same(compiled, seed, rates, losses, sizes, value_max, min_effect, block_records):
    """With a delta at which ordinary noise comes near its bound, and through changes of both directions."""
    options = AdwinOptions(
        delta=0.05,
        direction="both",
        value_max=value_max,
        min_effect=min_effect,
        block_records=block_records,
        warmup_records=max(256, 2 * block_records),
        refractory_records=100,
    )
    rng, p = np.random.default_rng(seed), np.repeat(rates, 1500)
    values = rng.exponential(p) if losses else (rng.random(len(p)) < p).astype(float)
    (told, evidence, state), (expected, *known) = with_and_without(lambda: Adwin(options), parts(values, sizes))

    assert expected == told
    assert known[0] == evidence
    assert_same_state(known[1], state)


def test_a_steady_stream_is_not_left_to_numpy(compiled, monkeypatch):
    """Else the proof costs more than it saves. Counted in calls, not in seconds."""
    taken = []
    monkeypatch.setattr(AdwinWindow, "take", lambda *arguments: taken.append(arguments))
    detector, errors = WeightedAdwin(), np.random.default_rng(0).random(30_000) < 0.2

    assert [()] * 118 == [tuple(detector.update(batch)) for batch in parts(errors, [256])]
    assert [] == taken


SCHEMA = Schema(
    numbers=tuple(NumberFeature(name=f"x{i}", optional=True) for i in range(11)),
    categories=(CategoryFeature(name="few", buckets=3), CategoryFeature(name="many", buckets=999)),
    target=Target(name="y", kind=TargetKind.CLASSES, classes=("a", "b", "c")),
)


def batches(seed, sizes, moves):
    """2,600 records; from the 1,500th on the first column and the first category move, and come back at the 2,200th."""
    rng = np.random.default_rng(seed)
    x_NF = rng.standard_normal((2600, 11), dtype=np.float32)
    category_NC = np.column_stack([rng.integers(0, 3, 2600), rng.integers(0, 1000, 2600)])
    x_NF[1500:2200, 0] += moves
    category_NC[1500:2200, 0] *= rng.random(700) > moves / 4
    missing_NF = rng.random(x_NF.shape) < 0.05
    return [
        Batch(
            x_NF=x_NF[rows],
            missing_NF=missing_NF[rows],
            category_NC=category_NC[rows],
            y_N=np.zeros(len(rows), np.int64),
            timestamp_ms_N=np.zeros(len(rows), np.int64),
        )
        for rows in parts(np.arange(2600), sizes)
    ]


@pytest.mark.parametrize("distance", sorted(DISTANCES))
@settings(max_examples=6, **REPEATABLY)
@given(
    seed=st.integers(0, 2**16), sizes=cuts, moves=st.sampled_from([0.0, 0.5, 2.0]), sigmas=st.sampled_from([1.0, 8.0])
)
def test_features_tell_and_remember_the_same(compiled, distance, seed, sizes, moves, sigmas):
    """Columns that move and come back, missing values, folded categories; at one sigma something is always told."""
    options = HistogramOptions(
        distance=distance, binning_records=200, reference_records=1000, half_life_records=100, sigmas=sigmas
    )
    result, expected = with_and_without(lambda: FeatureSignal(SCHEMA, options), batches(seed, sizes, moves))

    assert expected[:2] == result[:2]
    assert_same_state(expected[2], result[2])


@settings(max_examples=6, **REPEATABLY)
@given(seed=st.integers(0, 2**16), sizes=cuts)
def test_predicted_shares_tell_and_remember_the_same(compiled, seed, sizes):
    """Classes of which one grows likelier half-way."""
    rng = np.random.default_rng(seed)
    said_N = rng.integers(0, 3, 9000)
    said_N[6000:][rng.random(3000) < 0.3] = 1
    result, expected = with_and_without(lambda: PredictionSignal("m", SCHEMA.target), parts(said_N, sizes))

    assert any(expected[0])
    assert expected[:2] == result[:2]
    assert_same_state(expected[2], result[2])


def test_columns_at_rest_are_not_left_to_numpy(compiled, monkeypatch):
    """Nor one that was told and stays away."""
    signal, calm = FeatureSignal(SCHEMA), batches(0, [200], 0.0) + batches(1, [200], 0.0)
    told = [signal.update(batch) for batch in calm]
    for batch in calm[:3]:
        batch.x_NF[:, 3] += 2.0
    alarms = [alarm.feature for batch in calm[:3] for alarm in signal.update(batch)]
    looks = []
    monkeypatch.setattr(Histograms, "scores", lambda histograms: looks.append(histograms))
    still = [signal.update(batch) for batch in calm[1:3]]

    assert [[]] * len(calm) == told
    assert ["x3"] == alarms
    assert [[], []] == still
    assert [] == looks


def test_categories_below_zero_are_folded_as_numpy_folds_them(compiled):
    """They should not come. If they do, the kernel must not write in front of its table."""
    category_NC, weight_N = np.array([[-1], [-7], [5], [2**62]]), np.arange(1.0, 5.0)
    found = CategoryBins((3,)).count(category_NC, None, weight_N, np.ones((1, 3)), 0.3)
    use_compiled_parts(False)

    assert CategoryBins((3,)).count(category_NC, None, weight_N, np.ones((1, 3)), 0.3).tolist() == found.tolist()


def test_arrays_of_another_kind_are_refused(compiled):
    """The kernel writes to memory: what it is given is checked, not believed."""
    x_NF, edge_EF, weight_N = np.zeros((4, 2), np.float32), np.zeros((11, 2), np.float32), np.ones(4)
    count_FB = np.zeros((2, 13))
    with pytest.raises(TypeError, match="expected an array of type f and 2 dimensions, got type d"):
        compiled.count_numbers(x_NF.astype(float), None, edge_EF, weight_N, count_FB, 1.0, count_FB)
    with pytest.raises(ValueError, match="do not belong together"):
        compiled.count_numbers(x_NF, None, edge_EF, weight_N[:3], count_FB, 1.0, count_FB)
    with pytest.raises(ValueError, match="do not belong together"):
        compiled.count_categories(np.zeros((4, 3), np.int64), weight_N, count_FB, 1.0, count_FB)
    with pytest.raises(TypeError, match="expected 7 arguments, got 1"):
        compiled.count_numbers(x_NF)
    count_FB.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        compiled.count_numbers(x_NF, None, edge_EF, weight_N, count_FB, 1.0, count_FB)
    with pytest.raises(ValueError, match="do not belong together"):
        compiled.pass_calm(np.zeros((4, 3)), 4, np.zeros(32), 0, np.zeros(5), 1.0, 0, 32, 8, 1e6, 0.0, 2)


def test_no_number_is_lost_between_odd_columns(compiled):
    """Columns are coded eight at a time; what is left over by itself."""
    for n_columns in (1, 7, 8, 9, 17):
        x_NF = np.random.default_rng(n_columns).standard_normal((300, n_columns)).astype(np.float32)
        bins = NumberBins(n_columns)
        bins.fit(x_NF[:200], None)
        found = bins.count(x_NF, None, np.ones(300), np.zeros((n_columns, 13)))
        use_compiled_parts(False)
        expected = bins.count(x_NF, None, np.ones(300), np.zeros((n_columns, 13)))
        use_compiled_parts(True)

        assert 300 * n_columns == found.sum()
        assert expected.tolist() == found.tolist()
