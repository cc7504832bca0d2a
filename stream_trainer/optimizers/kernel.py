"""The compiled part of the optimizer, _kernel.c: a step of StreamAdamW, and the length of a gradient, in one call each.

Its last bits are not torch's, but they are the same on every processor; the manifest of a checkpoint says who computed.
"""

import torch
from torch import nn

from stream_trainer.compiled import CompiledPart

__all__ = ["step_kernel"]

step_kernel = CompiledPart("stream_trainer.optimizers._kernel", calls=4)

if step_kernel.built is not None:
    step_kernel.built.introduce(torch.Tensor, nn.Parameter, torch.float32, torch.int64)
