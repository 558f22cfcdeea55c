"""Extraction of a LoRA adapter: the deltas of the matrices of a model, at low rank.

job = ExtractionJob(base, model, out, RankRule(64))
extraction = job.open()               # opens and checks both models; writes nothing
extraction.plan(threads=4)            # chooses threads; states memory and bytes
report = extraction.write()           # factorizes, and publishes the adapter

Each thread works on one matrix at a time and reads it in blocks of rows, several times. Blocks
depend on the shape of the matrix alone, and linear algebra runs with one thread, so the bytes do
not depend on the number of threads.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergegrid.checkpoints import model_files
from mergegrid.checkpoints.adapters.card import write_adapter_card
from mergegrid.checkpoints.adapters.writer import (
    AdapterWriter,
    adapter_config,
    write_adapter_config,
)
from mergegrid.checkpoints.architectures import ties_output
from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.digests import checkpoint_digest
from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.checkpoints.family import open_family
from mergegrid.checkpoints.layer_kinds import LayerKind, layer_kind
from mergegrid.checkpoints.parents import parent_of
from mergegrid.checkpoints.publish import check_place, publish, recorded_libraries
from mergegrid.checkpoints.tensor_names import read_config
from mergegrid.checkpoints.vocabulary import is_vocabulary
from mergegrid.engine.chunks import BASE
from mergegrid.engine.input_verifier import InputVerifier
from mergegrid.engine.ops.cpu import CpuOperations
from mergegrid.engine.workers import Workers, WorkerState
from mergegrid.errors import CheckpointError, ConfigError
from mergegrid.extraction.factorizer import MODEL, Factored, Factorizer
from mergegrid.extraction.low_rank import RankRule
from mergegrid.extraction.plan import ExtractionPlan, plan_extraction
from mergegrid.extraction.report import ExtractionReport, TensorExtraction, left_out
from mergegrid.stages import union_of_versions

if TYPE_CHECKING:
    from mergegrid.checkpoints.sources.hub import HubFiles

# A layer of one expert in a mixture of experts.
_EXPERT = re.compile(r"\.experts\.\d+\.")


@dataclass(frozen=True)
class ExtractionJob:
    """A base, a model fine-tuned from it, and the adapter to make of their difference."""

    base: Path
    """Folder of the base."""
    model: Path
    """Folder of the fine-tuned model, whole or an adapter, whose rank may then be lowered."""
    out: Path
    """Folder of the adapter."""
    rule: RankRule
    """The rank of the factors."""
    embeddings: bool = False
    """Whether input and output embeddings are adapted, too."""
    seed: int = 0
    """Seed of the random matrices."""
    dtype: str = "float32"
    """Dtype of the factors."""
    base_is: tuple[str, ...] = ()
    """Further names of the base, for a model that is an adapter and names it otherwise."""
    hub: "Mapping[str, HubFiles]" = field(default_factory=dict)
    """The models on the hub, by name: "" for the base, `model` for the other. Their folders are in
    the hub's cache."""

    def open(self) -> "OpenExtraction":
        """Open the models, and check all that can be known before weights are read.

        Raises:
            CheckpointError: a model is damaged, or was not fine-tuned from the base.
            ConfigError: the settings do not fit the models, or the folder cannot be written.
        """
        if self.dtype not in DTYPES:
            raise ConfigError(f"unknown dtype {self.dtype!r}; use one of {', '.join(DTYPES)}")
        for folder in (self.base, self.model):
            if not folder.is_dir():
                raise CheckpointError(f"there is no folder {folder}; pass the folder of a model")
        check_place(self.out, (self.base, self.model))
        return OpenExtraction(self)


