"""How far two histograms are apart, and how far chance alone puts them apart.

A distance between a recent and a reference histogram is never 0, also when nothing changed: a PSI of .1 is noise at
200 records and a landslide at 100,000. So each distance comes with the mean and the spread it has under no change,
from the sizes of the two samples. With p the shares of the reference, v = 1/n + 1/m, and D = bins in use - 1, the
difference of two shares is nearly normal with variance p(1 - p)v, from which
  psi             sum (q - p) ln(q / p), about sum (q - p)²/p: v times a chi-square, mean D v, spread sqrt(2 D) v
  jensen_shannon  in nats; an eighth of psi for small differences
  total_variation half of sum |q - p|: mean and variance of half-normals, added up, with the correlation that shares
                  have because they sum to 1: as if the bins in use were equally full
  wasserstein     mean |Q - P| over the cumulated shares: in bins, 1 = from the first bin to the last. Its terms move
                  together, so their spreads are added: the spread is an upper bound.
Where a distance becomes a claim follows from its shape, too: a distance of few bins has a long tail. Mean and spread
are taken for those of a gamma distribution; a chi-square is one. See `threshold`.
Shape suffixes: F = columns, B = bins. Rows are shares and sum to 1.
Sources: Yurdakul 2018 (psi as chi-square); Lin 1991 (Jensen-Shannon); Wilson and Hilferty 1931 (tails).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["DISTANCES", "Distance", "threshold"]

_HALF_NORMAL_MEAN = np.sqrt(2.0 / np.pi)
_HALF_NORMAL_SPREAD = np.sqrt(1.0 - 2.0 / np.pi)


def _psi(recent_FB: np.ndarray, reference_FB: np.ndarray) -> np.ndarray:
    result: np.ndarray = ((recent_FB - reference_FB) * np.log(recent_FB / reference_FB)).sum(axis=1)
    return result


def _jensen_shannon(recent_FB: np.ndarray, reference_FB: np.ndarray) -> np.ndarray:
    middle_FB = (recent_FB + reference_FB) / 2.0
    parts_FB = recent_FB * np.log(recent_FB / middle_FB) + reference_FB * np.log(reference_FB / middle_FB)
    result: np.ndarray = parts_FB.sum(axis=1) / 2.0
    return result


def _total_variation(recent_FB: np.ndarray, reference_FB: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.abs(recent_FB - reference_FB).sum(axis=1) / 2.0
    return result


def _wasserstein(recent_FB: np.ndarray, reference_FB: np.ndarray) -> np.ndarray:
    gap_FB = np.cumsum(recent_FB - reference_FB, axis=1)[:, :-1]
    result: np.ndarray = np.abs(gap_FB).mean(axis=1)
    return result


def _chi_square(share: float) -> Callable[[np.ndarray, np.ndarray, float], tuple[np.ndarray, np.ndarray]]:
    def null(reference_FB: np.ndarray, used_FB: np.ndarray, v: float) -> tuple[np.ndarray, np.ndarray]:
        degrees_F = np.maximum(used_FB.sum(axis=1) - 1.0, 0.0)
        return share * degrees_F * v, share * np.sqrt(2.0 * degrees_F) * v

    return null


def _total_variation_null(reference_FB: np.ndarray, used_FB: np.ndarray, v: float) -> tuple[np.ndarray, np.ndarray]:
    spread_FB = np.sqrt(reference_FB * (1.0 - reference_FB) * v) * used_FB
    mean_F = _HALF_NORMAL_MEAN / 2.0 * spread_FB.sum(axis=1)
    # Two halves of n shares that are -1/(n - 1) correlated; of two bins the second repeats the first.
    others_F = np.maximum(used_FB.sum(axis=1) - 1.0, 1.0)
    rho_F = 1.0 / others_F
    shared_F = (rho_F * np.arcsin(rho_F) + np.sqrt(1.0 - rho_F**2) - 1.0) / (np.pi / 2.0 - 1.0)
    variance_F = (spread_FB**2).sum(axis=1) * (1.0 + others_F * shared_F)
    return mean_F, _HALF_NORMAL_SPREAD / 2.0 * np.sqrt(variance_F)


def _wasserstein_null(reference_FB: np.ndarray, used_FB: np.ndarray, v: float) -> tuple[np.ndarray, np.ndarray]:
    cumulated_FB = np.cumsum(reference_FB, axis=1)[:, :-1]
    spread_F = np.sqrt(np.maximum(cumulated_FB * (1.0 - cumulated_FB) * v, 0.0)).mean(axis=1)
    return _HALF_NORMAL_MEAN * spread_F, _HALF_NORMAL_SPREAD * spread_F


def threshold(mean_F: np.ndarray, spread_F: np.ndarray, sigmas: float) -> np.ndarray:
    """(F,) what a distance of this mean and spread passes as rarely as a chi-square of 11 degrees passes `sigmas`.

    A fixed number of spreads would pass 300 times as often with two bins as with twelve. Exact to the cube root of
    Wilson and Hilferty; 0 where the mean is 0: a column that never moves.

    >>> threshold(np.array([11.0, 1.0]), np.array([22.0, 2.0]) ** 0.5, sigmas=8.0).round(1).tolist()
    [48.5, 26.1]
    """
    z = (np.cbrt(1.0 + sigmas * np.sqrt(2.0 / 11.0)) - 1.0 + 2.0 / 99.0) / np.sqrt(2.0 / 99.0)
    ratio_F = np.divide(spread_F, mean_F, out=np.zeros_like(mean_F), where=mean_F > 0)
    variance_F = ratio_F**2 / 9.0  # 2 / (9 degrees)
    result: np.ndarray = mean_F * (1.0 - variance_F + z * np.sqrt(variance_F)) ** 3
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """A distance between histograms with its moments under no change."""

    between: Callable[[np.ndarray, np.ndarray], np.ndarray]  # (recent_FB, reference_FB) -> (F,)
    null: Callable[[np.ndarray, np.ndarray, float], tuple[np.ndarray, np.ndarray]]  # mean_F, spread_F
    power: float  # mean and spread of chance grow as v ** power
    min_effect: float  # above chance, what is worth telling
    needs_order: bool = False


DISTANCES: dict[str, Distance] = {
    "jensen_shannon": Distance(between=_jensen_shannon, null=_chi_square(1 / 8), power=1.0, min_effect=0.0125),
    "psi": Distance(between=_psi, null=_chi_square(1.0), power=1.0, min_effect=0.1),  # .1: "moderate" by convention
    "total_variation": Distance(between=_total_variation, null=_total_variation_null, power=0.5, min_effect=0.1),
    "wasserstein": Distance(between=_wasserstein, null=_wasserstein_null, power=0.5, min_effect=0.05, needs_order=True),
}
