"""A decoder of transformers in three parts that run one after the other: front, blocks, tail.

The front turns tokens into the hidden states that the first block gets, a block turns hidden states
into hidden states, and the tail turns the last ones into logits. The model itself has no weights:
every call brings those that it needs, so that only one block is in memory at a time.

Beyond the documented interface of transformers this relies on the following, which
`test_decoder_blocks_compat.py` checks for several architectures, and `SplitDecoder.check` for the
model at hand before any work:

- the blocks are the items of one `ModuleList`, as many as `num_hidden_layers`;
- the model calls each once, in order, with the hidden states [1, tokens, width] as first argument;
- a block gets what the block before it returned, or the first item of a tuple, unchanged;
- its other arguments follow from the positions alone, not from hidden states or tokens.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PretrainedConfig

from mergegrid.study.runtime.transformers_compat import output_layer_only_at

Weights = Mapping[str, Tensor]
"""Parameters by their names in the model."""
_CLASSES: Any = AutoModelForCausalLM
_PROBED = 5


class UnsplittableError(Exception):
    """A model does not run block by block; the message says why."""


class _Reached(Exception):  # noqa: N818
    """Ends a pass through the model where the rest of it is not needed."""


class SplitDecoder:
    """The parts of a causal language model.

    Args:
        config: configuration of the model.
        device: where it computes.

    Raises:
        UnsplittableError: transformers has no such class, or it does not have these parts.
    """

    def __init__(self, config: PretrainedConfig, device: str = "cpu") -> None:
        try:
            # Buffers, such as the frequencies of rotary embeddings, get their values.
            with init_empty_weights(include_buffers=False):
                model: Any = _CLASSES.from_config(config, dtype=torch.float32)
        except (ValueError, TypeError) as error:
            raise UnsplittableError(str(error).splitlines()[0]) from error
        model.tie_weights()
        self._model = model.eval()
        self.config, self.device = model.config, torch.device(device)
        prefix, self._blocks = _blocks(model)
        first = inspect.signature(self._blocks[0].forward).parameters
        self._states_key = next(iter(first))
        self._buffers = {name: buffer.to(device) for name, buffer in model.named_buffers()}
        names = [name for name, _ in model.named_parameters()]
        self.block_names: list[list[str]] = [
            [name for name in names if name.startswith(f"{prefix}.{index}.")]
            for index in range(len(self._blocks))
        ]
        """Names of the parameters of each block."""
        inside = {name for block in self.block_names for name in block}
        self.outer_names = [name for name in names if name not in inside]
        """Names of the other parameters: of the embeddings, the last norm and the output layer."""
        self.shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
        """Shapes of all parameters."""
        self._prefixes = [f"{prefix}.{index}." for index in range(len(self._blocks))]
        self._embedding, self._head = model.get_input_embeddings(), model.get_output_embeddings()
        if self._embedding is None or self._head is None:
            raise UnsplittableError("it has no input or no output embeddings")
        name_of: dict[int, str] = {id(value): name for name, value in model.named_parameters()}
        self.embedding_name: str = name_of[id(self._embedding.weight)]
        """Name of the input embeddings."""
        self.head_name: str = name_of[id(self._head.weight)]
        """Name of the output embeddings, which may be the input embeddings."""
        self._in_tuple = False
        self._arguments: tuple[int, list[tuple[Any, Any]]] = (0, [])

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return int(self.shapes[self.embedding_name][1])

    @property
    def is_tied(self) -> bool:
        """Whether the output embeddings are the input embeddings."""
        return self.head_name == self.embedding_name

    @property
    def tail_names(self) -> list[str]:
        """Names of the parameters that `tail` needs."""
        names = self.outer_names
        return [name for name in names if self.is_tied or name != self.embedding_name]

    @property
    def between_names(self) -> list[str]:
        """Names of the parameters that `block` may need besides a block's, such as positions."""
        matrices = (self.embedding_name, self.head_name)
        return [name for name in self.outer_names if name not in matrices]

    def block_modules(self, index: int) -> dict[str, nn.Module]:
        """The modules of a block by their names in the model."""
        prefix = self._prefixes[index]
        return {prefix + name: module for name, module in self._blocks[index].named_modules()}

    @property
    def head(self) -> nn.Module:
        """The output layer."""
        module: nn.Module = self._head
        return module

    def check(self, outer: Weights, first_block: Weights) -> None:
        """Check that the model runs block by block.

        Args:
            outer: the parameters outside of blocks.
            first_block: those of the first block.

        Raises:
            UnsplittableError: it does not.
        """
        ids = torch.arange(_PROBED, device=self.device).unsqueeze(0) % 2
        between = {name: outer[name] for name in self.between_names}
        with torch.no_grad():
            states = self.front(ids, outer)
            if states.shape != (1, _PROBED, self.width):
                raise UnsplittableError(
                    f"its first block gets hidden states of shape {tuple(states.shape)}, not of "
                    f"(1, {_PROBED}, {self.width})"
                )
            (args, kwargs), *_ = self._calls(_PROBED, between)
            weights = {**first_block, **self._buffers}
            output = self._call(0, weights, states, args, kwargs)
            self._in_tuple = isinstance(output, tuple)
            if _first(output).shape != states.shape:
                raise UnsplittableError("its first block changes the shape of hidden states")
            generator = torch.Generator().manual_seed(0)
            passes = [self._probe(ids, outer, generator) for _ in range(2)]
        for index, pair in enumerate(zip(*passes, strict=True)):
            one, two = map(tree_leaves, pair)
            if len(one) != len(two) or not all(map(_equal, one, two)):
                raise UnsplittableError(
                    f"block {index} gets more than the output of the block before it"
                )

    def front(self, ids: Tensor, weights: Weights) -> Tensor:
        """The hidden states [1, tokens, width] that the first block gets for token ids [1, tokens].

        `weights` holds the parameters outside of blocks; they may require gradients.
        """
        outputs: list[Tensor] = []

        def stop(index: int, states: Tensor, args: Any, kwargs: Any) -> Any:
            outputs.append(states)
            raise _Reached

        self._run(stop, weights, input_ids=ids)
        return outputs[0]

    def block(self, index: int, states: Tensor, weights: Weights, between: Weights) -> Tensor:
        """The output of a block for hidden states [1, tokens, width].

        `weights` holds its parameters, and `between` those of `between_names`.
        """
        args, kwargs = self._calls(states.shape[1], between)[index]
        return _first(self._call(index, {**weights, **self._buffers}, states, args, kwargs))

    def tail(self, states: Tensor, positions: Tensor, weights: Weights) -> Tensor:
        """Logits [selected, vocabulary] for the output [1, tokens, width] of the last block.

        Args:
            states: output of the last block.
            positions: boolean mask [tokens - 1]; the last token predicts nothing.
            weights: the parameters of `tail_names`.
        """
        with output_layer_only_at(self._model, positions.unsqueeze(0)):
            logits: Tensor = self._run_tail(states, weights).logits[0]
        return logits

    def head_inputs(self, states: Tensor, positions: Tensor, between: Weights) -> Tensor:
        """What the output layer gets at some positions [selected, width]; see `tail`.

        `between` holds the parameters of `between_names`: the output layer itself is not needed.
        """
        inputs: list[Tensor] = []

        def stop(_: nn.Module, arguments: tuple[Tensor]) -> None:
            inputs.append(arguments[0][0])
            raise _Reached

        with output_layer_only_at(self._model, positions.unsqueeze(0)):
            hook = self._head.register_forward_pre_hook(stop)
            try:
                self._run_tail(states, between)
            finally:
                hook.remove()
        return inputs[0]

    def _run_tail(self, states: Tensor, weights: Weights) -> Any:
        last = len(self._blocks) - 1

        def replace(index: int, given: Tensor, args: Any, kwargs: Any) -> Any:
            return states if index == last else given

        # Without a graph of their own, the zeros add nothing to gradients.
        zeros = torch.zeros(states.shape, device=self.device)
        return self._run(replace, weights, inputs_embeds=zeros)

    def _calls(self, tokens: int, between: Weights) -> list[tuple[Any, Any]]:
        """What the blocks get besides hidden states of a length; that of the last call is kept."""
        if self._arguments[0] != tokens:
            calls: list[tuple[Any, Any]] = []

            def record(index: int, states: Tensor, args: Any, kwargs: Any) -> Any:
                calls.append((args, kwargs))
                if index == len(self._blocks) - 1:
                    raise _Reached
                return states

            zeros = torch.zeros(1, tokens, self.width, device=self.device)
            with torch.no_grad():
                self._run(record, between, inputs_embeds=zeros)
            self._arguments = tokens, calls
        return self._arguments[1]

    def _probe(self, ids: Tensor, outer: Weights, generator: torch.Generator) -> list[Any]:
        """The arguments of all blocks where each returns noise.

        Raises:
            UnsplittableError: a block does not get what the block before it returned.
        """
        calls: list[Any] = []
        returned: list[Tensor] = []

        def noise(index: int, states: Tensor, args: Any, kwargs: Any) -> Any:
            if returned and (
                states.shape != returned[-1].shape or not torch.equal(states, returned[-1])
            ):
                raise UnsplittableError(
                    f"block {index} does not get what block {index - 1} returns"
                )
            calls.append((args, kwargs))
            returned.append(torch.randn(states.shape, generator=generator).to(states))
            if index == len(self._blocks) - 1:
                raise _Reached
            return returned[-1]

        self._run(noise, outer, input_ids=ids)
        if len(calls) != len(self._blocks):
            raise UnsplittableError(f"{len(calls)} of its {len(self._blocks)} blocks are called")
        return calls

    def _call(
        self, index: int, weights: Weights, states: Tensor, args: Any, kwargs: Mapping[str, Any]
    ) -> Any:
        prefix = self._prefixes[index]
        inner = {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix)
        }
        return functional_call(self._blocks[index], inner, (states, *args), dict(kwargs))

    def _run(self, instead: Any, weights: Weights, **inputs: Tensor) -> Any:
        """Run the model with something else instead of each block."""
        with self._replaced(instead):
            try:
                return functional_call(
                    self._model,
                    {**self._buffers, **weights},
                    kwargs={**inputs, "use_cache": False, "return_dict": True},
                    tie_weights=True,
                )
            except _Reached:
                return None

    @contextmanager
    def _replaced(self, instead: Any) -> Iterator[None]:
        def forward(index: int) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                if not args:
                    args = (kwargs.pop(self._states_key),)
                output = instead(index, args[0], args[1:], kwargs)
                return (output,) if self._in_tuple else output

            return call

        for index, block in enumerate(self._blocks):
            block.forward = forward(index)
        try:
            yield
        finally:
            for block in self._blocks:
                del block.forward


def _blocks(model: nn.Module) -> tuple[str, Sequence[Any]]:
    """The list of blocks, and its name."""
    count = getattr(model.config, "num_hidden_layers", None)
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    outermost = [
        (name, module)
        for name, module in lists
        if not any(name.startswith(f"{other}.") for other, _ in lists)
    ]
    if len(outermost) != 1:
        raise UnsplittableError(
            f"{type(model).__name__} has {len(outermost)} lists of {count} blocks, not one"
        )
    name, blocks = outermost[0]
    return name, list(blocks)


def _first(output: Any) -> Tensor:
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return torch.equal(one, two)
    return bool(one is two or type(one) is type(two))
