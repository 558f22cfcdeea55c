"""Task arithmetic: the base plus a multiple of the summed deltas (arXiv 2212.04089)."""

from mergegrid.engine.ops.operations import Array
from mergegrid.methods.method import MergeRun
from mergegrid.recipes.methods import TaskArithmetic


def task_arithmetic(spec: TaskArithmetic, run: MergeRun) -> Array:
    """base + coefficient * sum of the deltas, each times the coefficient of its expert."""
    weights = [spec.coefficients.get(expert, 1.0) for expert in run.experts]
    return run.ops.plus(run.base, run.ops.weighted_sum(run.deltas, weights), spec.coefficient)
