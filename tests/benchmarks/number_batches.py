"""Records that are numbers and a class, as the batch that a model is given.

Shape suffixes: N = records, F = numbers.
"""

import numpy as np

from stream_trainer.types import Batch

__all__ = ["batch_of"]


def batch_of(x_NF: np.ndarray, y_N: np.ndarray) -> Batch:
    """Of numbers alone, none of them missing; as float32 and int64, whatever they come as."""
    n = len(y_N)
    return Batch(
        x_NF=x_NF.astype(np.float32, copy=False),
        missing_NF=None,
        category_NC=np.zeros((n, 0), np.int64),
        y_N=y_N.astype(np.int64, copy=False),
        timestamp_ms_N=np.full(n, -1, np.int64),
    )
