"""Counting: which alarm belongs to which change, and what is left over.

A detection counts when it is told, at the end of its batch. The first one within `horizon_records` after a change (and
before the next change) is that change's; later ones there are neither hits nor false; all others are false. Delays are
never shown without the false alarms beside them, nor either without never-fire, every-k and oracle: a detector that
fires every 100 records finds everything at once.
Refused: F1 scores, which that detector wins; clocks: what a detector costs is measured by who calls.
Sources: delay and normalised detection time as in Cerqueira et al. 2026, arXiv:2606.07789; average run length: Page.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stream_trainer.contracts import DriftDetector
from stream_trainer.drift.evaluate.streams import Stream

__all__ = ["Verdict", "judge", "pooled", "told_at"]

_FED_AT_ONCE = 1024  # or one batch, if that is longer


def told_at(detector: DriftDetector, stream: Stream, batch_records: int) -> list[int]:
    """Feed the stream in batches; the record at whose arrival each detection was told, the last of its batch.

    A detector names the record that completed its evidence, the same for any cut (each of ours is tested for it), so it
    is fed in stretches of many batches and the end of the batch is computed: up to a hundred times faster.
    """
    return list(_telling(detector, stream, batch_records))


def _telling(detector: DriftDetector, stream: Stream, batch_records: int) -> Iterator[int]:
    n, stretch = len(stream.values_N), batch_records * -(-_FED_AT_ONCE // batch_records)
    for start in range(0, n, stretch):
        for detection in detector.update(stream.values_N[start : start + stretch]):
            yield min(n, start + (detection.index // batch_records + 1) * batch_records) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a detector did on some streams."""

    delays: tuple[int, ...]  # records from a change to the first detection in its horizon
    n_missed: int
    n_false: int
    stable_records: int  # outside all horizons
    horizon_records: int

    @property
    def n_changes(self) -> int:
        return len(self.delays) + self.n_missed

    @property
    def delay_median(self) -> float:
        """Over the changes found; nan: none was."""
        return float(np.median(self.delays)) if self.delays else math.nan

    @property
    def delay_p95(self) -> float:
        return float(np.percentile(self.delays, 95)) if self.delays else math.nan

    @property
    def normalised_detection_time(self) -> float:
        """Mean delay in horizons, a missed change counting 1; nan: there was no change."""
        lost = sum(self.delays) / self.horizon_records + self.n_missed
        return lost / self.n_changes if self.n_changes else math.nan

    @property
    def false_per_100k(self) -> float:
        return 1e5 * self.n_false / self.stable_records if self.stable_records else math.nan

    @property
    def run_length_records(self) -> float:
        """Stable records per false alarm; infinite: there was none."""
        return self.stable_records / self.n_false if self.n_false else math.inf

    def run_length_hours(self, records_per_s: float) -> float:
        return self.run_length_records / records_per_s / 3600


def pooled(verdicts: Sequence[Verdict]) -> Verdict:
    """Several verdicts as one; they must have the same horizon, at least one of them there."""
    [horizon_records] = {verdict.horizon_records for verdict in verdicts}
    return Verdict(
        delays=tuple(delay for verdict in verdicts for delay in verdict.delays),
        n_missed=sum(verdict.n_missed for verdict in verdicts),
        n_false=sum(verdict.n_false for verdict in verdicts),
        stable_records=sum(verdict.stable_records for verdict in verdicts),
        horizon_records=horizon_records,
    )


def judge(
    build: Callable[[Stream], DriftDetector], streams: Iterable[Stream], *, batch_records: int, horizon_records: int
) -> Verdict:
    """Run a fresh detector over each stream and count by the rules of this module.

    Args: build: makes the detector; it is shown the stream so that an oracle can be one too.

    >>> from stream_trainer.drift.adwin import WeightedAdwin
    >>> from stream_trainer.drift.evaluate.streams import errors_with_changes
    >>> streams = [errors_with_changes((5000, 0.1), (5000, 0.3), seed=seed) for seed in range(5)]
    >>> verdict = judge(lambda stream: WeightedAdwin(), streams, batch_records=32, horizon_records=5000)
    >>> verdict.n_missed, verdict.n_false, 100 < verdict.delay_median < 400
    (0, 0, True)
    """
    delays: list[int] = []
    n_missed = n_false = stable_records = 0
    for stream in streams:
        n = len(stream.values_N)
        ends = [*stream.changes, n][1:]
        horizons = [(c, min(c + horizon_records, end)) for c, end in zip(stream.changes, ends, strict=True)]
        told: list[int] = []
        for record in _telling(build(stream), stream, batch_records):
            told.append(record)
            if horizons and horizons[-1][0] <= record and horizons[-1][1] == n:
                break  # the last change is found, and what else is told in its horizon does not count
        for change, end in horizons:
            first = next((record for record in told if change <= record < end), None)
            if first is None:
                n_missed += 1
            else:
                delays.append(first - change + 1)
        n_false += sum(not any(change <= record < end for change, end in horizons) for record in told)
        stable_records += n - sum(end - change for change, end in horizons)
    return Verdict(
        delays=tuple(delays),
        n_missed=n_missed,
        n_false=n_false,
        stable_records=stable_records,
        horizon_records=horizon_records,
    )
