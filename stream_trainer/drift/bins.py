"""Columns counted in bins: what a histogram is made of.

Numbers are binned at the quantiles of their first records, with a bin of its own for what lies below and above
everything seen then, and one for missing; categories are folded to at most 64 bins. Every column of one kind has the
same number of bins, so all columns are counted at once: by the compiled kernel, or coded and counted by numpy, with the
same bits.
Shape suffixes: N = records, F = columns, E = edges, B = bins.
"""

from collections.abc import Mapping

import numpy as np

from stream_trainer.drift.kernel import drift_kernel

__all__ = ["CATEGORY_BINS_MAX", "CategoryBins", "NumberBins"]

CATEGORY_BINS_MAX = 64
_QUANTILES = np.linspace(0.0, 1.0, 11)  # tenths: what PSI is usually taken over


class NumberBins:
    """Codes 0: below, 1 to 10: tenths of the first records, 11: above, 12: missing.

    Equal quantiles (a constant, a flag) leave the bins between them empty and the outer ones in place.

    >>> import numpy as np
    >>> bins = NumberBins(1)
    >>> bins.fit(np.arange(100, dtype=np.float32)[:, None], None)
    >>> x_NF = np.array([[-1.0], [0.0], [55.0], [56.0]], dtype=np.float32)
    >>> bins.count(x_NF, None, np.ones(4), np.zeros((1, 13))).tolist()
    [[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    """

    n_bins = 13
    ordered = slice(0, 12)  # the bins with an order, for distances that need one
    absent = 12

    def __init__(self, n_columns: int) -> None:
        self.n_columns = n_columns
        self._edge_EF = np.zeros((len(_QUANTILES), n_columns), dtype=np.float32)

    def fit(self, x_NF: np.ndarray, missing_NF: np.ndarray | None) -> None:
        """Take the edges from these records. A column that was always missing has every later value above."""
        if missing_NF is None or not missing_NF.any():
            edge_EF = np.quantile(x_NF, _QUANTILES, axis=0, method="inverted_cdf").astype(np.float32)
        else:
            edge_EF = np.full_like(self._edge_EF, -np.inf)
            for column in np.flatnonzero(~missing_NF.all(axis=0)):
                present_N = x_NF[~missing_NF[:, column], column]
                edge_EF[:, column] = np.quantile(present_N, _QUANTILES, method="inverted_cdf")
        edge_EF[0] = np.nextafter(edge_EF[0], np.float32(-np.inf))  # the least value seen is inside
        self._edge_EF = np.ascontiguousarray(edge_EF)

    def count(
        self,
        x_NF: np.ndarray,
        missing_NF: np.ndarray | None,
        weight_N: np.ndarray,
        before_FB: np.ndarray,
        kept: float = 1.0,
    ) -> np.ndarray:
        """(F, B) float64: `before_FB` times `kept`, plus the weights of the records in each bin; x float32."""
        x_NF, compiled = np.ascontiguousarray(x_NF, dtype=np.float32), drift_kernel()
        if compiled is None:
            return before_FB * kept + _count(self._code(x_NF, missing_NF), weight_N, self.n_bins)
        after_FB = np.empty((self.n_columns, self.n_bins))
        missing_NF = None if missing_NF is None else np.ascontiguousarray(missing_NF)
        compiled.count_numbers(x_NF, missing_NF, self._edge_EF, weight_N, before_FB, kept, after_FB)
        return after_FB

    def _code(self, x_NF: np.ndarray, missing_NF: np.ndarray | None) -> np.ndarray:
        """(F, N) uint8 bin numbers."""
        # The number of edges passed, all edges and columns at once: a search a column is several times slower. Columns
        # lie end to end, so that numpy compares a whole column with an edge at a time.
        passed_EFN = np.ascontiguousarray(x_NF.T) > self._edge_EF[:, :, None]
        code_FN: np.ndarray = np.add.reduce(passed_EFN.view(np.uint8), axis=0, dtype=np.uint8)  # bools would be cast
        if missing_NF is not None:
            code_FN[missing_NF.T] = self.absent
        return code_FN

    def capture(self) -> Mapping[str, np.ndarray]:
        return {"edges": self._edge_EF.copy()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._edge_EF = np.array(arrays["edges"], dtype=np.float32, order="C")


class CategoryBins:
    """Codes are bucket numbers modulo `n_bins`: the widest column's width, at most 64.

    Folding can hide a shift between two buckets that share a bin, one in 64 for hashed categories.
    """

    ordered = slice(0, 0)
    absent = None

    def __init__(self, widths: tuple[int, ...]) -> None:
        self.n_columns = len(widths)
        self.n_bins = min(max(widths, default=1), CATEGORY_BINS_MAX)

    def fit(self, category_NC: np.ndarray, missing_NC: np.ndarray | None) -> None:
        """Nothing to learn: the buckets are the bins."""

    def count(
        self,
        category_NC: np.ndarray,
        missing_NC: np.ndarray | None,
        weight_N: np.ndarray,
        before_CB: np.ndarray,
        kept: float = 1.0,
    ) -> np.ndarray:
        """(C, B) as for numbers; "absent" is a bucket like any other, so `missing_NC` is not looked at."""
        compiled = drift_kernel()
        if compiled is None:
            return before_CB * kept + _count(category_NC.T % self.n_bins, weight_N, self.n_bins)
        after_CB = np.empty((self.n_columns, self.n_bins))
        category_NC = np.ascontiguousarray(category_NC, dtype=np.int64)
        compiled.count_categories(category_NC, weight_N, before_CB, kept, after_CB)
        return after_CB

    def capture(self) -> Mapping[str, np.ndarray]:
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        pass


def _count(code_FN: np.ndarray, weight_N: np.ndarray, n_bins: int) -> np.ndarray:
    """(F, B) sums of the weights by code, all columns in one pass."""
    n_columns = len(code_FN)
    flat = (code_FN + n_bins * np.arange(n_columns)[:, None]).ravel()
    counts = np.bincount(flat, weights=np.tile(weight_N, n_columns), minlength=n_columns * n_bins)
    return counts.reshape(n_columns, n_bins)
