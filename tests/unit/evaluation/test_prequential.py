"""The scores are those of brute force over all records, however the stream was cut; and they survive a restart."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from evaluation_helpers import (
    NUMBER,
    class_stream,
    classes,
    cuts,
    macro_auc,
    majority_of,
    mean,
    no_change_of,
    scored,
    weights,
)
from river import metrics

from stream_trainer.errors import CheckpointError, ConfigError, ModelError
from stream_trainer.evaluation import ModelScores, Prequential
from stream_trainer.schema import Target
from stream_trainer.types import State

HALF_LIFE_RECORDS = 60
FORMS = {"cumulative": math.inf, "fading": HALF_LIFE_RECORDS}


def number_stream(seed: int, n: int, *, centre: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (centre + rng.normal(size=n)).astype(np.float32)
    return y, y + rng.normal(scale=0.5, size=n)


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_class_scores_equal_brute_force_for_any_cut(seed, k, form):
    y, p = class_stream(seed, 400, k)
    w = weights(400, FORMS[form])
    prequential = scored(classes(k), y, p, cuts(np.random.default_rng(seed), 400), half_life_records=HALF_LIFE_RECORDS)

    accuracy = mean(p.argmax(axis=1) == y, w)
    accuracy_no_change = 1 - mean(no_change_of(y.tolist(), k)[0], w)
    expected = {
        "accuracy": accuracy,
        "log_loss": mean(-np.log(np.clip(p[np.arange(400), y], 1e-15, 1)), w),
        "kappa_temporal": (accuracy - accuracy_no_change) / (1 - accuracy_no_change),
    }
    scores = dict(getattr(prequential.scores()["model"], form))
    assert pytest.approx(macro_auc(y, p, w), abs=0.002) == scores.pop("auc")  # binned: ties within a bin count half
    assert pytest.approx(expected, rel=1e-9) == scores


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("centre", [0.0, 1e6])
def test_number_scores_equal_brute_force_for_any_cut(centre, form):
    """Far from zero too: the difference of two large sums of squares would have lost r2 altogether."""
    y, prediction = number_stream(5, 500, centre=centre)
    w = weights(500, FORMS[form])
    prequential = scored(
        NUMBER, y, prediction, cuts(np.random.default_rng(1), 500), half_life_records=HALF_LIFE_RECORDS
    )

    y = y.astype(np.float64)
    error = np.abs(y - prediction)
    expected = {
        "mae": mean(error, w),
        "rmse": math.sqrt(mean(error**2, w)),
        "r2": 1 - mean(error**2, w) / mean((y - mean(y, w)) ** 2, w),
    }
    assert pytest.approx(expected, rel=1e-9) == getattr(prequential.scores()["model"], form)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("form", sorted(FORMS))
def test_class_baselines_are_those_of_one_record_after_the_other(k, form):
    """Guessing from the batches before would make them worse the larger the batches: no yardstick at all."""
    y, p = class_stream(7, 300, k, sticky=0.6)
    w = weights(300, FORMS[form])
    prequential = scored(classes(k), y, p, cuts(np.random.default_rng(3), 300), half_life_records=HALF_LIFE_RECORDS)

    for name, brute_force in {"majority": majority_of, "no_change": no_change_of}.items():
        error, loss = brute_force(y.tolist(), k)
        expected = {"accuracy": 1 - mean(error, w), "log_loss": mean(loss, w)}
        assert pytest.approx(expected, rel=1e-9) == getattr(prequential.baselines()[name], form), name


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("centre", [0.0, 1e6])
def test_number_baselines_are_the_running_mean_and_the_last_value(centre, form):
    y, prediction = number_stream(8, 300, centre=centre)
    w = weights(299, FORMS[form])
    prequential = scored(
        NUMBER, y, prediction, cuts(np.random.default_rng(4), 300), half_life_records=HALF_LIFE_RECORDS
    )

    y = y.astype(np.float64)
    guesses = {"majority": np.cumsum(y)[:-1] / np.arange(1, 300), "no_change": y[:-1]}
    for name, guess in guesses.items():
        scores = getattr(prequential.baselines()[name], form)
        error = np.abs(y[1:] - guess)
        assert pytest.approx(mean(error, w), rel=1e-9) == scores["mae"], name
        assert pytest.approx(math.sqrt(mean(error**2, w)), rel=1e-9) == scores["rmse"], name


@pytest.mark.parametrize("k", [2, 3])
def test_river_agrees_where_it_scores_the_same(k):
    """An outside witness; its log loss clips probabilities at the same 1e-15."""
    y, p = class_stream(11, 300, k)
    accuracy, log_loss = metrics.Accuracy(), metrics.LogLoss() if k == 2 else metrics.CrossEntropy()
    for label, probabilities in zip(y.tolist(), p.tolist()):
        accuracy.update(label, int(np.argmax(probabilities)))
        log_loss.update(label, probabilities[1] if k == 2 else dict(enumerate(probabilities)))
    scores = scored(classes(k), y, p, [slice(0, 300)]).scores()["model"].cumulative

    assert pytest.approx(accuracy.get(), rel=1e-12) == scores["accuracy"]
    assert pytest.approx(log_loss.get(), rel=1e-9) == scores["log_loss"]


def test_river_agrees_on_numbers():
    y, prediction = number_stream(12, 300)
    oracles = {"mae": metrics.MAE(), "rmse": metrics.RMSE(), "r2": metrics.R2()}
    for label, guess in zip(y.tolist(), prediction.tolist()):
        for oracle in oracles.values():
            oracle.update(label, guess)
    scores = scored(NUMBER, y, prediction, [slice(0, 300)]).scores()["model"].cumulative

    assert pytest.approx({name: oracle.get() for name, oracle in oracles.items()}, rel=1e-9) == scores


@pytest.mark.parametrize("k", [2, 3])
def test_every_cut_gives_the_same_scores(k):
    """One record a batch, all in one batch, anything between: to rounding, auc and baselines included."""
    y, p = class_stream(2, 250, k)
    rng = np.random.default_rng(0)
    ways = [[slice(0, 250)], [slice(i, i + 1) for i in range(250)], *(cuts(rng, 250) for _ in range(3))]
    results = [scored(classes(k), y, p, way, half_life_records=HALF_LIFE_RECORDS) for way in ways]

    for result in results[1:]:
        for form in FORMS:
            assert pytest.approx(getattr(results[0].scores()["model"], form), rel=1e-9) == getattr(
                result.scores()["model"], form
            )
            for name in ("majority", "no_change"):
                assert pytest.approx(getattr(results[0].baselines()[name], form), rel=1e-9) == getattr(
                    result.baselines()[name], form
                )


def test_errors_come_back_per_record_in_arrival_order():
    """Detectors need each of them: a mean over the batch would make them blind."""
    y = np.array([0, 1, 1, 0])
    verdicts = Prequential(Target.binary("y"), ["a", "b"]).update(
        y, {"a": np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]]), "b": np.full((4, 2), 0.5)}
    )
    assert [[0, 1, 0, 1], [0, 1, 1, 0]] == [verdicts[name].error_N.tolist() for name in "ab"]

    verdicts = Prequential(NUMBER, ["a"]).update(np.array([1, 2], np.float32), {"a": np.array([3.0, -1.0])})
    assert [2.0, 3.0] == verdicts["a"].error_N.tolist()


def test_confusion_counts_true_classes_by_guessed_classes():
    y, p = class_stream(3, 200, 3)
    expected = np.zeros((3, 3))
    np.add.at(expected, (y, p.argmax(axis=1)), 1)

    prequential = scored(classes(3), y, p, [slice(0, 200)], half_life_records=HALF_LIFE_RECORDS)
    np.testing.assert_array_equal(expected, prequential.confusion_KK("model"))

    fading = prequential.confusion_KK("model", "fading")
    assert pytest.approx(prequential.scores()["model"].fading["accuracy"]) == fading.trace() / fading.sum()
    with pytest.raises(ConfigError, match="'y' is a number; only classes can be confused"):
        Prequential(NUMBER, ["model"]).confusion_KK("model")


def test_before_the_first_record_every_score_is_nan():
    """And an empty batch, of rejects alone, changes nothing."""
    for target, empty in ((classes(3), np.zeros((0, 3))), (NUMBER, np.zeros(0))):
        prequential = Prequential(target, ["model"])
        assert 0 == len(prequential.update(np.zeros(0, np.int64), {"model": empty})["model"].error_N)
        for scores in (prequential.scores()["model"], *prequential.baselines().values()):
            assert all(math.isnan(value) for form in (scores.cumulative, scores.fading) for value in form.values())


def test_the_names_of_the_scores_are_fixed():
    """They become metric names and keys of the summary that others parse."""
    of_classes, of_number = Prequential(classes(2), ["model"]), Prequential(NUMBER, ["model"])

    assert ["accuracy", "log_loss", "auc", "kappa_temporal"] == list(of_classes.scores()["model"].cumulative)
    assert ["mae", "rmse", "r2"] == list(of_number.scores()["model"].fading)
    assert ["accuracy", "log_loss"] == list(of_classes.baselines()["no_change"].fading)
    assert ["majority", "no_change"] == list(of_number.baselines())


def test_auc_and_kappa_are_nan_while_only_one_class_came():
    scores = scored(classes(2), np.zeros(5, np.int64), np.full((5, 2), 0.5), [slice(0, 5)]).scores()["model"]

    assert math.isnan(scores.cumulative["auc"])
    assert math.isnan(scores.cumulative["kappa_temporal"])  # repeating was never wrong: nothing to gain over it
    assert 1.0 == scores.cumulative["accuracy"]


def test_r2_is_nan_while_all_labels_are_the_same():
    """Their mean is only equal to rounding: dividing by what is left of it would give r2 = -1e30."""
    y = np.full(200, 0.1, np.float32)
    prequential = scored(NUMBER, y, np.zeros(200), cuts(np.random.default_rng(0), 200))
    assert math.isnan(prequential.scores()["model"].cumulative["r2"])

    prequential.update(np.float32([0.1000001]), {"model": np.array([0.1])})
    assert math.isfinite(prequential.scores()["model"].cumulative["r2"])


@pytest.mark.parametrize(
    ("target", "prediction", "message"),
    [
        (classes(2), np.zeros((3, 3)), "model 'm': predict returned shape (3, 3), expected (3, 2)"),
        (classes(2), np.zeros(3), "model 'm': predict returned shape (3,), expected (3, 2)"),
        (classes(2), np.array([[0.5, 0.5], [np.nan, 0.5], [1, 0]]), "[nan, 0.5] for record 1 of the batch"),
        (classes(2), np.array([[0.5, 0.5], [1, 0], [np.inf, -np.inf]]), "[inf, -inf] for record 2 of the batch"),
        (classes(2), np.array([[3.0, -2.0], [1, 0], [1, 0]]), "[3.0, -2.0] for record 0 of the batch"),
        (classes(2), np.array([[0.7, 0.7], [1, 0], [1, 0]]), "[0.7, 0.7] for record 0 of the batch"),
        (NUMBER, np.zeros((3, 1)), "model 'm': predict returned shape (3, 1), expected (3,)"),
        (NUMBER, np.array([0, np.nan, 0]), "model 'm': predict returned nan for record 1 of the batch"),
        (NUMBER, np.array([0, 0, -1e200]), "model 'm': predict returned -1e+200 for record 2 of the batch"),
    ],
)
def test_a_prediction_that_is_none_is_refused_and_changes_no_score(target, prediction, message):
    """One NaN in a sum would stay there for ever, also in the sums of the models beside it."""
    prequential = Prequential(target, ["good", "m"])
    y = np.array([0, 1, 1])
    good = np.full((3, 2), 0.5) if target is not NUMBER else np.zeros(3)
    prequential.update(y, {"good": good, "m": good})
    before = prequential.capture()

    with pytest.raises(ModelError) as error:
        prequential.update(y, {"good": good, "m": prediction})

    assert message in str(error.value)
    assert_equal_states(before, prequential.capture())


def test_a_model_without_predictions_is_named():
    with pytest.raises(ModelError, match="model 'tree': expected predictions of every model, came those of: mlp"):
        Prequential(NUMBER, ["mlp", "tree"]).update(np.zeros(1), {"mlp": np.zeros(1)})


@pytest.mark.parametrize("half_life_records", [0, -1, math.nan])
def test_a_half_life_must_be_positive(half_life_records):
    with pytest.raises(ConfigError, match=r"half_life_records is .*; it must be above 0"):
        Prequential(NUMBER, [], half_life_records=half_life_records)


# ---------------------------------------------------------------- memory that survives


def assert_equal_states(left: State, right: State) -> None:
    assert left.values == right.values
    assert list(left.arrays) == list(right.arrays)
    for name, array in left.arrays.items():
        np.testing.assert_array_equal(array, right.arrays[name], err_msg=name)


def through_a_file(state: State) -> State:
    """As a checkpoint would bring it back: values through JSON."""
    return replace(state, values=json.loads(json.dumps(state.values, allow_nan=False)))


@pytest.mark.parametrize("target", [classes(2), classes(3), NUMBER], ids=["binary", "classes", "number"])
@pytest.mark.parametrize("n_before", [0, 1, 90])
def test_restored_scores_go_on_bit_for_bit(target, n_before):
    """Rebuilding a checkpoint from the journal compares hashes; almost equal would be a different run."""
    k = target.outputs
    y, prediction = class_stream(4, 200, k) if target is not NUMBER else number_stream(4, 200)
    batches = cuts(np.random.default_rng(6), 200)
    first = scored(target, y[:n_before], prediction[:n_before], cuts(np.random.default_rng(5), n_before))
    state = first.capture()
    copy = {name: array.copy() for name, array in state.arrays.items()}

    second = Prequential(target, ["model"])
    second.restore(through_a_file(state))
    for batch in batches:
        for prequential in (first, second):
            prequential.update(y[batch], {"model": prediction[batch]})

    assert_equal_states(first.capture(), second.capture())
    assert repr(first.scores()) == repr(second.scores())
    for name, array in copy.items():
        np.testing.assert_array_equal(array, state.arrays[name], err_msg="a captured state is a copy")


@pytest.mark.parametrize(
    "other",
    [
        Prequential(classes(3), ["model"]),
        Prequential(NUMBER, ["model"]),
        Prequential(classes(2), ["other"]),
        Prequential(classes(2), ["model"], half_life_records=1),
    ],
    ids=["classes", "number", "models", "half-life"],
)
def test_scores_of_another_configuration_are_refused(other):
    with pytest.raises(CheckpointError, match=r"the checkpoint holds scores of .* start fresh"):
        other.restore(Prequential(classes(2), ["model"]).capture())


def test_fading_scores_follow_a_drift_and_cumulative_ones_remember():
    """What the fading form is for: 1,000 good records, then the model is wrong throughout."""
    y = np.zeros(1_100, np.int64)
    p = np.tile([1.0, 0.0], (1_100, 1))
    p[1_000:] = [0.0, 1.0]
    scores = scored(classes(2), y, p, [slice(0, 1_100)], half_life_records=10).scores()["model"]

    assert isinstance(scores, ModelScores)
    assert pytest.approx(1_000 / 1_100) == scores.cumulative["accuracy"]
    assert pytest.approx(2**-10, rel=1e-6) == scores.fading["accuracy"]
