"""Merged models in memory, bit-identical to a merge to a folder.

Needs the memory of one merged model in addition to that of the merge.
"""

import logging
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from mergegrid.checkpoints.model_statistics import Statistics, open_statistics
from mergegrid.engine.budget import options_for
from mergegrid.in_memory import output_arrays
from mergegrid.merging import MergeJob
from mergegrid.recipes.output import Output
from mergegrid.recipes.recipe import Recipe
from mergegrid.settings import Settings
from mergegrid.study.schema.encoder_jobs import files_of

logger = logging.getLogger(__name__)


class Models(Settings):
    """A base and its experts on disk, and the options of the merge."""

    base: Path
    """Folder of the base."""
    experts: dict[str, Path]
    """Folder of each expert by name."""
    output: Output = Output()
    """Dtype, vocabulary and tokenizer of the merged models."""
    homologous: bool = True
    """Whether the configs of experts and base must agree, not only the shapes of tensors."""
    base_is: tuple[str, ...] = ()
    """What adapters call the base."""
    statistics: dict[str, Path] = {}
    """Folder of each expert's model statistics by name, for methods that need them."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Number of merging threads; it does not affect the result."""


class Merger:
    """The models of a family, open and ready to be merged in memory.

    Raises:
        CheckpointError: a model is damaged, or is not homologous with the base.
    """

    def __init__(self, models: Models) -> None:
        self._merge = MergeJob(
            models.base,
            models.experts,
            output=models.output,
            homologous=models.homologous,
            base_is=models.base_is,
        ).open()
        self._merge.engine.options = options_for("cpu", models.threads)
        self._statistics, self._opened = models.statistics, dict[Path, Statistics]()
        for note in self._merge.notes:
            logger.info("%s", note)
        self.infos = self._merge.infos
        """Shape and dtype of the tensors of a merged model."""

    def weights(self, recipe: Recipe) -> dict[str, torch.Tensor]:
        """Return the tensors of a merged model, rounded as a folder would hold them.

        Raises:
            CheckpointError: a model cannot be read, or a merged element is not finite.
            ConfigError: the recipe does not fit the models.
            DamagedError: a published model differs from its manifest.
        """
        statistics = {
            name: self._open(path)
            for name, path in files_of(recipe.method, self._statistics, recipe.experts).items()
        }
        return output_arrays(self._merge.tensors(recipe, statistics), self.infos, torch)

    def write_shell(self, folder: Path) -> None:
        """Write config and tokenizer of the merged models into a folder, without weights."""
        self._merge.write_model_files(folder)

    def _open(self, path: Path) -> Statistics:
        if path not in self._opened:
            self._opened[path] = open_statistics(path)
        return self._opened[path]
