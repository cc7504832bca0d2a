"""Records with changes put in: the twins against River's generators, the injections against what they promise."""

import itertools

import numpy as np
import pytest
from river.datasets import synth

from stream_trainer.drift.evaluate import (
    CONCEPTS,
    INJECTIONS,
    Table,
    piecewise,
    prequential_errors,
    shuffled,
)
from stream_trainer.errors import ConfigError
from stream_trainer.schema import ArrayFeature, CategoryFeature, NumberFeature, Schema, Target, TargetKind
from stream_trainer.types import Batch, LearnReport

RIVER = {
    "sea": lambda concept: synth.SEA(variant=concept, seed=3),
    "stagger": lambda concept: synth.STAGGER(classification_function=concept, seed=3),
    "agrawal": lambda concept: synth.Agrawal(classification_function=concept, seed=3),
    "sine": lambda concept: synth.Sine(classification_function=concept, seed=3),
}
NUMBERS = {"sea": range(4), "stagger": range(3), "agrawal": (0, 1, 2, 5, 6, 7, 8, 9), "sine": range(4)}


@pytest.mark.parametrize(("name", "concept"), [(name, c) for name, concepts in NUMBERS.items() for c in concepts])
def test_a_twin_has_rivers_rule_and_rivers_records(name, concept):
    """Who compares our figures with published ones must be able to trust the name of the stream."""
    concepts, rows = CONCEPTS[name], list(RIVER[name](concept).take(2000))
    river_NF = np.array([list(x.values()) for x, _ in rows], dtype=np.float64)
    numbers_NF, category_NC = concepts.draw(np.random.default_rng(0), 20_000)
    ours_NF = np.concatenate([numbers_NF, category_NC], axis=1)
    n_numbers = numbers_NF.shape[1]

    assert [y for _, y in rows] == concepts.rule(
        river_NF[:, :n_numbers], river_NF[:, n_numbers:].astype(np.int64), concept
    ).astype(int).tolist()
    assert (ours_NF.mean(axis=0) - river_NF.mean(axis=0)) / ours_NF.std(axis=0) == pytest.approx(0.0, abs=0.08)
    assert ours_NF.std(axis=0) == pytest.approx(river_NF.std(axis=0), rel=0.08)


@pytest.mark.parametrize("name", sorted(CONCEPTS))
def test_a_concept_changes_exactly_at_the_change_points(name):
    """Without noise each piece obeys its own rule to the last record, and the next one does not obey it."""
    concepts = CONCEPTS[name]
    table, again = piecewise(concepts, 500, seed=4), piecewise(concepts, 500, seed=4)
    numbers_NF, category_NC = concepts.draw(np.random.default_rng(4), 2500)
    wrong = [
        [
            np.mean(concepts.rule(numbers_NF[part], category_NC[part], concept) != table.records.y_N[part])
            for concept in pair
        ]
        for part, pair in zip(
            (slice(start, start + 500) for start in (0, *table.changes)),
            zip(concepts.order, (*concepts.order[1:], concepts.order[0]), strict=True),
            strict=True,
        )
    ]

    assert (500, 1000, 1500, 2000) == table.changes
    assert np.array_equal(table.records.y_N, again.records.y_N)
    assert np.array_equal(table.records.x_NF, again.records.x_NF)
    for own, next_one in wrong[:-1]:
        assert own == pytest.approx(concepts.noise, abs=0.04)
        assert next_one > own + 0.03


def made(n=2000, *, seed=0, classes=("a", "b", "c")):
    """Every kind of feature; each is a function of the row, so that one sees who was moved."""
    rng = np.random.default_rng(seed)
    schema = Schema(
        numbers=(NumberFeature(name="u"), NumberFeature(name="v", optional=True)),
        categories=(CategoryFeature(name="c", buckets=n),),
        arrays=(ArrayFeature(name="image", shape=(2, 2)),),
        target=Target(name="y", kind=TargetKind.CLASSES, classes=classes),
    )
    row_N = np.arange(n)
    records = Batch(
        x_NF=np.column_stack([row_N, row_N]).astype(np.float32),
        missing_NF=np.column_stack([np.zeros(n, bool), row_N % 2 == 1]),
        category_NC=row_N[:, None].copy(),
        y_N=rng.choice(3, size=n, p=[0.6, 0.3, 0.1]),
        arrays={"image": np.broadcast_to(row_N[:, None, None], (n, 2, 2)).astype(np.float32)},
        timestamp_ms_N=row_N.copy(),
    )
    return Table(name="mine", schema=schema, records=records)


