"""Reading a LoRA adapter: what it changes of each tensor of its base.

    linear layer      scale * B A                    GPT-2's Conv1D    scale * (B A)^T
    embedding         scale * (B A)^T                added bias        scale * lora_B.bias
    fused experts     scale * B[:, e::E] A[e r : (e + 1) r]  of expert e of E
    replaced          modules_to_save, trained biases, rows of trained tokens

Formulas: PEFT 0.21, `tuners/lora/layer.py`; DoRA is in `LowRank.direction`. Every tensor of the
file is used, or it is an error or a note.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from mergegrid.checkpoints import pytorch_files, safetensors_files
from mergegrid.checkpoints.adapters import layers
from mergegrid.checkpoints.adapters.config import CONFIG, AdapterConfig, read_adapter_config
from mergegrid.checkpoints.adapters.copies import is_copy
from mergegrid.checkpoints.adapters.experts import expert_changes
from mergegrid.checkpoints.adapters.keys import by_module
from mergegrid.checkpoints.adapters.low_rank import LowRank
from mergegrid.checkpoints.adapters.names import resolve
from mergegrid.checkpoints.architectures import (
    Config,
    is_output,
    is_task_head,
    tied_names,
    ties_output,
)
from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.folder import FolderCheckpoint
from mergegrid.checkpoints.vocabulary import is_vocabulary
from mergegrid.errors import CheckpointError

T = TypeVar("T")
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass
class Adapter:
    """What a LoRA adapter changes of a base, by tensor name of the base."""

    folder: Path
    config: AdapterConfig
    file: FolderCheckpoint
    """The tensors of the adapter as stored."""
    entries: dict[str, LowRank] = field(default_factory=dict)
    """Low-rank changes, added to the base or to what replaces it."""
    replaced: dict[str, str] = field(default_factory=dict)
    """Tensors of the base that one of the file replaces, with its name there."""
    rows: dict[str, tuple[str, list[int]]] = field(default_factory=dict)
    """Embeddings of which some rows are replaced: name in the file, and the numbers of the rows."""
    notes: list[str] = field(default_factory=list)
    """What is left out, a line each."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no whole model."""
    has_model = safetensors_files.present(folder) or pytorch_files.present(folder)
    return (folder / CONFIG).is_file() and not has_model


def open_adapter_file(folder: Path) -> FolderCheckpoint:
    """Open the tensors of an adapter; like PEFT, safetensors if present.

    Raises:
        CheckpointError: there are none, or they are damaged.
    """
    paths = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not paths:
        raise CheckpointError(
            f"{folder} has {CONFIG} but neither {' nor '.join(WEIGHTS)}; download it again"
        )
    files = safetensors_files if paths[0].suffix == ".safetensors" else pytorch_files
    return FolderCheckpoint(folder, files.locate_in_file(paths[0]))


def read_adapter(folder: Path, base: Checkpoint, base_config: Config) -> Adapter:
    """Read an adapter for a base, whose tensors have canonical names.

    Only what is needed to check the adapter is read: magnitudes of DoRA, and copies of the base.

    Raises:
        CheckpointError: the adapter is damaged, of an unsupported kind, or not of this base.
    """
    config = read_adapter_config(folder)
    file = open_adapter_file(folder)
    return _Reader(Adapter(folder, config, file), base, base_config).read()


