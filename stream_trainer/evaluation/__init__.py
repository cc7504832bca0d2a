"""How good the models are: every record scored before it is learned, beside what guessing would have scored."""

from stream_trainer.evaluation.prequential import ModelScores, Prequential

__all__ = ["ModelScores", "Prequential"]
