"""Create random LoRA adapters of all linear layers of a base, and the same experts as whole models.

A separate program, because the process that measures must stay small (see measure.py).
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mergegrid import TaskArithmetic, merge

RANKS = {"math": 16, "code": 64}
"""Rank of the adapter of each expert."""
DEVIATION = 0.001
"""Standard deviation of the deltas."""


def make_adapter(base: Path, folder: Path, rank: int, seed: int) -> None:
    """Write an adapter whose deltas are normal with `DEVIATION`, unless it exists."""
    if (folder / "adapter_config.json").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    tensors, targets = {}, set()
    for file in sorted(base.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            names = [name for name in weights.keys() if "_proj" in name]  # noqa: SIM118
            for name in names:
                rows, columns = weights.get_slice(name).get_shape()
                module = name.removesuffix(".weight")
                targets.add(module.rpartition(".")[2])
                a = torch.empty(rank, columns).normal_(0, 1, generator=generator)
                b = torch.empty(rows, rank).normal_(0, DEVIATION / rank**0.5, generator=generator)
                tensors[f"base_model.model.{module}.lora_A.weight"] = a
                tensors[f"base_model.model.{module}.lora_B.weight"] = b
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted(targets),
        "base_model_name_or_path": str(base),
    }
    # Last, so that its existence means that the adapter is complete.
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, help="folder with `base`; gets the experts")
    models = parser.parse_args().models
    for seed, (name, rank) in enumerate(RANKS.items(), start=1):
        adapter, whole = models / f"{name}-lora", models / f"{name}-merged"
        make_adapter(models / "base", adapter, rank, seed)
        if not (whole / "manifest.json").is_file():
            method = TaskArithmetic(coefficient=1.0)
            merge(models / "base", {name: adapter}, method=method, out=whole)


if __name__ == "__main__":
    main()
