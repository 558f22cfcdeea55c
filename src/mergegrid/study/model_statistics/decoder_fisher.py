"""Diagonal Fisher information of a decoder (arXiv 2111.09832, section 3).

For each sequence x, a target y_t is drawn from p(. | x_<t) at every counted token, and

    F = mean_x (d sum_t log p(y_t | x_<t) / d theta)^2.

Targets come from the model's own distribution, not from the text: with the text's tokens it would
be the empirical Fisher information, which is another matrix (Kunstner et al. 2019, "Limitations of
the Empirical Fisher Approximation", arXiv 1905.12558). The terms of a sequence are independent and
their means are zero, so that the expectation of the square of the sum is the sum of the
expectations of the squares: the estimate is unbiased.

The uniform number behind y_t is a function of seed, number of the sequence and t (Philox).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mergegrid.hashing import digest
from mergegrid.progress import progress
from mergegrid.study.model_statistics.calibration import TokenSequence
from mergegrid.study.model_statistics.hidden_states import HiddenStates
from mergegrid.study.model_statistics.statistics_writer import StatisticsWriter
from mergegrid.study.model_statistics.streamed_decoder import StreamedDecoder

#: Positions whose logits are in memory at a time.
LOGITS = 128
#: Elements of a gradient that are squared in float64 at a time.
_CHUNK = 1 << 22


def fisher_slots(depth: int) -> int:
    """Slots of hidden states: the inputs of all blocks and of the tail, and gradients."""
    return depth + 2


class FisherPass:
    """One pass forward and one back over the blocks of a decoder.

    Args:
        decoder: the model.
        sequences: what it reads.
        writers: files by the number of sequences that they are gathered from.
        states: has `fisher_slots` slots.
        seed: seed of the targets.
    """

    def __init__(
        self,
        decoder: StreamedDecoder,
        sequences: Sequence[TokenSequence],
        writers: Mapping[int, StatisticsWriter],
        states: HiddenStates,
        seed: int = 0,
    ) -> None:
        self._decoder, self._parts = decoder, decoder.parts
        self._device, self._states, self._writers = decoder.device, states, writers
        self._seed = seed
        self._ids = [torch.tensor([s.ids], device=self._device) for s in sequences]
        self._positions = [s.positions for s in sequences]
        self._targets: list[Tensor] = []
        self._gradients = decoder.depth + 1

    def run(self) -> None:
        """Gather the information, and write every parameter's."""
        front = self._forward()
        self._tail([name for name in self._parts.tail_names if name not in front])
        between = self._decoder.between()
        depth = self._decoder.depth
        for index in progress(reversed(range(depth)), "Fisher information of blocks", depth):
            self._block(index, between)
        self._front(front)

    def _forward(self) -> list[str]:
        """Keep the inputs of all blocks; return the names of the parameters of the front."""
        parts, states = self._parts, self._states
        outer = self._decoder.weights(parts.outer_names, parts.outer_names)
        first = parts.front(self._ids[0][:, :1], outer)
        gradients = torch.autograd.grad(first.sum(), list(outer.values()), allow_unused=True)
        front = [
            name for name, gradient in zip(outer, gradients, strict=True) if gradient is not None
        ]
        del first, gradients
        with torch.no_grad():
            for row, ids in enumerate(self._ids):
                states.write(0, row, parts.front(ids, outer))
            del outer
            between = self._decoder.between()
            for index in range(self._decoder.depth):
                weights = self._decoder.weights(parts.block_names[index])
                for row in range(len(self._ids)):
                    inputs = states.read(index, row).to(self._device)
                    states.write(index + 1, row, parts.block(index, inputs, weights, between))
        return front

    def _tail(self, names: Sequence[str]) -> None:
        """Draw targets; square the gradients of what comes after the blocks only."""
        weights = self._decoder.weights(self._parts.tail_names, names)
        squares = _Squares({name: weights[name] for name in names})
        for row in range(len(self._ids)):
            output, *gradients = self._tail_gradients(row, weights, names, with_states=True)
            self._states.write(self._gradients, row, output)
            squares.add(gradients)
            self._write(row, squares)

    def _block(self, index: int, between: Mapping[str, Tensor]) -> None:
        names = self._parts.block_names[index]
        weights = self._decoder.weights(names, names)
        squares = _Squares(weights)
        for row in range(len(self._ids)):
            inputs = self._states.read(index, row).to(self._device).requires_grad_()
            output = self._parts.block(index, inputs, weights, between)
            above = self._states.read(self._gradients, row).to(self._device)
            below, *gradients = torch.autograd.grad(
                output, [inputs, *weights.values()], above, allow_unused=True
            )
            del output
            self._states.write(self._gradients, row, below)
            squares.add(gradients)
            self._write(row, squares)

    def _front(self, names: Sequence[str]) -> None:
        """Square the gradients of the embeddings, which may be the output layer's, too."""
        parts = self._parts
        tied = [name for name in names if parts.is_tied and name == parts.head_name]
        weights = self._decoder.weights(parts.tail_names if tied else names, names)
        squares = _Squares({name: weights[name] for name in names})
        for row, ids in enumerate(self._ids):
            states = parts.front(ids, weights)
            above = self._states.read(self._gradients, row).to(self._device)
            gradients = list(torch.autograd.grad(states, [weights[n] for n in names], above))
            del states
            for name, more in zip(tied, self._tail_gradients(row, weights, tied), strict=True):
                gradients[names.index(name)] += more
            squares.add(gradients)
            self._write(row, squares)

    def _tail_gradients(
        self,
        row: int,
        weights: Mapping[str, Tensor],
        names: Sequence[str],
        with_states: bool = False,
    ) -> list[Tensor]:
        """Gradients of sum_t log p(y_t | x_<t), of the tail's inputs first if `with_states`."""
        if not names and not with_states:
            return []
        states = self._states.read(self._decoder.depth, row).to(self._device)
        sources = [weights[name] for name in names]
        if with_states:
            sources = [states.requires_grad_(), *sources]
        drawn = len(self._targets) > row
        totals: list[Tensor] = []
        targets: list[Tensor] = []
        places = self._positions[row].nonzero().squeeze(1)
        for start in range(0, len(places), LOGITS):
            some = places[start : start + LOGITS]
            mask = torch.zeros_like(self._positions[row])
            mask[some] = True
            logits = self._parts.tail(states, mask.to(self._device), weights)
            if drawn:
                chosen = self._targets[row][start : start + LOGITS]
            else:
                chosen = self._draw(row, some, logits.detach())
                targets.append(chosen)
            logs = logits.float().log_softmax(dim=-1)
            outcome = logs.gather(1, chosen.to(self._device).unsqueeze(1)).sum()
            gradients = torch.autograd.grad(outcome, sources)
            del logits, logs, outcome
            if totals:
                for total, more in zip(totals, gradients, strict=True):
                    total += more
            else:
                totals = list(gradients)
        if not drawn:
            self._targets.append(torch.cat(targets))
        return totals

    def _draw(self, row: int, places: Tensor, logits: Tensor) -> Tensor:
        """Targets [positions], by the inverse of the distribution function in float64."""
        uniforms = target_uniforms(self._seed, row, len(self._positions[row]))[places]
        # On the CPU, where sums have a fixed order.
        rising = logits.to("cpu", torch.float64).softmax(dim=-1).cumsum(dim=-1)
        levels = uniforms.unsqueeze(1) * rising[:, -1:]
        last = rising.shape[-1] - 1
        return torch.searchsorted(rising, levels, right=True).squeeze(1).clamp_max(last)

    def _write(self, row: int, squares: "_Squares") -> None:
        writer = self._writers.get(row + 1)
        if writer is None:
            return
        for name, total in squares.sums.items():
            if name in writer:
                writer.write(name, total, row + 1)


class _Squares:
    """Sums of squared gradients in float64."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.sums = {
            name: torch.zeros(value.shape, dtype=torch.float64, device=value.device)
            for name, value in parameters.items()
        }

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Add the squares of the gradients of one sequence; unused parameters have None."""
        for total, gradient in zip(self.sums.values(), gradients, strict=True):
            if gradient is None:
                continue
            flat, values = total.view(-1), gradient.reshape(-1)
            for start in range(0, len(flat), _CHUNK):
                part = values[start : start + _CHUNK].double()
                flat[start : start + _CHUNK].addcmul_(part, part)


def target_uniforms(seed: int, row: int, length: int) -> Tensor:
    """Uniform numbers [length] for the targets of a sequence."""
    key = int(digest(["fisher targets", seed, row])[:32], 16)
    generator = np.random.Generator(np.random.Philox(key=key))
    return torch.from_numpy(generator.random(length))
