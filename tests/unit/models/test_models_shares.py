"""A large batch is learned in several steps: each record once, each step on a sample of the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models_stream import MIXED, NUMBERS, REGRESSION, part, records

from stream_trainer.errors import ConfigError
from stream_trainer.models import TorchModel, TorchOptions, state_sha256
from stream_trainer.models.shares import shares, together
from stream_trainer.types import LearnReport


def build(schema=MIXED, **options):
    return TorchModel(schema, TorchOptions(**{"hidden": (16, 8), "seed": 3, **options}))


@given(n_records=st.integers(1, 300), records_max=st.integers(1, 80))
def test_shares_hold_each_record_once_with_all_that_belongs_to_it(n_records, records_max):
    """A record that lost its label or its category on the way would be learned wrongly for ever."""
    whole = records(MIXED, n_records)
    found = shares(whole, records_max)

    sizes = [len(share) for share in found]
    assert (sum(sizes), len(sizes)) == (n_records, -(-n_records // records_max))
    assert max(sizes) <= records_max
    assert max(sizes) - min(sizes) <= 1
    for start, share in enumerate(found):
        rows = slice(start, None, len(found))
        for name in ("x_NF", "missing_NF", "category_NC", "y_N", "timestamp_ms_N"):
            np.testing.assert_array_equal(getattr(whole, name)[rows], getattr(share, name))
        assert whole.arrays.keys() == share.arrays.keys()
        for name, array in whole.arrays.items():
            np.testing.assert_array_equal(array[rows], share.arrays[name])


@pytest.mark.parametrize("schema", [NUMBERS, MIXED, REGRESSION], ids=["numbers", "mixed", "regression"])
def test_a_large_batch_ends_where_its_shares_end_one_after_the_other(schema):
    """Several steps, nothing else: bit for bit."""
    at_once, one_by_one = build(schema, calibrated=False), build(schema, calibrated=False, step_records_max=None)
    whole = records(schema, 150)
    report = at_once.learn(whole)
    reports = [one_by_one.learn(share) for share in shares(whole, 32)]

    assert len(reports) == 5
    assert state_sha256(at_once.capture()) == state_sha256(one_by_one.capture())
    assert report.loss == pytest.approx(np.mean([r.loss for r in reports]))
    assert report.learning_rate == pytest.approx(np.mean([r.learning_rate for r in reports]))


def test_up_to_the_limit_and_without_one_a_batch_is_one_step():
    """What small batches teach does not depend on the setting."""
    for n_records, options in ((32, {}), (33, {"step_records_max": None}), (2, {"step_records_max": 2})):
        model, by_hand = build(calibrated=False, **options), build()
        model.learn(records(MIXED, n_records))
        by_hand._learn(records(MIXED, n_records))

        assert state_sha256(model.capture()) == state_sha256(by_hand.capture())


def test_lbfgs_takes_the_batch_whole():
    """It is there for large batches: it refuses fewer than 16 records, and judges a step by the batch's own loss."""
    model = build(optimizer="lbfgs", step_records_max=8)

    assert model.learn(records(MIXED, 64)).skipped is None


def test_a_step_that_is_not_finite_leaves_the_others_of_its_batch_alone():
    """One bad value costs the records of its share, and is told; the rest of the batch is learned."""
    model, only_good = (build(norm="layer", calibrated=False) for _ in range(2))
    whole = records(MIXED, 96)
    calls = []

    def poison_the_second(gradient):
        calls.append(1)
        return gradient * float("nan") if len(calls) == 2 else gradient

    hook = list(model.network.parameters())[-1].register_hook(poison_the_second)
    report = model.learn(whole)
    hook.remove()
    first, _, third = shares(whole, 32)
    reports = [only_good.learn(first), only_good.learn(third)]

    assert (len(calls), report.skipped) == (3, "non_finite")
    assert report.loss == pytest.approx(np.mean([r.loss for r in reports]))
    assert state_sha256(model.capture()) == state_sha256(only_good.capture())


def test_a_batch_of_which_nothing_was_learned_reports_no_loss():
    """A mean over no step would be a number that nobody measured."""
    found = together([LearnReport(skipped="non_finite"), LearnReport(skipped="non_finite")], [32, 31])

    assert found == LearnReport(skipped="non_finite")


def test_means_are_over_records():
    """A share of one record counts as one record."""
    reports = [LearnReport(loss=1.0, gradient_norm=2.0, learning_rate=0.1), LearnReport(loss=4.0, gradient_norm=5.0)]
    found = together(reports, [2, 1])

    assert (found.loss, found.gradient_norm, found.learning_rate) == (2.0, 3.0, None)


@pytest.mark.parametrize("records_max", [0, -1])
def test_a_limit_below_one_record_is_refused(records_max):
    with pytest.raises(ConfigError, match=f"step_records_max is {records_max}; expected 1 or more, or null"):
        TorchOptions(step_records_max=records_max)


def test_a_stream_in_large_batches_is_learned_as_well_as_in_small_ones():
    """What it is for: learned in one step, batches of 256 leave this network with two to four times the errors."""
    stream = records(NUMBERS, 2_048)

    def error(batch_records, **options):
        model = build(NUMBERS, **options)
        for start in range(0, 1_536, batch_records):
            model.learn(part(stream, start, start + batch_records))
        test = part(stream, 1_536, 2_048)
        return float((model.predict(test).argmax(axis=1) != test.y_N).mean())

    small, large, in_one = error(32), error(256), error(256, step_records_max=None)
    assert large < small + 0.03
    assert in_one > 1.5 * large
