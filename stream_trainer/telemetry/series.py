"""Time series with bounded labels: dictionaries and numpy arrays behind one lock, turned into text when scraped.

Why not the client library's own counters: a histogram there takes one value at a time, a label set costs a lookup and a
lock each, nothing bounds the label sets, and a scrape can fall between two of them. Here a whole batch is written under
one lock, so in every scrape consumed = learned + dead-lettered + skipped. Names live in names.py, not here.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from threading import Lock
from typing import TypeAlias

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from stream_trainer.clock import Clock, SystemClock

__all__ = ["Family", "Histogram", "Kind", "LabelValues", "SeriesStore"]

LabelValues: TypeAlias = tuple[str, ...]


class Kind(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # eq=False: families are dictionary keys by identity
class Family:
    """One metric name and what may hang on it."""

    name: str  # as scraped: prefix, unit, and _total on a counter
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # upper bounds, inclusive, ascending; +Inf is added
    label_sets_max: int = 0  # that may appear beside the ones announced at start; 0: a closed set


class Histogram:
    """Counts of values by bucket; a bucket holds what is at most its bound. Not finite values are left out.

    >>> histogram = Histogram((1.0, 10.0))
    >>> histogram.observe_many(np.array([0.5, 1.0, 2.0, 1000.0]))
    >>> histogram.observe(10.0)
    >>> histogram.counts.tolist(), histogram.sum
    ([2, 2, 1], 1013.5)
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._bounds_B = np.array(bounds, dtype=np.float64)
        self.counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """One value: for what happens once a batch."""
        if isfinite(value):
            self.counts[bisect_left(self._bounds, value)] += 1
            self.sum += value

    def observe_many(self, values_N: np.ndarray) -> None:
        """All values of a batch at once: for what happens once a record."""
        if len(values_N) == 1:  # the array operations below cost ten times as much as the one value
            self.observe(float(values_N[0]))
            return
        values_N = values_N[np.isfinite(values_N)]
        where_N = np.searchsorted(self._bounds_B, values_N, side="left")
        self.counts += np.bincount(where_N, minlength=len(self.counts))
        self.sum += float(values_N.sum())

    def cumulative(self) -> list[tuple[str, float]]:
        """Bound as text, and how many values are at most that: the form of the exposition."""
        names = [floatToGoString(bound) for bound in (*self._bounds, float("inf"))]
        return list(zip(names, self.counts.cumsum().tolist(), strict=True))


class SeriesStore(Collector):
    """The values of a list of families. Writers hold `lock` around everything that must be seen together.

    A label set that was not announced is taken while its family has room, else dropped and counted: labels come from
    configuration and topics, and a scrape must stay small whatever these hold.

    Args:  dropped: the counter of such drops. seconds: the gauge of what a scrape takes. Both among the families.
    """

    def __init__(
        self, families: Iterable[Family], *, dropped: Family, seconds: Family, clock: Clock | None = None
    ) -> None:
        self.lock = Lock()
        self._dropped, self._seconds = dropped, seconds
        self._clock = clock or SystemClock()
        self._values: dict[Family, dict[LabelValues, float]] = {}
        self._histograms: dict[Family, Histogram] = {}
        for family in families:
            if family.kind is Kind.HISTOGRAM:
                self._histograms[family] = Histogram(family.buckets)
            else:
                self._values[family] = {}
        self._announced: dict[Family, dict[LabelValues, None]] = {family: {} for family in self._values}  # ordered sets
        self._strangers: dict[Family, int] = dict.fromkeys(self._values, 0)  # series that were not announced

    # ------------------------------------------------------------ writing, under the lock

    def announce(self, family: Family, label_sets: Iterable[LabelValues]) -> None:
        """Label sets known in advance, outside the bound. Counters start at 0 at once, so that the first event is a
        rise and not a birth; gauges wait for a value, since 0 would be one."""
        self._announced[family].update(dict.fromkeys(label_sets))
        if family.kind is Kind.COUNTER:
            for labels in self._announced[family]:
                self._values[family].setdefault(labels, 0.0)

    def add(self, family: Family, amount: float, *labels: str) -> None:
        """Raise a counter. A counter never falls, and one NaN would stay for ever: anything else is left out."""
        if 0 <= amount < float("inf") and self._admits(family, labels):
            series = self._values[family]
            series[labels] = series.get(labels, 0.0) + amount

    def set(self, family: Family, value: float, *labels: str) -> None:
        """Put a gauge, or a counter that somebody else counts, at `value`."""
        if self._admits(family, labels):
            self._values[family][labels] = value

    def replace(self, family: Family, series: Mapping[LabelValues, float]) -> None:
        """All series of a gauge at once; those not named are gone (a partition that was handed over)."""
        values = self._values[family]
        if series.keys() == values.keys():  # nearly always
            values.update(series)
            return
        values.clear()
        self._strangers[family] = 0
        for labels, value in series.items():
            self.set(family, value, *labels)

    def observe(self, family: Family, value: float) -> None:
        self._histograms[family].observe(value)

    def observe_many(self, family: Family, values_N: np.ndarray) -> None:
        self._histograms[family].observe_many(values_N)

    def _admits(self, family: Family, labels: LabelValues) -> bool:
        if labels in self._values[family] or labels in self._announced[family] or not family.labels:
            return True
        if self._strangers[family] < family.label_sets_max:
            self._strangers[family] += 1
            return True
        self.add(self._dropped, 1)
        return False

    # ------------------------------------------------------------ reading: the scrape

    def collect(self) -> list[Metric]:
        """Copy under the lock, format outside it: training waits for the copy only."""
        start_s = self._clock.monotonic_s()
        with self.lock:
            series = {family: values.copy() for family, values in self._values.items()}
            histograms = [(family, each.cumulative(), each.sum) for family, each in self._histograms.items()]
        metrics: list[Metric] = [_scalars(family, values) for family, values in series.items()]
        for family, buckets, total in histograms:
            metrics.append(HistogramMetricFamily(family.name, family.help, buckets=buckets, sum_value=total))
        with self.lock:
            self.set(self._seconds, self._clock.monotonic_s() - start_s)
        return metrics

    def describe(self) -> list[Metric]:
        """Names without values, so that the registry refuses a second store under the same names."""
        return [_empty(family) for family in (*self._values, *self._histograms)]


def _empty(family: Family) -> Metric:
    if family.kind is Kind.COUNTER:
        return CounterMetricFamily(family.name, family.help)
    if family.kind is Kind.GAUGE:
        return GaugeMetricFamily(family.name, family.help)
    return HistogramMetricFamily(family.name, family.help)


def _scalars(family: Family, values: Mapping[LabelValues, float]) -> Metric:
    metric = _empty(family)
    for labels, value in values.items():
        metric.add_sample(family.name, dict(zip(family.labels, map(_printable, labels), strict=True)), value)
    return metric


def _printable(value: str) -> str:
    """A file name may hold what UTF-8 cannot; one such label would make every scrape fail."""
    return value.encode("utf-8", "backslashreplace").decode()
