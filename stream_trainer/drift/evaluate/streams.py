"""Streams of errors and losses: some whose mean changes at a known record, some that move and never change for good.

Shape suffix: N = values of the stream.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Stream", "autocorrelated_errors", "errors_with_changes", "losses_with_changes", "seasonal_errors"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Values, and the records at which their distribution changed; none for a stationary control."""

    name: str
    values_N: np.ndarray
    changes: tuple[int, ...] = ()


def errors_with_changes(*pieces: tuple[int, float], seed: int) -> Stream:
    """Errors 0 or 1 of a classifier: pieces of (records, error rate).

    >>> errors_with_changes((1000, 0.1), (500, 0.3), seed=0).changes
    (1000,)
    """
    rng = np.random.default_rng(seed)
    values_N = np.concatenate([(rng.random(n, dtype=np.float32) < p).astype(np.float32) for n, p in pieces])
    return Stream(name="errors " + _arrows(pieces), values_N=values_N, changes=_changes(pieces))


def losses_with_changes(*pieces: tuple[int, float], seed: int) -> Stream:
    """Absolute errors of a regression, half-normal: pieces of (records, standard deviation)."""
    rng = np.random.default_rng(seed)
    values_N = np.concatenate([np.abs(rng.normal(0.0, sd, n)) for n, sd in pieces])
    return Stream(name="losses " + _arrows(pieces), values_N=values_N, changes=_changes(pieces))


def autocorrelated_errors(
    n: int, *, rate: float, spread: float = 0.005, half_life_records: float = 20_000.0, seed: int
) -> Stream:
    """A control: the error rate wanders about `rate` with standard deviation `spread`, and never changes for good."""
    rng, step = np.random.default_rng(seed), 100
    keep = 0.5 ** (step / half_life_records)
    noise = rng.normal(0.0, spread * math.sqrt(1 - keep**2), -(-n // step))
    wander, level = np.empty(len(noise)), 0.0
    for i, shock in enumerate(noise.tolist()):
        level = keep * level + shock
        wander[i] = level
    rate_N = rate + np.repeat(wander, step)[:n]
    return Stream(name=f"control: wandering ±{spread}", values_N=(rng.random(n) < rate_N).astype(np.float32))


def seasonal_errors(
    n: int, *, rate: float, amplitude: float = 0.005, period_records: int = 100_000, seed: int
) -> Stream:
    """A control: the error rate swings about `rate` as over a day, and comes back."""
    rng = np.random.default_rng(seed)
    rate_N = rate + amplitude * np.sin(2 * np.pi * np.arange(n) / period_records)
    return Stream(name=f"control: seasonal ±{amplitude}", values_N=(rng.random(n) < rate_N).astype(np.float32))


def _changes(pieces: Sequence[tuple[int, float]]) -> tuple[int, ...]:
    return tuple(np.cumsum([n for n, _ in pieces])[:-1].tolist())


def _arrows(pieces: Sequence[tuple[int, float]]) -> str:
    return "→".join(f"{level:g}" for _, level in pieces) + f" after {pieces[0][0]:,}"
