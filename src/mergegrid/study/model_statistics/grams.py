"""Gram matrices of the inputs of an expert's linear layers (arXiv 2212.09849, section 3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mergegrid.study.model_statistics.accumulator import stored_mean
from mergegrid.study.tasks.encoding import Batch


class GramMatrices:
    """Means over tokens of x x^T [in, in], by name of the layer's weight.

    Layers after the pooling see one token per text. With `padding`, padding tokens count too, as in
    the code of arXiv 2311.03099.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], padding: bool) -> None:
        self._model, self._padding = model, padding
        self._layers = {
            f"{name}.weight": module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and f"{name}.weight" in names
        }
        self._sums: dict[str, Tensor] = {}
        self._tokens = dict.fromkeys(self._layers, 0)
        # Query, key and value share their inputs, so the last product is often the next one too.
        self._last: tuple[Tensor, Tensor, int] | None = None

    def add(self, batch: Batch, labels: Tensor) -> None:
        """Add a batch; labels have no influence."""
        mask = None if self._padding else batch.inputs["attention_mask"].bool()

        def add_product(name: str, inputs: Tensor) -> None:
            if self._last is None or self._last[0] is not inputs:
                self._last = (inputs, *_product(inputs, mask))
            _, product, tokens = self._last
            if name not in self._sums:
                self._sums[name] = torch.zeros_like(product, dtype=torch.float64)
            self._sums[name] += product
            self._tokens[name] += tokens

        hooks = [
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: add_product(name, inputs[0])
            )
            for name, module in self._layers.items()
        ]
        try:
            with torch.inference_mode():
                self._model(**batch.inputs)
        finally:
            self._last = None
            for hook in hooks:
                hook.remove()

    def tensors(self, examples: int) -> dict[str, Tensor]:
        """Return the matrices of the examples so far, for the layers that were used."""
        return {name: stored_mean(total, self._tokens[name]) for name, total in self._sums.items()}


def _product(inputs: Tensor, mask: Tensor | None) -> tuple[Tensor, int]:
    """Sum x x^T over tokens; return it with the number of tokens."""
    # After the pooling, inputs are [texts, width], which may happen to be the shape of the mask.
    if mask is not None and inputs.dim() == 3 and inputs.shape[:2] == mask.shape:
        tokens = inputs[mask]
    else:
        tokens = inputs.reshape(-1, inputs.shape[-1])
    return tokens.T @ tokens, len(tokens)
