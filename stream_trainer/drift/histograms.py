"""Has the distribution of a column moved? A recent histogram, fading by records, against a frozen reference.

All columns of one kind are counted at once. The first `binning_records` fix the bins, the first `reference_records`
are the reference; it stays until `renew`. The recent window is that of fading_counts.py. Thresholds follow the sample
sizes (distances.py) and the column's own restlessness: during the reference the recent window is compared with what the
reference becomes, and where it strays further than chance explains (hours of a day, days of a week, a date that only
grows) mean and spread of chance are multiplied by that factor, never below 1.
Not here: which columns there are and what an alarm is called (signals.py).
Shape suffixes: N = records, F = columns, B = bins, S = snapshots.
Source of the factor: first-order correction of Rao and Scott 1981, for chi-squares of samples that are not independent.
"""

from typing import Any, NamedTuple

import numpy as np

from stream_trainer.drift.bins import CategoryBins, NumberBins
from stream_trainer.drift.distances import DISTANCES, threshold
from stream_trainer.drift.fading_counts import Columns, FadingCounts, columns_from_arrays, columns_to_arrays, joined
from stream_trainer.drift.histogram_options import HistogramOptions
from stream_trainer.drift.kernel import drift_kernel
from stream_trainer.drift.restoring import identity, refuse_stranger
from stream_trainer.types import State

__all__ = ["HistogramRates", "HistogramScores", "Histograms"]

_SNAPSHOTS = 16  # looks at the window during the reference: enough for a mean, 16 histograms of memory
_PSEUDO_COUNT = 0.5  # in each bin: an empty bin must not make psi infinite


class HistogramScores(NamedTuple):
    """One row a column."""

    value_F: np.ndarray  # the distance now
    chance_F: np.ndarray  # its mean if nothing changed
    threshold_F: np.ndarray  # told when value is above
    window_records: int  # records of equal weight that would know as much as the recent window


class HistogramRates(NamedTuple):
    """Shares of the recent window, one row a column."""

    missing_F: np.ndarray  # 0 for categories: "absent" is a bucket there
    unseen_F: np.ndarray  # in bins that the reference never had: out of range, new category


