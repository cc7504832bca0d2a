"""A Hoeffding tree that has lived through drifts: it goes on learning, and its bounds hold."""

import random

import pytest
from river import tree

from stream_trainer.models.river_mend import mend_leaf_counts


@pytest.fixture(autouse=True)
def mended():
    mend_leaf_counts()


def live(model, n_records, *, drift_every, seed=1):
    """Teach it a rule that turns into its opposite again and again."""
    rng = random.Random(seed)
    for i in range(n_records):
        x = {"a": rng.gauss(0, 1), "b": rng.random()}
        model.learn_one(x, int((x["a"] > 0.1) ^ (i // drift_every % 2) ^ (rng.random() < 0.1)))
    return model


def test_a_tree_whose_leaves_may_not_grow_goes_on_learning_when_it_estimates_its_size():
    """Every record at the depth limit took a leaf off its count; River then divided by what was left."""
    model = tree.HoeffdingAdaptiveTreeClassifier(seed=0, max_depth=2, memory_estimate_period=500)
    live(model, 6_000, drift_every=1_500)
    model._estimate_model_size()

    assert model.n_leaves >= 1
    assert (model._n_active_leaves, model._n_inactive_leaves) == (
        sum(leaf.is_active() for leaf in model._find_leaves()),
        sum(not leaf.is_active() for leaf in model._find_leaves()),
    )


def test_a_count_that_has_gone_wrong_is_no_longer_divided_by():
    """Below zero, with every leaf active: the state in which a service died at its millionth record."""
    model = live(tree.HoeffdingAdaptiveTreeClassifier(seed=0), 300, drift_every=1_000)
    model._n_active_leaves = -7
    model._estimate_model_size()

    assert model.n_leaves == model._n_active_leaves > 0
