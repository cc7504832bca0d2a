"""Has the distribution of a column moved? A recent histogram, fading by records, against a frozen reference.

All columns of one kind are counted at once. The first `binning_records` fix the bins, the first `reference_records`
are the reference; it stays until `renew`. The recent window weighs a record `age` records old by
0.5 ** (age / half_life_records), in arrival order, so the cut into batches changes nothing but rounding. Thresholds
follow the sample sizes (distances.py) and the column's own restlessness: during the reference the recent window is
compared with what the reference becomes, and where it strays further than chance explains (hours of a day, days of a
week, a date that only grows) mean and spread of chance are multiplied by that factor, never below 1.
Not here: which columns there are and what an alarm is called (signals.py).
Shape suffixes: N = records, F = columns, B = bins, S = snapshots.
Source of the factor: first-order correction of Rao and Scott 1981, for chi-squares of samples that are not independent.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from stream_trainer.drift.bins import CategoryBins, NumberBins
from stream_trainer.drift.distances import DISTANCES, threshold
from stream_trainer.drift.restoring import identity, refuse_stranger
from stream_trainer.errors import ConfigError
from stream_trainer.types import State

__all__ = ["HistogramOptions", "HistogramScores", "Histograms"]

_SNAPSHOTS = 16  # looks at the window during the reference: enough for a mean, 16 histograms of memory
_PSEUDO_COUNT = 0.5  # in each bin: an empty bin must not make psi infinite


@dataclass(frozen=True, slots=True, kw_only=True)
class HistogramOptions:
    """What is compared with what, and from where on it is told."""

    distance: str = "psi"
    binning_records: int = 1024  # tenths are then known to within a hundredth; these records are kept until then
    reference_records: int = 4096
    half_life_records: int = 256  # a window of about 740 records: a total change is told after about 50
    sigmas: float = 8.0  # of a chi-square of 11 degrees, passed twice in a million looks; of other bins as rarely
    min_effect: float | None = None  # above chance; None: .1 for psi, see DISTANCES

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise ConfigError(
                f"drift histograms: distance is {self.distance!r}; known distances: {', '.join(sorted(DISTANCES))}."
            )
        if not 2 <= self.binning_records <= self.reference_records:
            raise ConfigError(
                f"drift histograms: binning_records is {self.binning_records} and reference_records "
                f"{self.reference_records}; expected at least 2, and the reference no shorter than the binning."
            )
        if self.half_life_records < 1:
            raise ConfigError(f"drift histograms: half_life_records is {self.half_life_records}; expected at least 1.")


class HistogramScores(NamedTuple):
    """One row a column."""

    value_F: np.ndarray  # the distance now
    chance_F: np.ndarray  # its mean if nothing changed
    threshold_F: np.ndarray  # told when value is above
    missing_F: np.ndarray  # share of the recent window; 0 for categories: "absent" is a bucket there
    unseen_F: np.ndarray  # share in bins that the reference never had: out of range, new category
    window_records: int  # records of equal weight that would know as much as the recent window


class Histograms:
    """Reference and recent histograms of the columns that `bins` codes.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> histograms = Histograms(NumberBins(2), HistogramOptions(reference_records=2048))
    >>> histograms.update(rng.standard_normal((4096, 2), dtype=np.float32))
    >>> (histograms.scores().value_F > histograms.scores().threshold_F).tolist()
    [False, False]
    >>> histograms.update(rng.standard_normal((200, 2), dtype=np.float32) + np.float32([0, 1]))
    >>> (histograms.scores().value_F > histograms.scores().threshold_F).tolist()
    [False, True]
    """

    def __init__(self, bins: NumberBins | CategoryBins, options: HistogramOptions | None = None) -> None:
        self.options = options or HistogramOptions()
        self.bins = bins
        self._distance = DISTANCES[self.options.distance]
        if self._distance.needs_order and isinstance(bins, CategoryBins):
            self._distance = DISTANCES["total_variation"]  # buckets have no order to be moved along
        self._keep = 0.5 ** (1.0 / self.options.half_life_records)
        self._weight_by_age = np.ones(1)  # grown to the longest batch: a power a record costs as much as counting it
        self._shape = (bins.n_columns, bins.n_bins)
        self._part = bins.ordered if self._distance.needs_order else slice(None)
        self.renew()

    @property
    def is_ready(self) -> bool:
        """Whether the reference is complete."""
        return self._n_seen >= self.options.reference_records

    def renew(self) -> None:
        """Forget all: the next records make new bins and a new reference. For after a confirmed drift."""
        self._n_seen = 0  # since the last renewal
        self._early: list[tuple[np.ndarray, np.ndarray | None]] = []  # columns until the bins are fixed
        self._reference_FB = np.zeros(self._shape)
        self._recent_FB = np.zeros(self._shape)  # fading counts
        self._weight = 0.0  # sum of the weights in the recent window, and of their squares
        self._weight_squares = 0.0
        self._recent_SFB = np.zeros((0, *self._shape))  # the recent window as it was during the reference ...
        self._size_S = np.zeros(0)  # ... and its size then
        self._restless_F = np.ones(self._shape[0])
        self._compared: tuple[np.ndarray, np.ndarray] | None = None  # shares and used bins of the complete reference

    def update(self, columns_NF: np.ndarray, missing_NF: np.ndarray | None = None) -> None:
        """Count one batch.

        Args:
            columns_NF: (N, F) numbers or bucket indices, in arrival order.
            missing_NF: (N, F) bool for numbers that were absent; None: all are there.
        """
        if not self._shape[0]:
            return
        start = 0
        while start < len(columns_NF) and not self.is_ready:  # in steps to the next mark, whatever the batch
            part = slice(start, start + min(len(columns_NF) - start, self._next_mark() - self._n_seen))
            self._learn_reference(columns_NF[part], None if missing_NF is None else missing_NF[part])
            start = part.stop
        if start < len(columns_NF):
            self._count_recent(self.bins.code(columns_NF[start:], None if missing_NF is None else missing_NF[start:]))
            self._n_seen += len(columns_NF) - start

    def scores(self) -> HistogramScores:
        """Where every column stands; all distances 0 and thresholds infinite until the reference is complete."""
        if not self.is_ready:
            zero_F = np.zeros(self._shape[0])
            return HistogramScores(zero_F, zero_F, np.full(self._shape[0], np.inf), zero_F, zero_F, 0)
        size = self._size()
        value_F, mean_F, spread_F = self._measure(self._recent_FB, size)
        chance_F = self._restless_F * mean_F
        beyond_F = threshold(mean_F, spread_F, self.options.sigmas) - mean_F
        min_effect = self._distance.min_effect if self.options.min_effect is None else self.options.min_effect
        recent_FB = self._recent_FB / self._weight
        absent = self.bins.absent
        return HistogramScores(
            value_F=value_F,
            chance_F=chance_F,
            threshold_F=chance_F + np.maximum(min_effect, self._restless_F * beyond_F),
            missing_F=np.zeros(self._shape[0]) if absent is None else recent_FB[:, absent],
            unseen_F=(recent_FB * (self._reference_FB == 0)).sum(axis=1),
            window_records=int(size),
        )

    def distance(self, name: str) -> np.ndarray:
        """(F,) another distance of the recent window from the reference, by its name in DISTANCES."""
        recent_FB, reference_FB = self._shares(self._recent_FB, self._size()), self._reference_shares()
        if DISTANCES[name].needs_order:
            recent_FB, reference_FB = recent_FB[:, self.bins.ordered], reference_FB[:, self.bins.ordered]
        return DISTANCES[name].between(recent_FB, reference_FB)

    def capture(self) -> State:
        arrays = {name: getattr(self, f"_{name}").copy() for name in _ARRAYS}
        arrays |= {f"bins_{name}": array for name, array in self.bins.capture().items()}
        if self._early:
            arrays["early"] = np.concatenate([columns_NF for columns_NF, _ in self._early])
            if self._early[0][1] is not None:
                arrays["early_missing"] = np.concatenate([missing for _, missing in self._early if missing is not None])
        weights = {"weight": self._weight, "weight_squares": self._weight_squares}
        return State(arrays=arrays, values={**self._identity(), "n_seen": self._n_seen, **weights})

    def restore(self, state: State) -> None:
        refuse_stranger(state, self._identity())
        arrays = {name: np.array(array) for name, array in state.arrays.items()}
        for name in _ARRAYS:
            setattr(self, f"_{name}", arrays[name])
        self.bins.restore({name[5:]: array for name, array in arrays.items() if name.startswith("bins_")})
        self._early = [(arrays["early"], arrays.get("early_missing"))] if "early" in arrays else []
        self._compared = None
        self._n_seen = state.values["n_seen"]
        self._weight = state.values["weight"]
        self._weight_squares = state.values["weight_squares"]

    def _identity(self) -> dict[str, Any]:
        return {**identity("histograms", self.options), "shape": list(self._shape)}

    # ------------------------------------------------------------ counting

    def _count_recent(self, code_NF: np.ndarray) -> None:
        n = len(code_NF)
        if n > len(self._weight_by_age):
            self._weight_by_age = self._keep ** np.arange(n)
        weight_N = self._weight_by_age[:n][::-1]
        kept = self._keep**n
        self._recent_FB *= kept
        self._recent_FB += self._counts(code_NF, weight_N)
        self._weight = self._weight * kept + float(weight_N.sum())
        self._weight_squares = self._weight_squares * kept**2 + float(weight_N @ weight_N)

    def _counts(self, code_NF: np.ndarray, weight_N: np.ndarray | None) -> np.ndarray:
        """(F, B) sum of the weights of the records in each bin, all columns in one pass; None: each weighs 1."""
        n_columns, n_bins = self._shape
        flat = (code_NF + n_bins * np.arange(n_columns)).ravel()
        weights = None if weight_N is None else np.repeat(weight_N, n_columns)
        return np.bincount(flat, weights=weights, minlength=n_columns * n_bins).reshape(self._shape)

    # ------------------------------------------------------------ the reference

    def _next_mark(self) -> int:
        """The record at which the bins are fixed, a snapshot is due or the reference is complete, whichever is next."""
        options = self.options
        if self._n_seen < options.binning_records:
            return options.binning_records
        every = max(options.reference_records // _SNAPSHOTS, 1)
        return min((self._n_seen // every + 1) * every, options.reference_records)

    def _learn_reference(self, columns_NF: np.ndarray, missing_NF: np.ndarray | None) -> None:
        options = self.options
        self._n_seen += len(columns_NF)
        if self._n_seen <= options.binning_records:
            self._early.append((columns_NF.copy(), None if missing_NF is None else missing_NF.copy()))
            if self._n_seen < options.binning_records:
                return
            columns_NF = np.concatenate([columns for columns, _ in self._early])
            masks = [missing for _, missing in self._early if missing is not None]
            missing_NF = np.concatenate(masks) if masks else None
            self._early = []
            self.bins.fit(columns_NF, missing_NF)
        code_NF = self.bins.code(columns_NF, missing_NF)
        self._reference_FB += self._counts(code_NF, None)
        self._count_recent(code_NF)
        if self._n_seen % max(options.reference_records // _SNAPSHOTS, 1) == 0 or self.is_ready:
            self._recent_SFB = np.concatenate([self._recent_SFB, self._recent_FB[None]])
            self._size_S = np.append(self._size_S, self._size())
        if self.is_ready:
            self._judge_restlessness()

    def _judge_restlessness(self) -> None:
        """How many times further than chance each column's own window strayed while the reference was taken."""
        looks = [self._measure(recent, size) for recent, size in zip(self._recent_SFB, self._size_S, strict=True)]
        value_F = np.mean([value for value, _, _ in looks], axis=0)
        chance_F = np.mean([mean for _, mean, _ in looks], axis=0)
        moves_F = chance_F > 0  # a constant column does not; what distance it has comes from the pseudo-counts
        self._restless_F = np.maximum(np.divide(value_F, chance_F, out=np.ones_like(value_F), where=moves_F), 1.0)
        self._recent_SFB, self._size_S = np.zeros((0, *self._shape)), np.zeros(0)

    # ------------------------------------------------------------ comparing

    def _size(self) -> float:
        return self._weight**2 / self._weight_squares if self._weight_squares else 0.0

    def _shares(self, count_FB: np.ndarray, size: float) -> np.ndarray:
        total_F = count_FB.sum(axis=1, keepdims=True)
        smoothed_FB = count_FB * (size / np.maximum(total_F, 1e-300)) + _PSEUDO_COUNT
        result: np.ndarray = smoothed_FB / (size + _PSEUDO_COUNT * self._shape[1])
        return result

    def _reference_shares(self) -> np.ndarray:
        return self._shares(self._reference_FB, float(self.options.reference_records))

    def _measure(self, recent_FB: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(F,) distance from the reference; mean and spread it would have by chance."""
        shares_FB = self._shares(recent_FB, size)
        if self._compared is None:
            used_FB, part = (self._reference_FB > 0).astype(np.float64), self._part
            self._compared = self._reference_shares()[:, part], used_FB[:, part]
        reference_FB, used_FB = self._compared
        shares_FB = shares_FB[:, self._part]
        v = 1.0 / size + 1.0 / self.options.reference_records
        return self._distance.between(shares_FB, reference_FB), *self._distance.null(reference_FB, used_FB, v)


_ARRAYS = ("reference_FB", "recent_FB", "recent_SFB", "size_S", "restless_F")
