"""AdamW for a stream: everything it remembers is counted in records, so the size of the batches does not matter.

Legend: n = records in this batch, g = gradient of the mean loss, W0 = the weights it started with, v = running n/16 g².

    β₂ = min(.9999, exp(-n / horizon))           v ← β₂ v + (1-β₂) n/16 g²      v̂ = v / (1 - Πβ₂)
    W ← W - lr √(n/16) cut(u),  u = √(n/16) g / √v̂                                 then a pull towards W0:
    W ← W + (1 - exp(-n / H)) (W0 - W),  H = pull_horizon, of gains and biases a tenth of it

The mean of n records has a noise of 1/√n, so n g² is of one size however records are cut: in batches of one size u is
g over its usual size as in Adam, and where the size changes, a record moves the weights as far as in any other batch.
With v of g² alone single records between batches of 32 go 1.4 times as far as they do alone, and those a quarter.

cut(u) leaves an update alone up to a root mean square of L = max(1, √(16/n)), a step of lr in batches up to 16, and
takes it back to L²/RMS(u), at last to 1, beyond. With L = 1 for single records, too, every record that was predicted
wrongly was cut and those predicted rightly were not: networks became too sure of themselves.

Embeddings (sparse gradients) move row by row, each row by its own clock, the k records that named it: n and n/16 become
k, and the rate lr row_lr_ratio √k. Refused: closures, for a record is learned from once; schedules that end, for a
stream does not.
Sources: Marek et al. 2025, arXiv:2507.07101 (moments in samples); Wortsman et al. 2023, arXiv:2304.13013 (clipped
update); Hampel 1974, JASA 69 (the further out, the less it counts); Kumar et al. 2023, arXiv:2308.11958 (pull to the
initial weights, which keeps a network able to learn).
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from stream_trainer.errors import ConfigError
from stream_trainer.optimizers.kernel import step_kernel

__all__ = ["StreamAdamW", "headroom"]

REFERENCE_RECORDS = 16  # the batch size at which `lr` is the step and `beta1` the decay
DECAY_MAX = 0.9999  # with single records a longer memory of g² adds lag and takes no more noise away
SMALLEST = 1e-30  # below this a moment is 0: on its way down it would get stuck among the slow denormal numbers
FLUSH_RECORDS = 1000  # how often to look for such moments; falling from SMALLEST to a denormal takes longer
VECTOR_PULL = 10  # of gains and biases over that of matrices: with 1 some 2 % of the units were dead at any time
EPS = 1e-10  # only so that a unit without any gradient divides 0 by something
_CONSTANTS = (REFERENCE_RECORDS, EPS, SMALLEST)


class StreamAdamW(torch.optim.Optimizer):
    """Adam whose step is told how many records it is made of: `optimizer.step(records=len(batch))`.

    Args:
        lr: step per batch of 16 records; the rate stays constant for ever.
        beta1: decay of the mean gradient over 16 records. 0, none, is the default: records come correlated (runs of
            one class, of one day), and a mean over 150 of them follows the run. 0.9 gains some .4 points where the
            records are known to be shuffled; then with twice the rate.
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

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        beta1: float = 0.0,
        horizon_records: float = 16_000,
        pull_horizon_records: float | None = 1.6e6,
        row_lr_ratio: float = 20.0,
        warmup_records: int = 0,
    ) -> None:
        for name, value, allowed, expected in [
            ("lr", lr, lr >= 0, "0 or more"),
            ("beta1", beta1, 0 <= beta1 < 1, "0 or more, below 1"),
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
            "reference_records": REFERENCE_RECORDS,  # what n is a share of in v; states without it have v of g² alone
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
        if "reference_records" not in group:
            self._weigh_squares(group, records / REFERENCE_RECORDS)
        if dense:
            self._step_dense(dense, group, rate * math.sqrt(records / REFERENCE_RECORDS), records, flush)
        for table in learning:
            if table.grad.is_sparse:
                self._step_rows(table, group, rate * group["row_lr_ratio"], records)
        return rate * math.sqrt(records / REFERENCE_RECORDS)

    def _step_dense(
        self, parameters: list[Tensor], group: dict[str, Any], rate: float, records: int, flush: bool
    ) -> None:
        """All dense tensors of a group at once: on small ones the calls cost more than the arithmetic."""
        states = [self._state_of(parameter, group) for parameter in parameters]
        gradients: list[Tensor] = [parameter.grad for parameter in parameters]  # type: ignore[misc]
        squares = [state["square"] for state in states]
        decay, gain = min(DECAY_MAX, math.exp(-records / group["horizon_records"])), records / REFERENCE_RECORDS
        for state in states:
            state["weight"] += (1 - decay) * (1 - state["weight"])
        unbiased = [math.sqrt(state["weight"]) for state in states]  # taken out as a factor: √v̂ = root / unbiased
        horizon = group["pull_horizon_records"]
        matrix, vector = (0.0 if horizon is None else -math.expm1(-k * records / horizon) for k in (1, VECTOR_PULL))
        pulls = [matrix if parameter.ndim >= 2 else vector for parameter in parameters]
        initials = [None if horizon is None else state.get("initial") for state in states]  # old states have no vectors
        compiled = step_kernel() if group["beta1"] == 0 else None
        if compiled is not None and compiled.step(
            parameters,
            gradients,
            squares,
            initials,
            unbiased,
            pulls,
            decay,
            gain,
            rate,
            headroom(records),
            EPS,
            SMALLEST,
            flush,
        ):
            increment_version(parameters)
            return
        torch._foreach_mul_(squares, decay)
        torch._foreach_addcmul_(squares, gradients, gradients, (1 - decay) * gain)
        if group["beta1"] > 0:
            gradients = _mean_gradients(states, gradients, group["beta1"] ** (records / REFERENCE_RECORDS))
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, [EPS * factor for factor in unbiased])
        norms = torch.stack(torch._foreach_norm(torch._foreach_div(gradients, roots))).tolist()  # the one wait
        sizes = [math.sqrt(root.numel()) for root in roots]
        factors = [math.sqrt(gain) * factor for factor in unbiased]
        cuts = [_cut(factor * norm / size, records) for factor, norm, size in zip(factors, norms, sizes)]
        steps = [-rate * factor * cut for factor, cut in zip(factors, cuts)]
        torch._foreach_addcdiv_(parameters, gradients, roots, steps)

        pulled = [(p, initial, pull) for p, initial, pull in zip(parameters, initials, pulls) if initial is not None]
        if pulled:
            torch._foreach_lerp_(*map(list, zip(*pulled)))
        if flush:
            for state in states:
                for moment in (state["square"], state.get("mean")):
                    if moment is not None:
                        moment.masked_fill_(moment.abs() < SMALLEST, 0.0)

    def _state_of(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        state = self.state[parameter]
        if not state:
            state["square"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["weight"] = 0.0  # 1 - Πβ₂: how much of a mean `square` is by now
            if group["beta1"] > 0:
                state["mean"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                state["mean_weight"] = 0.0
            if group["pull_horizon_records"] is not None:
                state["initial"] = parameter.detach().clone(memory_format=torch.preserve_format)
        return state

    def _weigh_squares(self, group: dict[str, Any], gain: float) -> None:
        """An old state: its batches were as this one, as far as one knows; its rows saw a record or two at a time."""
        for state in (self.state[parameter] for parameter in group["params"] if parameter in self.state):
            if "row_weight" not in state:
                state["square"] *= gain
        group["reference_records"] = REFERENCE_RECORDS

    def _step_rows(self, table: Tensor, group: dict[str, Any], lr: float, records: int) -> None:
        """An embedding: to a row its batch is the k records that named it, so g is their mean, and √k its scale.

        Expects the gradient as autograd leaves it, one entry per look-up: merged entries can no longer be counted.
        """
        state = self.state[table]
        if not state:
            state["square"] = torch.zeros_like(table)
            state["row_weight"] = torch.zeros(len(table), 1, dtype=table.dtype, device=table.device)
        gradient: Tensor = table.grad  # type: ignore[assignment]  # the caller chose tables that have one
        compiled, memory, horizon = step_kernel(), (state["square"], state["row_weight"]), group["horizon_records"]
        if compiled is not None and compiled.step_rows(
            table, gradient._indices(), gradient._values(), *memory, horizon, DECAY_MAX, lr, records, *_CONSTANTS
        ):
            increment_version(table)
            return
        rows, entry, counts = torch.unique(gradient._indices()[0], return_inverse=True, return_counts=True)
        k_R1 = counts.to(table.dtype)[:, None]
        sums_RD = torch.zeros(len(rows), *table.shape[1:], dtype=table.dtype, device=table.device)
        g_RD = sums_RD.index_add_(0, entry, gradient._values()) * (records / k_R1.sqrt())  # √k times their mean

        decay_R1 = torch.exp(-counts[:, None].double() / horizon).clamp_(max=DECAY_MAX)  # float32 has half of 1 - .9999
        square_RD = state["square"][rows] * decay_R1.to(table.dtype) + g_RD.square() * (1 - decay_R1).to(table.dtype)
        weight_R1 = (1 - decay_R1 * (1 - state["row_weight"][rows].double())).to(table.dtype)
        update_RD = g_RD / ((square_RD / weight_R1).sqrt_() + EPS)
        rms_R1 = update_RD.square().mean(dim=1, keepdim=True).sqrt_()
        limit_R1 = (REFERENCE_RECORDS / k_R1).sqrt_().clamp_(min=1.0)
        cut_R1 = torch.where(rms_R1 <= limit_R1, 1.0, (limit_R1.square() / rms_R1).clamp_(min=1.0) / rms_R1)
        table.index_add_(0, rows, update_RD * (k_R1.sqrt() * cut_R1), alpha=-lr)
        state["square"][rows] = square_RD.masked_fill_(square_RD < SMALLEST, 0.0)
        state["row_weight"][rows] = weight_R1


def headroom(records: int) -> float:
    """How many times as long as usual the mean gradient of so few records may be: max(1, √(16/n)).

    >>> headroom(1), headroom(16), headroom(500)
    (4.0, 1.0, 1.0)
    """
    return math.sqrt(max(1.0, REFERENCE_RECORDS / records))


def _cut(rms: float, records: int) -> float:
    """What is left of an update of this root mean square; nan stays nan."""
    limit = headroom(records)
    return 1.0 if rms <= limit else max(1.0, limit * limit / rms) / rms


def _mean_gradients(states: list[dict[str, Any]], gradients: list[Tensor], decay: float) -> list[Tensor]:
    means = [state["mean"] for state in states]
    torch._foreach_lerp_(means, gradients, 1 - decay)
    for state in states:
        state["mean_weight"] += (1 - decay) * (1 - state["mean_weight"])
    return list(torch._foreach_div(means, [state["mean_weight"] for state in states]))
