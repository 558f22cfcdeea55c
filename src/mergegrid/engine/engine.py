"""The engine: recipes and checkpoints in, merged checkpoints out, one pass for all of them.

Tensors are cut into runs, which threads read, merge, round, check and hand on, each in memory of
its own. What a sparsifier or method must know of whole tensors is surveyed before, in passes that
read the same way. So memory depends on the number of threads and the length of runs, not on the
model or its largest tensor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.checkpoints.compatibility import check_homologous
from mergegrid.checkpoints.dtypes import DTYPES, Dtype, Stored
from mergegrid.engine.chunk_ranges import Span, spans, tasks, windows
from mergegrid.engine.chunks import BASE, Run, Witness
from mergegrid.engine.merge import AnswerKey, Answers, Merge
from mergegrid.engine.ops.cpu import CpuOperations
from mergegrid.engine.ops.operations import GRAIN, Operations
from mergegrid.engine.prepass_runner import Asked, Inquiry, before_windows, narrow
from mergegrid.engine.workers import Desk, Workers
from mergegrid.errors import CheckpointError, ConfigError
from mergegrid.recipes.recipe import Recipe

STAGE_VERSIONS = {"merge": 1}

#: Elements of a run: so many that what the interpreter does for each is little beside the loops.
#: Twice as many are slower to write.
CHUNK = 16 * GRAIN
#: Histograms that are open at a time: of 512 KiB each.
HISTOGRAMS = 128


class Sink(Protocol):
    """Where merged runs go, from several threads at once."""

    infos: Mapping[str, TensorInfo]
    """What is wanted: the dtype of each tensor."""

    def write(self, name: str, start: int, stored: Stored) -> None:
        """Take elements of a tensor, rounded to its dtype."""


@dataclass(frozen=True)
class Settings:
    """How a pass is run; no setting changes a result."""

    threads: int = 1
    chunk: int = CHUNK
    """Elements of a run, a multiple of GRAIN."""
    operations: Callable[[], Operations] = CpuOperations
    """Makes the arithmetic of a thread."""


class Engine:
    """A base and its experts, ready to be merged by any recipe.

    Raises:
        CheckpointError: an expert lacks a tensor of the base or has it in another shape.
        ConfigError: an expert has no name.
    """

    def __init__(
        self,
        base: Checkpoint,
        experts: Mapping[str, Checkpoint],
        statistics: Mapping[str, Checkpoint] | None = None,
        settings: Settings | None = None,
    ) -> None:
        if BASE in experts:
            raise ConfigError("an expert has no name; give it one")
        for name, expert in experts.items():
            check_homologous(base, expert, name)
        self.base, self.settings = base, settings or Settings()
        self.models: Mapping[str, Checkpoint] = {BASE: base, **experts}
        self.statistics = statistics or {}
        self.answers: Answers = {}

    def merge(self, recipe: Recipe, statistics: Mapping[str, Checkpoint] | None = None) -> Merge:
        """What a recipe asks of these models; `statistics` stand in place of the engine's own.

        Raises:
            CheckpointError: the statistics are not what the method asks for.
            ConfigError: the recipe does not fit the models.
        """
        known = self.statistics if statistics is None else statistics
        return Merge(recipe, self.models, known, self.answers)

    def checkpoint(
        self, recipe: Recipe, statistics: Mapping[str, Checkpoint] | None = None
    ) -> "MergedCheckpoint":
        """The merged model of a recipe, each tensor computed when it is asked for."""
        return MergedCheckpoint(self, self.merge(recipe, statistics))

    def stream(
        self,
        outputs: Sequence[tuple[Recipe, Sink]],
        witness: Witness | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Merge several recipes in one pass over the models, and hand every run to its sink.

        Args:
            outputs: recipes and where their models go.
            witness: told of all that is read and merged, once.
            progress: told how many bytes of the models have been gone through.

        Raises:
            CheckpointError: a model cannot be read, or a merged element is not finite.
        """
        if not outputs:
            return
        merges = [(self.merge(recipe), sink) for recipe, sink in outputs]
        rowwise = any(merge.rowwise for merge, _ in merges)
        steps = in_step([merge for merge, _ in merges])
        infos, chunk = self.base.infos, self.settings.chunk
        sizes = {
            name: sum(model.infos[name].dtype.size for model in self.models.values())
            for name in infos
        }

        def work(desk: Desk, task: list[Span]) -> int:
            for name, start, stop in task:
                desk.ops.restart()
                _hand_on(Run(self.models, name, start, stop, desk.ops, witness), merges)
            return sum((stop - start) * sizes[name] for name, start, stop in task)

        with Workers(self.settings.threads, self.settings.operations) as workers:
            inquiry = Inquiry(self.models, self.answers, workers, chunk, rowwise, progress)
            known = set(self.answers)
            for step in before_windows(steps):
                inquiry.ask(step)
            for window in windows(infos, _most_at_once(steps, workers.threads)):
                for step in narrow(steps, window):
                    inquiry.ask(step)
                for count in workers.map(work, tasks(infos, window, chunk, rowwise)):
                    progress(count)
                for key in _about_one(steps, window) & self.answers.keys() - known:
                    del self.answers[key]

    def answer(self, merge: Merge) -> None:
        """Answer all surveys of a recipe, and keep the answers."""
        with Workers(self.settings.threads, self.settings.operations) as workers:
            inquiry = Inquiry(
                self.models, self.answers, workers, self.settings.chunk, merge.rowwise
            )
            for step in merge.surveys():
                inquiry.ask(step)