class Histograms:
    """Reference and recent histograms of the columns that `bins` counts.

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
        self._distance_name = self.options.distance
        if DISTANCES[self._distance_name].needs_order and isinstance(bins, CategoryBins):
            self._distance_name = "total_variation"  # buckets have no order to be moved along
        self._distance = DISTANCES[self._distance_name]
        effect_min = self.options.min_effect
        self._effect_min = self._distance.min_effect if effect_min is None else effect_min
        self._shape = (bins.n_columns, bins.n_bins)
        self._part = bins.ordered if self._distance.needs_order else slice(None)
        self._recent = FadingCounts(bins, self.options.half_life_records)
        self.renew()

    @property
    def is_ready(self) -> bool:
        """Whether the reference is complete."""
        return self._n_seen >= self.options.reference_records

    def renew(self) -> None:
        """Forget all: the next records make new bins and a new reference. For after a confirmed drift."""
        self._n_seen = 0  # since the last renewal
        self._early: list[Columns] = []  # columns until the bins are fixed
        self._reference_FB = np.zeros(self._shape)
        self._recent.clear()
        self._recent_SFB = np.zeros((0, *self._shape))  # the recent window as it was during the reference ...
        self._size_S = np.zeros(0)  # ... and its size then
        self._restless_F = np.ones(self._shape[0])
        self._known_unit: _Unit | None = None

    def update(self, columns_NF: np.ndarray, missing_NF: np.ndarray | None = None) -> None:
        """Take one batch.

        Args:
            columns_NF: (N, F) numbers or bucket indices, in arrival order; kept for a while, so not to be written to.
            missing_NF: (N, F) bool for numbers that were absent; None: all are there.
        """
        if not self._shape[0]:
            return
        start = 0
        while start < len(columns_NF) and not self.is_ready:  # in steps to the next mark, whatever the batch
            part = slice(start, start + min(len(columns_NF) - start, self._next_mark() - self._n_seen))
            self._learn_reference(columns_NF[part], None if missing_NF is None else missing_NF[part])
            start = part.stop
        if start:  # hardly ever: most batches come after the reference
            columns_NF, missing_NF = columns_NF[start:], None if missing_NF is None else missing_NF[start:]
        if len(columns_NF):
            self._n_seen += len(columns_NF)
            self._recent.add(columns_NF, missing_NF)

    def nothing_new(self, told_F: np.ndarray) -> bool:
        """Whether it is proven that no column is beyond its threshold but those that were told, and that none of these
        has come back half-way. For a complete reference. False: not proven; the scores know.
        """
        compiled = drift_kernel()
        if compiled is None:
            return False
        recent, unit = self._recent.now(), self._unit()
        size = recent.size
        proven: bool = compiled.nothing_new(
            self._distance_name,
            recent.count_FB,
            unit.reference_FB,
            unit.chance_F,
            unit.beyond_F,
            told_F,
            size / recent.weight if recent.weight else 0.0,
            _PSEUDO_COUNT,
            size + _PSEUDO_COUNT * self._shape[1],
            self._v(size) ** self._distance.power,
            self._effect_min,
        )
        return proven

    def count(self) -> None:
        """Count the records that wait; see FadingCounts."""
        self._recent.count()

    def scores(self) -> HistogramScores:
        """Where every column stands; all distances 0 and thresholds infinite until the reference is complete."""
        if not self.is_ready:
            zero_F = np.zeros(self._shape[0])
            return HistogramScores(zero_F, zero_F, np.full(self._shape[0], np.inf), 0)
        recent, unit = self._recent.now(), self._unit()
        shares_FB = self._shares(recent.count_FB, recent.size, recent.weight)[:, self._part]
        v_power = self._v(recent.size) ** self._distance.power
        chance_F = unit.chance_F * v_power
        return HistogramScores(
            value_F=self._distance.between(shares_FB, unit.reference_FB),
            chance_F=chance_F,
            threshold_F=chance_F + np.maximum(self._effect_min, unit.beyond_F * v_power),
            window_records=int(recent.size),
        )

    def rates(self) -> HistogramRates:
        """What is in no bin of the reference; all 0 until that is complete."""
        absent, recent = self.bins.absent, self._recent.now()
        missing_F = unseen_F = np.zeros(self._shape[0])
        if self.is_ready:
            recent_FB = recent.count_FB / recent.weight
            unseen_F = (recent_FB * (self._reference_FB == 0)).sum(axis=1)
            missing_F = missing_F if absent is None else recent_FB[:, absent]
        return HistogramRates(missing_F, unseen_F)

    def distance(self, name: str) -> np.ndarray:
        """(F,) another distance of the recent window from the reference, by its name in DISTANCES."""
        recent = self._recent.now()
        recent_FB, reference_FB = self._shares(recent.count_FB, recent.size, recent.weight), self._reference_shares()
        if DISTANCES[name].needs_order:
            recent_FB, reference_FB = recent_FB[:, self.bins.ordered], reference_FB[:, self.bins.ordered]
        return DISTANCES[name].between(recent_FB, reference_FB)

    def capture(self) -> State:
        arrays = {name: getattr(self, f"_{name}").copy() for name in _ARRAYS}
        arrays |= {f"bins_{name}": array for name, array in self.bins.capture().items()}
        arrays |= columns_to_arrays("early", self._early)
        recent = self._recent.capture()
        return State(
            arrays={**arrays, **recent.arrays}, values={**self._identity(), "n_seen": self._n_seen, **recent.values}
        )

    def restore(self, state: State) -> None:
        refuse_stranger(state, self._identity())
        arrays = {name: np.array(array) for name, array in state.arrays.items()}
        for name in _ARRAYS:
            setattr(self, f"_{name}", arrays[name])
        self.bins.restore({name[5:]: array for name, array in arrays.items() if name.startswith("bins_")})
        self._early = columns_from_arrays("early", arrays)
        self._recent.restore(arrays, state.values)
        self._known_unit = None
        self._n_seen = state.values["n_seen"]

    def _identity(self) -> dict[str, Any]:
        return {**identity("histograms", self.options), "shape": list(self._shape)}

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
            columns_NF, missing_NF = joined(self._early)
            self._early = []
            self.bins.fit(columns_NF, missing_NF)
        every_N = np.ones(len(columns_NF))
        self._reference_FB = self.bins.count(columns_NF, missing_NF, every_N, self._reference_FB)
        self._recent.add(columns_NF, missing_NF)
        self._recent.count()
        if self._n_seen % max(options.reference_records // _SNAPSHOTS, 1) == 0 or self.is_ready:
            recent = self._recent.now()
            self._recent_SFB = np.concatenate([self._recent_SFB, recent.count_FB[None]])
            self._size_S = np.append(self._size_S, recent.size)
        if self.is_ready:
            self._judge_restlessness()

    def _judge_restlessness(self) -> None:
        """How many times further than chance each column's own window strayed while the reference was taken."""
        unit, power = self._unit(), self._distance.power
        looks = list(zip(self._recent_SFB, self._size_S.tolist(), strict=True))
        shares_SFB = [self._shares(recent_FB, size, recent_FB[0].sum())[:, self._part] for recent_FB, size in looks]
        value_F = np.mean([self._distance.between(shares_FB, unit.reference_FB) for shares_FB in shares_SFB], axis=0)
        chance_F = unit.chance_F * np.mean([self._v(size) ** power for _, size in looks])
        moves_F = chance_F > 0  # a constant column does not; what distance it has comes from the pseudo-counts
        self._restless_F = np.maximum(np.divide(value_F, chance_F, out=np.ones_like(value_F), where=moves_F), 1.0)
        self._recent_SFB, self._size_S = np.zeros((0, *self._shape)), np.zeros(0)
        self._known_unit = None

    # ------------------------------------------------------------ comparing

    def _shares(self, count_FB: np.ndarray, size: float, weight: float) -> np.ndarray:
        """Of counts that sum to `weight` in every column, and are worth `size` records."""
        result: np.ndarray = count_FB * (size / weight if weight else 0.0) + _PSEUDO_COUNT
        result /= size + _PSEUDO_COUNT * self._shape[1]
        return result

    def _reference_shares(self) -> np.ndarray:
        n = float(self.options.reference_records)
        return self._shares(self._reference_FB, n, n)

    def _v(self, size: float) -> float:
        return 1.0 / size + 1.0 / self.options.reference_records

    def _unit(self) -> "_Unit":
        """The complete reference, and what chance does at v = 1: for other v it is that, times v ** power."""
        if self._known_unit is None:
            reference_FB, used_FB = self._reference_shares(), (self._reference_FB > 0).astype(np.float64)
            reference_FB, used_FB = (
                np.ascontiguousarray(table_FB[:, self._part]) for table_FB in (reference_FB, used_FB)
            )
            mean_F, spread_F = self._distance.null(reference_FB, used_FB, 1.0)
            beyond_F = threshold(mean_F, spread_F, self.options.sigmas) - mean_F
            self._known_unit = _Unit(reference_FB, self._restless_F * mean_F, self._restless_F * beyond_F)
        return self._known_unit


_ARRAYS = ("reference_FB", "recent_SFB", "size_S", "restless_F")


class _Unit(NamedTuple):
    """What a recent window is compared with."""

    reference_FB: np.ndarray  # shares
    chance_F: np.ndarray  # mean distance that chance alone makes at v = 1, restlessness included
    beyond_F: np.ndarray  # how far above that the threshold is
