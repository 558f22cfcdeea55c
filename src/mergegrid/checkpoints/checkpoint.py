"""A checkpoint: a lazy, read-only mapping from tensor name to tensor."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mergegrid.errors import CheckpointError

Checkpoint = Mapping[str, torch.Tensor]


class SafetensorsCheckpoint(Checkpoint):
    """The tensors of a folder with `model.safetensors`, or its shards and their index.

    Names are sorted; a tensor is read from disk each time it is asked for.

    Raises:
        CheckpointError: the folder holds no safetensors, or a file of it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Any] = {}
        with ExitStack() as opened:
            for path in _shards(folder):
                try:
                    file = opened.enter_context(safe_open(path, framework="pt"))
                except (SafetensorError, OSError) as error:
                    raise CheckpointError(
                        f"{path} cannot be read ({error}); it is damaged or cut: make it again"
                    ) from error
                self._files.update(dict.fromkeys(file.keys(), file))
            opened.pop_all()
        self._names = sorted(self._files)

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._files[name].get_tensor(name)
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class InMemory(Checkpoint):
    """A checkpoint held in memory: float32, on one device."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device | str = "cpu") -> None:
        self._tensors = {
            name: tensor.to(device, torch.float32) for name, tensor in checkpoint.items()
        }

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def load_into(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Copy every tensor of a checkpoint into the parameter or buffer of the same name.

    What the checkpoint does not hold, such as a task head, stays as it is.

    Raises:
        CheckpointError: the model lacks a tensor of the checkpoint.
    """
    state = model.state_dict()
    unknown = [name for name in checkpoint if name not in state]
    if unknown:
        raise CheckpointError(
            f"{type(model).__name__} has no {unknown[0]} ({len(unknown)} tensors are unknown to "
            "it); load the checkpoint into a model of its own architecture"
        )
    with torch.no_grad():
        for name, tensor in checkpoint.items():
            state[name].copy_(tensor)


def check_homologous(
    base: Mapping[str, torch.Tensor], expert: Mapping[str, torch.Tensor], expert_name: str
) -> None:
    """Check that an expert has every tensor of its base, in the same shape.

    Tensors that only the expert has are its task head and stay out of merges.

    Raises:
        CheckpointError: a tensor is missing or of another shape.
    """
    missing = [name for name in base if name not in expert]
    if missing:
        raise CheckpointError(
            f"expert {expert_name} lacks {len(missing)} tensors of its base, first {missing[0]}; "
            "it was not fine-tuned from this base: name the right one"
        )
    for name in base:
        ours, theirs = _shape(base, name), _shape(expert, name)
        if ours != theirs:
            raise CheckpointError(
                f"{name} is {ours} in the base and {theirs} in expert {expert_name}; "
                "only models of equal shapes can be merged: name the right base"
            )


def _shape(checkpoint: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...]:
    if isinstance(checkpoint, SafetensorsCheckpoint):
        return checkpoint.shape(name)
    return tuple(checkpoint[name].shape)


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [folder / name for name in sorted(names)]
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    raise CheckpointError(
        f"{folder} holds neither model.safetensors nor model.safetensors.index.json; "
        "give the folder of a model"
    )