class MergedCheckpoint(Checkpoint):
    """The tensors of a merged model, float32, each computed when it is asked for.

    It holds the tensors of the base; task heads, which only experts have, are not merged.
    """

    def __init__(self, engine: Engine, merge: Merge) -> None:
        super().__init__(
            {
                name: TensorInfo(info.shape, DTYPES["float32"])
                for name, info in engine.base.infos.items()
            }
        )
        self._engine, self._merge = engine, merge
        self._ops = engine.settings.operations()
        self._answered = False

    def read(self, name: str, start: int, stop: int, room: Stored) -> Any:
        """Merged elements, from a multiple of GRAIN on; whole rows where the recipe needs them."""
        return self._ops.values(self._result(name, start, stop))

    def _result(self, name: str, start: int, stop: int) -> Any:
        if not self._answered:
            self._engine.answer(self._merge)
            self._answered = True
        self._ops.restart()
        return self._merge.result(Run(self._engine.models, name, start, stop, self._ops))

    def __getitem__(self, name: str) -> Any:
        info, chunk = self.infos[name], self._engine.settings.chunk
        parts = (
            (start, self._result(name, start, stop))
            for _, start, stop in spans(name, info, chunk, self._merge.rowwise)
        )
        return self._ops.join(parts, info.shape)


def in_step(merges: Sequence[Merge]) -> list[list[Asked]]:
    """Surveys of all recipes, step by step."""
    return [
        [asked for part in parts for asked in part]
        for parts in zip(*(merge.surveys() for merge in merges), strict=True)
    ]


def _about_one(steps: Sequence[Sequence[Asked]], names: Sequence[str]) -> set[AnswerKey]:
    """Keys of the answers to surveys about one of these tensors alone."""
    return {
        (asker, survey.key, name)
        for step in narrow(steps, names)
        for asker, survey in step
        for name in survey.names
    }


def _most_at_once(steps: Sequence[Sequence[Asked]], threads: int) -> int:
    """How many tensors may be surveyed together."""
    per_tensor: dict[str, int] = {}
    for step in steps:
        for _, survey in step:
            if len(survey.names) == 1:
                per_tensor[survey.names[0]] = per_tensor.get(survey.names[0], 0) + 1
    return max(1, HISTOGRAMS // (threads * max(per_tensor.values(), default=1)))


def _hand_on(run: Run, merges: Sequence[tuple[Merge, Sink]]) -> None:
    dtypes = [sink.infos[run.name].dtype for _, sink in merges]
    results = run.ops.store([merge.result(run) for merge, _ in merges], dtypes)
    for (_, sink), (stored, finite), dtype in zip(merges, results, dtypes, strict=True):
        if not finite:
            raise _not_finite(run, dtype)
        sink.write(run.name, run.start, stored)


def _not_finite(run: Run, dtype: Dtype) -> CheckpointError:
    # Whether or not it is merged: a mask may drop it, an election pass it over.
    for model in run.models:
        ((values, _),) = run.ops.store([run.weight(model)], [DTYPES["float32"]])
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            who = f"expert {model}" if model != BASE else "the base"
            return CheckpointError(
                f"{who} holds {values[wrong[0]]} in {run.name} (element {run.start + wrong[0]}); "
                "the checkpoint is damaged: fetch or train it again"
            )
    return CheckpointError(
        f"the merged {run.name} has values that {dtype.name} cannot hold; "
        "lower the coefficient or the rate, or write float32"
    )
