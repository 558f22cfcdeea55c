"""The low-rank change of one layer, from the matrices of its module in an adapter file."""

from collections.abc import Mapping
from math import prod

import numpy as np

from mergegrid.checkpoints.adapters.config import AdapterConfig
from mergegrid.checkpoints.adapters.low_rank import Direction, LowRank
from mergegrid.checkpoints.architectures import Config
from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.dtypes import Floats
from mergegrid.checkpoints.layer_kinds import is_conv1d
from mergegrid.errors import CheckpointError

Shape = tuple[int, ...]
Matrices = tuple[Floats, Floats]


def linear(
    file: Checkpoint,
    parts: Mapping[str, str],
    module: str,
    base_shape: Shape,
    config: AdapterConfig,
    base_config: Config,
) -> LowRank:
    """The change of a linear layer, a convolution or a Conv1D layer.

    Args:
        file: the tensors of the adapter.
        parts: names of the module's tensors: `A` and `B`, for DoRA `magnitude`.
        module: path of the module in the adapter.
        base_shape: shape of the weight as the base stores it.
        config: settings of the adapter.
        base_config: config of the base.

    Raises:
        CheckpointError: the matrices fit neither each other, nor the rank, nor the base.
    """
    a, b = parts["A"], parts["B"]
    a_shape, b_shape = file.infos[a].shape, file.infos[b].shape
    rank = check_rank(config, module, a_shape[0], b_shape[1:2])
    shape = (b_shape[0], *a_shape[1:])
    pointwise = all(size == 1 for size in b_shape[2:])
    transposed = (
        len(base_shape) == 2
        and shape == base_shape[::-1]
        and (shape != base_shape or is_conv1d(module, base_config))
    )
    if not pointwise or (shape != base_shape and not transposed):
        raise wrong_shape(config, module, shape, base_shape)

    def load() -> Matrices:
        left, right = file[b].reshape(-1, rank), file[a].reshape(rank, -1)
        return (right.T, left.T) if transposed else (left, right)

    rows, columns = base_shape[0], prod(base_shape[1:])
    axis = 1 if transposed else 0
    direction = _direction(file, parts, module, config, axis, (rows, columns))
    return LowRank(rows, columns, rank, config.scale(module), load, direction)


def embedding(
    file: Checkpoint,
    parts: Mapping[str, str],
    module: str,
    base_shape: Shape,
    config: AdapterConfig,
) -> LowRank:
    """The change of an embedding, which has a row per token; see `linear`.

    The adapter may have more tokens than the base.
    """
    a, b = parts["embedding A"], parts["embedding B"]
    a_shape, b_shape = file.infos[a].shape, file.infos[b].shape
    rank = check_rank(config, module, a_shape[0], b_shape[1:2])
    shape = (a_shape[1], b_shape[0])
    if len(base_shape) != 2 or shape[1] != base_shape[1] or shape[0] < base_shape[0]:
        raise wrong_shape(config, module, shape, base_shape)
    direction = _direction(file, parts, module, config, 1, shape)
    return LowRank(*shape, rank, config.scale(module), lambda: (file[a].T, file[b].T), direction)


def added_bias(
    file: Checkpoint, key: str, module: str, base_shape: Shape, config: AdapterConfig
) -> LowRank:
    """The change that `lora_bias` makes to a bias, as a matrix of one row; see `linear`."""
    shape = file.infos[key].shape
    if shape != base_shape:
        raise wrong_shape(config, f"{module}.bias", shape, base_shape)
    one = np.ones((1, 1), np.float32)
    return LowRank(1, shape[0], 1, config.scale(module), lambda: (one, file[key].reshape(1, -1)))


def expert(
    file: Checkpoint,
    parts: Mapping[str, str],
    module: str,
    place: tuple[int, int],
    half: tuple[int, int],
    base_shape: Shape,
    config: AdapterConfig,
) -> LowRank:
    """The change of one expert of a mixture, from the matrices of all; see `linear`.

    A is sorted by expert and then by rank, B by rank and then by expert.

    Args:
        file: the tensors of the adapter.
        parts: names of `A` and `B`.
        module: path of the parameter in the adapter, as in `mlp.experts.gate_up_proj`.
        place: number of the expert, and number of experts.
        half: which of how many tensors of equal height are stacked in B: 1 of 2 is `up_proj`.
        base_shape: shape of the weight of the expert.
        config: settings of the adapter.
    """
    a, b = parts["A"], parts["B"]
    (number, count), (part, stacked) = place, half
    a_shape, b_shape = file.infos[a].shape, file.infos[b].shape
    rank = config.rank(module)
    if a_shape[0] != rank * count or b_shape[1] != rank * count:
        raise CheckpointError(
            f"{config.path.parent}: {module} has matrices of {a_shape} and {b_shape}; {count} "
            f"experts of rank {rank} have {rank * count}: it was not trained on this base"
        )
    shape = (b_shape[0] // stacked, a_shape[1])
    if shape != base_shape or b_shape[0] % stacked:
        raise wrong_shape(config, module, shape, base_shape)

    def load() -> Matrices:
        left = file[b][part * shape[0] : (part + 1) * shape[0], number::count]
        return left, file[a][number * rank : (number + 1) * rank]

    return LowRank(*base_shape, rank, config.scale(module), load, of_all=count)


def check_rank(config: AdapterConfig, module: str, first: int, second: Shape) -> int:
    """The rank of a module.

    Raises:
        CheckpointError: its matrices have another one.
    """
    rank = config.rank(module)
    if first != rank or second != (rank,):
        raise CheckpointError(
            f"{config.path}: {module} has rank {rank} here, but {first} in the file of tensors; "
            "config and tensors do not belong together: download the adapter again"
        )
    return rank


def wrong_shape(
    config: AdapterConfig, module: str, shape: Shape, base_shape: Shape
) -> CheckpointError:
    """The error for a change that does not fit the base."""
    return CheckpointError(
        f"{config.path.parent}: {module} is for a weight of shape {shape}, and the base has "
        f"{base_shape}; the adapter was not trained on this base: specify the right one"
    )


def _direction(
    file: Checkpoint,
    parts: Mapping[str, str],
    module: str,
    config: AdapterConfig,
    axis: int,
    shape: Shape,
) -> Direction | None:
    """The magnitudes of a module along an axis, for DoRA; None without DoRA."""
    if "magnitude" not in parts:
        return None
    magnitude = file[parts["magnitude"]].reshape(-1)
    if magnitude.size != shape[axis]:
        where = f"{module}.lora_magnitude_vector"
        raise wrong_shape(config, where, magnitude.shape, shape[axis : axis + 1])
    return Direction(magnitude, axis)
