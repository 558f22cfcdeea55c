"""The tensors of a merge with their places in the model, and the numbers that they get."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.layers import Layer, layer_of
from mergegrid.engine.values import ByTensor, Gradient, part_for


class Tensors(Mapping[str, TensorInfo]):
    """Shape and dtype of all tensors of a model, in order, and values resolved for them."""

    def __init__(self, infos: Mapping[str, TensorInfo]) -> None:
        self._infos = infos
        self._layers: dict[str, Layer] | None = None
        self._last: dict[str, int] = {}
        # By the id of a value, which is held so that no other gets its id.
        self._numbers: dict[tuple[int, str], tuple[Any, float]] = {}

    def __getitem__(self, name: str) -> TensorInfo:
        return self._infos[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def count(self, names: Iterable[str]) -> int:
        """Elements of some tensors."""
        return sum(self._infos[name].count for name in names)

    def number(self, value: Any, name: str) -> float:
        """The number that a value (see `engine.values`) is for a tensor, computed once."""
        if not isinstance(value, Gradient | ByTensor):
            number: float = value
            return number
        key = id(value), name
        if key not in self._numbers:
            part = part_for(value, name)
            number = part.at(self.depth(name)) if isinstance(part, Gradient) else part
            self._numbers[key] = value, number
        return self._numbers[key][1]

    def numbers(self, values: Mapping[str, Any], experts: Iterable[str], name: str) -> list[float]:
        """The numbers of experts for a tensor; 1 for an expert without a value."""
        return [self.number(values.get(expert, 1.0), name) for expert in experts]

    def depth(self, name: str) -> float:
        """Depth of a tensor in its stack of layers: 0 in the first layer, 1 in the last.

        0 for tensors outside layers; 1 in the only layer of a stack.
        """
        layers = self.layers()
        if name not in layers:
            return 0.0
        stack, number = layers[name]
        return number / self._last[stack] if self._last[stack] else 1.0

    def layers(self) -> Mapping[str, Layer]:
        """The layers of all tensors that are in one."""
        if self._layers is None:
            layers = {name: layer for name in self._infos if (layer := layer_of(name))}
            for stack, number in layers.values():
                self._last[stack] = max(number, self._last.get(stack, 0))
            self._layers = layers
        return self._layers
