"""Scores are summed in blocks of records: what waits is told too, and no batch, report or restart moves the grid."""

import numpy as np
import pytest
from evaluation_helpers import NUMBER, class_stream, classes, cuts, scored

from stream_trainer.evaluation import Prequential
from stream_trainer.evaluation.waiting import BLOCK_RECORDS
from stream_trainer.types import State

N = 2 * BLOCK_RECORDS + 700


def streams():
    rng = np.random.default_rng(4)
    y = rng.normal(size=N).astype(np.float32)
    return {"two": (classes(2), *class_stream(1, N, 2)), "three": (classes(3), *class_stream(2, N, 3))} | {
        "number": (NUMBER, y, y + rng.normal(size=N))
    }


@pytest.mark.parametrize("kind", ["two", "three", "number"])
def test_the_cut_into_batches_changes_no_score_by_a_single_bit(kind):
    """Rounding that depends on the batch would make a rebuilt run differ from the one that crashed."""
    target, y, predictions = streams()[kind]
    whole = scored(target, y, predictions, [slice(0, N)])
    pieces = scored(target, y, predictions, cuts(np.random.default_rng(0), N))

    assert whole.scores() == pieces.scores()
    assert whole.baselines() == pieces.baselines()
    for name, array in whole.capture().arrays.items():
        np.testing.assert_array_equal(array, pieces.capture().arrays[name])


def test_reading_and_saving_leave_no_trace():
    """Reports come by the clock on the wall; if they moved the grid, no run could be repeated."""
    target, y, predictions = streams()["two"]
    quiet, watched = Prequential(target, ["model"]), Prequential(target, ["model"])
    for start in range(0, N, 300):
        part = slice(start, start + 300)
        quiet.update(y[part], {"model": predictions[part]})
        watched.update(y[part], {"model": predictions[part]})
        watched.scores(), watched.baselines(), watched.capture()

    assert quiet.scores() == watched.scores()
    for name, array in quiet.capture().arrays.items():
        np.testing.assert_array_equal(array, watched.capture().arrays[name])


def test_a_state_from_before_there_was_waiting_is_taken():
    """Old checkpoints load for ever."""
    target, y, predictions = streams()["two"]
    old = scored(target, y, predictions, [slice(0, BLOCK_RECORDS)])
    state = old.capture()
    without = State(
        arrays={name: array for name, array in state.arrays.items() if not name.startswith("waiting/")},
        values={name: value for name, value in state.values.items() if name != "waiting"},
    )
    restored = scored(target, y[:50], predictions[:50], [slice(0, 50)])
    restored.restore(without)

    assert old.scores() == restored.scores()
    assert 0 < restored.scores()["model"].cumulative["accuracy"] < 1
