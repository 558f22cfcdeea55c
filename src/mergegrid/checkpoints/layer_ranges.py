"""Stacked layers: models whose layers are ranges of the layers of others, without copying them.

A model of 28 layers from two models of 24, of which layers 8 to 15 are merged:

    layers:
      - {math: [0, 8]}                    # the first eight layers of one model, as they are
      - {base: [8, 16], math: [8, 16], code: [8, 16]}
      - {code: [12, 24]}

Every model of a merge becomes a checkpoint of the new layers, under the names that they have in
the output. In a slice of one model, all of them have its layers; so there is nothing to merge.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mergegrid.checkpoints.checkpoint import Change, Checkpoint
from mergegrid.checkpoints.dtypes import Stored
from mergegrid.checkpoints.layers import is_embedding, layer_of
from mergegrid.errors import CheckpointError

LayerRange = tuple[int, int]
"""First layer and end: [8, 16] is layers 8 to 15."""
Slice = dict[str, LayerRange]
"""Layers of models, by `base` and the names of experts."""
_BASE = ""


def check_slices(slices: Sequence[Slice], experts: Sequence[str]) -> None:
    """Check that slices have layers of all models, or of one.

    Raises:
        ValueError: a slice has other models, or ranges that are empty or of different lengths.
    """
    models = ("base", *sorted(experts))
    for number, ranges in enumerate(slices):
        where = f"output.layers.{number}"
        strangers = sorted(set(ranges) - set(models))
        if strangers:
            raise ValueError(
                f"{where} refers to {strangers[0]}, which is not an expert; choose among "
                f"{', '.join(models)}"
            )
        if len(ranges) not in (1, len(models)):
            raise ValueError(
                f"{where} has layers of {' and '.join(ranges) or 'no model'}; give those of all "
                f"models ({', '.join(models)}), which are merged, or of one, which are taken as "
                "they are"
            )
        for model, (start, stop) in ranges.items():
            if not 0 <= start < stop:
                raise ValueError(
                    f"{where}.{model} = [{start}, {stop}] is empty; the end is the layer after the "
                    "last: [0, 2] is layers 0 and 1"
                )
        lengths = {stop - start for start, stop in ranges.values()}
        if len(lengths) > 1:
            raise ValueError(
                f"{where} has ranges of {' and '.join(map(str, sorted(lengths)))} layers; layers "
                "are merged one by one, so give ranges of equal length"
            )


class Stacked(Checkpoint):
    """Tensors of several checkpoints under new names.

    Args:
        tensors: checkpoint and name of each tensor there, by its new name.
        model: the checkpoint whose folder this one is verified by.
        base: the same for the base that this model is merged with, if it is an expert.
    """

    def __init__(
        self,
        tensors: Mapping[str, tuple[Checkpoint, str]],
        model: Checkpoint,
        base: "Stacked | None" = None,
    ) -> None:
        super().__init__({new: source.infos[name] for new, (source, name) in tensors.items()})
        self.tensors, self.model = dict(tensors), model
        self._base = base
        self._sources = list({id(source): source for source, _ in tensors.values()}.values())

    def read(self, name: str, start: int, stop: int, buffer: Stored) -> Any:
        """Read elements of a tensor by its new name."""
        source, stored = self.tensors[name]
        return source.read(stored, start, stop, buffer)

    def stored_name(self, name: str) -> str:
        """The name of a tensor in the file of the model; "" for a tensor of another model."""
        source, stored = self.tensors[name]
        return source.stored_name(stored) if source is self.model else ""

    def change(self, name: str) -> Change | None:
        """How a tensor follows from the base's, if both stand at the same place of their models."""
        source, stored = self.tensors[name]
        if self._base is None or source is not self.model:
            return None
        base, base_stored = self._base.tensors[name]
        same = base is self._base.model and base_stored == stored
        return source.change(stored) if same else None

    def read_bytes(self, name: str) -> int:
        """Bytes that are read for a whole tensor."""
        source, stored = self.tensors[name]
        return source.read_bytes(stored)

    @property
    def open_bytes(self) -> int:
        """Memory that each thread holds besides chunks."""
        return max(source.open_bytes for source in self._sources)

    @property
    def arrays(self) -> int:
        """Number of arrays in memory for a chunk of a tensor."""
        return max(source.arrays for source in self._sources)


