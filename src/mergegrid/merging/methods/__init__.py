"""Methods: one small module each, and the registry that finds them by kind."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mergegrid.merging.methods.average import average
from mergegrid.merging.methods.task_arithmetic import task_arithmetic
from mergegrid.merging.methods.ties import ties
from mergegrid.merging.sparsified import SparsifiedExpert

#: A method takes its spec, a tensor of the base, the sparsified experts and the tensor's name.
METHODS: dict[str, Callable[[Any, torch.Tensor, Sequence[SparsifiedExpert], str], torch.Tensor]] = {
    "average": average,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
}
