"""The batch CUSUM: sums by definition, any cut, a reference that follows accepted changes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_trainer.drift.cusum import BatchCusum, CusumOptions, threshold_for
from stream_trainer.errors import CheckpointError, ConfigError
from stream_trainer.types import Direction


def bernoulli(*pieces, seed=0):
    """Errors 0 or 1: pieces of (records, error rate)."""
    rng = np.random.default_rng(seed)
    return np.concatenate([(rng.random(n) < p).astype(np.float64) for n, p in pieces])


def run(detector, values_N, sizes=()):
    """Feed in batches of `sizes`, then the rest; (record, everything told) of each detection."""
    told, start = [], 0
    for size in [*sizes, len(values_N)]:
        for d in detector.update(values_N[start : start + size]):
            told.append((start + d.index, d.direction, d.before, d.after, d.statistic, d.window_records))
        start += min(size, len(values_N) - start)
    return told


def test_the_alarm_is_where_the_sums_by_definition_cross():
    """Page's recursion over blocks, written out."""
    values_N = bernoulli((20_000, 0.1), (10_000, 0.15))
    options = CusumOptions()
    total, expected = 0.0, None
    for end in range(4096 + 256, len(values_N) + 1, 256):
        reference, block = values_N[: end - 256], values_N[end - 256 : end]
        z = (block.mean() - reference.mean()) / math.sqrt(reference.var() * (1 / 256 + 1 / len(reference)))
        total = max(0.0, total + z - 0.5)
        if total > options.height:
            expected = end - 1
            break
    (record, direction, before, after, statistic, _), *_more = run(BatchCusum(), values_N)

    assert expected == record
    assert total == pytest.approx(statistic)
    assert (before < 0.11 < 0.13 < after, direction) == (True, Direction.UP)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 900), max_size=50), stop=st.integers(0, 50))
def test_neither_cut_nor_restart_changes_anything(sizes, stop):
    """Promise P1, and a crash at any batch."""
    values_N = bernoulli((10_000, 0.1), (6000, 0.3), (8000, 0.05))
    expected = run(BatchCusum(CusumOptions(direction="both")), values_N)
    first, second = BatchCusum(CusumOptions(direction="both")), BatchCusum(CusumOptions(direction="both"))
    done = min(sum(sizes[:stop]), len(values_N))
    told = run(first, values_N[:done], sizes[:stop])
    second.restore(first.capture())
    told += [(done + record, *rest) for record, *rest in run(second, values_N[done:], sizes[stop:])]

    assert expected == told
    assert second.n_detections == {Direction.UP: 1, Direction.DOWN: 1}


def test_the_reference_is_the_new_level_after_a_change():
    """One lasting change is one alarm, and the next is judged against what it became."""
    told = run(BatchCusum(), bernoulli((20_000, 0.1), (40_000, 0.2), (20_000, 0.4)))

    assert [pytest.approx(0.1, abs=0.01), pytest.approx(0.2, abs=0.01)] == [before for _, _, before, *_ in told]
    assert [start < record < start + 1500 for start, (record, *_) in zip((20_000, 60_000), told, strict=True)] == [
        True,
        True,
    ]


def test_improvement_and_trifles_renew_the_reference_untold():
    """Error .4 to .1 is good news, and .10 to .12 is none where 5 points are asked for."""
    detector = BatchCusum(CusumOptions(min_effect=0.05))

    assert not run(detector, bernoulli((20_000, 0.4), (40_000, 0.1), (40_000, 0.12)))
    assert detector.n_detections[Direction.DOWN] >= 1
    assert detector.n_detections[Direction.UP] >= 1


def test_a_model_that_was_never_wrong_is_heard_when_it_fails():
    """No variance in the reference: any difference is beyond doubt, and no division by zero."""
    [(record, *_)] = run(BatchCusum(), np.concatenate([np.zeros(8192), np.tile([0.0, 1.0], 128)]))

    assert record == 8447


def test_steady_errors_raise_no_alarm():
    values_N = bernoulli((2_000_000, 0.2), seed=3)

    assert not run(BatchCusum(), values_N)


def test_threshold_in_words_is_the_run_length():
    """Simulated run length of independent normal z against Siegmund's formula."""
    height = threshold_for(blocks_between_false_suspects=200.0)
    rng, lengths = np.random.default_rng(5), []
    for _ in range(400):
        total, n = 0.0, 0
        while total <= height:
            total, n = max(0.0, total + rng.standard_normal() - 0.5), n + 1
        lengths.append(n)

    assert np.mean(lengths) == pytest.approx(200.0, rel=0.15)
    assert CusumOptions(threshold_sigmas=5.0).height == 5.0


def test_wrong_options_and_strange_memory_are_refused():
    with pytest.raises(ConfigError, match=r"slack_sigmas is 0; expected a finite number above 0\."):
        CusumOptions(slack_sigmas=0)
    with pytest.raises(ConfigError, match=r"threshold_sigmas is -1; expected a number above 0\."):
        CusumOptions(threshold_sigmas=-1)
    with pytest.raises(ConfigError, match=r"direction is 'down'; expected worse or both\."):
        CusumOptions(direction="down")
    with pytest.raises(ConfigError, match="two blocks of reference"):
        CusumOptions(reference_records=300)
    with pytest.raises(CheckpointError, match="drift"):
        BatchCusum().restore(BatchCusum(CusumOptions(block_records=128)).capture())


def test_evidence_has_the_sign_of_the_sum():
    detector = BatchCusum()
    detector.update(bernoulli((8192, 0.3), (256, 0.15)))
    statistic, threshold = detector.evidence()

    assert statistic < 0 < threshold
