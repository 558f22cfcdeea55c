"""The one description of a merge, for the command line, Python, the workflow and engines.

job = MergeJob(base, experts, {Path("merged"): recipe})
merge = job.open()          # opens and checks all models; writes nothing
merge.plan(threads=4)       # chooses threads and chunks; states memory and bytes
merge.write()               # merges, and publishes one folder per recipe
merge.tensors(recipe)       # or: the tensors of a merged model in memory
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mergegrid.checkpoints import cards, model_files
from mergegrid.checkpoints.adapters.adapter import is_adapter
from mergegrid.checkpoints.card_scores import CardScore
from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.checkpoints.compatibility import USES_BASE
from mergegrid.checkpoints.digests import checkpoint_digest, digest_tensors
from mergegrid.checkpoints.dtypes import DTYPES, Stored
from mergegrid.checkpoints.family import open_family
from mergegrid.checkpoints.layer_configs import stacked_config, write_stacked_config
from mergegrid.checkpoints.layer_ranges import Stacked, check_slices, stack
from mergegrid.checkpoints.model_statistics import open_statistics
from mergegrid.checkpoints.output_tokenizer import OutputTokenizer
from mergegrid.checkpoints.parents import Parent, parent_of
from mergegrid.checkpoints.publish import (
    Draft,
    check_place,
    leftover_bytes,
    publish,
    recorded_libraries,
)
from mergegrid.checkpoints.row_mapping import KeptRows
from mergegrid.checkpoints.tensor_names import read_config
from mergegrid.checkpoints.vocabulary import vocabulary_tensors
from mergegrid.checkpoints.writer import ShardWriter
from mergegrid.engine.budget import Budget, plan_budget
from mergegrid.engine.chunks import BASE
from mergegrid.engine.engine import Engine, Sink
from mergegrid.engine.input_verifier import InputVerifier
from mergegrid.errors import CheckpointError, ConfigError
from mergegrid.recipes.output import Output
from mergegrid.recipes.recipe import Recipe
from mergegrid.stages import union_of_versions

if TYPE_CHECKING:
    from mergegrid.checkpoints.sources.hub import HubFiles


@dataclass(frozen=True)
class MergeJob:
    """Models on disk, recipes, and the folders for the merged models."""

    base: Path
    """Folder of the base."""
    experts: Mapping[str, Path]
    """Folders of the experts by name."""
    recipes: Mapping[Path, Recipe] = field(default_factory=dict)
    """Recipes by the folder that is written; all are merged in one pass over the models."""
    output: Output = field(default_factory=Output)
    """Dtype, shards, tokenizer and vocabulary of the merged models."""
    statistics: Mapping[str, Path] = field(default_factory=dict)
    """Files of model statistics by expert, for methods that need them."""
    homologous: bool = True
    """Whether configurations of experts and base must agree, and not only shapes."""
    base_is: tuple[str, ...] = ()
    """Further names of the base, for adapters that name it otherwise than its folder does."""
    notes: tuple[str, ...] = ()
    """Lines about how the merge was described, for the manifest and the model card."""
    parents: Mapping[str, Parent] = field(default_factory=dict)
    """How model cards describe the models, by name ("" for the base), where their folders do not
    tell."""
    scores: Mapping[Path, Sequence[CardScore]] = field(default_factory=dict)
    """Scores for the model cards, by the folder that is written."""
    hub: "Mapping[str, HubFiles]" = field(default_factory=dict)
    """The models on the hub, by name ("" for the base). Their folders are in the hub's cache and
    are filled by `Models.download`."""

    @property
    def folders(self) -> dict[str, Path]:
        """Folders of all models: of the base, named "", and of the experts, sorted by name."""
        return {BASE: self.base, **dict(sorted(self.experts.items()))}

    @property
    def missing(self) -> "dict[str, HubFiles]":
        """The models on the hub that have to be downloaded, in whole or in part."""
        return {name: files for name, files in self.hub.items() if files.missing}

    def open(self) -> "OpenMerge":
        """Open the models, and check all that can be known before weights are read.

        Raises:
            CheckpointError: a model is damaged, cannot be merged, or is not homologous with the
                base.
            ConfigError: a recipe does not fit the models, or a folder cannot be written.
        """
        self.check_places()
        for name, folder in self.folders.items():
            if not folder.is_dir():
                who = f"expert {name}" if name else "the base"
                raise CheckpointError(
                    f"{who}: there is no folder {folder}; correct the path (relative paths start "
                    "at the merge file)"
                )
        return OpenMerge(self)

    def check_places(self) -> None:
        """Check that the folders of the recipes can be written.

        Raises:
            CheckpointError: something that mergegrid did not publish is there.
            ConfigError: an output and a model contain one another, or a folder is not writable.
        """
        for target in self.recipes:
            check_place(target, self.folders.values())


class OpenMerge:
    """A merge job whose models are open and checked.

    Raises:
        CheckpointError: see `MergeJob.open`.
        ConfigError: see `MergeJob.open`.
    """

    def __init__(self, job: MergeJob) -> None:
        self.job = job
        self._config_giver = BASE if job.output.config == "base" else job.output.config
        self._config_files = model_files.config_files(self._config_folder)
        experts = dict(sorted(job.experts.items()))
        output = job.output
        family = open_family(
            job.base, experts, output.vocabulary_settings, job.homologous, job.base_is
        )
        aligned = family.aligned
        models = {BASE: aligned.base, **aligned.experts}
        dtypes = {name: info.dtype for name, info in aligned.base.infos.items()}
        if output.layers:
            stacked = _stacked(job, models)
            places = stacked[BASE].tensors.items()
            dtypes = {name: dtypes[stored] for name, (_, stored) in places}
            models = dict(stacked)
        base = models.pop(BASE)
        statistics = {name: open_statistics(path) for name, path in job.statistics.items()}
        self.engine = Engine(base, models, statistics)
        self._recipes = {folder: self.engine.bind(recipe) for folder, recipe in job.recipes.items()}
        self._stored, self._adapters = family.stored, family.adapters
        self.infos = {
            name: TensorInfo(info.shape, DTYPES.get(output.dtype, dtypes[name]))
            for name, info in base.infos.items()
        }
        """Shape and dtype of the tensors of a merged model."""
        self.vocabulary = aligned.rows
        """Embedding rows of the merged models where they are not the base's."""
        self._kept = aligned.kept
        self._tokenizer = OutputTokenizer(
            job.folders, family.tokenizers, aligned, job.output.tokenizer_choice
        )
        self.notes = [*job.notes, *self._notes_of(family.notes), *self._tokenizer.notes]
        """Differences that do not prevent the merge, and what was cut or padded: a line each."""
        self._cached = True
        self._verified = False

    def plan(
        self,
        threads: int | None = None,
        max_memory: int | None = None,
        device: str = "cpu",
        recipe: Recipe | None = None,
    ) -> Budget:
        """Choose threads and chunk size, and state the cost.

        Args:
            threads: number of threads; one per processor if None.
            max_memory: memory limit in bytes.
            device: `cpu` or `cuda`; it changes no bit of the result.
            recipe: a recipe that is merged in memory, instead of those of the job.

        Raises:
            ConfigError: the device is not available, or the memory limit is too small.
        """
        recipes = [self.engine.bind(recipe)] if recipe else list(self._recipes.values())
        held = sum(info.bytes for info in self.infos.values()) if recipe else 0
        budget = plan_budget(self.engine, recipes, self.infos, threads, max_memory, device, held)
        self.engine.options, self._cached = budget.options, budget.cached
        return budget

    @property
    def needed(self) -> dict[Path, int]:
        """Bytes of weights that each output folder needs beyond what a killed merge left there."""
        size = sum(info.bytes for info in self.infos.values())
        return {folder: max(size - leftover_bytes(folder), 0) for folder in self.job.recipes}

    def write(self, progress: Callable[[int], None] = lambda _: None) -> list[Path]:
        """Merge all recipes in one pass and publish their folders.

        Args:
            progress: called with the number of bytes of the models that have been processed.

        Raises:
            CheckpointError: a model cannot be read, a merged element is not finite, or the disk is
                full. Nothing is left behind then.
            DamagedError: a published model differs from its manifest.
        """
        job, engine = self.job, self.engine
        verifier = self._verifier()
        statistics = {
            name: checkpoint_digest(digest_tensors(checkpoint))
            for name, checkpoint in engine.statistics.items()
        }
        with ExitStack() as stack:
            drafts: list[tuple[Draft, ShardWriter]] = []
            for folder, recipe in job.recipes.items():
                draft = stack.enter_context(publish(folder, self._made_from(recipe, statistics)))
                writer = ShardWriter(draft.path, self.infos, job.output.shard_bytes, self._cached)
                stack.callback(writer.close)
                writer.open()
                drafts.append((draft, writer))
            writers = [writer for _, writer in drafts]
            outputs = list(zip(self._recipes.values(), map(self._keeping, writers), strict=True))
            with verifier.damage_first():
                engine.stream(outputs, verifier.add, progress)
            # Not every method reads every model: an average does not need the base.
            tensors = verifier.verify()
            inputs = {
                name or "base": checkpoint_digest(digests) for name, digests in tensors.items()
            }
            libraries = union_of_versions(map(recorded_libraries, job.folders.values()))
            for (folder, recipe), (draft, writer) in zip(job.recipes.items(), drafts, strict=True):
                writer.close()
                draft.made_from["inputs"] = inputs
                draft.made_from["libraries"] = libraries
                draft.weight_files, draft.tensors = writer.files, writer.tensors()
                self._write_card(folder, recipe, draft)
        return list(job.recipes)

    def tensors(
        self, recipe: Recipe, statistics: Mapping[str, Checkpoint] | None = None
    ) -> dict[str, Stored]:
        """The tensors of a merged model in memory, flat, as a folder would store them.

        Args:
            recipe: the recipe.
            statistics: model statistics by expert, instead of those of the job.

        Raises:
            CheckpointError: a model cannot be read, or a merged element is not finite.
            ConfigError: the recipe does not fit the models.
            DamagedError: a published model differs from its manifest.
        """
        sink = MemorySink(self.infos)
        outputs = [(self.engine.bind(recipe, statistics), self._keeping(sink))]
        if self._verified:
            self.engine.stream(outputs)
        else:
            verifier = self._verifier()
            with verifier.damage_first():
                self.engine.stream(outputs, verifier.add)
            verifier.verify()
            self._verified = True
        return sink.stored

    def write_model_files(self, folder: Path) -> None:
        """Write config and tokenizer of the merged models into a folder, without weights."""
        dtypes = {info.dtype.name for info in self.infos.values()}
        model_files.copy_files(self._config_folder, self._config_files, folder)
        dtype = dtypes.pop() if len(dtypes) == 1 else None
        rows = self.vocabulary
        if rows is None and self._config_giver != BASE:
            rows = read_config(self.job.base).get("vocab_size")
        model_files.adapt_config(folder, dtype, rows)
        if self.job.output.layers:
            write_stacked_config(folder, self.job.output.layers)
        self._tokenizer.write(folder, self._config_giver)

    def _notes_of(self, notes: Sequence[str]) -> list[str]:
        """Notes on the models, as they are with the config of an expert."""
        if self._config_giver == BASE:
            return list(notes)
        value = f"the merge uses the value of {self._config_giver}"
        return [note.replace(USES_BASE, value) for note in notes]

    @property
    def _config_folder(self) -> Path:
        """Folder of the model whose config the merged models have.

        Raises:
            ConfigError: it is an adapter.
        """
        folder = self.job.folders[self._config_giver]
        if self._config_giver != BASE and is_adapter(folder):
            raise ConfigError(
                f"output.config = {self._config_giver!r} is a LoRA adapter, which has no config of "
                "a model; set it to base, or to an expert with all weights"
            )
        return folder

    def _keeping(self, sink: Sink) -> Sink:
        """A sink in which rows that no merge may change are as their model has them."""
        if not self._kept:
            return sink
        return KeptRows(sink, self._kept, vocabulary_tensors(self.engine.base))

    def _verifier(self) -> InputVerifier:
        job = self.job
        return InputVerifier(self.engine.models, self._stored, job.folders, self._adapters)

    def _made_from(self, recipe: Recipe, statistics: Mapping[str, str]) -> dict[str, Any]:
        folders = self.job.folders.items()
        return {
            "models": {name or "base": parent_of(folder).name for name, folder in folders},
            "recipe": recipe.model_dump(mode="json"),
            "recipe_digest": recipe.digest,
            "output": self.job.output.model_dump(mode="json"),
            "statistics": dict(statistics),
            "notes": list(self.notes),
        }

    def _write_card(self, folder: Path, recipe: Recipe, draft: Draft) -> None:
        """Write config, tokenizer, recipe and model card beside the weights."""
        job = self.job
        self.write_model_files(draft.path)
        parents = {
            name: job.parents.get(name) or parent_of(job.experts[name] if name else job.base)
            for name in (BASE, *recipe.experts)
        }
        statistics = {name: path.name for name, path in job.statistics.items()}
        text = cards.write_recipe(
            draft.path,
            {
                "base": parents[BASE].name,
                "experts": {name: parents[name].name for name in recipe.experts},
                "sparsifier": recipe.sparsifier.model_dump(mode="json"),
                "method": recipe.method.model_dump(mode="json"),
                "output": job.output.model_dump(mode="json"),
                **({"statistics": statistics} if statistics else {}),
                **({"base_is": list(job.base_is)} if job.base_is else {}),
            },
        )
        inputs = {name or "base": draft.made_from["inputs"][name or "base"] for name in parents}
        merged = {folder.name: checkpoint_digest(draft.tensors)}
        scores = job.scores.get(folder, ())
        card = cards.Card(folder.name, parents, text, inputs | merged, self.notes, scores)
        card.write(draft.path)


class MemorySink:
    """A sink that keeps merged tensors in memory."""

    def __init__(self, infos: Mapping[str, TensorInfo]) -> None:
        self.infos = infos
        self.stored: dict[str, Stored] = {
            name: np.empty(info.count, info.dtype.numpy) for name, info in infos.items()
        }
        """Flat tensors as stored."""

    def write(self, name: str, start: int, stored: Stored) -> None:
        """Keep elements of a tensor."""
        self.stored[name][start : start + stored.size] = stored


def _stacked(job: MergeJob, models: Mapping[str, Checkpoint]) -> dict[str, Stacked]:
    """The models with the layers that the output has.

    Raises:
        CheckpointError: the layers cannot be stacked.
        ConfigError: the slices do not fit the experts, or there are model statistics.
    """
    slices = job.output.layers
    try:
        check_slices(slices, list(job.experts))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if job.statistics:
        raise ConfigError(
            "model statistics are of the layers of the experts, and output.layers changes them; "
            "choose a method without statistics, or remove output.layers"
        )
    stacked_config(read_config(job.base), slices)
    return stack(models, slices)
