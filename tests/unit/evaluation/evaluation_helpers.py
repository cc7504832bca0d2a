"""Scores by brute force: over all records at once, each with its weight, with no thought for speed."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from stream_trainer.evaluation import Prequential
from stream_trainer.schema import Target, TargetKind

NUMBER = Target(name="y", kind=TargetKind.NUMBER)


def classes(n: int) -> Target:
    return Target(name="y", kind=TargetKind.CLASSES, classes=tuple(f"class {i}" for i in range(n)))


def class_stream(seed: int, n: int, k: int, *, sticky: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Labels that sometimes repeat, and probabilities that know something of them; some are exactly 0, 1 or equal."""
    rng = np.random.default_rng(seed)
    y = rng.integers(k, size=n)
    for i in range(1, n):
        y[i] = y[i - 1] if rng.random() < sticky else y[i]
    p = rng.dirichlet(np.full(k, 0.7), size=n)
    p[np.arange(n), y] += rng.random(n)
    p /= p.sum(axis=1, keepdims=True)
    p[rng.random(n) < 0.05] = np.eye(k)[0]
    p[rng.random(n) < 0.05] = 1 / k
    return y, p


def cuts(rng: np.random.Generator, n: int) -> list[slice]:
    """The stream in batches of 1 to 40 records, small ones preferred."""
    edges = [0]
    while edges[-1] < n:
        edges.append(min(n, edges[-1] + int(rng.choice([1, 2, 3, 7, 40]))))
    return [slice(a, b) for a, b in pairwise(edges)]


def scored(target: Target, y: np.ndarray, predictions: np.ndarray, batches: Sequence[slice], **options) -> Prequential:
    prequential = Prequential(target, ["model"], **options)
    for batch in batches:
        prequential.update(y[batch], {"model": predictions[batch]})
    return prequential


def weights(n: int, half_life_records: float) -> np.ndarray:
    return 0.5 ** (np.arange(n - 1, -1, -1) / half_life_records)


def mean(values: np.ndarray, w: np.ndarray) -> float:
    return math.fsum(values * w) / math.fsum(w)


def auc_of(score: np.ndarray, own: np.ndarray, w: np.ndarray) -> float:
    """Share of weighted pairs (one of the class, one not) in the right order; ties count half; NaN without pairs."""
    right = (score[own][:, None] > score[~own]) + 0.5 * (score[own][:, None] == score[~own])
    pairs = w[own][:, None] * w[~own]
    return float((right * pairs).sum() / pairs.sum()) if pairs.size else math.nan


def macro_auc(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> float:
    if p.shape[1] == 2:
        return auc_of(p[:, 1], y == 1, w)
    return float(np.nanmean([auc_of(p[:, c], y == c, w) for c in range(p.shape[1])]))


def majority_of(y: Sequence[int], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Error and log loss of each record, one by one."""
    count, leader = [0] * k, 0
    errors, losses = [], []
    for label in y:
        errors.append(float(leader != label))
        losses.append(-math.log((count[label] + 1) / (sum(count) + k)))
        count[label] += 1
        leader = label if count[label] > count[leader] else leader
    return np.array(errors), np.array(losses)


def no_change_of(y: Sequence[int], k: int) -> tuple[np.ndarray, np.ndarray]:
    last, repeats = 0, 0
    errors, losses = [], []
    for seen, label in enumerate(y):
        p_repeat = (repeats + 1) / (seen + k)
        errors.append(float(last != label))
        losses.append(-math.log(p_repeat if last == label else (1 - p_repeat) / (k - 1)))
        repeats += last == label
        last = label
    return np.array(errors), np.array(losses)
