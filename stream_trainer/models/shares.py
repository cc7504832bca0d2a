"""A large batch is learned in several steps, so that its size decides how fresh the model is and not what it learns.

One step on 256 records learns less from each of them than 16 steps on 16 do, at every learning rate. A share is every
k-th record, not a run: neighbours in a log are alike, and a step on a sample of the whole batch hears of all of it.
Measured: tests/benchmarks/step_records_*.md. Shape suffixes: N = records.
"""

from collections.abc import Sequence

from stream_trainer.types import Batch, LearnReport

__all__ = ["share_rows", "shares", "together"]


def share_rows(n_records: int, records_max: int | None) -> list[slice]:
    """The rows of each share: as few shares as hold at most `records_max` records each, equal but for one record; all
    together each record once, and each share in arrival order. None: one share.

    >>> [list(range(5))[rows] for rows in share_rows(5, 2)]
    [[0, 3], [1, 4], [2]]
    """
    number = 1 if records_max is None else max(1, -(-n_records // records_max))
    return [slice(start, None, number) for start in range(number)]


def shares(batch: Batch, records_max: int | None) -> list[Batch]:
    """The batch in shares of at most `records_max` records; views, not copies."""
    rows = share_rows(len(batch), records_max)
    return [batch] if len(rows) == 1 else [batch.rows(each) for each in rows]


def together(reports: Sequence[LearnReport], records: Sequence[int]) -> LearnReport:
    """What the steps of one batch did, as one report: means over the records of the steps that were taken.

    `skipped` says why the first step that was not taken was not.
    """
    if len(reports) == 1:  # most batches: told as it is, to the last bit
        return reports[0]
    skipped = next((report.skipped for report in reports if report.skipped is not None), None)
    taken = [(report, n) for report, n in zip(reports, records, strict=True) if report.skipped is None]
    if not taken:
        return reports[0]
    weights = [n for _, n in taken]
    return LearnReport(
        loss=_mean([report.loss for report, _ in taken], weights),
        gradient_norm=_mean([report.gradient_norm for report, _ in taken], weights),
        learning_rate=_mean([report.learning_rate for report, _ in taken], weights),
        skipped=skipped,
    )


def _mean(values: Sequence[float | None], weights: Sequence[int]) -> float | None:
    known = [value * weight for value, weight in zip(values, weights) if value is not None]
    return sum(known) / sum(weights) if len(known) == len(weights) else None
