"""Adapters of fused experts: `target_parameters` of a mixture, whose file holds single experts.

transformers 5 holds the experts of a layer as `gate_up_proj` [experts, 2 * width, hidden] and
`down_proj` [experts, hidden, width], and saves them one by one. PEFT wraps the module once per
parameter: `experts.base_layer.lora_A` is of the first, `experts.lora_A` of the last.
"""

from collections.abc import Mapping

from mergegrid.checkpoints.adapters.config import AdapterConfig
from mergegrid.checkpoints.adapters.layers import expert
from mergegrid.checkpoints.adapters.low_rank import LowRank
from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.errors import CheckpointError

_WRAPPED = ".base_layer"
_FUSED = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}
"""The tensors of single experts that a fused parameter stacks, under both customary names."""


def expert_changes(
    file: Checkpoint,
    parts: Mapping[str, str],
    module: str,
    base_module: str,
    base: Checkpoint,
    config: AdapterConfig,
) -> dict[str, LowRank]:
    """The changes of all experts of a layer; empty if the module is not one of fused experts.

    Args:
        file: the tensors of the adapter.
        parts: names of `A` and `B`.
        module: path of the module in the adapter, with `.base_layer` per wrapper within.
        base_module: path of the module in the base.
        base: the base.
        config: settings of the adapter.

    Raises:
        CheckpointError: the matrices do not fit the base.
    """
    path, depth = module.replace(_WRAPPED, ""), module.count(_WRAPPED)
    wrapped = [name for name in _FUSED if config.targets_parameter(f"{path}.{name}")]
    if not wrapped:
        return {}
    if depth >= len(wrapped):
        raise CheckpointError(
            f"{config.path}: target_parameters names {len(wrapped)} parameters of {path}, but the "
            f"file has tensors of {depth + 1}; download the adapter again"
        )
    parameter = wrapped[len(wrapped) - 1 - depth]
    for names in _FUSED[parameter]:
        if f"{base_module}.0.{names[0]}.weight" in base:
            break
    else:
        raise CheckpointError(
            f"{config.path.parent}: {path}.{parameter} is of fused experts, and the base has no "
            f"{base_module}.0; merge the adapter into its base with PEFT (merge_and_unload) and "
            "use the resulting folder"
        )
    count = 0
    while f"{base_module}.{count}.{names[0]}.weight" in base:
        count += 1
    return {
        name: expert(
            *(file, parts, f"{path}.{parameter}", (number, count), (part, len(names))),
            *(base.infos[name].shape, config),
        )
        for number in range(count)
        for part, leaf in enumerate(names)
        for name in [f"{base_module}.{number}.{leaf}.weight"]
    }
