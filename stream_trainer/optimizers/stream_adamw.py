"""AdamW for a stream: everything it remembers is counted in records, so the size of the batches does not matter.

Legend: n = records in this batch, g = gradient of the mean loss, W0 = the weights it started with, v = running n/16 g².

    β₂ = min(.9999, exp(-n / horizon))           v ← β₂ v + (1-β₂) n/16 g²      v̂ = v / (1 - Πβ₂)
    g' = cut(√(n/16) g / √v̂) g                  m = mean of g' over some 150 records
    W ← W - lr n/16 ((1-w) g' + w m) / √v̂       w of mean_share.py; then a pull towards W0:
    W ← W + (1 - exp(-n / H)) (W0 - W)           H = pull_horizon, of gains and biases a tenth of it

The mean of n records has a noise of 1/√n, so n g² is of one size however records are cut: in batches of one size u is
g over its usual size as in Adam, and where the size changes, a record moves the weights as far as in any other batch.
With v of g² alone single records between batches of 32 go 1.4 times as far as they do alone, and those a quarter.

cut(u) leaves an update alone up to a root mean square of L = max(1, √(16/n)), a step of lr in batches up to 16, and
takes it back to L²/RMS(u), at last to 1, beyond; it is the factor for that. With L = 1 for single records, too, every
record that was predicted wrongly was cut and those predicted rightly were not: networks became too sure of themselves.
The mean is fed with what the cut leaves: else it would remember one gradient gone wild for twelve usual steps.

Embeddings (sparse gradients) move row by row, each row by its own clock, the k records that named it: n and n/16 become
k, and the rate lr row_lr_ratio √k. Refused: closures, for a record is learned from once; schedules that end, for a
stream does not.
Sources: Marek et al. 2025, arXiv:2507.07101 (moments in samples); Wortsman et al. 2023, arXiv:2304.13013 (clipped
update); Hampel 1974, JASA 69 (the further out, the less it counts); Kumar et al. 2023, arXiv:2308.11958 (pull to the
initial weights, which keeps a network able to learn).
"""

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from stream_trainer.errors import ConfigError
from stream_trainer.optimizers.embedding_rows import step_rows
from stream_trainer.optimizers.kernel import step_kernel
from stream_trainer.optimizers.mean_share import SAMPLED, hear_agreement, share_of_mean
from stream_trainer.optimizers.records import DECAY_MAX, EPS, REFERENCE_RECORDS, SMALLEST, headroom
from stream_trainer.optimizers.step_in_torch import step_in_torch

__all__ = ["StreamAdamW"]

FLUSH_RECORDS = 1000  # how often to look for such moments; falling from SMALLEST to a denormal takes longer
VECTOR_PULL = 10  # of gains and biases over that of matrices: with 1 some 2 % of the units were dead at any time
AUTO = "auto"  # beta1: as much of a mean over AUTO_DECAY as the stream allows
AUTO_DECAY = 0.9
BETA1_EXPECTED = "0 or more, below 1, or auto"


