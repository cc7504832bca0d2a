"""A race: after a suspected drift several models learn the same live batches, and only losses count.

The arms are the model as it was (keep) and its challengers. While they race all answer together, each weighted by
exp(-what its own answers cost lately), in nats: whoever does well is heard before anything is proved, and a false alarm
costs next to nothing. Weights come from records that everybody predicted before learning them: the score stays honest.
One arm is the *leader*: its state is the live model's. There is a look after 256 records, 512, 1,024, ..., and one at
the end. The first half of the records so far is practice, for a new network is bad before it can be good; the second
half decides. An arm takes the lead if it beats the leader by both
    saved share     mean(d) / mean(loss of the leader) >= margin_min,   d = loss of the leader - its own, per block
    significance    mean(d) / (sd(d) / sqrt(blocks)) >= statistic_min; at the end, with twice the blocks, 2 will do
over blocks of 16 records on a grid counted from the first: no cut of the batches changes it. Nobody drops out, so a
later look can take an exchange back.
Loss: -log of the probability given to the true class, cut off at 3; of a number its absolute error, which the weights
measure in means of the best arm (the nats of a Laplace distribution of that width).
Not here: when a race begins, and what follows from its verdict (race_desk.py).
Shape suffixes: N = records, A = arms (keep first), B = blocks.
Sources: racing in place of resetting: Tahmasbi et al., "DriftSurf", ICML 2021. Weights: Vovk, "Aggregating
Strategies", COLT 1990: if nothing is forgotten, the mixture costs at most log(A) nats more than the best arm, for good.
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
LAST_STATISTIC_MIN = 2.0  # at the end the question is no longer whether to act, but which of two states to keep
PROBABILITY_MIN = 0.05  # one record that a model was wrongly sure of costs 3: it must not decide a race alone
VOTE_HALF_LIFE_RECORDS = 256  # of the weights: arms change places within a race, a new network most of all
HANDICAP_NATS = 5.0  # of the challengers, fading alike: what they are worth is not known when the race begins


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceOptions:
    """How long, how sure, and how seldom."""

    records: int = 4096  # what no challenger gained by then none will; the price is to learn once per arm meanwhile
    # Of all lengths the only one that is not in records, and only batches of more than 256 ever meet it: a batch is
    # predicted before any of it is learned, so in one of 4,096 nobody could win, whatever the records say.
    batches_min: int = 16
    rate_factor: float = 5.0  # for rate_up: measured best of the simple boosts at a low base rate
    margin_min: float = 0.02  # share of the loss: a smaller gain does not pay for what the live model still knows
    statistic_min: float = 3.5  # standard errors: by chance alone 1 in 200 at the first look, 1 in 3,000 at the last
    # As long as a race: an excited detector can have half of all records raced, not more. After a confirmed drift a
    # quarter: that detector was right, and a world that changed may change again.
    cooldown_records: int = 4096
    # How many former winners race again: one saved 2 % of the errors of a concept that returned and cost nothing else.
    # Its price is one more arm in a race, and from the first confirmed drift on one more state in every checkpoint.
    earlier: int = 1
    # Of the pull to the initial weights after a confirmed drift. Inside a race neither 10 times nor 1,000 times gained
    # more than chance, after total changes or partial ones: the arms have done that work (pull_race_*.md).
    pull_factor: float = 1.0
    pull_records: int = 1024  # for how long

    def __post_init__(self) -> None:
        checks = [
            ("records", self.records, self.records >= LOOK_RECORDS, f"at least {LOOK_RECORDS}"),
            ("batches_min", self.batches_min, self.batches_min >= 1, "at least 1"),
            ("rate_factor", self.rate_factor, 1 < self.rate_factor < 1e6, "more than 1"),
            ("margin_min", self.margin_min, 0 <= self.margin_min < 1, "0 or more, below 1"),
            ("statistic_min", self.statistic_min, self.statistic_min > 0, "more than 0"),
            ("cooldown_records", self.cooldown_records, self.cooldown_records >= 0, "0 or more"),
            ("earlier", self.earlier, 0 <= self.earlier <= 3, "0 to 3"),
            ("pull_factor", self.pull_factor, 1 <= self.pull_factor < 1e6, "1 or more"),
            ("pull_records", self.pull_records, self.pull_records >= 1, "at least 1"),
        ]
        for name, value, allowed, expected in checks:
            if not allowed:
                raise ConfigError(f"drift.reaction.race.{name} is {value}; expected {expected}.")


class Verdict(NamedTuple):
    """The best of the arms that do not lead, and by how much."""

    challenger: RaceArm
    margin: float
    statistic: float
    won: bool


class Race:
    """The live model and its challengers; a model itself, as far as predicting goes.

    Args:
        live: goes on learning outside; `exchange` changes its state, never the object.
        challengers: as they stand when the race begins. None of them is the live model.
    """

    def __init__(self, live: Model, challengers: Mapping[RaceArm, Model], options: RaceOptions) -> None:
        self.arms: dict[RaceArm, Model] = {RaceArm.KEEP: live, **challengers}
        self.leader = RaceArm.KEEP  # the arm whose state the live model has
        self._options = options
        self._records = self._batches = 0  # scored since the race began
        self._next_look = LOOK_RECORDS
        self._asked: tuple[Batch, list[Prediction]] | None = None
        arms = len(self.arms)
        self._sums_AB = np.zeros((arms, 0))
        self._pending_AN = np.zeros((arms, 0))  # losses of the block that has begun
        self._lately_A = np.zeros(arms)  # what the answers cost, fading by records
        self._lately_records = 0.0  # how many records that is

    # ------------------------------------------------------------ predict, score, learn

    def predict(self, batch: Batch) -> Prediction:
        """What all arms say together. An answer that is not finite is not heard."""
        answers = self._answers(batch)
        finite_A = np.array([bool(np.isfinite(answer).all()) for answer in answers])
        weights_A = self._weights(finite_A, number=answers[0].ndim == 1)
        heard = [weight * answer for weight, answer in zip(weights_A.tolist(), answers) if weight > 0]
        return np.asarray(sum(heard[1:], start=heard[0]))

    def _weights(self, finite_A: np.ndarray, *, number: bool) -> np.ndarray:
        """How much each arm is heard, (A,), sum 1; all of it is the leader's where no arm is finite."""
        cost_A = np.where(finite_A & np.isfinite(self._lately_A), self._lately_A, np.inf)
        if not np.isfinite(cost_A).any():
            return np.array([float(arm is self.leader) for arm in self.arms])
        if number:
            cost_A = cost_A * (self._lately_records / max(float(cost_A.min()), np.finfo(np.float64).tiny))
        handicap = HANDICAP_NATS * 0.5 ** (self._records / VOTE_HALF_LIFE_RECORDS)
        cost_A = cost_A + handicap * np.array([arm is not RaceArm.KEEP for arm in self.arms])
        weight_A = np.exp(cost_A.min() - cost_A)
        return np.asarray(weight_A / weight_A.sum())

    def _answers(self, batch: Batch) -> list[Prediction]:
        """Asked once per batch: what served is what is scored."""
        if self._asked is None or self._asked[0] is not batch:
            self._asked = batch, [model.predict(batch) for model in self.arms.values()]
        return self._asked[1]

    def score(self, batch: Batch) -> None:
        """Note what a batch that nobody has learned cost everybody."""
        loss_AN = np.stack([losses(batch.y_N, answer) for answer in self._answers(batch)])
        self._asked = None
        fading_N = 0.5 ** (np.arange(len(batch) - 1, -1, -1) / VOTE_HALF_LIFE_RECORDS)
        kept = 0.5 ** (len(batch) / VOTE_HALF_LIFE_RECORDS)
        self._lately_A = kept * self._lately_A + loss_AN @ fading_N
        self._lately_records = kept * self._lately_records + float(fading_N.sum())
        loss_AN = np.concatenate([self._pending_AN, loss_AN], axis=1)
        blocks = loss_AN.shape[1] // BLOCK_RECORDS
        whole_AN, self._pending_AN = np.split(loss_AN, [blocks * BLOCK_RECORDS], axis=1)
        sums_AB = whole_AN.reshape(len(loss_AN), blocks, BLOCK_RECORDS).sum(axis=2)
        self._sums_AB = np.concatenate([self._sums_AB, sums_AB], axis=1)
        self._records += len(batch)
        self._batches += 1

    def learn(self, batch: Batch) -> None:
        """All but the live model, which learns outside."""
        for arm, model in self.arms.items():
            if arm is not self.leader:
                model.learn(batch)

    # ------------------------------------------------------------ decide

    @property
    def finished(self) -> bool:
        return self.progress >= 1

    @property
    def progress(self) -> float:
        """From 0, at the start, to 1."""
        return min(1.0, self._records / self._options.records, self._batches / self._options.batches_min)

    @property
    def look_due(self) -> bool:
        """Is there a verdict to be asked for? Once more when the race is over."""
        return len(self.arms) > 1 and (self.finished or self._records >= self._next_look)

    def verdict(self) -> Verdict:
        """Of the second half of the blocks. A challenger without finite losses is never the best."""
        while self._next_look <= self._records:
            self._next_look *= 2
        loss_of = self._deciding_losses()
        verdicts = [self._judge(arm, loss_of[self.leader], loss_of[arm]) for arm in self.arms if arm is not self.leader]
        return max(verdicts, key=lambda verdict: (verdict.won, verdict.margin))

    def margin(self, arm: RaceArm, against: RaceArm) -> float | None:
        """The share of the loss of `against` that `arm` saved in the second half; None: no such arm, or not finite."""
        loss_of = self._deciding_losses()
        if not {arm, against} <= loss_of.keys():
            return None
        margin = self._judge(arm, loss_of[against], loss_of[arm]).margin
        return margin if np.isfinite(margin) else None

    def _deciding_losses(self) -> dict[RaceArm, np.ndarray]:
        return dict(zip(self.arms, self._sums_AB[:, self._sums_AB.shape[1] // 2 :]))

    def exchange(self, winner: RaceArm) -> None:
        """The winner leads: the live model takes its state, and its model that of the old leader."""
        live, other = self.arms[self.leader], self.arms[winner]
        was, won = live.capture(), other.capture()
        live.restore(won)
        other.restore(was)
        self.arms[self.leader], self.arms[winner] = other, live
        self.leader = winner

    def _judge(self, arm: RaceArm, leader_B: np.ndarray, other_B: np.ndarray) -> Verdict:
        saved_B = leader_B - other_B
        if len(saved_B) < LOOK_RECORDS // BLOCK_RECORDS // 2 or not np.isfinite(saved_B).all():
            return Verdict(arm, -np.inf, -np.inf, won=False)
        saved, error = float(saved_B.mean()), float(saved_B.std(ddof=1)) / len(saved_B) ** 0.5
        if saved == 0.0:
            return Verdict(arm, 0.0, 0.0, won=False)
        margin = saved / max(float(leader_B.mean()), np.finfo(np.float64).tiny)
        statistic = saved / error if error else float(np.copysign(np.inf, saved))
        needed = min(self._options.statistic_min, LAST_STATISTIC_MIN if self.finished else np.inf)
        won = margin >= self._options.margin_min and statistic >= needed
        return Verdict(arm, margin, statistic, won)

    # ------------------------------------------------------------ survive

    def capture(self) -> State:
        own = State(
            arrays={"sums": self._sums_AB.copy(), "pending": self._pending_AN.copy(), "lately": self._lately_A.copy()},
            values={
                "records": self._records,
                "batches": self._batches,
                "leader": self.leader.value,
                "next_look": self._next_look,
                "lately_records": self._lately_records,
            },
        )
        others = {arm.value: model.capture() for arm, model in self.arms.items() if arm is not self.leader}
        return State.join({"own": own, **others})

    def restore(self, state: State) -> None:
        """Into a race with a live model and newly built challengers; those that the captured one had not drop out."""
        own = state.part("own")
        # A race of an older version has no leader and no weights: there an exchange ended the race of the winner.
        leader, live = RaceArm(own.values.get("leader", "keep")), self.arms[self.leader]
        self.arms[self.leader], self.arms[leader] = self.arms[leader], live
        self.leader = leader
        self.arms = {arm: model for arm, model in self.arms.items() if arm is leader or arm.value in state.values}
        self._records, self._batches = own.values["records"], own.values["batches"]
        self._next_look, self._lately_records = own.values["next_look"], own.values.get("lately_records", 0.0)
        self._sums_AB = np.array(own.arrays["sums"], np.float64)
        self._pending_AN = np.array(own.arrays["pending"], np.float64)
        self._lately_A = np.array(own.arrays.get("lately", np.zeros(len(self.arms))), np.float64)
        self._asked = None
        for arm, model in self.arms.items():
            if arm is not leader:
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
