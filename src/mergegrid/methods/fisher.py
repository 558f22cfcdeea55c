"""Fisher: experts weighted by their diagonal Fisher information (arXiv 2111.09832)."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.engine.chunks import Chunk
from mergegrid.engine.method import MergeChunk, MethodInputs, shares
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import PerChunk, Prepass, Rounds
from mergegrid.engine.settings_checks import check_sums
from mergegrid.engine.tensors import Tensors
from mergegrid.methods.average import WeightValue
from mergegrid.methods.data_dependent import DataDependentMethod, Examples, check_shape
from mergegrid.sparsifiers.rates import Arithmetic


class Fisher(DataDependentMethod):
    """Experts weighted by their diagonal Fisher information (arXiv 2111.09832)."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset(
        {"weights", "examples", "arithmetic"}
    )

    kind: Literal["fisher"] = "fisher"
    weights: dict[str, WeightValue] = {}
    """Further factor of each expert's information; unset, all are equal. A factor that all experts
    share cancels, so there is none to search."""
    normalize: bool = False
    """Whether each expert's information is divided by its norm over the model."""
    floor: Annotated[float, Field(gt=0)] = 1e-6
    """Added to the information, so that no weight is zero."""
    examples: Examples | None = None
    """Training examples of each expert that the information is gathered from; unset in a study,
    1024; unset in a merge file, whatever the files of statistics hold."""
    arithmetic: Arithmetic = "exact"
    """`exact` information is the mean over examples of the expected squared gradient; `reference`
    squares the gradient of a batch of 16, as the paper's code does."""

    def merge(self, chunk: MergeChunk) -> Array:
        """sum_k w_k (F_k + e) x_k / sum_k w_k (F_k + e), element by element.

        F_k is the information of expert k, e the floor. w_k is the expert's share of the weights;
        with `normalize` it is multiplied by 1 / (||F_k|| + e) over the sum of that of all experts,
        with the norm over the whole model.
        """
        ops = chunk.ops
        factors = shares(chunk.numbers(self.weights))
        if self.normalize:
            factors = [
                weight / (chunk.result(_norm_key(name)) + self.floor)
                for weight, name in zip(factors, chunk.experts, strict=True)
            ]
            factors = [factor / sum(factors) for factor in factors]
        information = [ops.plus_number(chunk.statistic(name), self.floor) for name in chunk.experts]
        pairs = zip(information, chunk.weights, strict=True)
        weighted = [ops.product(fisher, expert) for fisher, expert in pairs]
        return ops.quotient(
            ops.weighted_sum(weighted, factors), ops.weighted_sum(information, factors)
        )

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """Norm of each expert's information over the model, for `normalize`."""
        if not self.normalize:
            return []
        return [
            Prepass(_norm_key(expert), inputs.names, partial(_norm, inputs, expert))
            for expert in inputs.experts
        ]

    def check_values(self, experts: Sequence[str], tensors: Tensors) -> None:
        """Check that the weights do not sum to 0 for any tensor."""
        super().check_values(experts, tensors)
        check_sums(self, "weights", experts, tensors)

    def check_tensors(self, base: Checkpoint, statistics: Mapping[str, Checkpoint]) -> None:
        """Check that there is information on every element: tensors of the base's shapes."""
        for expert, information in statistics.items():
            for name, info in base.infos.items():
                check_shape(expert, information, name, info.shape)


def _norm_key(expert: str) -> tuple[str, str]:
    return "norm of information", expert


def _norm(inputs: MethodInputs, expert: str) -> Rounds:
    def squares(chunk: Chunk) -> Array:
        information = inputs.merge_chunk(chunk).statistic(expert)
        return chunk.ops.dots(information, information)

    return float(np.sqrt(np.concatenate((yield PerChunk(squares))).sum()))
