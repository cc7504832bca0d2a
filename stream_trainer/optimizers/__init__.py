"""Optimizers by name: torch's own, and ours that counts in records.

Floor 1: gradients in, steps out; knows no model, no batch and no clock but the record.
"""

from stream_trainer.optimizers.gradient_norm import gradient_norm
from stream_trainer.optimizers.kernel import step_kernel
from stream_trainer.optimizers.rate_scaling import RateScaling, Stepper
from stream_trainer.optimizers.records import headroom
from stream_trainer.optimizers.registry import OPTIMIZERS, build_optimizer
from stream_trainer.optimizers.stream_adamw import StreamAdamW

__all__ = [
    "OPTIMIZERS",
    "RateScaling",
    "Stepper",
    "StreamAdamW",
    "build_optimizer",
    "gradient_norm",
    "headroom",
    "step_kernel",
]