class OpenExtraction:
    """An extraction whose models are open and checked.

    Raises:
        CheckpointError: see `ExtractionJob.open`.
        ConfigError: see `ExtractionJob.open`.
    """

    def __init__(self, job: ExtractionJob) -> None:
        self.job = job
        family = open_family(job.base, {MODEL: job.model}, base_is=job.base_is)
        self.notes = list(family.notes)
        """Differences that do not prevent the extraction, a line each."""
        self._stored, self._adapters = family.stored, family.adapters
        self._models = {BASE: family.aligned.base, MODEL: family.aligned.experts[MODEL]}
        base, opened = family.aligned.base, family.opened[MODEL]
        self._has_rows_for_all_tokens = all(
            opened.infos[name].shape <= base.infos[name].shape for name in base
        )
        self._config = read_config(job.base)
        self._layers = {
            name: layer_kind(name, info.shape, self._config) for name, info in base.infos.items()
        }
        self._targets = self._choose_targets()
        self._factorizer = Factorizer(
            self._models, self._layers, job.rule, DTYPES[job.dtype], job.seed
        )
        self._threads = 1

    @property
    def bytes(self) -> int:
        """Bytes of both models."""
        base = self._models[BASE]
        return sum(model.read_bytes(name) for model in self._models.values() for name in base)

    def plan(self, threads: int | None = None, max_memory: int | None = None) -> ExtractionPlan:
        """Choose the number of threads, and state the cost.

        Args:
            threads: number of threads; one per processor if None.
            max_memory: memory limit in bytes.

        Raises:
            ConfigError: the memory limit is too small for one thread.
        """
        plan = plan_extraction(
            self._models, self._targets, self.job.rule, DTYPES[self.job.dtype], threads, max_memory
        )
        self._threads = plan.threads
        return plan

    def write(self, progress: Callable[[int], None] = lambda _: None) -> ExtractionReport:
        """Factorize the delta of each matrix and publish the adapter.

        Args:
            progress: called with the number of bytes of the models that have been processed.

        Raises:
            CheckpointError: the models are equal, one cannot be read, or the disk is full. Nothing
                is left behind then.
            DamagedError: a published model differs from its manifest.
        """
        job, base, models = self.job, self._models[BASE], self._models.values()
        folders = {BASE: job.base, MODEL: job.model}
        verifier = InputVerifier(self._models, self._stored, folders, self._adapters)
        rows: list[TensorExtraction] = []

        def work(state: WorkerState, name: str) -> Factored:
            adapted = name in self._targets
            return self._factorizer.factor(state.ops, name, adapted, verifier.add)

        with publish(job.out, self._made_from()) as draft:
            with (
                closing(AdapterWriter(draft.path, self._largest())) as writer,
                verifier.damage_first(),
                Workers(self._threads, CpuOperations) as workers,
            ):
                for factored in workers.map(work, base):
                    rows.append(factored.row)
                    for name, info, stored in factored.factors:
                        writer.write(name, info, stored)
                    progress(sum(model.read_bytes(rows[-1].tensor) for model in models))
                draft.weight_files, draft.tensors = writer.finish()
            report = ExtractionReport(job.out, rows, [*self.notes, *self._outcome(rows)])
            tensors = verifier.verify()
            draft.made_from |= {
                "inputs": {
                    name or "base": checkpoint_digest(digests) for name, digests in tensors.items()
                },
                "libraries": union_of_versions(map(recorded_libraries, folders.values())),
                "notes": list(report.notes),
            }
            self._write_companions(draft.path, report)
        return report

    def _choose_targets(self) -> list[str]:
        """The tensors that may be adapted.

        Raises:
            ConfigError: there is none, the rank exceeds all of them, or embeddings are tied.
        """
        adapted = {LayerKind.LINEAR, LayerKind.CONV1D}
        if self.job.embeddings:
            if (
                ties_output(self._config) is not False
                and LayerKind.OUTPUT not in self._layers.values()
            ):
                raise ConfigError(
                    f"the embeddings of {self.job.base} are tied: engines would adapt the input "
                    "without the output; extract without the embeddings"
                )
            adapted |= {LayerKind.EMBEDDING, LayerKind.OUTPUT}
        infos = self._models[BASE].infos
        targets = [
            name
            for name, layer in self._layers.items()
            if layer in adapted and (layer is not LayerKind.EMBEDDING or is_vocabulary(name))
        ]
        if not targets:
            raise ConfigError(f"{self.job.base} has no linear layer that LoRA adapts")
        limit = max(min(infos[name].shape) for name in targets)
        if self.job.rule.energy is None and self.job.rule.most > limit:
            raise ConfigError(
                f"rank {self.job.rule.most} exceeds the largest possible rank, {limit}; choose at "
                "most that"
            )
        return targets

    def _largest(self) -> dict[str, TensorInfo]:
        """All tensors that the adapter may have, at the largest rank."""
        factorizer = self._factorizer
        return {
            key: info
            for name in self._targets
            for key, info in factorizer.infos(name, self.job.rule.most)
        }

    def _made_from(self) -> dict[str, Any]:
        job = self.job
        return {
            "extraction": {
                **asdict(job.rule),
                "embeddings": job.embeddings,
                "seed": job.seed,
                "dtype": job.dtype,
            }
        }

    def _outcome(self, rows: Sequence[TensorExtraction]) -> list[str]:
        """What the adapter lacks, a line each.

        Raises:
            CheckpointError: no matrix differs between the models.
        """
        adapted = [row for row in rows if row.rank]
        if not adapted:
            raise CheckpointError(
                f"no matrix of {self.job.model} that can be adapted differs from "
                f"{self.job.base}; there is nothing to extract"
            )
        notes = left_out(rows)
        if equal := len(self._targets) - len(adapted):
            notes.append(f"{equal} matrices equal the base and are not adapted")
        if short := [row for row in adapted if not self.job.rule.satisfied(row.energy)]:
            least = min(short, key=lambda row: row.energy)
            notes.append(
                f"{len(short)} of {len(adapted)} matrices keep less than the energy "
                f"{self.job.rule.energy} at the largest rank, {self.job.rule.most}: {least.tensor} "
                f"keeps {least.energy:.4f}"
            )
        ranks = {row.rank for row in adapted if _EXPERT.search(row.tensor)}
        if len(ranks) > 1:
            notes.append(
                f"the experts of the mixture have ranks {min(ranks)} to {max(ranks)}, and PEFT, "
                "which fuses them, loads one rank only; for PEFT, use a rank that all of them have"
            )
        return notes

    def _write_companions(self, folder: Path, report: ExtractionReport) -> None:
        """Write config, card and, if all of its tokens have rows, the tokenizer of the model."""
        job, base = self.job, self._models[BASE]
        renamed = {base.stored_name(name) for name in base}
        modules = [*base, *(name for name in self._stored[BASE] if name not in renamed)]
        config = adapter_config(
            {row.tensor.removesuffix(".weight"): row.rank for row in report.adapted},
            {row.layer for row in report.adapted},
            [name.removesuffix(".weight") for name in modules if name.endswith(".weight")],
            *(self._config, parent_of(job.base)),
        )
        write_adapter_config(folder, config)
        write_adapter_card(
            folder,
            job.out.name,
            {"base": parent_of(job.base), "model": parent_of(job.model)},
            "LoRA adapter extracted with mergegrid: the low-rank part of the difference between a "
            f"model and its base.\n\n{report.summary}.",
            report.notes,
        )
        if self._has_rows_for_all_tokens:
            model_files.copy_files(job.model, model_files.tokenizer_files(job.model), folder)
