"""Gram matrices of the inputs of a decoder's linear layers (arXiv 2212.09849, section 3).

The matrix of a layer is the mean of x x^T [in, in] over the positions from which counted tokens are
predicted. Output embeddings have one, too, unless they are the input embeddings.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.errors import CheckpointError
from mergegrid.progress import progress
from mergegrid.study.model_statistics.calibration import TokenSequence
from mergegrid.study.model_statistics.hidden_states import HiddenStates
from mergegrid.study.model_statistics.statistics_writer import StatisticsWriter
from mergegrid.study.model_statistics.streamed_decoder import StreamedDecoder


def gram_infos(decoder: StreamedDecoder, names: Sequence[str]) -> dict[str, TensorInfo]:
    """The matrices of the layers whose weights are among `names`.

    Raises:
        CheckpointError: a block has no linear layer that regmean can merge.
    """
    infos = {}
    for index in range(decoder.depth):
        layers = decoder.linear_layers(index)
        if not layers:
            raise CheckpointError(
                f"block {index} has no layer of class Linear (GPT-2 keeps its matrices "
                "transposed), so there is nothing that regmean merges; use fisher instead"
            )
        infos.update({name: layer.in_features for name, layer in layers.items()})
    if not decoder.parts.is_tied and isinstance(decoder.parts.head, nn.Linear):
        infos[decoder.parts.head_name] = decoder.parts.head.in_features
    return {
        name: TensorInfo((width, width), DTYPES["float32"])
        for name, width in infos.items()
        if name in names
    }


def gather_grams(
    decoder: StreamedDecoder,
    sequences: Sequence[TokenSequence],
    writers: Mapping[int, StatisticsWriter],
    infos: Mapping[str, TensorInfo],
    states: HiddenStates,
) -> None:
    """Gather the Gram matrices in one pass over the blocks.

    Args:
        decoder: the model.
        sequences: what it reads.
        writers: files by the number of sequences that they are gathered from.
        infos: see `gram_infos`.
        states: has one slot.
    """
    parts, device = decoder.parts, decoder.device
    ids = [torch.tensor([sequence.ids], device=device) for sequence in sequences]
    masks = [sequence.positions.to(device) for sequence in sequences]
    with torch.no_grad():
        outer = decoder.weights(parts.outer_names)
        for row, tokens in enumerate(ids):
            states.write(0, row, parts.front(tokens, outer))
        del outer
        between = decoder.between()
        for index in progress(range(decoder.depth), "Gram matrices of blocks", decoder.depth):
            weights = decoder.weights(parts.block_names[index])
            layers = decoder.linear_layers(index)
            grams = _Grams({name: layer for name, layer in layers.items() if name in infos})
            for row, mask in enumerate(masks):
                with grams.recorded(mask):
                    output = parts.block(index, states.read(0, row).to(device), weights, between)
                states.write(0, row, output)
                if row + 1 in writers:
                    grams.write(writers[row + 1])
        if parts.head_name in infos:
            grams = _Grams({})
            for row, mask in enumerate(masks):
                inputs = states.read(0, row).to(device)
                grams.add(parts.head_name, parts.head_inputs(inputs, mask, between))
                if row + 1 in writers:
                    grams.write(writers[row + 1])


class _Grams:
    """Running sums of x x^T; layers that share their inputs share a sum."""

    def __init__(self, layers: Mapping[str, nn.Linear]) -> None:
        self._layers = layers
        self._sums: dict[str, Tensor] = {}
        self._positions: dict[str, int] = {}
        self._shared: dict[str, str] = {}

    def add(self, name: str, inputs: Tensor) -> None:
        """Add the inputs [positions, in] of a layer for one sequence."""
        product = inputs.T @ inputs
        if name not in self._sums:
            self._sums[name] = torch.zeros_like(product, dtype=torch.float64)
        self._sums[name] += product
        self._positions[name] = self._positions.get(name, 0) + len(inputs)

    @contextmanager
    def recorded(self, mask: Tensor) -> Iterator[None]:
        """Add the inputs of the layers for one sequence, at the positions of a mask [tokens - 1].

        Query, key and value share their inputs.
        """
        last: tuple[str, Tensor] | None = None

        def see(name: str, inputs: Tensor) -> None:
            nonlocal last
            if last is not None and last[1] is inputs:
                self._shared[name] = last[0]
                return
            last = name, inputs
            self.add(name, inputs[0, :-1][mask])

        hooks = [
            layer.register_forward_pre_hook(lambda _, inputs, name=name: see(name, inputs[0]))
            for name, layer in self._layers.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def write(self, writer: StatisticsWriter) -> None:
        """Write the means so far."""
        for name in (*self._sums, *self._shared):
            first = self._shared.get(name, name)
            writer.write(name, self._sums[first], self._positions[first])
