"""What all statistics have in common: a model that is shown batches, and running sums."""

from typing import Protocol

import torch
from torch import Tensor

from mergegrid.study.tasks.encoding import Batch


class Gatherer(Protocol):
    """Running sums over batches of examples."""

    def add(self, batch: Batch, labels: Tensor) -> None:
        """Add a batch; `labels` [examples] are those of its rows."""

    def tensors(self, examples: int) -> dict[str, Tensor]:
        """The statistics of the examples so far, float32 on the CPU, by name of tensor."""


def stored(sums: Tensor, count: int) -> Tensor:
    """The mean of a float64 sum as files hold it."""
    return (sums / count).to("cpu", torch.float32).contiguous()
