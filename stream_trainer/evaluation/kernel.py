"""The compiled part of the scores, _kernel.c: predictions checked and judged in one pass."""

from stream_trainer.compiled import CompiledPart

__all__ = ["score_kernel"]

score_kernel = CompiledPart("stream_trainer.evaluation._kernel", calls=2)
