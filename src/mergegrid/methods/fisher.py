"""Fisher: experts weighted by their diagonal Fisher information (arXiv 2111.09832)."""

from collections.abc import Iterable
from functools import partial

import numpy as np

from mergegrid.engine.chunks import Run
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import Each, Rounds, Survey
from mergegrid.methods.method import MergeRun, Subject, shares
from mergegrid.recipes.methods import Fisher


def fisher(spec: Fisher, run: MergeRun) -> Array:
    """sum_k w_k (F_k + e) x_k / sum_k w_k (F_k + e), element by element.

    F_k is the information of expert k, e the floor. w_k is the expert's share of the weights; with
    `normalize` it is multiplied by 1 / (||F_k|| + e) over the sum of that of all experts, with the
    norm over the whole model.
    """
    ops = run.ops
    factors = shares(spec.weights, list(run.experts))
    if spec.normalize:
        factors = [
            w / (run.answer(_norm(name)) + spec.floor)
            for w, name in zip(factors, run.experts, strict=True)
        ]
        factors = [factor / sum(factors) for factor in factors]
    information = [ops.plus_number(run.statistic(name), spec.floor) for name in run.experts]
    parts = [ops.product(f, x) for f, x in zip(information, run.weights, strict=True)]
    return ops.quotient(ops.weighted_sum(parts, factors), ops.weighted_sum(information, factors))


def norms(spec: Fisher, subject: Subject) -> Iterable[Survey]:
    """Norm of each expert's information over the model, where it is asked for."""
    if not spec.normalize:
        return []
    return [
        Survey(_norm(expert), subject.names, partial(_model_norm, subject, expert))
        for expert in subject.experts
    ]


def _norm(expert: str) -> tuple[str, str]:
    return "norm of information", expert


def _model_norm(subject: Subject, expert: str) -> Rounds:
    def squares(run: Run) -> Array:
        information = subject.merge_run(run).statistic(expert)
        return run.ops.dots(information, information)

    return float(np.sqrt(np.concatenate((yield Each(squares))).sum()))
