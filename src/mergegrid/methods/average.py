"""Average: the mean of the experts (arXiv 2203.05482)."""

from mergegrid.engine.ops.operations import Array
from mergegrid.methods.method import MergeRun
from mergegrid.recipes.methods import Average


def average(spec: Average, run: MergeRun) -> Array:
    """Weighted sum of the experts over the sum of weights; equals come back to the bit."""
    if len(run.experts) == 1:
        return run.weights[0]
    weights = [spec.weights.get(expert, 1.0) for expert in run.experts]
    return run.ops.weighted_mean(run.weights, weights)
