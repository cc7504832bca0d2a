"""A race: challengers learn the same live batches as the model they want to replace, and only losses count.

What is compared are losses on the same records, each predicted before it was learned, summed over blocks of 16: the
grid is counted in records, so no cut of the batches changes it. There is a look after 256 records, 512, 1,024, ...:
what a challenger is worth right after a drift is gone when the live model has caught up. At a look the first half of
the records is practice, for a new network is bad before it can be good; the second half decides. A challenger wins if
both hold, so that a needless exchange is rare:
    saved share     mean(d) / mean(loss of keep) >= margin_min,   d = loss of keep - its own, per block
    significance    mean(d) / (sd(d) / sqrt(blocks)) >= statistic_min
Of several winners the one that saved most. It becomes the live model, and the others race that one until the records of
the race are over. Loss: -log of the probability given to the true class, cut off at 3, or the absolute error of a
number.
Not here: when a race begins, and what follows from its verdict (reaction.py).
Shape suffixes: N = records, A = arms (keep first), B = blocks.
Source for racing in place of resetting: Tahmasbi et al., "DriftSurf", ICML 2021.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stream_trainer.contracts import Model
from stream_trainer.errors import ConfigError
from stream_trainer.types import Batch, Prediction, RaceArm, State

__all__ = ["Race", "RaceOptions", "Verdict", "losses"]

BLOCK_RECORDS = 16
LOOK_RECORDS = 256  # of the first look: 8 blocks decide
PROBABILITY_MIN = 0.05  # one record that a model was wrongly sure of costs 3: it must not decide a race alone


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceOptions:
    """How long, how sure, and how seldom."""

    records: int = 4096  # what no challenger gained by then none will; the price is 3x learning meanwhile
    batches_min: int = 16  # a batch is predicted before any of it is learned: in one huge batch nobody could win
    rate_factor: float = 5.0  # for rate_up: measured best of the simple boosts at a low base rate
    margin_min: float = 0.02  # share of the loss: a smaller gain does not pay for what the live model still knows
    statistic_min: float = 3.5  # standard errors: by chance alone 1 in 200 at the first look, 1 in 3,000 at the last
    cooldown_records: int = 4096  # as long as a race: an excited detector can have half of all records raced, not more

    def __post_init__(self) -> None:
        checks = [
            ("records", self.records, self.records >= LOOK_RECORDS, f"at least {LOOK_RECORDS}"),
            ("batches_min", self.batches_min, self.batches_min >= 1, "at least 1"),
            ("rate_factor", self.rate_factor, 1 < self.rate_factor < 1e6, "more than 1"),
            ("margin_min", self.margin_min, 0 <= self.margin_min < 1, "0 or more, below 1"),
            ("statistic_min", self.statistic_min, self.statistic_min > 0, "more than 0"),
            ("cooldown_records", self.cooldown_records, self.cooldown_records >= 0, "0 or more"),
        ]
        for name, value, allowed, expected in checks:
            if not allowed:
                raise ConfigError(f"drift.reaction.race.{name} is {value}; expected {expected}.")


class Verdict(NamedTuple):
    """The best challenger, and by how much."""

    challenger: RaceArm
    margin: float
    statistic: float
    won: bool


class Race:
    """One live model against its challengers; it knows the live one by its predictions only.

    Args:  challengers: as they stand when the race begins. None of them is the live model.
    """

    def __init__(self, challengers: Mapping[RaceArm, Model], options: RaceOptions) -> None:
        self.challengers, self._options = dict(challengers), options
        self._records = self._batches = 0  # scored since the race began
        self.exchanges = 0  # times that a challenger took the live model's place
        self._forget()

    def _forget(self) -> None:
        arms = 1 + len(self.challengers)
        self._sums_AB = np.zeros((arms, 0))
        self._pending_AN = np.zeros((arms, 0))  # losses of the block that has begun
        self._next_look = LOOK_RECORDS

    @property
    def finished(self) -> bool:
        return self._records >= self._options.records and self._batches >= self._options.batches_min

    @property
    def look_due(self) -> bool:
        """Is there a verdict to be asked for? Once more when the race is over; never without challengers."""
        return bool(self.challengers) and (self.finished or self._compared >= self._next_look)

    @property
    def _compared(self) -> int:
        return self._sums_AB.shape[1] * BLOCK_RECORDS + self._pending_AN.shape[1]

    def score(self, batch: Batch, live: Prediction) -> None:
        """Let the challengers predict a batch that nobody has learned, and note what it cost everybody."""
        predictions = [live, *(model.predict(batch) for model in self.challengers.values())]
        loss_AN = np.stack([losses(batch.y_N, prediction) for prediction in predictions])
        loss_AN = np.concatenate([self._pending_AN, loss_AN], axis=1)
        blocks = loss_AN.shape[1] // BLOCK_RECORDS
        whole_AN, self._pending_AN = np.split(loss_AN, [blocks * BLOCK_RECORDS], axis=1)
        sums_AB = whole_AN.reshape(len(loss_AN), blocks, BLOCK_RECORDS).sum(axis=2)
        self._sums_AB = np.concatenate([self._sums_AB, sums_AB], axis=1)
        self._records += len(batch)
        self._batches += 1

    def learn(self, batch: Batch) -> None:
        for model in self.challengers.values():
            model.learn(batch)

    def verdict(self) -> Verdict:
        """Of the second half of the blocks. A challenger without finite losses is never the best."""
        while self._next_look <= self._compared:
            self._next_look *= 2
        keep_B, *others = self._sums_AB[:, self._sums_AB.shape[1] // 2 :]
        verdicts = [self._judge(arm, keep_B, other_B) for arm, other_B in zip(self.challengers, others)]
        return max(verdicts, key=lambda verdict: (verdict.won, verdict.margin))

    def exchanged(self, winner: RaceArm) -> None:
        """The winner is the live model now and no challenger any more; comparisons begin anew."""
        self.exchanges += 1
        del self.challengers[winner]
        self._forget()

    def _judge(self, arm: RaceArm, keep_B: np.ndarray, other_B: np.ndarray) -> Verdict:
        saved_B = keep_B - other_B
        if len(saved_B) < LOOK_RECORDS // BLOCK_RECORDS // 2 or not np.isfinite(saved_B).all():
            return Verdict(arm, -np.inf, -np.inf, won=False)
        saved, error = float(saved_B.mean()), float(saved_B.std(ddof=1)) / len(saved_B) ** 0.5
        if saved == 0.0:
            return Verdict(arm, 0.0, 0.0, won=False)
        margin = saved / max(float(keep_B.mean()), np.finfo(np.float64).tiny)
        statistic = saved / error if error else float(np.copysign(np.inf, saved))
        won = margin >= self._options.margin_min and statistic >= self._options.statistic_min
        return Verdict(arm, margin, statistic, won)

    # ------------------------------------------------------------ survive

    def capture(self) -> State:
        own = State(
            arrays={"sums": self._sums_AB.copy(), "pending": self._pending_AN.copy()},
            values={
                "records": self._records,
                "batches": self._batches,
                "exchanges": self.exchanges,
                "next_look": self._next_look,
            },
        )
        return State.join({"own": own, **{arm.value: model.capture() for arm, model in self.challengers.items()}})

    def restore(self, state: State) -> None:
        """Into a race with newly built challengers; those that the captured one did not have drop out."""
        self.challengers = {arm: model for arm, model in self.challengers.items() if arm.value in state.values}
        own = state.part("own")
        self._records, self._batches = own.values["records"], own.values["batches"]
        self.exchanges, self._next_look = own.values["exchanges"], own.values["next_look"]
        self._sums_AB = np.array(own.arrays["sums"], np.float64)
        self._pending_AN = np.array(own.arrays["pending"], np.float64)
        for arm, model in self.challengers.items():
            model.restore(state.part(arm.value))


def losses(y_N: np.ndarray, prediction: Prediction) -> np.ndarray:
    """What each record cost, (N,) float64; NaN where the prediction is.

    >>> losses(np.array([1, 0]), np.array([[0.5, 0.5], [0.0, 1.0]])).round(2).tolist()
    [0.69, 3.0]
    """
    prediction = np.asarray(prediction, np.float64)
    if prediction.ndim == 1:
        return np.abs(prediction - y_N)
    return -np.log(np.clip(prediction[np.arange(len(y_N)), y_N], PROBABILITY_MIN, 1.0))
