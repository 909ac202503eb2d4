"""How good is a prediction: per-task scores, and one metric that averages them with error bars."""

from npexp.metrics.evaluation import Evaluation
from npexp.metrics.scores import task_scores

__all__ = ["Evaluation", "task_scores"]
