"""Squared gradients of single examples, layer by layer, without a gradient of any whole model.

Backward passes stop at the layers' outputs. From its inputs and the gradients of its outputs, the
gradient of a layer's parameters is one small product for each example, squared and added while it
lies in the cache. Embeddings are touched only in the rows of an example's tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Elements of single examples' gradients that are held at a time: one example on the CPU.
_ROOM = {"cpu": 1, "cuda": 1 << 26}


@dataclass(frozen=True)
class _Call:
    """One use of a layer, with the examples of the batch in the first dimension."""

    inputs: Tensor
    output: Tensor


class NotByExampleError(Exception):
    """A model has parameters whose gradients cannot be told apart by example."""


class Layers:
    """The layers of a model that own some of its parameters.

    Raises:
        NotByExampleError: a parameter belongs to no linear layer, embedding or layer norm alone.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._model = model
        wanted = {id(model.get_parameter(name)): name for name in names}
        self._names: dict[nn.Module, dict[str, str]] = {}
        for module in model.modules():
            owned = {
                kind: wanted[id(parameter)]
                for kind, parameter in module.named_parameters(recurse=False)
                if id(parameter) in wanted
            }
            if owned:
                self._names[module] = owned
        owned_names = [name for owned in self._names.values() for name in owned.values()]
        known = all(type(each) in (nn.Linear, nn.Embedding, nn.LayerNorm) for each in self._names)
        if not known or sorted(owned_names) != sorted(names):
            raise NotByExampleError
        self._calls: dict[nn.Module, list[_Call]] = {}

    @contextmanager
    def watched(self, examples: int) -> Iterator[None]:
        """Keep what goes in and out of the layers while a batch is put through the model.

        Raises:
            NotByExampleError: what goes through a layer is not laid out by example.
        """
        self._calls = {module: [] for module in self._names}

        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            given = inputs[0].detach()
            if isinstance(module, nn.Embedding) and len(given) == 1 < examples:
                # The same positions for all examples.
                given = given.expand(examples, *given.shape[1:])
                output = output.expand(examples, *output.shape[1:])
            if len(output) != examples or output.dim() > 3:
                raise NotByExampleError
            if not output.requires_grad:
                output = output.clone().requires_grad_()
            self._calls[module].append(_Call(given, output))
            return output

        hooks = [module.register_forward_hook(keep) for module in self._names]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        if not all(self._calls.values()):
            raise NotByExampleError

    def add_squares(self, outcome: Tensor, sums: Mapping[str, Tensor], last: bool) -> None:
        """Add the squared gradient of each example's share in `outcome` to float32 sums.

        Args:
            outcome: the sum over examples of what is derived.
            sums: by name of parameter, in its shape.
            last: whether the graph may be let go.
        """
        calls = [call for each in self._calls.values() for call in each]
        outputs = [call.output for call in calls]
        gradients = iter(
            torch.autograd.grad(
                outcome, outputs, retain_graph=not last, allow_unused=True, materialize_grads=True
            )
        )
        for module, names in self._names.items():
            # A layer that is used several times sees the tokens of all uses.
            parts = [
                (_tokens(call.inputs, module), _tokens(next(gradients)))
                for call in self._calls[module]
            ]
            inputs = torch.cat([part[0] for part in parts], dim=1)
            flow = torch.cat([part[1] for part in parts], dim=1)
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


def _tokens(values: Tensor, module: nn.Module | None = None) -> Tensor:
    """As [examples, tokens, ...]: a layer behind the pooling sees one token of each example."""
    wanted = 2 if isinstance(module, nn.Embedding) else 3
    return values if values.dim() == wanted else values.unsqueeze(1)


def _add_products(sums: Tensor, inputs: Tensor, flow: Tensor) -> None:
    """Add the squares of flow^T inputs [out, in] of each example."""
    step = max(1, _ROOM[sums.device.type] // sums.numel())
    room = sums.new_empty((step, *sums.shape))
    for start in range(0, len(flow), step):
        left = flow[start : start + step].transpose(1, 2)
        products = torch.bmm(left, inputs[start : start + step], out=room[: len(left)])
        if len(left) == 1:
            sums.addcmul_(products[0], products[0])
        else:
            sums += products.square_().sum(dim=0)


def _add_rows(sums: Tensor, tokens: Tensor, flow: Tensor, padding: int | None) -> None:
    """Add the squares of each example's gradient of the rows of an embedding.

    Of a token that an example has n times, the sum of its gradients counts n times one n-th.
    """
    same = (tokens.unsqueeze(1) == tokens.unsqueeze(2)).to(flow.dtype)
    squares = torch.bmm(same, flow).square_() / same.sum(dim=2, keepdim=True)
    if padding is not None:
        squares[tokens == padding] = 0
    # On the CPU, where the order of additions is fixed.
    rows = torch.zeros(sums.shape, dtype=sums.dtype) if sums.device.type != "cpu" else sums
    rows.index_add_(0, tokens.flatten().cpu(), squares.flatten(0, 1).cpu())
    if rows is not sums:
        sums += rows.to(sums.device)
