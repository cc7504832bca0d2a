"""A River estimator as a model: what it is shown, what is made of its answers, and that it survives a restart."""

import dataclasses
import json

import numpy as np
import pytest
from models_stream import MIXED, NUMBERS, REGRESSION, cut, part, records
from river import base

from stream_trainer.errors import CheckpointError, ConfigError, ModelError
from stream_trainer.models import RiverModel, RiverOptions, build_model, state_sha256
from stream_trainer.types import State

HERE = "test_models_river_model"
TREE = RiverOptions(estimator="river.tree.HoeffdingAdaptiveTreeClassifier", parameters={"grace_period": 20})
LOGISTIC = RiverOptions(
    pipeline=[
        "river.preprocessing.StandardScaler",
        {
            "estimator": "river.linear_model.LogisticRegression",
            "parameters": {"optimizer": {"estimator": "river.optim.SGD", "parameters": {"lr": 0.1}}},
        },
    ]
)
REGRESSION_TREE = RiverOptions(
    estimator="river.tree.HoeffdingAdaptiveTreeRegressor", parameters={"leaf_prediction": "mean", "grace_period": 50}
)
CASES = [
    pytest.param(MIXED, TREE, id="adaptive tree"),
    pytest.param(MIXED, dataclasses.replace(TREE, inputs="standardised"), id="adaptive tree, standardised"),
    pytest.param(NUMBERS, LOGISTIC, id="scaler and logistic regression"),
    pytest.param(MIXED, RiverOptions(estimator="river.forest.ARFClassifier", parameters={"n_models": 2}), id="forest"),
    pytest.param(NUMBERS, RiverOptions(estimator="river.naive_bayes.GaussianNB"), id="naive bayes"),
    pytest.param(REGRESSION, REGRESSION_TREE, id="regression tree"),
]


class Recorder(base.Classifier):
    """Keeps what it is shown, and names a class without a probability."""

    def __init__(self, seed: int | None = None, nominal_attributes: list[str] | None = None):
        self.seed, self.nominal_attributes = seed, nominal_attributes
        self.shown: list[tuple[dict, object]] = []

    def learn_one(self, x, y):
        self.shown.append((x, y))

    def predict_one(self, x):
        return self.shown[-1][1] if self.shown else None

    @property
    def _multiclass(self):
        return True


RECORDER = RiverOptions(estimator=f"{HERE}.Recorder", seed=9)


def as_saved(state: State) -> State:
    return State(arrays=state.arrays, values=json.loads(json.dumps(state.values)), pickles=state.pickles)


def test_a_record_is_shown_as_a_dict_without_what_is_missing():
    """A missing number shown as 0 would be a lie; a category shown as a number would be ordered."""
    data = records(MIXED, 40)
    model = build_model(MIXED, "river", RECORDER)
    model.learn(data)
    shown, label = model.estimator.shown[0]
    missing = int(np.argmax(data.missing_NF[:, 1]))

    assert {"a", "c", "k", "l", *(f"image[{i}]" for i in range(6))} == set(shown) - {"b"}
    assert float(data.x_NF[0, 0]) == shown["a"]
    assert str(data.category_NC[0, 0]) == shown["k"]
    assert float(data.arrays["image"][0, 1, 0]) == shown["image[3]"]
    assert (int, data.y_N[0]) == (type(label), label)
    assert "b" not in model.estimator.shown[missing][0]


def test_the_seed_and_the_nominal_attributes_are_filled_in():
    """Without the seed runs would not repeat; without the names some trees take buckets for numbers."""
    model = build_model(MIXED, "river", RECORDER)

    assert (model.estimator.seed, model.estimator.nominal_attributes) == (9, ["k", "l"])


def test_an_estimator_that_only_names_a_class_gets_a_finite_log_loss():
    """A probability of 0 for the true class would make the log-loss infinite for ever."""
    model = build_model(MIXED, "river", RECORDER)
    data = records(MIXED, 3)

    np.testing.assert_allclose(np.full((3, 3), 1 / 3), model.predict(data))
    model.learn(data)
    expected = np.full(3, 0.025)
    expected[data.y_N[-1]] = 0.95
    np.testing.assert_allclose(expected, model.predict(data)[0])


@pytest.mark.parametrize(("schema", "options"), CASES)
def test_predictions_are_distributions_or_finite_values_from_the_first_record_on(schema, options):
    """No information yet is a valid state, and the first batch is predicted too."""
    model, data = build_model(schema, "river", options), records(schema, 150)
    for batch in cut(data, [1, 5, 44]):
        answer = model.predict(batch)
        model.learn(batch)

        assert len(batch) == len(answer)
        assert np.isfinite(answer).all()
        if schema is not REGRESSION:
            np.testing.assert_allclose(1.0, answer.sum(axis=1))


@pytest.mark.parametrize(("schema", "options"), CASES)
def test_predict_changes_nothing(schema, options):
    """Neither the first time, when a forest would plant its trees, nor later."""
    model, data = build_model(schema, "river", options), records(schema, 200)
    for _ in range(2):
        before = state_sha256(model.capture())
        np.testing.assert_array_equal(model.predict(data), model.predict(data))
        assert before == state_sha256(model.capture())
        model.learn(data)
        assert before != state_sha256(model.capture())


