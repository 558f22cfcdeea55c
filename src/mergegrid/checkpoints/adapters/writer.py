"""LoRA adapters on disk, in the format of PEFT: `adapter_config.json` and one safetensors file.

A linear layer W [out, in] of module `model.layers.0.mlp.up_proj` becomes W + B A with

    base_model.model.model.layers.0.mlp.up_proj.lora_A.weight   A [rank, in]
    base_model.model.model.layers.0.mlp.up_proj.lora_B.weight   B [out, rank]

and an embedding W [rows, width] becomes W + (B A)^T with `lora_embedding_A` [rank, rows] and
`lora_embedding_B` [width, rank]. All scales are 1: alpha equals the rank.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergegrid import fsync
from mergegrid.checkpoints import safetensors_files
from mergegrid.checkpoints.architectures import Config
from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.digests import TensorDigests
from mergegrid.checkpoints.dtypes import Dtype, Floats, Stored, decode, encode
from mergegrid.checkpoints.layer_kinds import LayerKind
from mergegrid.checkpoints.parents import Parent
from mergegrid.checkpoints.writer import write_all

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_TASKS = {
    "CausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ConditionalGeneration": "SEQ_2_SEQ_LM",
    "SequenceClassification": "SEQ_CLS",
    "TokenClassification": "TOKEN_CLS",
    "QuestionAnswering": "QUESTION_ANS",
}
"""PEFT's task types by the ends of class names."""


def factor_infos(
    module: str, layer: LayerKind, shape: tuple[int, int], rank: int, dtype: Dtype
) -> tuple[tuple[str, TensorInfo], tuple[str, TensorInfo]]:
    """Names and infos of the factors A [rank, in] and B [out, rank] of a layer.

    Args:
        module: path of the module.
        layer: kind of layer.
        shape: shape of the layer's weight as stored.
        rank: rank of the factors.
        dtype: dtype of the factors.
    """
    inputs, outputs = shape if is_transposed(layer) else shape[::-1]
    names = (
        ("lora_embedding_A", "lora_embedding_B")
        if layer is LayerKind.EMBEDDING
        else ("lora_A.weight", "lora_B.weight")
    )
    one, two = (f"{_PREFIX}{module}.{name}" for name in names)
    return (one, TensorInfo((rank, inputs), dtype)), (two, TensorInfo((outputs, rank), dtype))


def bias_info(module: str, count: int, dtype: Dtype) -> tuple[str, TensorInfo]:
    """Name and info of what is added to the bias of a layer."""
    return f"{_PREFIX}{module}.lora_B.bias", TensorInfo((count,), dtype)


def is_transposed(layer: LayerKind) -> bool:
    """Whether a layer's weight is stored as [in, out], so that its delta is (B A)^T."""
    return layer in (LayerKind.CONV1D, LayerKind.EMBEDDING)


def adapter_config(
    ranks: Mapping[str, int],
    layers: Iterable[LayerKind],
    modules: Iterable[str],
    config: Config,
    base: Parent,
    lora_bias: bool = False,
) -> dict[str, Any]:
    """The `adapter_config.json` of an adapter whose scales are all 1.

    The rank is the largest one, which is what engines reserve memory by; modules with a lower rank
    are in `rank_pattern`, and in `alpha_pattern` because PEFT divides alpha by the rank.

    Args:
        ranks: rank by adapted module.
        layers: kinds of the adapted layers.
        modules: all modules of the base with a weight.
        config: config of the base.
        base: the base, which the config names by its hub id or else its folder.
        lora_bias: whether every adapted module has a bias in the file.
    """
    largest = max(ranks.values())
    lower = {module: rank for module, rank in sorted(ranks.items()) if rank != largest}
    return {
        "alpha_pattern": lower,
        "base_model_name_or_path": base.repo or base.folder_name,
        "bias": "none",
        "fan_in_fan_out": LayerKind.CONV1D in layers,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": largest,
        "lora_bias": lora_bias,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": largest,
        "rank_pattern": lower,
        "revision": base.commit,
        "target_modules": _target_modules(set(ranks), modules),
        "task_type": _task_type(config),
        "use_dora": False,
        "use_rslora": False,
    }


def _target_modules(adapted: set[str], modules: Iterable[str]) -> list[str]:
    """Last parts of the module paths (`q_proj`) if they select exactly these; else the paths."""
    last = {module.rpartition(".")[2] for module in adapted}
    selected = {module for module in modules if module.rpartition(".")[2] in last}
    return sorted(last if selected == adapted else adapted)


def _task_type(config: Config) -> str | None:
    name = str(next(iter(config.get("architectures") or []), ""))
    return next((task for end, task in _TASKS.items() if name.endswith(end)), None)


def write_adapter_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write an adapter's config."""
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / ADAPTER_CONFIG).write_text(text, encoding="utf-8")


class AdapterWriter:
    """Writes the tensors of an adapter one after the other; ranks may turn out lower than planned.

    The file first gets the size it may need at most, so a disk that is too full is detected before
    any work. The header, in front, is written last, filled up with spaces.

    Args:
        folder: folder to write to.
        largest: every tensor that may be written, in its largest shape.
    """

    def __init__(self, folder: Path, largest: Mapping[str, TensorInfo]) -> None:
        self._reserved = len(safetensors_files.header(largest))
        self._offset = self._reserved
        self._infos: dict[str, TensorInfo] = {}
        self._digests: dict[str, str] = {}
        self._file = os.open(folder / ADAPTER_WEIGHTS, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            size = self._reserved + sum(info.bytes for info in largest.values())
            fsync.allocate(self._file, size)
        except BaseException:
            os.close(self._file)
            raise

    def write(self, name: str, info: TensorInfo, stored: Stored) -> None:
        """Write a flat tensor, already rounded to its dtype."""
        write_all(self._file, stored.view(np.uint8).data, self._offset)
        self._offset += stored.nbytes
        self._infos[name] = info
        digests = TensorDigests({name: info})
        digests.add(name, 0, stored)
        self._digests |= digests.tensors()

    def finish(self) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """Cut the file to its size and write the header.

        Returns:
            Size and header digest of the file, and the digests of the tensors, for the manifest.
        """
        header = safetensors_files.header(self._infos, self._reserved)
        os.ftruncate(self._file, self._offset)
        write_all(self._file, header, 0)
        entry = {"bytes": self._offset, "header": hashlib.sha256(header).hexdigest()}
        return {ADAPTER_WEIGHTS: entry}, self._digests

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def rounded(factor: NDArray[np.float64], dtype: Dtype) -> tuple[Stored, Floats]:
    """A factor rounded once: its flat elements as stored, and their values in its shape."""
    stored = np.empty(factor.size, dtype.numpy)
    encode(factor.astype(np.float32).reshape(-1), dtype, stored)
    values = np.empty(factor.size, np.float32)
    decode(stored, dtype, values)
    return stored, values.reshape(factor.shape)


def stored_factors(
    left: Stored, right: Stored, layer: LayerKind, rank: int
) -> tuple[Stored, Stored]:
    """Flat A and B of a layer, from the left and right factor of its weight as stored."""
    if not is_transposed(layer):
        return right, left
    a, b = left.reshape(-1, rank).T, right.reshape(rank, -1).T
    return np.ascontiguousarray(a).reshape(-1), np.ascontiguousarray(b).reshape(-1)
