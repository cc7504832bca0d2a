"""The settings of weighted ADWIN: how sure, how large, how often."""

import math
from dataclasses import dataclass

from stream_trainer.errors import ConfigError

__all__ = ["AdwinOptions", "delta_for"]


# Tests that count as one: neighbouring cuts and tests nearly agree, and the bound errs less often than it says.
# Measured one-sided at delta .002 and .0005, error rates of .02 to .3: from 310 up (drift_frontier_*.md).
_TESTS_AS_ONE = 250.0


def delta_for(*, false_suspect_hours: float, records_per_s: float, block_records: int = 32) -> float:
    """The confidence of one test that keeps false suspects on steady errors to at most one in `false_suspect_hours`.

    There is one test per block, so H hours at R records/s hold H * 3600 * R / block_records tests. At delta = 1 / tests
    the paper's bound allows one suspect, hundreds of times fewer are measured, and each delay is nearly twice as long
    as it need be; so 250 tests count as one (tests/benchmarks/drift_frontier_*.md: 0 suspects in 3e8 records at the
    default). Errors that wander are not steady: for those there is `min_effect`.

    >>> f"{delta_for(false_suspect_hours=24, records_per_s=100_000):.1e}"
    '9.3e-07'
    """
    tests = false_suspect_hours * 3600 * records_per_s / block_records
    return min(_TESTS_AS_ONE / tests, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdwinOptions:
    """How sure, how large, how often. The defaults are for the errors of a classifier, 0 or 1."""

    false_suspect_hours: float = 24.0  # sensitivity in words: in this time, at this rate, at most one false suspect
    records_per_s: float = 1_000.0  # (on steady errors; measured, not proven)
    delta: float | None = None  # confidence of one test, instead of the two above; River's ADWIN has 0.002
    direction: str = "worse"  # "worse": improvements move the window but are only counted; "both": they are told too
    min_effect: float = 0.01  # in units of value_max: streams wander by a few thousandths without meaning anything
    refractory_records: int = 1024  # one change is told once: evidence gathered meanwhile is kept and told after it
    value_max: float | None = 1.0  # larger values count as this; None: 4 means of each window's first records
    warmup_records: int = 256  # a shorter window is not tested
    block_records: int = 32  # grid of the tests, the clock of River's ADWIN: at most 31 records later than at once
    resolution: int = 8  # a cut is placed to within a quarter of its age; boundaries kept grow in proportion

    def __post_init__(self) -> None:
        positive = {"false_suspect_hours": self.false_suspect_hours, "records_per_s": self.records_per_s}
        for name, value in {**positive, "value_max": 1.0 if self.value_max is None else self.value_max}.items():
            if not 0 < value < math.inf:
                raise ConfigError(f"drift weighted_adwin: {name} is {value}; expected a finite number above 0.")
        if self.delta is not None and not 0 < self.delta < 1:
            raise ConfigError(f"drift weighted_adwin: delta is {self.delta}; expected a number between 0 and 1.")
        if self.direction not in ("worse", "both"):
            raise ConfigError(f"drift weighted_adwin: direction is {self.direction!r}; expected worse or both.")
        if not 0 <= self.min_effect < 1:
            raise ConfigError(f"drift weighted_adwin: min_effect is {self.min_effect}; expected 0 or more, below 1.")
        if self.refractory_records < 0:
            raise ConfigError(f"drift weighted_adwin: refractory_records is {self.refractory_records}; expected >= 0.")
        if self.block_records < 1 or self.resolution < 2 or self.warmup_records < 2 * self.block_records:
            raise ConfigError(
                f"drift weighted_adwin: block_records {self.block_records}, resolution {self.resolution}, "
                f"warmup_records {self.warmup_records}; expected at least 1, 2 and two blocks."
            )

    @property
    def delta_per_test(self) -> float:
        if self.delta is not None:
            return self.delta
        return delta_for(
            false_suspect_hours=self.false_suspect_hours,
            records_per_s=self.records_per_s,
            block_records=self.block_records,
        )
