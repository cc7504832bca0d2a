"""Page-Hinkley: a sum of what exceeds the running mean, compared with its last extreme."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from river import drift as river_drift

from stream_trainer.drift.river_detectors.base import RiverDetector, Since
from stream_trainer.errors import ConfigError
from stream_trainer.types import Detection, Direction

__all__ = ["RiverPageHinkley", "RiverPageHinkleyOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RiverPageHinkleyOptions:
    """River's own names and defaults. They alarm about 15 to 64 times in 1e6 steady errors: raise `threshold`."""

    min_instances: int = 30
    delta: float = 0.005
    threshold: float = 50.0
    alpha: float = 0.9999  # fading of the sums, by record
    mode: str = "both"

    def __post_init__(self) -> None:
        if self.mode not in ("up", "down", "both"):
            raise ConfigError(f"drift page_hinkley: mode is {self.mode!r}; expected up, down or both.")


class RiverPageHinkley(RiverDetector):
    """Page-Hinkley with a fading sum. `before` and `after` lie around the last extreme of the sum that fired."""

    name = "page_hinkley"
    options_type = RiverPageHinkleyOptions

    def _build(self) -> Any:
        return river_drift.PageHinkley(**asdict(self.options))

    def _mark(self, since: Since) -> None:
        river = self._river
        if river._sum_increase == river._min_increase:
            since.n_rise, since.total_rise = since.n, since.total
        if river._sum_decrease == river._max_decrease:
            since.n_fall, since.total_fall = since.n, since.total

    def _claim(self, index: int, since: Since) -> Detection:
        river = self._river
        up = river._sum_increase - river._min_increase
        down = river._max_decrease - river._sum_decrease
        rising = up >= down if self.options.mode == "both" else self.options.mode == "up"
        direction = Direction.UP if rising else Direction.DOWN
        before, after = since.around(direction)
        return Detection(
            index=index,
            direction=direction,
            before=before,
            after=after,
            statistic=up if rising else down,
            threshold=self.options.threshold,
            window_records=0,
        )

    def _memory(self) -> dict[str, np.ndarray]:
        river = self._river
        mean = river._x_mean
        sums = [river._sum_increase, river._sum_decrease, river._min_increase, river._max_decrease]
        return {"sums": np.array([mean.n, mean.get(), *sums])}

    def _recall(self, arrays: Mapping[str, np.ndarray]) -> None:
        river = self._river
        n, mean, *sums = arrays["sums"].tolist()
        river._x_mean = type(river._x_mean)._from_state(n, mean)
        river._sum_increase, river._sum_decrease, river._min_increase, river._max_decrease = sums