@pytest.mark.parametrize(("schema", "options"), CASES)
def test_a_restored_twin_goes_on_the_same(schema, options):
    """Train, save, load, train gives the state of training without a break, in whatever cut."""
    data = records(schema, 600)
    whole = build_model(schema, "river", options)
    for batch in cut(data, [300]):
        whole.learn(batch)
    first = build_model(schema, "river", options)
    first.learn(part(data, 0, 300))
    twin = build_model(schema, "river", options)
    twin.restore(as_saved(first.capture()))
    for batch in cut(part(data, 300, 600), [300] if options.inputs == "standardised" else [7, 1]):
        twin.learn(batch)

    assert state_sha256(whole.capture()) == state_sha256(twin.capture())
    np.testing.assert_array_equal(whole.predict(data), twin.predict(data))


@pytest.mark.parametrize(("schema", "options", "error_max"), [(MIXED, TREE, 0.45), (NUMBERS, LOGISTIC, 0.15)])
def test_it_learns(schema, options, error_max):
    """Chance would be about .6 and .5."""
    model, data = build_model(schema, "river", options), records(schema, 3000)
    model.learn(part(data, 0, 2500))
    test = part(data, 2500, 3000)

    assert (model.predict(test).argmax(axis=1) != test.y_N).mean() < error_max


def test_a_regressor_predicts_in_the_unit_of_the_target():
    """Targets lie around 1000."""
    model, data = build_model(REGRESSION, "river", REGRESSION_TREE), records(REGRESSION, 2000)
    np.testing.assert_array_equal(np.zeros(2000), model.predict(data))
    model.learn(data)

    assert np.abs(model.predict(data) - data.y_N).mean() < 60.0


def test_a_regressor_that_exploded_predicts_nothing_instead_of_nan():
    """One nan would make every mean error nan for the rest of the run."""
    numbers_only = dataclasses.replace(REGRESSION, categories=())
    model = build_model(
        numbers_only,
        "river",
        RiverOptions(
            estimator="river.linear_model.LinearRegression",
            parameters={"optimizer": {"estimator": "river.optim.SGD", "parameters": {"lr": 1e300}}},
        ),
    )
    data = records(numbers_only, 200)
    model.learn(data)

    np.testing.assert_array_equal(np.zeros(200), model.predict(data))


def test_another_river_version_is_refused_with_the_fix():
    """River's pickles do not survive a minor version, and some of them break later than at loading."""
    model = build_model(NUMBERS, "river", LOGISTIC)
    state = model.capture()
    old = dataclasses.replace(state, values={**state.values, "river": "0.25.0"})

    with pytest.raises(CheckpointError) as caught:
        model.restore(old)
    assert str(caught.value) == (
        f"river model: the checkpoint has river '0.25.0', this run {state.values['river']!r}. "
        "Install river==0.25.0, or replay the log into a fresh checkpoint directory."
    )


def test_another_estimator_is_refused():
    """The configuration changed, and the checkpoint would silently win."""
    with pytest.raises(CheckpointError, match="the checkpoint has estimator"):
        build_model(MIXED, "river", TREE).restore(build_model(MIXED, "river", RECORDER).capture())


def test_an_estimator_that_raises_is_named_with_the_record_and_the_fix():
    """The commonest case: a linear model is given strings."""
    model = build_model(REGRESSION, "river", RiverOptions(estimator="river.linear_model.LinearRegression"))

    with pytest.raises(ModelError, match=r"LinearRegression.learn_one raised TypeError.*categories: one_hot"):
        model.learn(records(REGRESSION, 1))


def test_a_linear_model_takes_categories_as_numbers_when_told_to():
    """One weight a bucket; and nothing but numbers reaches it."""
    options = RiverOptions(estimator="river.linear_model.LinearRegression", inputs="standardised", categories="one_hot")
    model = build_model(REGRESSION, "river", options)
    batch = records(REGRESSION, 50)
    model.learn(batch)

    (name,) = {feature.name for feature in REGRESSION.categories}
    seen = {f"{name}={bucket}" for bucket in batch.category_NC[:, 0].tolist()}
    assert seen == {key for key in model.estimator.weights if "=" in key}


@pytest.mark.parametrize(
    ("schema", "options", "message"),
    [
        (MIXED, {"estimator": "Tree"}, "river.estimator is 'Tree'; expected an import path like"),
        (MIXED, {"estimator": "river.trees.Tree"}, "tried to import river.trees: No module named 'river.trees'"),
        (
            MIXED,
            {"estimator": "river.tree.HoeffdingAdaptiveTreeClasifier"},
            "river.tree was imported and has no HoeffdingAdaptiveTreeClasifier. "
            "Did you mean HoeffdingAdaptiveTreeClassifier",
        ),
        (MIXED, {"estimator": "river.forest.ARFClassifier", "parameters": {"trees": 3}}, "unexpected keyword argument"),
        (MIXED, {"estimator": "river.tree.HoeffdingTreeRegressor"}, "target 'y' has classes and needs a classifier"),
        (REGRESSION, {"estimator": "river.tree.HoeffdingTreeClassifier"}, "target 'price' is a number and needs a reg"),
        (
            MIXED,
            {"estimator": "river.linear_model.LogisticRegression"},
            "LogisticRegression tells two classes apart; target 'y' has 3. Wrap it: estimator: "
            "river.multiclass.OneVsRestClassifier",
        ),
        (MIXED, {}, "expected either estimator or pipeline"),
        (MIXED, {"pipeline": [{"estimator": "river.tree.HoeffdingTreeClassifier", "seed": 1}]}, "unknown key 'seed'"),
        (MIXED, {"estimator": "a.b", "inputs": "scaled"}, "known inputs: raw, standardised"),
    ],
)
def test_a_wrong_option_says_what_was_tried(schema, options, message):
    """Whoever writes a configuration sees what was looked for, and where."""
    with pytest.raises(ConfigError) as caught:
        RiverModel(schema, RiverOptions(**options))

    assert message in str(caught.value)