@pytest.mark.parametrize(("name", "seed"), list(itertools.product(sorted(INJECTIONS), range(4))))
def test_an_injection_changes_nothing_before_its_row(name, seed):
    """The change point is exact, and the table that was handed in stays as it was."""
    table, untouched = made(), made()
    changed = INJECTIONS[name](table, 900, seed)

    assert (900,) == changed.changes
    assert f"mine: {name}" == changed.name
    assert len(table) == len(changed)
    for part, original in ((changed.records, slice(0, 900)), (table.records, slice(None))):
        for field in ("x_NF", "missing_NF", "category_NC", "y_N"):
            expected = getattr(untouched.records, field)[original]
            assert np.array_equal(expected, getattr(part, field)[original]), field
        assert np.array_equal(untouched.records.arrays["image"][original], part.arrays["image"][original])


def test_class_prior_moves_the_odds_of_the_rarest_class_and_keeps_records_whole():
    table = made(20_000)
    changed = INJECTIONS["class_prior"](table, 10_000, 1).records
    rows = changed.x_NF[:, 0].astype(int)

    assert 0.5 == pytest.approx(np.mean(changed.y_N[10_000:] == 2), abs=0.03)  # .1 at nine times the odds
    assert np.array_equal(table.records.y_N[rows], changed.y_N)
    assert np.array_equal(rows, changed.category_NC[:, 0])
    assert rows[10_000:].min() >= 10_000


def test_label_swap_exchanges_the_two_most_frequent_classes():
    table = made()
    after = INJECTIONS["label_swap"](table, 1000, 0).records.y_N[1000:]

    assert np.array_equal(np.array([1, 0, 2])[table.records.y_N[1000:]], after)


def test_feature_permutation_deals_half_of_the_columns_and_loses_no_value():
    """Marginal distributions stay to the last value, so only the relation to the rest can give it away."""
    moved = set()
    for seed in range(12):
        table = made()
        dealt = INJECTIONS["feature_permutation"](table, 1000, seed).records
        row_N = np.arange(2000)
        columns = {
            "u": dealt.x_NF[:, 0], "v": dealt.x_NF[:, 1],
            "c": dealt.category_NC[:, 0], "image": dealt.arrays["image"][:, 1, 1],
        }  # fmt: skip
        here = {name for name, column in columns.items() if not np.array_equal(row_N, column)}
        moved |= here

        assert 2 == len(here)
        assert all(np.array_equal(row_N, np.sort(column)) for column in columns.values())
        assert np.array_equal(columns["v"] % 2 == 1, dealt.missing_NF[:, 1])  # a missing flag goes with its number
        assert np.array_equal(table.records.y_N, dealt.y_N)
    assert moved == {"u", "v", "c", "image"}


def test_changes_of_classes_are_refused_for_a_number():
    table = made()
    number = Schema(numbers=table.schema.numbers, target=Target(name="delay", kind=TargetKind.NUMBER))
    for name in ("class_prior", "label_swap"):
        with pytest.raises(ConfigError, match=f"{name}: target 'delay' is a number.*Take feature_permutation"):
            INJECTIONS[name](Table(name="t", schema=number, records=table.records), 10, 0)


def test_shuffled_draws_rows_without_repeats_and_forgets_the_order():
    table = made()
    drawn = shuffled(table, 500, seed=2).records
    rows = drawn.category_NC[:, 0]

    assert (500, 500) == (len(drawn), len(set(rows.tolist())))
    assert np.array_equal(table.records.y_N[rows], drawn.y_N)
    assert abs(np.corrcoef(np.arange(500), rows)[0, 1]) < 0.2


class CopyCat:
    """Predicts what the last learned record was: whoever learned before predicting would never be wrong."""

    last = 0

    def predict(self, batch):
        return np.tile(np.arange(3) == self.last, (len(batch), 1)).astype(float)

    def learn(self, batch):
        self.last = int(batch.y_N[-1])
        return LearnReport()


def test_errors_are_of_predictions_made_before_learning():
    table = made(100)
    y_N = table.records.y_N
    errors = prequential_errors(CopyCat(), table, batch_records=1)
    in_tens = prequential_errors(CopyCat(), table, batch_records=10)

    assert np.array_equal(errors.values_N, (np.concatenate([[0], y_N[:-1]]) != y_N).astype(float))
    assert np.array_equal(in_tens.values_N, (np.repeat(np.concatenate([[0], y_N[9:-1:10]]), 10) != y_N).astype(float))
    assert ("mine", ()) == (errors.name, errors.changes)


def test_rows_of_a_batch_take_every_column_along():
    taken = made(10).records.rows(np.array([7, 7, 1]))

    assert [7, 7, 1] == taken.x_NF[:, 1].tolist() == taken.category_NC[:, 0].tolist() == taken.timestamp_ms_N.tolist()
    assert [True, True, True] == taken.missing_NF[:, 1].tolist()
    assert [7.0, 7.0, 1.0] == taken.arrays["image"][:, 0, 1].tolist()