class _Reader:
    """Reads one adapter for one base."""

    def __init__(self, adapter: Adapter, base: Checkpoint, base_config: Config) -> None:
        self._adapter, self._base, self._base_config = adapter, base, base_config
        self._file, self._config = adapter.file, adapter.config
        self._where = f"adapter {adapter.folder}"
        self._tied = tied_output(base, base_config)
        self._modules: dict[str, str] = {}

    def read(self) -> Adapter:
        modules, unknown = by_module(self._file)
        if unknown:
            raise self._unusable(unknown[0], "is none of the tensors that LoRA has")
        if not modules:
            raise CheckpointError(f"{self._where} contains no tensors; download it again")
        paths = sorted({module.replace(".base_layer", "") for module in modules})
        self._modules = resolve(paths, self._base, self._where)
        for module, parts in sorted(modules.items()):
            self._read_module(module, parts)
        self._join_tied()
        adapter = self._adapter
        twice = sorted(adapter.rows.keys() & (adapter.entries.keys() | adapter.replaced.keys()))
        if twice:
            raise CheckpointError(
                f"{self._where} changes {twice[0]} as a whole and in rows of trained tokens; merge "
                "it into its base with PEFT (merge_and_unload) and use the resulting folder"
            )
        return adapter

    def _read_module(self, module: str, parts: dict[str, str]) -> None:
        path = module.replace(".base_layer", "")
        base_module = self._modules.get(path)
        if base_module is None and self._tied and _ends(path, self._tied.output):
            base_module = self._tied.output.removesuffix(".weight")
        if base_module is None:
            self._leave_out_head(path, parts)
            return
        changed = {"A", "B", "B.bias", "embedding A", "embedding B", "magnitude"} & parts.keys()
        if changed:
            self._read_changes(module, base_module, parts)
        for part in parts.keys() - changed:
            self._read_stored(path, base_module, part, parts[part])

    def _read_changes(self, module: str, base_module: str, parts: dict[str, str]) -> None:
        """The low-rank change of a module."""
        file, config, entries = self._file, self._config, self._adapter.entries
        self._check_complete(module, parts)
        name = f"{base_module}.weight"
        if self._anchor(name) not in self._base:
            changes = expert_changes(file, parts, module, base_module, self._base, config)
            if not changes:
                raise self._foreign(module, name)
            entries.update(changes)
            return
        # PEFT adapts the other side of a tied matrix by itself.
        tied = bool(self._tied and name in self._tied and config.values.get("ensure_weight_tying"))
        if not config.targets(module) and not tied:
            raise CheckpointError(
                f"{config.path}: target_modules (with exclude_modules and layers_to_transform) "
                f"leave out {module}, which the file has, so PEFT would drop its tensors; add it "
                "to target_modules if it belongs to the adapter"
            )
        shape = self._base.infos[self._anchor(name)].shape
        if "embedding A" in parts:
            change = layers.embedding(file, parts, module, shape, config)
        else:
            change = layers.linear(file, parts, module, shape, config, self._base_config)
        self._add(entries, name, change, module)
        if "B.bias" in parts:
            bias = f"{base_module}.bias"
            if bias not in self._base:
                raise CheckpointError(
                    f"{self._where}: {module} has a trained bias (lora_bias), and the base has no "
                    f"{bias} to add it to; train without lora_bias, or use it unmerged"
                )
            shape = self._base.infos[bias].shape
            change = layers.added_bias(file, parts["B.bias"], module, shape, config)
            self._add(entries, bias, change, module)

    def _check_complete(self, module: str, parts: dict[str, str]) -> None:
        """Check that a module has all matrices of its kind, and no part that PEFT would drop."""
        config = self._config
        for pair in (("A", "B"), ("embedding A", "embedding B")):
            if len(pair & parts.keys()) == 1:
                raise CheckpointError(
                    f"{self._where}: {module} has only one of its two matrices; download it again"
                )
        if not {"A", "embedding A"} & parts.keys():
            raise self._unusable(next(iter(parts.values())), "belongs to no matrices")
        for part, key, is_set in (
            ("magnitude", "use_dora", config.use_dora),
            ("B.bias", "lora_bias", bool(config.values.get("lora_bias"))),
        ):
            if (part in parts) != is_set:
                state = "true, and the file lacks" if is_set else "false, and the file has"
                raise CheckpointError(
                    f"{config.path}: {key} is {state} its tensor of {module}; config and tensors "
                    "do not belong together: download the adapter again"
                )

    def _read_stored(self, path: str, base_module: str, part: str, key: str) -> None:
        """A tensor, or rows of one, that replaces the base's, or a copy of it."""
        leaf = "bias" if part in ("bias", "layer bias") else "weight"
        name = f"{base_module}.{leaf}"
        if self._anchor(name) not in self._base:
            raise self._foreign(path, name)
        shape, base_shape = self._file.infos[key].shape, self._base.infos[self._anchor(name)].shape
        if part == "token rows":
            self._read_rows(path, name, key)
            return
        grown = is_vocabulary(name) and shape[1:] == base_shape[1:] and shape > base_shape
        if shape != base_shape and not grown:
            raise layers.wrong_shape(self._config, f"{path}.{leaf}", shape, base_shape)
        trained = self._config.saves(path) or (leaf == "bias" and self._config.bias != "none")
        if not trained and not is_copy(self._file, key, self._base, self._anchor(name)):
            if part == "weight" and not is_vocabulary(name):
                raise self._unusable(key, "is not named by modules_to_save")
            raise CheckpointError(
                f"{self._where} has a copy of {self._anchor(name)} that differs from the base's: "
                "it was not trained on this base; specify the right one"
            )
        if trained or grown:
            self._add(self._adapter.replaced, name, key, path)

    def _read_rows(self, path: str, name: str, key: str) -> None:
        """Rows of an embedding that replace the base's."""
        ids = self._config.token_ids(path)
        shape, base_shape = self._file.infos[key].shape, self._base.infos[self._anchor(name)].shape
        if ids is None or len(base_shape) != 2 or shape != (len(ids), base_shape[1]):
            raise CheckpointError(
                f"{self._where}: {key} has the shape {shape}, which fits neither the "
                f"{len(ids or ())} trainable_token_indices of {CONFIG} nor the base's "
                f"{base_shape}; download the adapter again, or specify its base"
            )
        if ids and not 0 <= min(ids) <= max(ids) < base_shape[0]:
            raise CheckpointError(
                f"{self._where}: trainable_token_indices go up to {max(ids)}, and {name} of the "
                f"base has {base_shape[0]} rows; merge the adapter into its base with PEFT "
                "(merge_and_unload) and use the resulting folder"
            )
        self._add(self._adapter.rows, name, (key, ids), path)

    def _leave_out_head(self, path: str, parts: dict[str, str]) -> None:
        """Note a task head, which only the adapter has; anything else does not fit the base."""
        name = f"{path}.{'weight' if 'weight' in parts else 'bias'}"
        if not parts.keys() <= {"weight", "bias"} or not is_task_head(name, self._base_config):
            raise self._foreign(path, name)
        self._adapter.notes.append(f"{path} of {self._where} is a task head and not merged")

    def _join_tied(self) -> None:
        """Keep one change of a matrix that is both input and output, and refuse one of one side."""
        if not self._tied:
            return
        inner, outer = self._tied
        adapter = self._adapter
        if not self._equal_sides(inner, outer):
            one_side = outer if outer in {**adapter.entries, **adapter.replaced} else inner
            raise CheckpointError(
                f"{self._where} changes {one_side}, which is one matrix with "
                f"{inner if one_side == outer else outer} in the base, on one side only; save the "
                "base with tie_word_embeddings: false and both matrices, and use that"
            )
        for changes in (adapter.entries, adapter.replaced, adapter.rows):
            changes.pop(outer, None)

    def _equal_sides(self, inner: str, outer: str) -> bool:
        """Whether both sides of a tied matrix have the same change, or none.

        PEFT keeps the rows of trained tokens equal, and saves those of the input alone.
        """
        adapter = self._adapter
        one, other = adapter.entries.get(inner), adapter.entries.get(outer)
        if one is None or other is None:
            same = one is other
        else:
            pairs = list(zip(one.factors(), other.factors(), strict=True))
            if one.direction and other.direction:
                pairs.append((one.direction.magnitude, other.direction.magnitude))
            same = one.scale == other.scale and all(np.array_equal(*pair) for pair in pairs)
        key, other_key = adapter.replaced.get(inner), adapter.replaced.get(outer)
        rows, other_rows = adapter.rows.get(inner), adapter.rows.get(outer)
        if other_rows:
            same &= rows is not None and rows[1] == other_rows[1]
            same &= rows is not None and self._same(rows[0], other_rows[0])
        if key and other_key:
            return same and self._same(key, other_key)
        return same and key is other_key

    def _same(self, key: str, other: str) -> bool:
        return bool(np.array_equal(self._file[key], self._file[other]))

    def _anchor(self, name: str) -> str:
        """The tensor of the base that holds a matrix: the input embedding of a tied output."""
        return self._tied.embedding if self._tied and name == self._tied.output else name

    def _add(self, changes: dict[str, T], name: str, change: T, module: str) -> None:
        if name in changes:
            raise CheckpointError(
                f"{self._where}: {module} and another module both stand for {name} of the base; "
                "it was not trained on this base: specify the right one"
            )
        changes[name] = change

    def _unusable(self, key: str, why: str) -> CheckpointError:
        return CheckpointError(
            f"{self._where}: {key} {why}, so it would be ignored; merge the adapter into its base "
            "with PEFT (merge_and_unload) and use the resulting folder"
        )

    def _foreign(self, module: str, name: str) -> CheckpointError:
        return CheckpointError(
            f"{self._where} changes {module}, and the base has no {name}; it was not trained on "
            "this base: specify the right one"
        )


class TiedPair(NamedTuple):
    """The two names of a matrix that is both input and output embedding."""

    embedding: str
    """The name that the base has."""
    output: str


def tied_output(base: Checkpoint, config: Config) -> TiedPair | None:
    """The output embedding that a base lacks because it is tied to the input embedding."""
    if ties_output(config) is not True or any(is_output(name) for name in base):
        return None
    embedding, _ = tied_names(base, config)
    if embedding is None or embedding not in base:
        return None
    return TiedPair(embedding, "lm_head.weight")


def _ends(path: str, name: str) -> bool:
    """Whether a module path ends with the module of a tensor."""
    return f".{path}".endswith(f".{name.removesuffix('.weight')}")
