"""One hash per state: the same after a restart and in another process, another after any change."""

import collections
import functools
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from models_stream import MIXED, NUMBERS, cut, part, records

from stream_trainer.errors import ModelError
from stream_trainer.models import RiverOptions, build_model, state_sha256
from stream_trainer.models.digest import object_sha256
from stream_trainer.types import State

CASES = [
    (MIXED, RiverOptions(estimator="river.tree.HoeffdingAdaptiveTreeClassifier", parameters={"grace_period": 20})),
    (MIXED, RiverOptions(estimator="river.forest.ARFClassifier", parameters={"n_models": 3})),
    (NUMBERS, RiverOptions(estimator="river.naive_bayes.GaussianNB")),
    (NUMBERS, RiverOptions(pipeline=["river.preprocessing.StandardScaler", "river.linear_model.LogisticRegression"])),
]


def trained(restart: bool, size: int) -> list[str]:
    """Hash of each case after 800 records, of which the later 400 come in batches of `size`."""
    digests = []
    for schema, options in CASES:
        model, data = build_model(schema, "river", options), records(schema, 800)
        model.learn(part(data, 0, 400))
        if restart:
            state, model = model.capture(), build_model(schema, "river", options)
            model.restore(state)
        for batch in cut(part(data, 400, 800), [size]):
            model.predict(batch)
            model.learn(batch)
        digests.append(state_sha256(model.capture()))
    return digests


def test_river_states_hash_alike_in_any_process_and_after_a_restart():
    """Python seeds the hash of strings anew in each process, and pickling changes which equal strings are one."""
    process = subprocess.run(
        [sys.executable, "-c", "import test_models_digest as here; print(*here.trained(restart=True, size=7))"],
        env={**os.environ, "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert process.stdout.split() == trained(restart=False, size=400)
    assert len(set(process.stdout.split())) == len(CASES)


def parts() -> list:
    """One of everything that River keeps; `shared` occurs twice."""
    shared = [1.0, float("nan"), -0.0]
    return [
        shared,
        {"b": 1, "a": (2, "x")},
        {"red", "green", "blue", 3},
        collections.defaultdict(list, {"k": shared}),
        collections.Counter("abca"),
        collections.deque([1, 2], maxlen=3),
        functools.partial(sorted, key=len),
        "text".upper,
        np.arange(3.0),
        np.float32(2.5),
        np.array(["a", None], dtype=object),
        torch.arange(4).reshape(2, 2),
        random.Random(5),
        np.random.RandomState(5),
        len,
        dict,
        1 + 2j,
        b"bytes",
        None,
        ...,
    ]


def test_a_pickle_round_trip_keeps_the_hash():
    """A checkpoint is loaded from one."""
    assert object_sha256(parts()) == object_sha256(parts()) == object_sha256(pickle.loads(pickle.dumps(parts())))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0, False),
        (1, 1.0),
        (0.0, -0.0),
        ("1", 1),
        (b"a", "a"),
        ([1], (1,)),
        ({1, 2}, {1, 3}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (["ab", "c"], ["a", "bc"]),
        ([[1], [2]], [[1, 2]]),
        (np.zeros(2), np.zeros(2, dtype=np.float32)),
        (np.zeros((2, 1)), np.zeros((1, 2))),
        (random.Random(1), random.Random(2)),
        (sorted, reversed),
        (collections.deque([1], maxlen=2), collections.deque([1], maxlen=3)),
    ],
)
def test_different_objects_hash_differently(one, other):
    """Neither type nor order nor nesting may be lost."""
    assert object_sha256(one) != object_sha256(other)


def test_a_deep_structure_and_a_cycle_are_walked():
    """Trees grow deeper than Python's stack, and leaves know their tree."""
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    cycle: list = []
    cycle.append(cycle)

    assert object_sha256(deep) != object_sha256(cycle)


class Noisy:
    """Like River's Gaussian: a generator that the operating system seeded, beside the seed it was not given."""

    def __init__(self, seed=None):
        self.seed, self.rng = seed, random.Random(seed)


def test_a_generator_that_nobody_seeded_is_no_part_of_the_state():
    """It differs in every run; one that was seeded is part of it."""
    drawn = Noisy(seed=3)
    drawn.rng.random()

    assert object_sha256(Noisy()) == object_sha256(Noisy())
    assert object_sha256(Noisy(seed=3)) == object_sha256(Noisy(seed=3))
    assert object_sha256(Noisy(seed=3)) != object_sha256(drawn)


def test_what_cannot_be_saved_is_named():
    """The same thing would make the next checkpoint fail."""
    with pytest.raises(ModelError, match=r"The model's state holds a builtins\.generator"):
        object_sha256({"rows": (i for i in range(3))})


def test_every_part_of_a_state_counts():
    """Names, types, contents, values and pickles."""
    state = State(arrays={"a": np.zeros(2)}, values={"n": 1}, pickles={"p": pickle.dumps([1])})
    others = [
        State(arrays={"b": np.zeros(2)}, values={"n": 1}, pickles={"p": pickle.dumps([1])}),
        State(arrays={"a": np.zeros(2, np.float32)}, values={"n": 1}, pickles={"p": pickle.dumps([1])}),
        State(arrays={"a": np.array([0.0, 1.0])}, values={"n": 1}, pickles={"p": pickle.dumps([1])}),
        State(arrays={"a": np.zeros(2)}, values={"n": 2}, pickles={"p": pickle.dumps([1])}),
        State(arrays={"a": np.zeros(2)}, values={"n": 1}, pickles={"p": pickle.dumps([2])}),
    ]

    assert len({state_sha256(s) for s in [state, *others]}) == 6


def test_half_precision_tensors_hash_too():
    """numpy has no bfloat16."""
    one, other = torch.ones(3, dtype=torch.bfloat16), torch.tensor([1, 1, 2], dtype=torch.bfloat16)

    assert state_sha256(State(arrays={"w": one})) != state_sha256(State(arrays={"w": other}))
