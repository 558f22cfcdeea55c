"""The engine: recipes and checkpoints in, merged checkpoints out, in one pass over the inputs.

Tensors are cut into chunks. Threads read, merge, round, check and hand on chunks, each in buffers
of its own. What a sparsifier or method must know of whole tensors is computed in pre-passes that
read the same way. So memory depends on the number of threads and the size of chunks, not on the
model or its largest tensor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.checkpoints.compatibility import check_homologous
from mergegrid.checkpoints.dtypes import DTYPES, Dtype, Stored
from mergegrid.engine.bound_recipe import BoundRecipe, MergeRecipe
from mergegrid.engine.chunks import BASE, Chunk, OnRead
from mergegrid.engine.cutting import ChunkRange, cut_tensor, tasks, windows
from mergegrid.engine.ops.cpu import CpuOperations
from mergegrid.engine.ops.operations import GRAIN, Operations
from mergegrid.engine.prepass_runner import (
    PrepassResults,
    PrepassRunner,
    ResultKey,
    ScopedPrepass,
    about_single_tensors,
    before_windows,
)
from mergegrid.engine.workers import Workers, WorkerState
from mergegrid.errors import CheckpointError, ConfigError

STAGE_VERSIONS = {"merge": 1}

#: Elements of a chunk: enough that the interpreter's work for it is small beside the loops. Twice
#: as many are slower to write.
CHUNK_SIZE = 16 * GRAIN
#: Histograms that are open at a time, of 512 KiB each.
HISTOGRAMS = 128


class Sink(Protocol):
    """A destination of merged chunks, which several threads write to at once."""

    infos: Mapping[str, TensorInfo]
    """The tensors with the dtype that they are rounded to."""

    def write(self, name: str, start: int, stored: Stored) -> None:
        """Take elements of a tensor, rounded to its dtype."""


@dataclass(frozen=True)
class EngineOptions:
    """How a pass is carried out; no option changes a result."""

    threads: int = 1
    chunk_size: int = CHUNK_SIZE
    """Elements of a chunk, a multiple of GRAIN."""
    operations: Callable[[], Operations] = CpuOperations
    """Creates the arithmetic of one thread."""


class Engine:
    """Merges recipes over some models; results of pre-passes are shared between recipes.

    Args:
        base: the base, of which merged models have the tensors.
        experts: the experts by name.
        statistics: model statistics of the experts, for methods that need them.
        options: threads, chunk size and arithmetic.

    Raises:
        CheckpointError: an expert lacks a tensor of the base or has it in another shape.
        ConfigError: an expert has no name.
    """

    def __init__(
        self,
        base: Checkpoint,
        experts: Mapping[str, Checkpoint],
        statistics: Mapping[str, Checkpoint] | None = None,
        options: EngineOptions | None = None,
    ) -> None:
        if BASE in experts:
            raise ConfigError("an expert has an empty name; give it a name")
        for name, expert in experts.items():
            check_homologous(base, expert, name)
        self.base, self.options = base, options or EngineOptions()
        self.models: Mapping[str, Checkpoint] = {BASE: base, **experts}
        self.statistics = statistics or {}
        self.results: PrepassResults = {}

    def bind(
        self, recipe: MergeRecipe, statistics: Mapping[str, Checkpoint] | None = None
    ) -> BoundRecipe:
        """Bind a recipe to the models; `statistics` replace the engine's own.

        Raises:
            CheckpointError: the model statistics do not fit the method or the base.
            ConfigError: the recipe does not fit the models.
        """
        statistics = self.statistics if statistics is None else statistics
        return BoundRecipe(recipe, self.models, statistics, self.results)

    def checkpoint(
        self, recipe: MergeRecipe, statistics: Mapping[str, Checkpoint] | None = None
    ) -> "MergedCheckpoint":
        """The merged model of a recipe, each tensor computed on access."""
        return MergedCheckpoint(self, self.bind(recipe, statistics))

    def stream(
        self,
        outputs: Sequence[tuple[BoundRecipe, Sink]],
        on_read: OnRead | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Merge several recipes in one pass over the models, and hand every chunk to its sink.

        Args:
            outputs: recipes of this engine, and where their models go.
            on_read: called once for every chunk of a model that is merged.
            progress: called with the number of bytes of the models that have been processed.

        Raises:
            CheckpointError: a model cannot be read, or a merged element is not finite.
        """
        if not outputs:
            return
        recipes = [recipe for recipe, _ in outputs]
        whole_rows = any(recipe.whole_rows for recipe in recipes)
        steps = joint_steps(recipes)
        infos, chunk_size = self.base.infos, self.options.chunk_size
        sizes = {
            name: sum(model.read_bytes(name) for model in self.models.values()) for name in infos
        }

        def read(name: str, start: int, stop: int) -> int:
            count = infos[name].count
            return sizes[name] * stop // count - sizes[name] * start // count

        def work(state: WorkerState, task: list[ChunkRange]) -> int:
            for name, start, stop in task:
                state.ops.restart()
                _merge(Chunk(self.models, name, start, stop, state.ops, on_read), outputs)
            return sum(read(name, start, stop) for name, start, stop in task)

        with Workers(self.options.threads, self.options.operations) as workers:
            runner = PrepassRunner(
                self.models, self.results, workers, chunk_size, whole_rows, progress
            )
            known = set(self.results)
            for step in before_windows(steps):
                runner.run(step)
            for window in windows(infos, _tensors_at_once(steps, workers.threads)):
                for step in about_single_tensors(steps, window):
                    runner.run(step)
                for count in workers.map(work, tasks(infos, window, chunk_size, whole_rows)):
                    progress(count)
                for key in _keys(steps, window) & self.results.keys() - known:
                    del self.results[key]

    def run_prepasses(self, recipe: BoundRecipe) -> None:
        """Run all pre-passes of a recipe, and keep their results."""
        with Workers(self.options.threads, self.options.operations) as workers:
            runner = PrepassRunner(
                self.models, self.results, workers, self.options.chunk_size, recipe.whole_rows
            )
            for step in recipe.prepasses():
                runner.run(step)


