"""Squared gradients of single examples, layer by layer, without a gradient of the whole model.

Backward passes stop at the outputs of layers. The gradient of a layer's parameters for one example
is a small product of its inputs and the gradients of its outputs, squared and added while it is in
the cache. Of embeddings, only the rows of an example's tokens are touched.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Elements of per-example gradients held at a time: one example on the CPU.
_MAX_ELEMENTS = {"cpu": 1, "cuda": 1 << 26}


@dataclass(frozen=True)
class _Call:
    """One use of a layer; the first dimension is the examples of the batch."""

    inputs: Tensor
    output: Tensor


class UnsupportedModelError(Exception):
    """A model has parameters whose gradients cannot be separated by example."""


class ExampleGradients:
    """Per-example gradients of the linear layers, embeddings and layer norms of a model.

    Raises:
        UnsupportedModelError: a parameter belongs to another kind of module, or to several.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        name_of = {id(model.get_parameter(name)): name for name in names}
        self._names: dict[nn.Module, dict[str, str]] = {}
        for module in model.modules():
            owned = {
                kind: name_of[id(parameter)]
                for kind, parameter in module.named_parameters(recurse=False)
                if id(parameter) in name_of
            }
            if owned:
                self._names[module] = owned
        owned_names = [name for owned in self._names.values() for name in owned.values()]
        supported = all(
            type(module) in (nn.Linear, nn.Embedding, nn.LayerNorm) for module in self._names
        )
        if not supported or sorted(owned_names) != sorted(names):
            raise UnsupportedModelError
        self._calls: dict[nn.Module, list[_Call]] = {}

    @contextmanager
    def recorded(self, examples: int) -> Iterator[None]:
        """Record inputs and outputs of the layers while a batch goes through the model.

        Raises:
            UnsupportedModelError: the tensors of a layer are not laid out by example.
        """
        self._calls = {module: [] for module in self._names}

        def record(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            inputs = arguments[0].detach()
            if isinstance(module, nn.Embedding) and len(inputs) == 1 < examples:
                # Positions are shared by all examples.
                inputs = inputs.expand(examples, *inputs.shape[1:])
                output = output.expand(examples, *output.shape[1:])
            if len(output) != examples or output.dim() > 3:
                raise UnsupportedModelError
            if not output.requires_grad:
                output = output.clone().requires_grad_()
            self._calls[module].append(_Call(inputs, output))
            return output

        hooks = [module.register_forward_hook(record) for module in self._names]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        if not all(self._calls.values()):
            raise UnsupportedModelError

    def add_squares(self, outcome: Tensor, sums: Mapping[str, Tensor], last: bool) -> None:
        """Add the squared gradient of each example's term of `outcome` to float32 sums.

        Args:
            outcome: a scalar, the sum of a term per example.
            sums: by parameter name, in its shape.
            last: frees the graph.
        """
        outputs = [call.output for calls in self._calls.values() for call in calls]
        gradients = iter(
            torch.autograd.grad(
                outcome, outputs, retain_graph=not last, allow_unused=True, materialize_grads=True
            )
        )
        for module, names in self._names.items():
            # A layer that is used several times sees the tokens of all uses.
            token_dims = 2 if isinstance(module, nn.Embedding) else 3
            calls = self._calls[module]
            inputs = torch.cat([_with_tokens(call.inputs, token_dims) for call in calls], dim=1)
            flow = torch.cat([_with_tokens(next(gradients), 3) for _ in calls], dim=1)
            if isinstance(module, nn.Embedding):
                _add_rows(sums[names["weight"]], inputs, flow, module.padding_idx)
                continue
            if "weight" in names and isinstance(module, nn.Linear):
                _add_products(sums[names["weight"]], inputs, flow)
            elif "weight" in names and isinstance(module, nn.LayerNorm):
                shape, epsilon = list(module.normalized_shape), module.eps
                normal = nn.functional.layer_norm(inputs, shape, eps=epsilon)
                sums[names["weight"]] += (flow * normal).sum(dim=1).square_().sum(dim=0)
            if "bias" in names:
                sums[names["bias"]] += flow.sum(dim=1).square_().sum(dim=0)


def _with_tokens(values: Tensor, dims: int) -> Tensor:
    """Reshape to [examples, tokens, ...]: layers after the pooling see one token per example."""
    return values if values.dim() == dims else values.unsqueeze(1)


def _add_products(sums: Tensor, inputs: Tensor, flow: Tensor) -> None:
    """Add the squares of flow^T inputs [out, in] of each example."""
    step = max(1, _MAX_ELEMENTS[sums.device.type] // sums.numel())
    buffer = sums.new_empty((step, *sums.shape))
    for start in range(0, len(flow), step):
        left = flow[start : start + step].transpose(1, 2)
        products = torch.bmm(left, inputs[start : start + step], out=buffer[: len(left)])
        if len(left) == 1:
            sums.addcmul_(products[0], products[0])
        else:
            sums += products.square_().sum(dim=0)


def _add_rows(sums: Tensor, tokens: Tensor, flow: Tensor, padding: int | None) -> None:
    """Add the squares of each example's gradient of the rows of an embedding.

    A token that occurs n times in an example contributes the square of its summed gradient; each
    occurrence adds 1/n of it.
    """
    same = (tokens.unsqueeze(1) == tokens.unsqueeze(2)).to(flow.dtype)
    squares = torch.bmm(same, flow).square_() / same.sum(dim=2, keepdim=True)
    if padding is not None:
        squares[tokens == padding] = 0
    # On the CPU, where index_add_ has a fixed order of additions.
    rows = torch.zeros(sums.shape, dtype=sums.dtype) if sums.device.type != "cpu" else sums
    rows.index_add_(0, tokens.flatten().cpu(), squares.flatten(0, 1).cpu())
    if rows is not sums:
        sums += rows.to(sums.device)
