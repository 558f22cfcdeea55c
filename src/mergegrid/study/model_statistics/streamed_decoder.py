"""A decoder whose weights are read part by part while statistics are gathered."""

import logging
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.vocabulary import is_vocabulary
from mergegrid.errors import CheckpointError
from mergegrid.study.model_statistics.decoder_blocks_compat import (
    SplitDecoder,
    UnsplittableError,
)

logger = logging.getLogger(__name__)

_REMEDY = (
    "statistics are gathered from decoders whose blocks run one after the other and have their "
    "weights one by one in the file; merge it by a method without statistics, such as average or "
    "task_arithmetic, or gather the files of statistics elsewhere"
)


class StreamedDecoder:
    """The parts of a decoder with the weights of a checkpoint.

    Args:
        config: configuration of the model.
        checkpoint: its tensors under the names of its class.
        where: how messages call it.
        device: where it computes.

    Raises:
        CheckpointError: its architecture cannot be split into blocks, or the checkpoint lacks a
            parameter of its class or has it in another shape.
    """

    def __init__(
        self, config: PretrainedConfig, checkpoint: Checkpoint, where: str, device: str = "cpu"
    ) -> None:
        self._checkpoint, self.device = checkpoint, torch.device(device)
        try:
            self.parts = SplitDecoder(_with_rows_of(config, checkpoint), device)
            self._check_names(where)
            outer = self.weights(self.parts.outer_names)
            self.parts.check(outer, self.weights(self.parts.block_names[0]))
        except UnsplittableError as error:
            raise CheckpointError(f"{where}: {error}; {_REMEDY}") from error

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.parts.block_names)

    def weights(self, names: Iterable[str], trained: Sequence[str] = ()) -> dict[str, Tensor]:
        """Read parameters in float32; those of `trained` require gradients."""
        return {
            name: torch.from_numpy(self._checkpoint[name])
            .to(self.device)
            .requires_grad_(name in trained)
            for name in names
        }

    def between(self) -> dict[str, Tensor]:
        """The parameters that blocks may need besides their own; see `SplitDecoder`."""
        return self.weights(self.parts.between_names)

    def linear_layers(self, index: int) -> dict[str, nn.Linear]:
        """The linear layers of a block, by the name of their weight."""
        modules = self.parts.block_modules(index)
        return {
            f"{name}.weight": module
            for name, module in modules.items()
            if isinstance(module, nn.Linear) and f"{name}.weight" in self.parts.shapes
        }

    def _check_names(self, where: str) -> None:
        for name, shape in self.parts.shapes.items():
            if name not in self._checkpoint:
                extra = [other for other in self._checkpoint if other not in self.parts.shapes]
                instead = f", which has {extra[0]} instead" if extra else ""
                raise CheckpointError(
                    f"{where}: the class in its config has {name}, and its file does not{instead}; "
                    f"{_REMEDY}"
                )
            stored = self._checkpoint.infos[name].shape
            if stored != shape:
                raise CheckpointError(
                    f"{where}: {name} has shape {stored}, and {shape} by its config; correct "
                    "config.json, or download the model again"
                )


def _with_rows_of(config: PretrainedConfig, checkpoint: Checkpoint) -> PretrainedConfig:
    """The config with as many tokens as the checkpoint has rows."""
    rows = {
        info.shape[0]
        for name, info in checkpoint.infos.items()
        if is_vocabulary(name) and len(info.shape) == 2
    }
    if len(rows) == 1 and rows != {config.vocab_size}:
        config.vocab_size = rows.pop()
    return config