class MergedCheckpoint(Checkpoint):
    """The float32 tensors of a merged model, each computed on access.

    It has the tensors of the base; task heads, which only experts have, are not merged.
    """

    def __init__(self, engine: Engine, recipe: BoundRecipe) -> None:
        super().__init__(
            {
                name: TensorInfo(info.shape, DTYPES["float32"])
                for name, info in engine.base.infos.items()
            }
        )
        self._engine, self._recipe = engine, recipe
        self._ops = engine.options.operations()
        self._prepared = False

    def read(self, name: str, start: int, stop: int, buffer: Stored) -> Any:
        """Merged elements, from a multiple of GRAIN on; whole rows where the recipe needs them."""
        return self._ops.values(self._merged(name, start, stop))

    def _merged(self, name: str, start: int, stop: int) -> Any:
        if not self._prepared:
            self._engine.run_prepasses(self._recipe)
            self._prepared = True
        self._ops.restart()
        return self._recipe.merge(Chunk(self._engine.models, name, start, stop, self._ops))

    def __getitem__(self, name: str) -> Any:
        info, chunk_size = self.infos[name], self._engine.options.chunk_size
        parts = (
            (start, self._merged(name, start, stop))
            for _, start, stop in cut_tensor(name, info, chunk_size, self._recipe.whole_rows)
        )
        return self._ops.join(parts, info.shape)


def joint_steps(recipes: Sequence[BoundRecipe]) -> list[list[ScopedPrepass]]:
    """Pre-passes of all recipes, step by step."""
    return [
        [prepass for part in parts for prepass in part]
        for parts in zip(*(recipe.prepasses() for recipe in recipes), strict=True)
    ]


def _keys(steps: Sequence[Sequence[ScopedPrepass]], names: Sequence[str]) -> set[ResultKey]:
    """Keys of the results of pre-passes that cover one of these tensors alone."""
    return {
        (scope, prepass.key, name)
        for step in about_single_tensors(steps, names)
        for scope, prepass in step
        for name in prepass.names
    }


def _tensors_at_once(steps: Sequence[Sequence[ScopedPrepass]], threads: int) -> int:
    """Number of tensors that may go through their pre-passes together."""
    if any(prepass.holds_matrices for step in steps for _, prepass in step):
        return threads
    per_tensor: dict[str, int] = {}
    for step in steps:
        for _, prepass in step:
            if len(prepass.names) == 1:
                per_tensor[prepass.names[0]] = per_tensor.get(prepass.names[0], 0) + 1
    return max(1, HISTOGRAMS // (threads * max(per_tensor.values(), default=1)))


def _merge(chunk: Chunk, outputs: Sequence[tuple[BoundRecipe, Sink]]) -> None:
    dtypes = [sink.infos[chunk.name].dtype for _, sink in outputs]
    merged = chunk.ops.store([recipe.merge(chunk) for recipe, _ in outputs], dtypes)
    for (_, sink), (stored, finite), dtype in zip(outputs, merged, dtypes, strict=True):
        if not finite:
            raise _not_finite(chunk, dtype)
        sink.write(chunk.name, chunk.start, stored)


def _not_finite(chunk: Chunk, dtype: Dtype) -> CheckpointError:
    # All models are checked, merged or not: a mask may drop the element, an election ignore it.
    for model in chunk.models:
        ((values, _),) = chunk.ops.store([chunk.weight(model)], [DTYPES["float32"]])
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            name = f"expert {model}" if model != BASE else "the base"
            return CheckpointError(
                f"{name} holds {values[wrong[0]]} in {chunk.name} (element "
                f"{chunk.start + wrong[0]}); the checkpoint is damaged: download or train it again"
            )
    return CheckpointError(
        f"the merged {chunk.name} has values that {dtype.name} cannot hold; "
        "lower the coefficient or the rate, or write float32"
    )
