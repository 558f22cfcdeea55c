"""Create files of model statistics with random numbers, for methods that need them.

A separate program, because the process that measures must stay small (see measure.py).
"""

import argparse
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

ROWS = 256
"""Random inputs behind the Gram matrix of a layer; a diagonal stands for all others."""


def make_statistics(kind: str, base: Path, target: Path, seed: int) -> None:
    """Write diagonal Fisher information or Gram matrices of one expert of a base."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for file in sorted(base.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                shape = weights.get_slice(name).get_shape()
                if kind == "fisher":
                    values = torch.empty(shape).exponential_(1e6, generator=generator)
                    tensors[name] = values.bfloat16()
                elif len(shape) == 2 and "embed" not in name and "lm_head" not in name:
                    inputs = torch.empty(ROWS, shape[1]).normal_(generator=generator)
                    tensors[name] = inputs.T @ inputs / ROWS + torch.eye(shape[1])
    save_file(tensors, target)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("fisher", "regmean"))
    parser.add_argument("base", type=Path)
    parser.add_argument("targets", type=Path, nargs="+", help="one file per expert")
    arguments = parser.parse_args()
    for seed, target in enumerate(arguments.targets):
        target.parent.mkdir(parents=True, exist_ok=True)
        make_statistics(arguments.kind, arguments.base, target, seed)


if __name__ == "__main__":
    main()
