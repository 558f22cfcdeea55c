"""Diagonal Fisher information of an expert (arXiv 2111.09832, section 3)."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mergegrid.study.model_statistics.accumulator import stored_mean
from mergegrid.study.model_statistics.example_gradients import (
    ExampleGradients,
    UnsupportedModelError,
)
from mergegrid.study.tasks.encoding import Batch

logger = logging.getLogger(__name__)


class _SquareSums:
    """Sums of squared gradients by tensor name, in float64."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.model = model
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self.parameters = {name: parameters[name] for name in names}
        self.sums = {
            name: torch.zeros_like(parameter, dtype=torch.float64, requires_grad=False)
            for name, parameter in self.parameters.items()
        }
        model.requires_grad_(False)

    def require_gradients(self) -> None:
        for parameter in self.parameters.values():
            parameter.requires_grad_()

    def add_square(self, outcome: Tensor, last: bool = True) -> None:
        """Add the squared gradient of a scalar; `last` frees its graph."""
        gradients = torch.autograd.grad(
            outcome,
            list(self.parameters.values()),
            retain_graph=not last,
            allow_unused=True,
            materialize_grads=True,
        )
        for total, gradient in zip(self.sums.values(), gradients, strict=True):
            total.addcmul_(gradient.double(), gradient.double())

    def means(self, count: int) -> dict[str, Tensor]:
        return {name: stored_mean(total, count) for name, total in self.sums.items()}


class ExactFisher:
    """mean_x E_{c ~ p(x)} (d log p_c(x) / d theta)^2.

    For a regression f, p is a Gaussian of variance 1 around f, which makes it mean_x (d f / d
    theta)^2. No labels are needed.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], regression: bool) -> None:
        self._squares = _SquareSums(model, names)
        self._regression = regression
        self._gradients: ExampleGradients | None = None
        try:
            self._gradients = ExampleGradients(model, names)
        except UnsupportedModelError:
            self._use_single_examples()

    def add(self, batch: Batch, labels: Tensor) -> None:
        """Add a batch; labels have no influence."""
        if self._gradients is not None:
            try:
                self._add_batch(self._gradients, batch)
                return
            except UnsupportedModelError:
                self._use_single_examples()
        for row in range(len(batch.rows)):
            inputs = {key: values[row : row + 1] for key, values in batch.inputs.items()}
            logits = self._squares.model(**inputs).logits
            parts = directions(logits.detach(), self._regression)
            for index, part in enumerate(parts):
                self._squares.add_square((part * logits).sum(), last=index == len(parts) - 1)

    def tensors(self, examples: int) -> dict[str, Tensor]:
        """Return the information in the examples so far."""
        return self._squares.means(examples)

    def _add_batch(self, gradients: ExampleGradients, batch: Batch) -> None:
        with gradients.recorded(len(batch.rows)):
            logits = self._squares.model(**batch.inputs).logits
        sums = {
            name: torch.zeros_like(parameter)
            for name, parameter in self._squares.parameters.items()
        }
        parts = directions(logits.detach(), self._regression)
        for index, part in enumerate(parts):
            gradients.add_squares((part * logits).sum(), sums, last=index == len(parts) - 1)
        for name, total in sums.items():
            self._squares.sums[name] += total

    def _use_single_examples(self) -> None:
        logger.info("computing the gradients of this model one example at a time")
        self._gradients = None
        self._squares.require_gradients()


class ReferenceFisher:
    """Fisher information as the code of arXiv 2311.03099 computes it, from batches in file order.

    The gradient of a batch is squared as a whole: of sum_x sum_c sqrt(p_c) log p_c, with sqrt(p_c)
    as a constant, or of the mean squared error against the labels. The sum over batches is divided
    by the number of batches times their full size.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], regression: bool, size: int) -> None:
        self._squares = _SquareSums(model, names)
        self._squares.require_gradients()
        self._regression, self._size = regression, size
        self._counted = 0

    def add(self, batch: Batch, labels: Tensor) -> None:
        """Add a batch."""
        logits = self._squares.model(**batch.inputs).logits
        if self._regression:
            outcome = functional.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
        else:
            logs = logits.log_softmax(dim=-1)
            outcome = (logs.detach().exp().sqrt() * logs).sum()
        self._squares.add_square(outcome)
        self._counted += self._size

    def tensors(self, examples: int) -> dict[str, Tensor]:
        """Return the sum so far over the size of its batches, which may exceed `examples`."""
        return self._squares.means(self._counted)


def directions(logits: Tensor, regression: bool) -> list[Tensor]:
    """Vectors l_m [examples, classes] such that sum_m (d (l_m z) / d theta)^2 is the information.

    With logits z of Jacobian J, E_c (d log p_c)^2 is the diagonal of J^T (diag(p) - p p^T) J.
    The l_m are the columns of the Cholesky factor of the matrix in the middle, which has rank
    classes - 1 and a closed form without cancellation:

        l_m[m] = sqrt(p_m q_m / q_{m-1}),  l_m[c] = -p_c sqrt(p_m / (q_m q_{m-1})) for c > m

    where q_m = sum_{c > m} p_c. So one backward pass fewer than there are classes is enough.
    """
    if regression:
        return [torch.ones_like(logits)]
    p = logits.double().softmax(dim=-1)
    # rest[:, m] = sum_{c >= m} p_c = q_{m-1}
    rest = p.flip(-1).cumsum(-1).flip(-1).clamp_min(torch.finfo(torch.float64).tiny)
    columns = []
    for m in range(p.shape[-1] - 1):
        before, after = rest[:, m], rest[:, m + 1]
        column = torch.zeros_like(p)
        column[:, m] = (p[:, m] * after / before).sqrt()
        column[:, m + 1 :] = -p[:, m + 1 :] * (p[:, m] / after / before).sqrt().unsqueeze(1)
        columns.append(column.to(logits.dtype))
    return columns
