"""How good the models are: every record scored before it is learned, beside what guessing would have scored."""

from stream_trainer.evaluation.kernel import score_kernel
from stream_trainer.evaluation.prequential import ModelScores, Prequential

__all__ = ["ModelScores", "Prequential", "score_kernel"]
