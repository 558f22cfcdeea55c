"""Merged models in memory, bit-identical to a merge to a folder.

Needs the memory of one merged model in addition to that of the merge.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from mergegrid.checkpoints import model_files
from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.dtypes import DTYPES, Stored
from mergegrid.checkpoints.family import open_family
from mergegrid.engine.budget import settings_on
from mergegrid.engine.chunks import BASE
from mergegrid.engine.engine import Engine
from mergegrid.engine.input_check import Seen
from mergegrid.recipes.merge_file import Output
from mergegrid.recipes.recipe import Recipe
from mergegrid.settings import Spec

logger = logging.getLogger(__name__)


class Models(Spec):
    """A base and its experts on disk, and the options of the merge."""

    base: Path
    """Folder of the base."""
    experts: dict[str, Path]
    """Folder of each expert by name."""
    output: Output = Output()
    """Dtype, vocabulary and tokenizer of the merged models."""
    homologous: bool = True
    """Whether the configs of experts and base must agree, not only the shapes of tensors."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Number of merging threads; it does not affect the result."""


class Merger:
    """The open models of a family, ready to be merged.

    Raises:
        CheckpointError: a model is damaged, or is not homologous with the base.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        family = open_family(
            models.base, models.experts, models.output.vocabulary, models.homologous
        )
        for note in family.notes:
            logger.info("%s", note)
        aligned = family.aligned
        self._compared = False
        settings = settings_on("cpu", models.threads)
        self._engine = Engine(aligned.base, aligned.experts, settings=settings)
        self._rows = aligned.rows
        self.infos = {
            name: TensorInfo(info.shape, DTYPES.get(models.output.dtype, info.dtype))
            for name, info in aligned.base.infos.items()
        }
        """Shape and dtype of each tensor of a merged model."""

    def weights(self, recipe: Recipe) -> dict[str, torch.Tensor]:
        """Return the tensors of a merged model, rounded as a folder would hold them.

        Raises:
            CheckpointError: a model cannot be read, or a merged element is not finite.
            ConfigError: the recipe does not fit the models.
            DamagedError: a published model is not what its manifest says.
        """
        sink = _Memory(self.infos)
        if self._compared:
            self._engine.stream([(recipe, sink)])
        else:
            # The first merge reads every input, so its digests are verified then, once.
            seen = Seen(self._engine.models)
            folders = {BASE: self._models.base, **self._models.experts}
            with seen.damage_first(folders):
                self._engine.stream([(recipe, sink)], seen.add)
            seen.compare(folders)
            self._compared = True
        return sink.tensors()

    def write_shell(self, folder: Path) -> None:
        """Write the config and tokenizer of the merged models to a folder, without weights."""
        base = self._models.base
        model_files.copy_files(base, model_files.config_files(base), folder)
        dtypes = {info.dtype.name for info in self.infos.values()}
        model_files.adapt_config(folder, dtypes.pop() if len(dtypes) == 1 else None, self._rows)
        named = self._models.output.tokenizer
        source = base if named == "base" else self._models.experts[named]
        model_files.copy_files(source, model_files.tokenizer_files(source), folder)


class _Memory:
    """A sink that keeps the tensors in memory."""

    def __init__(self, infos: Mapping[str, TensorInfo]) -> None:
        self.infos = infos
        self._stored: dict[str, Any] = {
            name: np.empty(info.count, info.dtype.numpy) for name, info in infos.items()
        }

    def write(self, name: str, start: int, stored: Stored) -> None:
        self._stored[name][start : start + stored.size] = stored

    def tensors(self) -> dict[str, torch.Tensor]:
        return {
            name: torch.from_numpy(stored)
            .view(getattr(torch, self.infos[name].dtype.name))
            .view(self.infos[name].shape)
            for name, stored in self._stored.items()
        }
