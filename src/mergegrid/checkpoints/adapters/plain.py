"""Plain adapters: one product of two matrices per layer, and nothing else."""

from pathlib import Path

from mergegrid.checkpoints.adapters.adapter import Adapter, is_adapter, read_adapter, tied_output
from mergegrid.checkpoints.adapters.low_rank import LowRank
from mergegrid.checkpoints.architectures import Config
from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.errors import ConfigError

WAY_OUT = "merge into a whole model (omit `form: adapter`) and extract an adapter from that"


def read_plain_adapter(name: str, folder: Path, base: Checkpoint, config: Config) -> Adapter:
    """Read an adapter that can be merged with others into an adapter.

    Args:
        name: the expert, for messages.
        folder: folder of the adapter.
        base: the base, under canonical names.
        config: config of the base.

    Raises:
        CheckpointError: the adapter is damaged, or not of this base.
        ConfigError: it is a whole model, or has parts that are no product of two matrices.
    """
    if not is_adapter(folder):
        raise ConfigError(
            f"expert {name}: {folder} is not a LoRA adapter, which `form: adapter` needs; extract "
            "one with `mergegrid extract`, or omit `form: adapter`"
        )
    adapter = read_adapter(folder, base, config)
    if reason := _reason(adapter, base, config):
        raise ConfigError(
            f"expert {name}: adapter {folder} {reason}, so it is not one product of two matrices "
            f"per layer; {WAY_OUT}"
        )
    return adapter


def _reason(adapter: Adapter, base: Checkpoint, config: Config) -> str:
    """Why an adapter is not plain; empty if it is."""
    tied = tied_output(base, config)
    if any(entry.direction for entry in adapter.entries.values()):
        return "uses DoRA"
    if adapter.replaced or adapter.rows:
        first = next(iter({**adapter.replaced, **adapter.rows}))
        return f"replaces {first} (modules_to_save, bias or trained tokens)"
    if adapter.config.values.get("target_parameters"):
        return "adapts fused parameters (target_parameters)"
    if tied and tied.embedding in adapter.entries:
        return "adapts embeddings that are tied"
    for tensor, entry in adapter.entries.items():
        if not _fits(entry, base.infos[tensor].shape):
            return f"has another shape of {tensor} than the base, or adapts a convolution"
    return ""


def _fits(entry: LowRank, shape: tuple[int, ...]) -> bool:
    return (entry.rows, entry.columns) == (shape if len(shape) == 2 else (1, *shape))
