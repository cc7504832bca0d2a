"""The compiled part of the scores, _kernel.c: predictions checked, judged and counted in one pass each."""

from stream_trainer.compiled import CompiledPart

__all__ = ["score_kernel"]

score_kernel = CompiledPart("stream_trainer.evaluation._kernel", calls=3)
