"""How far to trust the outputs of a network: one factor on all of them, learned from answers given before learning.

A network is too sure where the world moves faster than its labels arrive, and not sure enough while it is young. Both
are one number, which it cannot see itself: its loss is that of records it is about to learn.
    p = softmax(u), u = exp(a) z     z = outputs of the network before it learned the batch of n records, a = 0 at first
    a ← a - (Σ (E_p[u] - u_y) + pull n a) / (prior + H + pull n)        H ← .5^(n / half-life) H + Σ Var_p[u]
a step of Fisher scoring on the log-loss of the last records. Which class is likeliest never changes. Without the pull
and the bounds a young network of 256-record batches was found so unsure that it took thousands of records to come back.
Source: Guo et al. 2017, arXiv:1706.04599 (there learned once, from records held out). Measured: log-loss without and
with it in tests/benchmarks/temperature_*.md.
Shape suffixes: N = records, K = classes.
"""

import math

import numpy as np

__all__ = ["Temperature"]

HALF_LIFE_RECORDS = 1_000  # 4,000 cost .004 on shuffled images, whose young network is not sure enough
PRIOR = 30.0  # curvature of some hundred records: a first handful moves nothing far
PULL = 0.03  # of each record towards a = 0, where the network is taken at its word
LOG_SCALE_MIN, LOG_SCALE_MAX = -1.5, 0.7  # between a quarter and twice as sure


class Temperature:
    """The factor exp(a), and how well it is known.

    >>> sure = np.array([[1.0, -1.0]] * 200)  # of class 0 (.88), and right three times in four
    >>> temperature = Temperature()
    >>> for _ in range(20): temperature.observe(sure, np.arange(200) % 4 // 3)
    >>> temperature.probabilities(sure)[0].round(2).tolist()
    [0.76, 0.24]
    """

    def __init__(self) -> None:
        self.log_scale = 0.0
        self.curvature = 0.0

    @property
    def scale(self) -> float:
        """The factor: below 1 the network had been surer than it was right."""
        return math.exp(self.log_scale)

    def probabilities(self, outputs_NK: np.ndarray) -> np.ndarray:
        """(N, K) float64, rows sum to 1; of finite outputs."""
        return _softmax(outputs_NK * self.scale)

    def observe(self, outputs_NK: np.ndarray, y_N: np.ndarray) -> None:
        """Outputs of the network for records that it had not learned, and their classes."""
        z_NK = (outputs_NK - outputs_NK.mean(axis=1, keepdims=True)) * self.scale
        p_NK = _softmax(z_NK)
        expected_N = (p_NK * z_NK).sum(axis=1)
        slope = float((expected_N - z_NK[np.arange(len(y_N)), y_N]).sum())
        curvature = float((p_NK * z_NK**2).sum() - (expected_N**2).sum())
        self.curvature = 0.5 ** (len(y_N) / HALF_LIFE_RECORDS) * self.curvature + curvature
        pull = PULL * len(y_N)
        moved = self.log_scale - (slope + pull * self.log_scale) / (PRIOR + self.curvature + pull)
        self.log_scale = min(LOG_SCALE_MAX, max(LOG_SCALE_MIN, moved))

    def capture(self) -> dict[str, float]:
        return {"log_scale": self.log_scale, "curvature": self.curvature}

    def restore(self, values: dict[str, float]) -> None:
        self.log_scale, self.curvature = values["log_scale"], values["curvature"]


def _softmax(z_NK: np.ndarray) -> np.ndarray:
    exp_NK = np.exp(z_NK - z_NK.max(axis=1, keepdims=True))
    return np.asarray(exp_NK / exp_NK.sum(axis=1, keepdims=True))
