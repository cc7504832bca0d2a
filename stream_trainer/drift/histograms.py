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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from stream_trainer.drift.bins import CategoryBins, NumberBins
from stream_trainer.drift.distances import DISTANCES, threshold
from stream_trainer.drift.restoring import identity, refuse_stranger
from stream_trainer.errors import ConfigError
from stream_trainer.types import State

__all__ = ["HistogramOptions", "HistogramRates", "HistogramScores", "Histograms"]

_SNAPSHOTS = 16  # looks at the window during the reference: enough for a mean, 16 histograms of memory
_PSEUDO_COUNT = 0.5  # in each bin: an empty bin must not make psi infinite
_WAITING_MAX = 512  # records that wait to be counted, if nobody looks before: half a snapshot at most

_Columns: TypeAlias = tuple[np.ndarray, np.ndarray | None]  # (N, F), and where they are missing


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
    window_records: int  # records of equal weight that would know as much as the recent window


class HistogramRates(NamedTuple):
    """Shares of the recent window, one row a column."""

    missing_F: np.ndarray  # 0 for categories: "absent" is a bucket there
    unseen_F: np.ndarray  # in bins that the reference never had: out of range, new category


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
        self._first_bin_F1 = bins.n_bins * np.arange(bins.n_columns)[:, None]
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
        self._early: list[_Columns] = []  # columns until the bins are fixed
        self._reference_FB = np.zeros(self._shape)
        self._recent = _Window(np.zeros(self._shape), 0.0, 0.0)
        self._waiting: list[_Columns] = []  # columns that are not in the recent window yet
        self._n_waiting = 0
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
        if start < len(columns_NF):
            self._wait(columns_NF[start:], None if missing_NF is None else missing_NF[start:])

    def scores(self) -> HistogramScores:
        """Where every column stands; all distances 0 and thresholds infinite until the reference is complete."""
        if not self.is_ready:
            zero_F = np.zeros(self._shape[0])
            return HistogramScores(zero_F, zero_F, np.full(self._shape[0], np.inf), 0)
        recent, unit = self._recent_now(), self._unit()
        shares_FB = self._shares(recent.count_FB, recent.size, recent.weight)[:, self._part]
        v_power = self._v(recent.size) ** self._distance.power
        min_effect = self._distance.min_effect if self.options.min_effect is None else self.options.min_effect
        chance_F = unit.chance_F * v_power
        return HistogramScores(
            value_F=self._distance.between(shares_FB, unit.reference_FB),
            chance_F=chance_F,
            threshold_F=chance_F + np.maximum(min_effect, unit.beyond_F * v_power),
            window_records=int(recent.size),
        )

    def rates(self) -> HistogramRates:
        """What is in no bin of the reference; all 0 until that is complete."""
        absent, recent = self.bins.absent, self._recent_now()
        missing_F = unseen_F = np.zeros(self._shape[0])
        if self.is_ready:
            recent_FB = recent.count_FB / recent.weight
            unseen_F = (recent_FB * (self._reference_FB == 0)).sum(axis=1)
            missing_F = missing_F if absent is None else recent_FB[:, absent]
        return HistogramRates(missing_F, unseen_F)

    def distance(self, name: str) -> np.ndarray:
        """(F,) another distance of the recent window from the reference, by its name in DISTANCES."""
        recent = self._recent_now()
        recent_FB, reference_FB = self._shares(recent.count_FB, recent.size, recent.weight), self._reference_shares()
        if DISTANCES[name].needs_order:
            recent_FB, reference_FB = recent_FB[:, self.bins.ordered], reference_FB[:, self.bins.ordered]
        return DISTANCES[name].between(recent_FB, reference_FB)

    def capture(self) -> State:
        arrays = {name: getattr(self, f"_{name}").copy() for name in _ARRAYS}
        arrays["recent_FB"] = self._recent.count_FB.copy()
        arrays |= {f"bins_{name}": array for name, array in self.bins.capture().items()}
        arrays |= _to_arrays("early", self._early) | _to_arrays("waiting", self._waiting)
        weights = {"weight": self._recent.weight, "weight_squares": self._recent.weight_squares}
        return State(arrays=arrays, values={**self._identity(), "n_seen": self._n_seen, **weights})

    def restore(self, state: State) -> None:
        refuse_stranger(state, self._identity())
        arrays = {name: np.array(array) for name, array in state.arrays.items()}
        for name in _ARRAYS:
            setattr(self, f"_{name}", arrays[name])
        self.bins.restore({name[5:]: array for name, array in arrays.items() if name.startswith("bins_")})
        self._early, self._waiting = _from_arrays("early", arrays), _from_arrays("waiting", arrays)
        self._n_waiting = sum(len(columns_NF) for columns_NF, _ in self._waiting)
        self._known_unit = None
        self._n_seen = state.values["n_seen"]
        self._recent = _Window(arrays["recent_FB"], state.values["weight"], state.values["weight_squares"])

    def _identity(self) -> dict[str, Any]:
        return {**identity("histograms", self.options), "shape": list(self._shape)}

    # ------------------------------------------------------------ counting

    def _wait(self, columns_NF: np.ndarray, missing_NF: np.ndarray | None) -> None:
        self._n_seen += len(columns_NF)
        self._n_waiting += len(columns_NF)
        # A batch of 16 costs as many operations as one of 512, so small ones wait for each other.
        self._waiting.append((columns_NF, missing_NF))
        if self._n_waiting >= _WAITING_MAX:
            self.count()

    def count(self) -> None:
        """Add the records that wait to the window. Called on a grid of records, it costs what they are, not batches."""
        if self._waiting:
            self._recent = self._recent_now()
            self._waiting, self._n_waiting = [], 0

    def _recent_now(self) -> "_Window":
        """The recent window with the records that wait; asking changes nothing."""
        return self._later(self._recent, self.bins.code(*_joined(self._waiting))) if self._waiting else self._recent

    def _later(self, window: "_Window", code_FN: np.ndarray) -> "_Window":
        """The window after these records."""
        n = code_FN.shape[1]
        if n > len(self._weight_by_age):
            self._weight_by_age = self._keep ** np.arange(n)
        weight_N = self._weight_by_age[:n][::-1]
        kept = self._keep**n
        return _Window(
            window.count_FB * kept + self._counts(code_FN, weight_N),
            window.weight * kept + float(weight_N.sum()),
            window.weight_squares * kept**2 + float(weight_N @ weight_N),
        )

    def _counts(self, code_FN: np.ndarray, weight_N: np.ndarray | None) -> np.ndarray:
        """(F, B) sum of the weights of the records in each bin, all columns in one pass; None: each weighs 1."""
        n_columns, n_bins = self._shape
        flat = (code_FN + self._first_bin_F1).ravel()
        weights = None if weight_N is None else np.tile(weight_N, n_columns)
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
            columns_NF, missing_NF = _joined(self._early)
            self._early = []
            self.bins.fit(columns_NF, missing_NF)
        code_FN = self.bins.code(columns_NF, missing_NF)
        self._reference_FB += self._counts(code_FN, None)
        self._recent = self._later(self._recent, code_FN)
        if self._n_seen % max(options.reference_records // _SNAPSHOTS, 1) == 0 or self.is_ready:
            self._recent_SFB = np.concatenate([self._recent_SFB, self._recent.count_FB[None]])
            self._size_S = np.append(self._size_S, self._recent.size)
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
            reference_FB, used_FB = reference_FB[:, self._part], used_FB[:, self._part]
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


class _Window(NamedTuple):
    """A fading count."""

    count_FB: np.ndarray
    weight: float  # sum of the weights of its records, and of their squares
    weight_squares: float

    @property
    def size(self) -> float:
        return self.weight**2 / self.weight_squares if self.weight_squares else 0.0


def _joined(parts: list[_Columns]) -> _Columns:
    if len(parts) == 1:
        return parts[0]
    masks = [missing_NF for _, missing_NF in parts if missing_NF is not None]
    return np.concatenate([columns_NF for columns_NF, _ in parts]), np.concatenate(masks) if masks else None


def _to_arrays(name: str, parts: list[_Columns]) -> dict[str, np.ndarray]:
    if not parts:
        return {}
    columns_NF, missing_NF = _joined(parts)
    arrays = {name: columns_NF.copy()}
    return arrays if missing_NF is None else {**arrays, f"{name}_missing": missing_NF.copy()}


def _from_arrays(name: str, arrays: Mapping[str, np.ndarray]) -> list[_Columns]:
    return [(arrays[name], arrays.get(f"{name}_missing"))] if name in arrays else []
