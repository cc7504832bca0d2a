"""DDM: the share of errors against the least it has ever been.

Refused: anything but shares of errors; values are clipped to [0, 1], for the variance taken is p(1 - p).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from river.drift.binary import DDM

from stream_trainer.drift.river_detectors.base import RiverDetector, Since
from stream_trainer.types import Detection, Direction

__all__ = ["RiverDdm", "RiverDdmOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RiverDdmOptions:
    """River's own names and defaults. Its mean never forgets: unfit for a process that runs for months."""

    warm_start: int = 30
    warning_threshold: float = 2.0
    drift_threshold: float = 3.0


class RiverDdm(RiverDetector):
    """Drift detection method (Gama 2004): sees errors rise, never fall. Values are clipped to [0, 1].

    The statistic is p + s, the threshold p_min + drift_threshold * s_min; `after` is the mean since that minimum.
    """

    name = "ddm"
    options_type = RiverDdmOptions

    def _build(self) -> Any:
        return DDM(**asdict(self.options))

    def _accepted(self, values_N: np.ndarray) -> np.ndarray:
        return np.clip(values_N, 0.0, 1.0)

    def _mark(self, since: Since) -> None:
        if self._river._p_min == self._river._p.get():
            since.n_rise, since.total_rise = since.n, since.total

    def _claim(self, index: int, since: Since) -> Detection:
        river, p = self._river, since.total / since.n
        before, after = since.around(Direction.UP)
        return Detection(
            index=index,
            direction=Direction.UP,
            before=before,
            after=after,
            statistic=p + math.sqrt(max(p * (1 - p), 0.0) / since.n),
            threshold=river._p_min + self.options.drift_threshold * river._s_min,
            window_records=0,
        )

    def _memory(self) -> dict[str, np.ndarray]:
        river = self._river
        least = [math.nan if value is None else value for value in (river._p_min, river._s_min)]
        return {"shares": np.array([river._p.n, river._p.get(), *least, river._ps_min])}

    def _recall(self, arrays: Mapping[str, np.ndarray]) -> None:
        river = self._river
        n, mean, p_min, s_min, ps_min = arrays["shares"].tolist()
        river._p = type(river._p)._from_state(n, mean)
        river._p_min, river._s_min = (None if math.isnan(value) else value for value in (p_min, s_min))
        river._ps_min = ps_min
