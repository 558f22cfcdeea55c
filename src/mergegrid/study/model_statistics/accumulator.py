"""Interface of all model statistics: running sums over the batches that a model is shown."""

from typing import Protocol

import torch
from torch import Tensor

from mergegrid.study.tasks.encoding import Batch


class Accumulator(Protocol):
    """Running sums over batches of examples."""

    def add(self, batch: Batch, labels: Tensor) -> None:
        """Add a batch with the labels [examples] of its rows."""

    def tensors(self, examples: int) -> dict[str, Tensor]:
        """Return the statistics of the examples so far by tensor name, float32 on the CPU."""


def stored_mean(sums: Tensor, count: int) -> Tensor:
    """Divide a float64 sum by a count, in the form that files hold."""
    return (sums / count).to("cpu", torch.float32).contiguous()
