"""Diagonal Fisher information of an expert (arXiv 2111.09832, section 3)."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mergegrid.study.model_statistics.gatherer import stored
from mergegrid.study.model_statistics.layers import Layers, NotByExampleError
from mergegrid.study.tasks.encoding import Batch

logger = logging.getLogger(__name__)


class _Sums:
    """Squares by name of tensor, in float64."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.model = model
        known = dict(model.named_parameters(remove_duplicate=False))
        self.parameters = {name: known[name] for name in names}
        self.sums = {
            name: torch.zeros_like(parameter, dtype=torch.float64, requires_grad=False)
            for name, parameter in self.parameters.items()
        }
        model.requires_grad_(False)

    def derive(self) -> None:
        """Let gradients of the parameters be taken."""
        for parameter in self.parameters.values():
            parameter.requires_grad_()

    def add_square(self, outcome: Tensor, last: bool = True) -> None:
        """Add the squared gradient of a number."""
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
        return {name: stored(total, count) for name, total in self.sums.items()}


class ExactFisher:
    """mean_x E_{c ~ p(x)} (d log p_c(x) / d theta)^2.

    For a regression f, p is a Gaussian of variance 1 around f, which makes it mean_x (d f / d
    theta)^2. No label is needed.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], regression: bool) -> None:
        self._squares = _Sums(model, names)
        self._regression = regression
        self._layers: Layers | None = None
        try:
            self._layers = Layers(model, names)
        except NotByExampleError:
            self._one_by_one()

    def add(self, batch: Batch, labels: Tensor) -> None:
        """Add a batch; the labels do not count."""
        if self._layers is not None:
            try:
                self._add_by_layer(self._layers, batch)
            except NotByExampleError:
                self._one_by_one()
        if self._layers is None:
            self._add_one_by_one(batch)

    def _add_one_by_one(self, batch: Batch) -> None:
        for row in range(len(batch.rows)):
            one = {key: values[row : row + 1] for key, values in batch.inputs.items()}
            logits = self._squares.model(**one).logits
            parts = directions(logits.detach(), self._regression)
            for index, part in enumerate(parts):
                self._squares.add_square((part * logits).sum(), last=index == len(parts) - 1)

    def tensors(self, examples: int) -> dict[str, Tensor]:
        """The information in the examples so far."""
        return self._squares.means(examples)

    def _add_by_layer(self, layers: Layers, batch: Batch) -> None:
        with layers.watched(len(batch.rows)):
            logits = self._squares.model(**batch.inputs).logits
        sums = {
            name: torch.zeros_like(parameter)
            for name, parameter in self._squares.parameters.items()
        }
        parts = directions(logits.detach(), self._regression)
        for index, part in enumerate(parts):
            layers.add_squares((part * logits).sum(), sums, last=index == len(parts) - 1)
        for name, total in sums.items():
            self._squares.sums[name] += total

    def _one_by_one(self) -> None:
        logger.info("the gradients of this model are taken one example at a time")
        self._layers = None
        self._squares.derive()


class ReferenceFisher:
    """What the code of arXiv 2311.03099 computes, from batches in the order of the file.

    The gradient of a batch is squared as a whole: of sum_x sum_c sqrt(p_c) log p_c, with sqrt(p_c)
    as a constant, or of the mean squared error against the labels. The sum over batches is divided
    by the number of batches times their full size.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], regression: bool, size: int) -> None:
        self._squares = _Sums(model, names)
        self._squares.derive()
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
        """The sum so far by what was counted, which full batches may make more than `examples`."""
        return self._squares.means(self._counted)


def directions(logits: Tensor, regression: bool) -> list[Tensor]:
    """Vectors l_m [examples, classes] such that sum_m (d (l_m z) / d theta)^2 is the information.

    With logits z of Jacobian J, E_c (d log p_c)^2 is the diagonal of J^T (diag(p) - p p^T) J.
    The l_m are the columns of the Cholesky factor of the matrix in the middle, which has rank
    classes - 1 and a closed form without cancellation:

        l_m[m] = sqrt(p_m q_m / q_{m-1}),  l_m[c] = -p_c sqrt(p_m / (q_m q_{m-1})) for c > m

    where q_m = sum_{c > m} p_c. So one backward pass less than there are classes is enough.
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