class StreamAdamW(torch.optim.Optimizer):
    """Adam whose step is told how many records it is made of: `optimizer.step(records=len(batch))`.

    Args:
        lr: step per batch of 16 records; the rate stays constant for ever.
        beta1: decay of the mean gradient over 16 records. "auto": 0.9, and the share w of that mean in a step is as
            large as the updates themselves allow (mean_share.py). A number: a step is of the mean alone. Where records
            come correlated (runs of one class, of one day) a mean over 150 of them follows the run; 0 keeps none, and
            one copy of the weights less in memory.
        horizon_records: memory of the squared gradient.
        pull_horizon_records: memory of the pull to the initial weights: 1.6 M costs .2 points where nothing drifts,
            160 000 learns best while everything does. None: no pull, and no copy of the initial weights. Gains and
            biases have a tenth of it. Left alone they wander for ever, a gain towards 0, until a unit answers nothing
            any more and cannot come back: in batches of 1,024 nine tenths of the default network in 35 million records.
        row_lr_ratio: step of an embedding row for one record that names it, in units of `lr`. A row sees few records
            and its noise hurts no other row, so it takes longer steps: on made-up categories of 50 to 5000 values (one
            seed each) 20 scored 1.5 to 3 points above 4, and 2 to 5 above Adam in batches of 16; 40 ended no better.
        warmup_records: the rate rises linearly over so many records. 0: measured, a warm-up only loses time.

    Rate and horizons in `param_groups` may be changed between steps. Every tensor's update is cut, so that one odd
    batch moves the weights no more than any other. Rows of embeddings are not pulled: their first values mean nothing,
    and a copy of a large table is dear. They have no mean gradient either: it would move a rare row by what was true
    long ago.

    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer = StreamAdamW([weight], lr=0.5, pull_horizon_records=None)
    >>> weight.grad = torch.full((1,), 3.0)
    >>> optimizer.step(records=64), weight.item()
    (1.0, -1.0)
    """

    settings_added: ClassVar = ("agreement", "agreement_weight")  # numbers of a group that older states do not have

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.5e-3,
        *,
        beta1: float | str = AUTO,
        horizon_records: float = 16_000,
        pull_horizon_records: float | None = 1.6e6,
        row_lr_ratio: float = 20.0,
        warmup_records: int = 0,
    ) -> None:
        for name, value, allowed, expected in [
            ("lr", lr, lr >= 0, "0 or more"),
            ("beta1", beta1, beta1 == AUTO or (not isinstance(beta1, str) and 0 <= beta1 < 1), BETA1_EXPECTED),
            ("horizon_records", horizon_records, horizon_records > 0, "more than 0"),
            (
                "pull_horizon_records",
                pull_horizon_records,
                pull_horizon_records is None or pull_horizon_records > 0,
                "more than 0, or None",
            ),
            ("row_lr_ratio", row_lr_ratio, row_lr_ratio > 0, "more than 0"),
            ("warmup_records", warmup_records, warmup_records >= 0, "0 or more"),
        ]:
            if not allowed:
                raise ConfigError(f"stream_adamw.{name} is {value}; expected {expected}.")
        defaults = {
            "lr": lr,
            "beta1": beta1,
            "horizon_records": horizon_records,
            "pull_horizon_records": pull_horizon_records,
            "row_lr_ratio": row_lr_ratio,
            "warmup_records": warmup_records,
            "records": 0,  # learned so far; a Python integer, for a float32 counter stops at 16 777 216
            **dict.fromkeys(self.settings_added, 0.0),
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None, *, records: int) -> float:  # type: ignore[override]  # records is needed
        """Move every parameter that has a gradient, as one batch of `records` does; 0 records: nothing happens.

        Returns: the learning rate of the first group after warm-up and scaling.
        Raises:  ConfigError: a closure was given, or a negative number of records.
        """
        if closure is not None:
            raise ConfigError(
                "StreamAdamW.step was given a closure; it calls none, because every record is learned from once. "
                "Call loss.backward() yourself, then step(records=len(batch))."
            )
        if records < 0:
            raise ConfigError(f"StreamAdamW.step was given records={records}; pass the records in the batch.")
        rates = [self._step_group(group, records) for group in self.param_groups] if records else [0.0]
        return rates[0]

    def _step_group(self, group: dict[str, Any], records: int) -> float:
        before = group["records"]
        group["records"] = before + records
        rate = group["lr"] * min(1.0, group["records"] / max(1, group["warmup_records"]))
        flush = before // FLUSH_RECORDS != group["records"] // FLUSH_RECORDS
        learning = [parameter for parameter in group["params"] if parameter.grad is not None]
        dense = [parameter for parameter in learning if not parameter.grad.is_sparse]
        if dense:
            self._step_dense(dense, group, rate * math.sqrt(records / REFERENCE_RECORDS), records, flush)
        for table in learning:
            if table.grad.is_sparse:
                step_rows(table, self.state[table], group["horizon_records"], rate * group["row_lr_ratio"], records)
        return rate * math.sqrt(records / REFERENCE_RECORDS)

    def _step_dense(
        self, parameters: list[Tensor], group: dict[str, Any], rate: float, records: int, flush: bool
    ) -> None:
        """All dense tensors of a group at once: on small ones the calls cost more than the arithmetic."""
        decay, gain = min(DECAY_MAX, math.exp(-records / group["horizon_records"])), records / REFERENCE_RECORDS
        states = [self._state_of(parameter, group, gain) for parameter in parameters]
        beta1, horizon = group["beta1"], group["pull_horizon_records"]
        mean_decay = (AUTO_DECAY if beta1 == AUTO else beta1) ** gain
        for state in states:
            state["weight"] += (1 - decay) * (1 - state["weight"])
            if beta1:
                state["mean_weight"] += (1 - mean_decay) * (1 - state["mean_weight"])
        matrix, vector = (0.0 if horizon is None else -math.expm1(-k * records / horizon) for k in (1, VECTOR_PULL))
        tensors = (
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],  # all of them have one
            [state["square"] for state in states],
            [None if horizon is None else state.get("initial") for state in states],  # old states have no vectors
            [state.get("mean") for state in states],
            [state.get("previous") for state in states],
            [math.sqrt(state["weight"]) for state in states],  # taken out as a factor: √v̂ = root / unbiased
            [1 / state["mean_weight"] if beta1 else 0.0 for state in states],
            [matrix if parameter.ndim >= 2 else vector for parameter in parameters],
        )
        share = share_of_mean(group) if beta1 == AUTO else float(beta1 > 0)
        shared = (decay, gain, rate, headroom(records), EPS, SMALLEST, flush, mean_decay, share)
        compiled = step_kernel()
        products = None if compiled is None else compiled.step(*tensors, *shared)
        if products is None:
            products = step_in_torch(*tensors, *shared)
        else:
            increment_version(parameters)
        if beta1 == AUTO:
            hear_agreement(group, products, records)

    def _state_of(self, parameter: Tensor, group: dict[str, Any], gain: float) -> dict[str, Any]:
        state = self.state[parameter]
        if not state:
            state["square"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["weight"] = 0.0  # 1 - Πβ₂: how much of a mean `square` is by now
            state["reference_records"] = REFERENCE_RECORDS  # what n is a share of in `square`
            if group["beta1"]:
                state["mean"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                state["mean_weight"] = 0.0
            if group["beta1"] == AUTO:
                state["previous"] = parameter.new_zeros(min(parameter.numel(), SAMPLED))
            if group["pull_horizon_records"] is not None:
                state["initial"] = parameter.detach().clone(memory_format=torch.preserve_format)
        if "reference_records" not in state:
            # Saved by an older version, a mean of g² alone: as far as one knows, its batches were as large as this one.
            state["square"] *= gain
            state["reference_records"] = REFERENCE_RECORDS
        return state
