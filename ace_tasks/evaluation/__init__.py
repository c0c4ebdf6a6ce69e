"""How good a model is: scores against the world's exact answers, baselines, and their tables."""

from ace_tasks.evaluation.scoring import PARTS, Scores, score

__all__ = ["PARTS", "Scores", "score"]
