"""The settings of a comparison of histograms: what is compared with what, and from where on it is told."""

from dataclasses import dataclass

from stream_trainer.drift.distances import DISTANCES
from stream_trainer.errors import ConfigError

__all__ = ["HistogramOptions"]


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
