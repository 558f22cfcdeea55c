"""Merging LoRA adapters into one adapter, exactly.

If the merge of every tensor is base + Σ fₖ δₖ, as averages and task arithmetic are, and every
δₖ = sₖ BₖAₖ, then the merged delta is again a product: [f₁s₁B₁ f₂s₂B₂ ...] [A₁; A₂; ...], which is
compressed to its numerical rank, or to a lower rank whose error is reported. The weights of the
base are not read.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mergegrid.checkpoints import model_files
from mergegrid.checkpoints.adapters.base_name import check_base_name
from mergegrid.checkpoints.adapters.card import write_adapter_card
from mergegrid.checkpoints.adapters.identity import adapter_digests
from mergegrid.checkpoints.adapters.plain import WAY_OUT, read_plain_adapter
from mergegrid.checkpoints.adapters.writer import (
    AdapterWriter,
    adapter_config,
    bias_info,
    factor_infos,
    rounded,
    stored_factors,
    write_adapter_config,
)
from mergegrid.checkpoints.cards import RECIPE, write_recipe
from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.digests import checkpoint_digest
from mergegrid.checkpoints.dtypes import DTYPES, Stored
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.header_folders import header_folders
from mergegrid.checkpoints.layer_kinds import LayerKind, layer_kind
from mergegrid.checkpoints.output_tokenizer import AUTO
from mergegrid.checkpoints.parents import parent_of
from mergegrid.checkpoints.publish import check_published, publish
from mergegrid.checkpoints.sources.models import Models
from mergegrid.checkpoints.tensor_names import canonical, read_config
from mergegrid.engine.blas_compat import one_blas_thread
from mergegrid.engine.memory import resident
from mergegrid.engine.tensors import Tensors
from mergegrid.errors import CheckpointError, ConfigError, HeadersOnlyError
from mergegrid.extraction.compression import Pair, compress, norm
from mergegrid.extraction.low_rank import Doubles, Factors
from mergegrid.merging import MergeJob
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.none import NoSparsifier

logger = logging.getLogger(__name__)

# Float64 arrays [rows + columns, summed rank] at a time, for the layer that needs most.
_ARRAYS = 8
_SLACK = 64 << 20
NamedInfos = tuple[tuple[str, TensorInfo], ...]


@dataclass(frozen=True)
class MergedLayer:
    """What became of the adapters of one layer."""

    tensor: str
    """Name of its weight in the base."""
    rank: int
    """Rank of the merged factors; 0: the deltas cancel."""
    energy: float
    """Share of the squared merged delta that they keep."""
    error: float
    """|merged delta - B A| / |merged delta|, with the factors as written."""


class AdapterMerge:
    """Adapters that are open and checked, to be merged into one for each recipe of a job.

    Raises:
        CheckpointError: an adapter is damaged, or not of this base.
        ConfigError: an expert is no plain LoRA adapter, or a recipe does not sum deltas.
    """

    def __init__(self, job: MergeJob) -> None:
        job.check_places()
        self._job = job
        self._config = read_config(job.base)
        stored = open_checkpoint(job.base)
        self._base = canonical(stored, self._config, f"base {job.base}")
        self._tensors = Tensors(self._base.infos)
        self._base_names = {*stored, *self._base}
        self._adapters = {
            name: read_plain_adapter(name, folder, self._base, self._config)
            for name, folder in sorted(job.experts.items())
        }
        entries = {name for adapter in self._adapters.values() for name in adapter.entries}
        self._weights = sorted(name for name in entries if name.endswith(".weight"))
        self._has_biases = len(self._weights) < len(entries)
        self._check()
        self.notes = [*job.notes]
        """What of the adapters is not merged, and how well they name their base, a line each."""
        for name, adapter in self._adapters.items():
            self.notes += check_base_name(adapter.config, job.base, name, job.base_is)
            self.notes += adapter.notes
        self._dtype = DTYPES.get(job.output.dtype, DTYPES["float32"])

    @property
    def memory(self) -> int:
        """Upper bound of memory in bytes, interpreter included."""
        sizes = [
            8 * _ARRAYS * self._summed_rank(name) * sum(self._base.infos[name].shape)
            for name in self._weights
        ]
        return resident() + _SLACK + max(sizes)

    @property
    def plan(self) -> str:
        """Layers, largest rank and memory, in one line."""
        ranks = [self._factor_infos(name)[0][1].shape[0] for name in self._weights]
        count = len(self._job.recipes)
        return (
            f"{count} adapter{'' if count == 1 else 's'} of {len(ranks)} layers at rank "
            f"{max(ranks)} at most, at most {self.memory / 1e6:,.0f} MB of memory"
        )

    def write(self) -> list[Path]:
        """Merge the adapters and publish one folder per recipe.

        Raises:
            CheckpointError: the deltas cancel, an adapter cannot be read, or the disk is full.
            DamagedError: a published adapter differs from its manifest.
        """
        job = self._job
        for folder in job.experts.values():
            if (folder / "manifest.json").is_file():
                check_published(folder)
        inputs = {
            name: checkpoint_digest(adapter_digests(adapter))
            for name, adapter in self._adapters.items()
        }
        for target, recipe in job.recipes.items():
            made_from = {
                "recipe": recipe.model_dump(mode="json"),
                "recipe_digest": recipe.digest,
                "output": job.output.model_dump(mode="json"),
                "inputs": inputs,
                "notes": list(self.notes),
            }
            with publish(target, made_from) as draft:
                largest = {
                    key: info
                    for name in self._weights
                    for key, info in (*self._factor_infos(name), *self._bias_infos(name))
                }
                with closing(AdapterWriter(draft.path, largest)) as writer, one_blas_thread():
                    layers = [self._merge(name, recipe, writer.write) for name in self._weights]
                    draft.weight_files, draft.tensors = writer.finish()
                self._write_companions(draft.path, target.name, recipe, layers)
        return list(job.recipes)

    def _check(self) -> None:
        if self._job.statistics:
            raise ConfigError("no merge into an adapter uses model statistics; omit `statistics`")
        without = [name for name in self._weights if _bias_of(name) not in self._base]
        if self._has_biases and without:
            raise ConfigError(
                f"one adapter trains biases (lora_bias), and {without[0]}, which is adapted, has "
                f"none in the base, so PEFT could not load the merged adapter; {WAY_OUT}"
            )
        for recipe in self._job.recipes.values():
            self._check_recipe(recipe)

    def _check_recipe(self, recipe: Recipe) -> None:
        if not isinstance(recipe.sparsifier, NoSparsifier):
            raise ConfigError(
                f"{recipe.sparsifier.kind} drops single deltas, which leaves no product of two "
                f"matrices; {WAY_OUT}"
            )
        try:
            recipe.method.check(recipe.experts)
            recipe.method.check_values(recipe.experts, self._tensors)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if any(self._factors(recipe, name) is None for name in self._weights):
            raise ConfigError(
                f"{recipe.method.kind} with these settings is not the base plus a sum of deltas, "
                f"as average and task_arithmetic are; {WAY_OUT}"
            )

    def _factors(self, recipe: Recipe, name: str) -> list[float] | None:
        return recipe.method.delta_factors(recipe.experts, self._tensors, name)

    def _pairs(self, recipe: Recipe, name: str) -> list[Pair]:
        """The scaled factors of all experts that adapt a tensor."""
        factors = self._factors(recipe, name)
        assert factors is not None
        pairs: list[Pair] = []
        for expert, factor in zip(recipe.experts, factors, strict=True):
            if entry := self._adapters[expert].entries.get(name):
                left, right = entry.factors()
                if not (np.isfinite(left).all() and np.isfinite(right).all()):
                    raise CheckpointError(
                        f"adapter {self._adapters[expert].folder} holds NaN or infinity in "
                        f"{name}; download or train it again"
                    )
                pairs.append((left.astype(np.float64) * (factor * entry.scale), right))
        return pairs

    def _merge(
        self, name: str, recipe: Recipe, write: Callable[[str, TensorInfo, Stored], None]
    ) -> MergedLayer:
        """Merge the adapters of one layer and write the factors."""
        pairs = self._pairs(recipe, name)
        factors = compress(pairs, self._job.output.rank)
        if factors is None:
            if not self._has_biases:
                return MergedLayer(name, 0, 1.0, 0.0)
            rows, columns = self._base.infos[name].shape
            factors = Factors(np.zeros((rows, 1)), np.zeros((1, columns)), 1.0)
        left, left_values = rounded(factors.left, self._dtype)
        right, right_values = rounded(factors.right, self._dtype)
        rank = len(right_values)
        infos = self._factor_infos(name, rank)
        for (key, info), part in zip(
            infos, stored_factors(left, right, self._kind(name), rank), strict=True
        ):
            write(key, info, part)
        for key, info in self._bias_infos(name):
            write(key, info, rounded(self._bias(name, recipe), self._dtype)[0])
        whole = norm(pairs)
        error = norm([*pairs, (-left_values, right_values)]) / whole if whole else 0.0
        return MergedLayer(name, rank, factors.energy, error)

    def _bias(self, weight: str, recipe: Recipe) -> Doubles:
        name = _bias_of(weight)
        total = np.zeros(self._base.infos[name].count)
        for left, right in self._pairs(recipe, name):
            total += (left @ right).reshape(-1)
        return total

    def _kind(self, name: str) -> LayerKind:
        return layer_kind(name, self._base.infos[name].shape, self._config)

    def _summed_rank(self, name: str) -> int:
        entries = [adapter.entries.get(name) for adapter in self._adapters.values()]
        return sum(entry.rank for entry in entries if entry)

    def _factor_infos(self, name: str, rank: int | None = None) -> NamedInfos:
        """Names and infos of the factors of a layer, at a rank or at the largest possible one."""
        rows, columns = self._base.infos[name].shape
        total = self._summed_rank(name)
        rank = rank or min(total, rows, columns, self._job.output.rank or total)
        module = name.removesuffix(".weight")
        return factor_infos(module, self._kind(name), (rows, columns), rank, self._dtype)

    def _bias_infos(self, name: str) -> NamedInfos:
        """Name and info of the bias of a layer; PEFT expects one in every layer, or in none."""
        if not self._has_biases:
            return ()
        module = name.removesuffix(".weight")
        return (bias_info(module, self._base.infos[f"{module}.bias"].count, self._dtype),)

    def _write_companions(
        self, folder: Path, title: str, recipe: Recipe, layers: Sequence[MergedLayer]
    ) -> None:
        """Write config, recipe, card and, if one is chosen, the tokenizer."""
        job, output = self._job, self._job.output
        ranks = {layer.tensor.removesuffix(".weight"): layer.rank for layer in layers if layer.rank}
        if not ranks:
            raise CheckpointError("the deltas of all adapters cancel; there is nothing to write")
        modules = [name.removesuffix(".weight") for name in self._base_names]
        kinds = {self._kind(layer.tensor) for layer in layers if layer.rank}
        base = parent_of(job.base)
        write_adapter_config(
            folder, adapter_config(ranks, kinds, modules, self._config, base, self._has_biases)
        )
        parents = {name: parent_of(job.experts[name]) for name in recipe.experts}
        text = write_recipe(
            folder,
            {
                "base": base.name,
                "experts": {name: parent.name for name, parent in parents.items()},
                "sparsifier": recipe.sparsifier.model_dump(mode="json"),
                "method": recipe.method.model_dump(mode="json"),
                "output": output.model_dump(mode="json"),
            },
        )
        summary = _summary(layers)
        logger.info("%s", summary)
        write_adapter_card(
            folder,
            title,
            {"base": base, **parents},
            f"LoRA adapter merged with mergegrid by this recipe (`{RECIPE}`):\n\n"
            f"```yaml\n{text}```\n\n{summary}",
            self.notes,
        )
        if output.tokenizer != AUTO:
            source = {"base": job.base, **job.experts}[output.tokenizer]
            model_files.copy_files(source, model_files.tokenizer_files(source), folder)


def run_adapter_merge(job: MergeJob, dry_run: bool = False) -> list[Path]:
    """Open, plan and write a job that merges adapters into adapters; see `api.run_job`.

    Raises:
        MergegridError: the adapters or settings do not fit; nothing is written then.
    """
    models = Models(job.folders, dict(job.hub))
    if missing := models.missing:
        job.check_places()
        with header_folders(models.folders, missing) as folders, suppress(HeadersOnlyError):
            experts = {name: folders[name] for name in job.experts}
            checked = AdapterMerge(replace(job, base=folders[""], experts=experts, hub={}))
            if dry_run:
                _log_plan(checked, job)
        if dry_run:
            for files in missing.values():
                size = sum(files.missing.values())
                logger.info("would download %s: %.3g GB", files, size / 1e9)
            return []
    if not dry_run:
        models.download()
    merge = AdapterMerge(job)
    _log_plan(merge, job, dry_run)
    return [] if dry_run else merge.write()


def _log_plan(merge: AdapterMerge, job: MergeJob, dry_run: bool = True) -> None:
    for line in (*merge.notes, merge.plan):
        logger.info("%s", line)
    for folder, recipe in job.recipes.items() if dry_run else ():
        verb = "replace" if folder.exists() else "write"
        logger.info("would %s %s: %s", verb, folder, recipe.slug)


def _summary(layers: Sequence[MergedLayer]) -> str:
    """Ranks, energy and error of the merged layers, in one sentence."""
    kept = [layer for layer in layers if layer.rank]
    ranks = sorted({layer.rank for layer in kept})
    shown = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    least, worst = min(layer.energy for layer in kept), max(layer.error for layer in kept)
    cancelled = len(layers) - len(kept)
    return (
        f"{len(kept)} layers at {shown}: every layer keeps at least {100 * least:.4g} % of its "
        f"squared merged delta, with an error of at most {worst:.2g}"
        + (f"; in {cancelled} layers the deltas cancel" if cancelled else "")
    )


def _bias_of(weight: str) -> str:
    return f"{weight.removesuffix('weight')}bias"
