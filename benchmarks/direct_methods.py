"""Merge by methods on whole matrices the direct way: torch, float32, singular value decompositions.

    python benchmarks/direct_methods.py iso_c OUT BASE EXPERT...

Reads one tensor of all models at a time and holds the merged model.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

Tensor = torch.Tensor
RIDGE = 0.01
"""As mergegrid's default for WUDI."""
BASE_ONLY = re.compile("embed|lm_head")
"""Matrices that WUDI leaves at the base."""


def iso_c(deltas: list[Tensor]) -> Tensor:
    """mean(S) U V^T of the sum of the deltas [out, in]."""
    left, singular, right = torch.linalg.svd(sum_of(deltas), full_matrices=False)
    return singular.mean() * (left @ right)


def tsv_m(deltas: list[Tensor]) -> Tensor:
    """U S V^T from the largest singular values of each delta, U and V made orthogonal."""
    count = min(deltas[0].shape) // len(deltas)
    parts = [torch.linalg.svd(delta, full_matrices=False) for delta in deltas]
    left = torch.cat([u[:, :count] for u, _, _ in parts], dim=1)
    singular = torch.cat([s[:count] for _, s, _ in parts])
    right = torch.cat([v[:count] for _, _, v in parts])
    return polar(left) * singular @ polar(right)


def wudi(deltas: list[Tensor]) -> Tensor:
    """The least squares D of sum_k |(D - d_k) d_k^T|^2 / |d_k|^2, with a ridge."""
    grams = [delta.T @ delta / delta.square().sum() for delta in deltas]
    ridge = RIDGE * len(deltas) / len(grams[0]) * torch.eye(len(grams[0]))
    right = sum_of([delta @ gram for delta, gram in zip(deltas, grams, strict=True)])
    right += sum_of(deltas) @ ridge / len(deltas)
    return right @ torch.linalg.pinv(sum_of(grams) + ridge)


METHODS: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "iso_c": iso_c,
    "tsv_m": tsv_m,
    "wudi": wudi,
}


def sum_of(tensors: list[Tensor]) -> Tensor:
    """Sum of tensors of one shape."""
    return torch.stack(tensors).sum(dim=0)


def polar(vectors: Tensor) -> Tensor:
    """The nearest matrix with orthogonal columns or rows."""
    left, _, right = torch.linalg.svd(vectors, full_matrices=False)
    return left @ right


def merge(method: str, out: Path, base: Path, experts: list[Path]) -> None:
    """Merge tensor by tensor: the method for matrices, the mean of the deltas for vectors."""
    merged: dict[str, Tensor] = {}
    for file in sorted(base.glob("*.safetensors")):
        models = [safe_open(folder / file.name, framework="pt") for folder in (base, *experts)]
        for name in models[0].keys():  # noqa: SIM118
            first, *others = (model.get_tensor(name).float() for model in models)
            deltas = [other - first for other in others]
            if method == "wudi" and (first.ndim != 2 or BASE_ONLY.search(name)):
                delta = torch.zeros_like(first)
            elif first.ndim != 2:
                delta = sum_of(deltas) / len(deltas)
            else:
                delta = METHODS[method](deltas)
            merged[name] = (first + delta).to(models[0].get_tensor(name).dtype)
    out.mkdir(parents=True)
    save_file(merged, out / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("out", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("experts", type=Path, nargs="+")
    arguments = parser.parse_args()
    merge(arguments.method, arguments.out, arguments.base, arguments.experts)


if __name__ == "__main__":
    main()
