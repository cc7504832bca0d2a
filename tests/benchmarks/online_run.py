"""One network learns one stream, each record predicted before it is learned: what the benchmarks of norms repeat.

Not here: the streams (`online_streams.py`), which cells there are and what is made of the numbers (`bench_*.py`).
"""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from online_streams import Stream
from torch import Tensor, nn

from stream_trainer.models.shares import share_rows

__all__ = ["Outcome", "learn_online"]

Step = Callable[[int], object]  # told the records of the batch, moves the weights


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Shares of right predictions: while learning, then on held-out records by the formula of inference and by that of
    training (in batches of the same cut; the moments do not move)."""

    prequential: float
    held_out: float
    held_out_in_training_mode: float

    @classmethod
    def diverged(cls) -> "Outcome":
        return cls(prequential=0.0, held_out=0.0, held_out_in_training_mode=0.0)


def learn_online(
    network: nn.Module,
    step: Step,
    stream: Stream,
    cut: Iterable[slice],
    *,
    singles_are_refused: bool = False,
    step_records_max: int | None = None,
) -> Outcome:
    """Test, then train, over the whole stream. Nothing is rescued: a network that goes to NaN scores 0 from there on.

    Args:
        step: called after each backward pass.
        singles_are_refused: BatchNorm cannot learn from a batch of one: it is scored there and skips it.
        step_records_max: a larger batch is learned in several steps, as the product does by default; None: in one.
    """
    cut = list(cut)
    right = 0
    for batch in cut:
        x, y = stream.x[batch], stream.y[batch]
        right += _right(network, x, y)
        if singles_are_refused and len(x) == 1:
            continue
        network.train()
        for share in share_rows(len(x), step_records_max):
            network.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(network(x[share]), y[share])
            loss.backward()
            if not math.isfinite(float(loss.detach())):
                return Outcome.diverged()
            step(len(y[share]))
    held_out = _right(network, stream.held_out_x, stream.held_out_y) / len(stream.held_out_y)
    return Outcome(
        prequential=right / len(stream.y),
        held_out=held_out,
        held_out_in_training_mode=_in_training_mode(network, stream, cut, singles_are_refused),
    )


def _right(network: nn.Module, x: Tensor, y: Tensor) -> int:
    network.eval()
    with torch.inference_mode():
        return int((network(x).argmax(1) == y).sum())


def _in_training_mode(network: nn.Module, stream: Stream, cut: list[slice], singles_are_refused: bool) -> float:
    """Accuracy on the held-out records if each batch were normalised as in training, each batch from the same state."""
    right = records = 0
    before = copy.deepcopy(network.state_dict())
    network.train()
    with torch.no_grad():
        for batch in cut:
            x, y = stream.held_out_x[batch], stream.held_out_y[batch]
            if len(x) == 0:
                break
            if singles_are_refused and len(x) == 1:
                continue
            right += int((network(x).argmax(1) == y).sum())
            records += len(x)
            network.load_state_dict(before)
    return right / max(1, records)