def stack(models: Mapping[str, Checkpoint], slices: Sequence[Slice]) -> dict[str, Stacked]:
    """The models of a merge with the layers of slices.

    Embeddings are those of the models of the first slice, and the other tensors outside layers
    those of the last, as in mergekit.

    Args:
        models: the base, under the name "", and the experts, with equal tensors.
        slices: see `check_slices`.

    Raises:
        CheckpointError: the layers of the models are not of one kind, or a range exceeds them.
    """
    base = models[_BASE]
    prefix, parts, count = _layers(base)
    for number, ranges in enumerate(slices):
        for model, (start, stop) in ranges.items():
            if stop > count:
                raise CheckpointError(
                    f"output.layers.{number}.{model} = [{start}, {stop}] exceeds the {count} "
                    f"layers of the model; end at {count} or before"
                )
    stacked: dict[str, Stacked] = {}
    of_base: Stacked | None = None
    # The base comes first, because changes of the experts are relative to it.
    for model, checkpoint in sorted(models.items()):
        tensors: dict[str, tuple[Checkpoint, str]] = {}
        for name in base:
            if layer_of(name) is None:
                place = slices[0] if is_embedding(name) else slices[-1]
                tensors[name] = _source(models, model, place)[0], name
        for layer, (ranges, offset) in enumerate(_output_layers(slices)):
            source, start = _source(models, model, ranges)
            for part in parts:
                old, new = (f"{prefix}.{at}.{part}" for at in (start + offset, layer))
                tensors[new] = source, old
        stacked[model] = Stacked(tensors, checkpoint, of_base)
        of_base = of_base or stacked[model]
    return stacked


def layer_numbers(slices: Sequence[Slice]) -> list[set[int]]:
    """For every layer of the output, the numbers of the layers that it is merged from."""
    return [
        {start + offset for start, _ in ranges.values()}
        for ranges, offset in _output_layers(slices)
    ]


def _output_layers(slices: Sequence[Slice]) -> list[tuple[Slice, int]]:
    """Slice of every layer of the output, and its position in it."""
    return [
        (ranges, offset)
        for ranges in slices
        for start, stop in list(ranges.values())[:1]
        for offset in range(stop - start)
    ]


def _source(models: Mapping[str, Checkpoint], model: str, ranges: Slice) -> tuple[Checkpoint, int]:
    """The checkpoint that a model has its layers of a slice from, and the first of them."""
    name = model or "base"
    if len(ranges) == 1:
        (name,) = ranges
    return models[_BASE if name == "base" else name], ranges[name][0]


def _layers(base: Checkpoint) -> tuple[str, list[str], int]:
    """Prefix of the names of layers, the tensors of one layer, and the number of layers."""
    shapes: dict[str, dict[int, dict[str, tuple[int, ...]]]] = {}
    for name in base:
        if layer := layer_of(name):
            part = name.removeprefix(f"{layer.stack}.{layer.number}.")
            tensors = shapes.setdefault(layer.stack, {}).setdefault(layer.number, {})
            tensors[part] = base.infos[name].shape
    if len(shapes) != 1:
        what = f"several stacks of them ({', '.join(sorted(shapes))})" if shapes else "none"
        raise CheckpointError(
            f"layers are stacked in models with one stack of layers, and the base has {what}; "
            "remove output.layers"
        )
    ((prefix, by_number),) = shapes.items()
    first = by_number[min(by_number)]
    for number, tensors in sorted(by_number.items()):
        if tensors != first:
            raise CheckpointError(
                f"{prefix}.{number} of the base has other tensors or shapes than {prefix}."
                f"{min(by_number)}; only layers that are all alike can be stacked"
            )
    return prefix, list(first), len(by_number)
