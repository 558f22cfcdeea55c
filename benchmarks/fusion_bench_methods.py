"""Merge by methods on whole matrices with FusionBench 0.2.33, in float32 on the CPU.

PYTHON_WITH_FUSION_BENCH benchmarks/fusion_bench_methods.py iso_c OUT BASE EXPERT...
"""

import argparse
from pathlib import Path

import torch
from fusion_bench import BaseModelPool
from fusion_bench.method.isotropic_merging import ISO_C_Merge
from fusion_bench.method.task_singular_vector import TaskSingularVectorMerging
from safetensors import safe_open
from transformers import AutoModel, AutoModelForCausalLM


def load(folder: Path) -> torch.nn.Module:
    """Load a model in float32; only decoders have a head."""
    with safe_open(min(folder.glob("*.safetensors")), framework="pt") as file:
        decoder = any(name.startswith("model.") for name in file.keys())  # noqa: SIM118
    kind = AutoModelForCausalLM if decoder else AutoModel
    return kind.from_pretrained(folder, dtype=torch.float32)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", choices=("iso_c", "tsv_m"))
    parser.add_argument("out", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("experts", type=Path, nargs="+")
    arguments = parser.parse_args()
    models = {"_pretrained_": load(arguments.base)}
    models |= {folder.name: load(folder) for folder in arguments.experts}
    if arguments.method == "iso_c":
        algorithm = ISO_C_Merge(scaling_factor=1.0, exclude_keys=[])
    else:
        algorithm = TaskSingularVectorMerging(exclude_keys=[])
    with safe_open(min(arguments.base.glob("*.safetensors")), framework="pt") as file:
        stored = file.get_tensor(next(iter(file.keys()))).dtype
    algorithm.run(BaseModelPool(models)).to(stored).save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
