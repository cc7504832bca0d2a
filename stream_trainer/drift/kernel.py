"""The compiled part of the drift signals, _kernel.c: it counts columns, and proves that nothing is to be told."""

from stream_trainer.compiled import CompiledPart

__all__ = ["drift_kernel"]

drift_kernel = CompiledPart("stream_trainer.drift._kernel", calls=3)
