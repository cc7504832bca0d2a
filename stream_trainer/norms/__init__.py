"""Normalisation layers that do not break when the batch does: every one takes batches of any size, memory by records.

`build_norm(name, num_features, dims=...)` builds one, `NORMS` lists them. `RunningMoments` is the memory behind them.
"""

from stream_trainer.norms.moments import RunningMoments
from stream_trainer.norms.registry import NORMS, build_norm

__all__ = ["NORMS", "RunningMoments", "build_norm"]
