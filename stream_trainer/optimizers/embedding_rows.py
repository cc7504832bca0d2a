"""The step of StreamAdamW for the rows of an embedding: to a row its batch is the records that named it.

Legend: R = rows named in this batch, D = values of a row, k = records that named a row.
Not here: dense tensors, and when a step is made (stream_adamw.py).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from stream_trainer.optimizers.kernel import step_kernel
from stream_trainer.optimizers.records import DECAY_MAX, EPS, REFERENCE_RECORDS, SMALLEST

__all__ = ["step_rows"]

_CONSTANTS = (REFERENCE_RECORDS, EPS, SMALLEST)


def step_rows(table: Tensor, state: dict[str, Any], horizon_records: float, lr: float, records: int) -> None:
    """g is the mean over k records, its scale √k; `lr` is the step for one.

    Expects the gradient as autograd leaves it, one entry per look-up: merged entries can no longer be counted.
    """
    if not state:
        state["square"] = torch.zeros_like(table)
        state["row_weight"] = torch.zeros(len(table), 1, dtype=table.dtype, device=table.device)
    gradient: Tensor = table.grad  # type: ignore[assignment]  # the caller chose tables that have one
    compiled, memory = step_kernel(), (state["square"], state["row_weight"])
    if compiled is not None and compiled.step_rows(
        table, gradient._indices(), gradient._values(), *memory, horizon_records, DECAY_MAX, lr, records, *_CONSTANTS
    ):
        increment_version(table)
        return
    rows, entry, counts = torch.unique(gradient._indices()[0], return_inverse=True, return_counts=True)
    k_R1 = counts.to(table.dtype)[:, None]
    sums_RD = torch.zeros(len(rows), *table.shape[1:], dtype=table.dtype, device=table.device)
    g_RD = sums_RD.index_add_(0, entry, gradient._values()) * (records / k_R1.sqrt())  # √k times their mean

    # In double: of 1 - .9999 float32 has half of the digits.
    decay_R1 = torch.exp(-counts[:, None].double() / horizon_records).clamp_(max=DECAY_MAX)
    square_RD = state["square"][rows] * decay_R1.to(table.dtype) + g_RD.square() * (1 - decay_R1).to(table.dtype)
    weight_R1 = (1 - decay_R1 * (1 - state["row_weight"][rows].double())).to(table.dtype)
    update_RD = g_RD / ((square_RD / weight_R1).sqrt_() + EPS)
    rms_R1 = update_RD.square().mean(dim=1, keepdim=True).sqrt_()
    limit_R1 = (REFERENCE_RECORDS / k_R1).sqrt_().clamp_(min=1.0)
    cut_R1 = torch.where(rms_R1 <= limit_R1, 1.0, (limit_R1.square() / rms_R1).clamp_(min=1.0) / rms_R1)
    table.index_add_(0, rows, update_RD * (k_R1.sqrt() * cut_R1), alpha=-lr)
    state["square"][rows] = square_RD.masked_fill_(square_RD < SMALLEST, 0.0)
    state["row_weight"][rows] = weight_R1
