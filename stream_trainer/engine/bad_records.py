"""When bad records are too many to be accidents.

One bad record is somebody's typo; half of them is a producer that changed its format, and a model that learns from
what is left would learn something else. Counted over the last `window_records`, never before that many were seen.
"""

from collections import deque

from stream_trainer.errors import TooManyBadRecords

__all__ = ["RATIO_MAX", "WINDOW_RECORDS", "BadRecordLimit"]

RATIO_MAX = 0.5  # half of the stream is no accident, and less may be one noisy producer among many
WINDOW_RECORDS = 10_000


class BadRecordLimit:
    """
    >>> limit = BadRecordLimit(ratio_max=0.5, window_records=100)
    >>> limit.observe(records=60, rejected=60)
    >>> limit.observe(records=60, rejected=0)
    >>> limit.ratio
    0.5
    """

    def __init__(self, *, ratio_max: float = RATIO_MAX, window_records: int = WINDOW_RECORDS) -> None:
        self.ratio_max, self.window_records = ratio_max, window_records
        self._batches: deque[tuple[int, int]] = deque()
        self._records = self._rejected = 0

    @property
    def ratio(self) -> float:
        """Share of rejected records in the window, which is at least `window_records` long, by whole batches."""
        return self._rejected / self._records if self._records else 0.0

    def observe(self, *, records: int, rejected: int) -> None:
        """Raises TooManyBadRecords."""
        self._batches.append((records, rejected))
        self._records += records
        self._rejected += rejected
        while self._records - self._batches[0][0] >= self.window_records:
            oldest_records, oldest_rejected = self._batches.popleft()
            self._records -= oldest_records
            self._rejected -= oldest_rejected
        if self._records >= self.window_records and self.ratio > self.ratio_max:
            raise TooManyBadRecords(
                f"{self._rejected} of the last {self._records} records were rejected; dead_letters.ratio_max is "
                f"{self.ratio_max}. Read the reasons in the dead letters: the producer or the schema changed. "
                "Everything before is saved."
            )
