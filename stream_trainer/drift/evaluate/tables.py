"""Labelled records with changes put in at a known row, and the errors of a model that goes on learning them.

A table of the user's own has changes that nobody knows; so its rows are drawn in random order, which leaves none, and
then one change is made. What a detector is shown are *prequential* errors: the model predicts each batch, then learns
it, as in the service. A model that stopped learning before the change would show it for ever; this one unlearns it,
and a detector that is too slow finds nothing left to see.

The injections are after the kinds in Cerqueira et al. 2026, arXiv:2606.07789; strengths are ours, in each docstring.
Shape suffixes: N = records, F = numbers, C = categories, K = classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from stream_trainer.contracts import Model
from stream_trainer.drift.evaluate.streams import Stream
from stream_trainer.errors import ConfigError
from stream_trainer.schema import Schema, TargetKind
from stream_trainer.types import Batch

__all__ = ["INJECTIONS", "Table", "prequential_errors", "shuffled"]

_ODDS = 9.0  # of the rarest class, times its own: even classes become 9 to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Records in learning order, and the rows at which their distribution changed."""

    name: str
    schema: Schema
    records: Batch
    changes: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.records)


def shuffled(table: Table, records_max: int, seed: int) -> Table:
    """At most `records_max` rows, drawn without repeats in random order: stationary, whatever the table was."""
    chosen_M = np.random.default_rng(seed).permutation(len(table))[:records_max]
    return replace(table, records=table.records.rows(chosen_M), changes=())


def prequential_errors(model: Model, table: Table, batch_records: int) -> Stream:
    """The errors of `model`, fresh, which predicts each batch before it learns it.

    Returns: for classes 1 where the likeliest class was wrong, else 0; for a number the absolute error.
    """
    errors_N = np.empty(len(table), dtype=np.float64)
    for start in range(0, len(table), batch_records):
        part = slice(start, start + batch_records)
        batch = table.records.rows(part)
        prediction = model.predict(batch)
        if table.schema.target.kind is TargetKind.CLASSES:
            errors_N[part] = prediction.argmax(axis=1) != batch.y_N
        else:
            errors_N[part] = np.abs(prediction - batch.y_N)
        model.learn(batch)
    return Stream(name=table.name, values_N=errors_N, changes=table.changes)


# ---------------------------------------------------------------- changes put in


def class_prior(table: Table, change: int, seed: int) -> Table:
    """From row `change` on the odds of the rarest class are nine times as high; what a class looks like stays.

    The rows from there on are drawn anew among themselves, with repeats. Raises: ConfigError: the target is a number.
    """
    y_N = _classes(table, "class_prior")[change:]
    present_K, counts_K = np.unique(y_N, return_counts=True)
    weight_N = np.where(y_N == present_K[counts_K.argmin()], _ODDS, 1.0)
    drawn_N = np.random.default_rng(seed).choice(len(y_N), size=len(y_N), p=weight_N / weight_N.sum())
    rows_N = np.concatenate([np.arange(change), change + drawn_N])
    return _changed(table, table.records.rows(rows_N), change, "class_prior")


def label_swap(table: Table, change: int, seed: int) -> Table:
    """From row `change` on the two most frequent classes carry each other's name; the records stay, seed or no seed.

    Raises: ConfigError: the target is a number.
    """
    y_N = _classes(table, "label_swap").copy()
    present_K, counts_K = np.unique(y_N, return_counts=True)
    names_K = np.arange(len(table.schema.target.classes))
    pair = present_K[np.argsort(-counts_K, kind="stable")[:2]]
    names_K[pair] = pair[::-1]
    y_N[change:] = names_K[y_N[change:]]
    return _changed(table, replace(table.records, y_N=y_N), change, "label_swap")


def feature_permutation(table: Table, change: int, seed: int) -> Table:
    """From row `change` on half of the features, drawn by `seed`, are dealt anew among the records, each on its own.

    Each column keeps its distribution to the last value, and says nothing about its record any more.
    """
    rng, records = np.random.default_rng(seed), table.records
    n_features = len(table.schema.feature_names)
    chosen = set(rng.permutation(n_features)[: -(-n_features // 2)].tolist())
    x_NF, category_NC, arrays = records.x_NF.copy(), records.category_NC.copy(), dict(records.arrays)
    missing_NF = None if records.missing_NF is None else records.missing_NF.copy()
    columns: list[np.ndarray] = [*x_NF.T, *category_NC.T]  # views: what is dealt here is dealt in the matrices
    for name in arrays:
        arrays[name] = arrays[name].copy()
        columns.append(arrays[name])
    for feature, column in enumerate(columns):
        if feature in chosen:
            order = change + rng.permutation(len(table) - change)
            column[change:] = column[order]
            if missing_NF is not None and feature < missing_NF.shape[1]:
                missing_NF[change:, feature] = missing_NF[order, feature]
    dealt = replace(records, x_NF=x_NF, missing_NF=missing_NF, category_NC=category_NC, arrays=arrays)
    return _changed(table, dealt, change, "feature_permutation")


INJECTIONS: Mapping[str, Callable[[Table, int, int], Table]] = {
    "class_prior": class_prior,
    "feature_permutation": feature_permutation,
    "label_swap": label_swap,
}
"""Name -> (table, row of the change, seed) -> the table with that change, and no other recorded."""


def _classes(table: Table, name: str) -> np.ndarray:
    if table.schema.target.kind is not TargetKind.CLASSES:
        raise ConfigError(
            f"{name}: target {table.schema.target.name!r} is a number; this change is one of classes. "
            "Take feature_permutation."
        )
    return table.records.y_N


def _changed(table: Table, records: Batch, change: int, name: str) -> Table:
    return Table(name=f"{table.name}: {name}", schema=table.schema, records=records, changes=(change,))
