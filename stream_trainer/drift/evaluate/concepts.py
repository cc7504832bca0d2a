"""Records whose concept changes at a known row: the well-known generators as arrays, thousands of times as fast.

SEA, STAGGER, Agrawal and Sine have the distributions and, by number, the rules of the generators of the same name in
River (compared with them in the tests); Hyperplane draws the weights of each concept by its number. Agrawal's rules 3
and 4 are left out. River's own generators with gradual or endless drift have no change points, so nothing could be
counted on them.
Shape suffixes: N = records, F = numbers, C = categories.
Sources: Street and Kim 2001 (SEA), Schlimmer and Granger 1986 (STAGGER), Agrawal et al. 1993, Gama et al. 2004 (Sine),
Hulten et al. 2001 (Hyperplane).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from stream_trainer.drift.evaluate.tables import Table
from stream_trainer.schema import CategoryFeature, NumberFeature, Schema, Target
from stream_trainer.types import Batch

__all__ = ["CONCEPTS", "Concepts", "piecewise"]

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
"""(random, n) -> numbers (n, F) float64 and categories (n, C) int64."""

Rule = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""(numbers, categories, concept) -> bool (n,): whether a record is of class 1 in that concept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Concepts:
    """One family of concepts, and the order in which a stream goes through them."""

    name: str
    schema: Schema
    draw: Draw
    rule: Rule
    order: tuple[int, ...]
    noise: float  # share of labels that are turned round


def piecewise(concepts: Concepts, records_each: int, seed: int) -> Table:
    """A stream that follows each concept of the order for `records_each` records.

    >>> piecewise(CONCEPTS["sea"], 100, seed=0).changes
    (100, 200, 300, 400)
    """
    rng = np.random.default_rng(seed)
    n = records_each * len(concepts.order)
    numbers_NF, category_NC = concepts.draw(rng, n)
    y_N = np.empty(n, dtype=np.int64)
    for i, concept in enumerate(concepts.order):
        part = slice(i * records_each, (i + 1) * records_each)
        y_N[part] = concepts.rule(numbers_NF[part], category_NC[part], concept)
    y_N ^= rng.random(n) < concepts.noise
    return Table(
        name=concepts.name,
        schema=concepts.schema,
        records=Batch(
            x_NF=numbers_NF.astype(np.float32),
            missing_NF=None,
            category_NC=category_NC,
            y_N=y_N,
            timestamp_ms_N=np.full(n, -1, dtype=np.int64),
        ),
        changes=tuple(range(records_each, n, records_each)),
    )


def _schema(numbers: tuple[str, ...], categories: tuple[tuple[str, int], ...] = ()) -> Schema:
    return Schema(
        numbers=tuple(NumberFeature(name=name) for name in numbers),
        categories=tuple(CategoryFeature(name=name, buckets=buckets) for name, buckets in categories),
        target=Target.binary("y"),
    )


def _uniform(features: int, top: float) -> Draw:
    return lambda rng, n: (rng.uniform(0.0, top, (n, features)), np.zeros((n, 0), dtype=np.int64))


def _sea(x_NF: np.ndarray, _: np.ndarray, concept: int) -> np.ndarray:
    return x_NF[:, 0] + x_NF[:, 1] > (8.0, 9.0, 7.0, 9.5)[concept]


def _stagger_draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((n, 0)), rng.integers(0, 3, (n, 3))


def _stagger(_: np.ndarray, category_NC: np.ndarray, concept: int) -> np.ndarray:
    size_N, colour_N, shape_N = category_NC.T
    return ((size_N == 0) & (colour_N == 0), (colour_N == 2) | (shape_N == 0), size_N > 0)[concept]


def _sine(x_NF: np.ndarray, _: np.ndarray, concept: int) -> np.ndarray:
    """Two curves, and each of them turned round."""
    first_N, second_N = x_NF.T
    curve_N = np.sin(second_N) if concept < 2 else 0.5 + 0.3 * np.sin(3.0 * np.pi * second_N)
    return (first_N < curve_N) ^ (concept % 2 == 1)


def _hyperplane(x_NF: np.ndarray, _: np.ndarray, concept: int) -> np.ndarray:
    weight_F: np.ndarray = np.random.default_rng(concept).random((x_NF.shape[1],))
    return np.asarray(x_NF @ weight_F >= weight_F.sum() / 2.0)


_AGRAWAL = ("salary", "commission", "age", "elevel", "car", "zipcode", "hvalue", "hyears", "loan")


def _agrawal_draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """All nine as numbers, as River gives them: its codes for level, car and place are integers."""
    salary_N = 20_000 + 130_000 * rng.random(n)
    commission_N = np.where(salary_N >= 75_000, 0.0, 10_000 + 75_000 * rng.random(n))
    age_N, elevel_N, car_N = rng.integers(20, 81, n), rng.integers(0, 5, n), rng.integers(1, 21, n)
    zipcode_N = rng.integers(0, 9, n)
    hvalue_N = (8 - zipcode_N) * 100_000 * (0.5 + rng.random(n))
    hyears_N, loan_N = rng.integers(1, 31, n), 500_000 * rng.random(n)
    columns = (salary_N, commission_N, age_N, elevel_N, car_N, zipcode_N, hvalue_N, hyears_N, loan_N)
    return np.column_stack(columns).astype(np.float64), np.zeros((n, 0), dtype=np.int64)


def _agrawal(x_NF: np.ndarray, _: np.ndarray, concept: int) -> np.ndarray:
    """By age: rules 0, 2 (education), 1 (salary), 5 (all income); by what is left of the income: the others."""
    salary_N, commission_N, age_N, elevel_N, _car, _zipcode, hvalue_N, hyears_N, loan_N = x_NF.T
    stage_N = (age_N >= 40).astype(np.int64) + (age_N >= 60)
    income_N = salary_N + commission_N
    if concept == 0:
        return np.asarray(stage_N != 1)
    if concept == 2:
        return (np.array([0, 1, 2])[stage_N] <= elevel_N) & (elevel_N <= np.array([1, 3, 4])[stage_N])
    if concept in (1, 5):
        earned_N = salary_N if concept == 1 else income_N
        least_N = np.array([50_000, 75_000, 25_000])[stage_N]
        return (least_N <= earned_N) & (earned_N <= least_N + 50_000)
    equity_N = np.where(hyears_N >= 20, hvalue_N * (hyears_N - 20) / 10, 0.0)
    spent_N = {
        6: loan_N / 5 + 20_000,
        7: 5_000 * elevel_N + 20_000,
        8: 5_000 * elevel_N + loan_N / 5 + 10_000,
        9: 5_000 * elevel_N - equity_N / 5 + 10_000,
    }[concept]
    return 2.0 * income_N / 3.0 - spent_N <= 1.0


CONCEPTS: Mapping[str, Concepts] = {
    concepts.name: concepts
    for concepts in (
        Concepts(
            name="agrawal",
            schema=_schema(_AGRAWAL),
            draw=_agrawal_draw,
            rule=_agrawal,
            order=(0, 2, 1, 6, 0),
            noise=0.0,
        ),
        Concepts(
            name="hyperplane",
            schema=_schema(tuple(f"x{i}" for i in range(10))),
            draw=_uniform(10, 1.0),
            rule=_hyperplane,
            order=(0, 1, 2, 3, 4),
            noise=0.05,
        ),
        Concepts(
            name="sea",
            schema=_schema(("x0", "x1", "x2")),
            draw=_uniform(3, 10.0),
            rule=_sea,
            order=(0, 3, 2, 1, 0),
            noise=0.1,
        ),
        Concepts(
            name="sine",
            schema=_schema(("x0", "x1")),
            draw=_uniform(2, 1.0),
            rule=_sine,
            order=(0, 2, 3, 1, 0),
            noise=0.0,
        ),
        Concepts(
            name="stagger",
            schema=_schema((), (("size", 3), ("colour", 3), ("shape", 3))),
            draw=_stagger_draw,
            rule=_stagger,
            order=(0, 1, 2, 0, 1),
            noise=0.0,
        ),
    )
}
"""Name -> concepts, each with four abrupt changes."""
