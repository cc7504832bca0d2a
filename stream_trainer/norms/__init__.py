"""Normalisation layers that do not break when the batch does: batches of any size, and a memory counted in records.

    NORMS, build_norm(name, num_features, dims=1|2|3, **options)     registry.py: start there
    convert_norms(network, name, **options)                         the batch norms of a built network, exchanged
    freeze, recompute_moments, drift_numbers, stateful_norms        maintenance of a built network
    RunningMoments                                                  the memory behind all of them, for inputs too

What a batch of one does: `batch` refuses it in training; `batch_renorm` and `sync` take it, without gradient to lower
dense layers; all others give gradient to every layer.
"""

from stream_trainer.norms.base import NormDrift
from stream_trainer.norms.convert import convert_norms
from stream_trainer.norms.kernel import kernel_in_use
from stream_trainer.norms.maintenance import drift_numbers, freeze, recompute_moments, stateful_norms
from stream_trainer.norms.moments import RunningMoments
from stream_trainer.norms.registry import NORMS, build_norm
from stream_trainer.norms.sync import gather_over
from stream_trainer.norms.weight_standardised import standardise_weights

__all__ = [
    "NORMS",
    "NormDrift",
    "RunningMoments",
    "build_norm",
    "convert_norms",
    "drift_numbers",
    "freeze",
    "gather_over",
    "kernel_in_use",
    "recompute_moments",
    "standardise_weights",
    "stateful_norms",
]
