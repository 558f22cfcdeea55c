"""Compare methods on whole matrices with direct singular value decompositions, on real experts.

    snakemake --cores all results/minilm/experts/{spam,tweets}/seed~0 \\
        results/smollm2/experts/{math,code}/seed~0
    python benchmarks/gram_accuracy.py --work .bench

Merges experts of the quickstart with mergegrid and, tensor by tensor, by the definitions in
float64. Three kinds of deltas: as fine-tuned; cut to rank 16 as an adapter has them; and those
adapters merged into float32 weights, whose rounding gives a full rank. Writes `gram_accuracy.md`
with, of each, the largest relative error over all tensors (|difference| / |direct|, Frobenius
norms), and how far two LAPACK drivers for the direct way, gesdd and gesvd, are apart: in float64
with mergegrid's cut below the largest singular value, and in float32 without one, as published.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from scipy.linalg import svd
from tabulate import tabulate

from mergegrid import IsoC, TsvM, Wudi, merge
from mergegrid.engine.method import Method

EXPERTS = {"minilm": ("spam", "tweets"), "smollm2": ("math", "code")}
KINDS = ("fine-tuned", "adapters of rank 16", "merged adapters")
RANK = 16
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

logger = logging.getLogger("benchmark")


def iso_c(deltas: list[Doubles], driver: str, cut: float = 1e-5) -> Doubles:
    """mean(S) U V^T of the sum, without directions below a share of the largest."""
    left, singular, right = decomposed(sum_of(deltas), driver)
    kept = singular > cut * singular[0]
    return singular[kept].sum() / len(singular) * (left[:, kept] @ right[kept])


def tsv_m(deltas: list[Doubles], driver: str, cut: float = 1e-5) -> Doubles:
    """U S V^T of the largest singular values of each delta, U and V made orthogonal."""
    count = min(deltas[0].shape) // len(deltas)
    lefts, singulars, rights = [], [], []
    for delta in deltas:
        left, singular, right = decomposed(delta, driver)
        kept = np.flatnonzero(singular > cut * singular[0])[:count]
        lefts.append(left[:, kept])
        singulars.append(singular[kept])
        rights.append(right[kept])
    outer = polar(np.concatenate(lefts, axis=1), driver)
    inner = polar(np.concatenate(rights), driver)
    return outer * np.concatenate(singulars) @ inner


def wudi(deltas: list[Doubles], driver: str, ridge: float = 0.01) -> Doubles:
    """Least squares over the singular values of the stacked deltas of unit norm."""
    norms = [np.linalg.norm(delta) for delta in deltas]
    stacked = np.concatenate([delta / norm for delta, norm in zip(deltas, norms, strict=True)])
    _, singular, right = decomposed(stacked, driver)
    pull = ridge * len(deltas) / stacked.shape[1]
    inverse = right.T / (singular**2 + pull)
    total = sum_of(deltas) @ inverse * (pull / len(deltas))
    for delta, norm in zip(deltas, norms, strict=True):
        unit = delta / norm
        total += delta @ (unit.T @ (unit @ inverse))
    result: Doubles = total @ right
    return result


METHODS: Mapping[str, tuple[Method, Callable[..., Doubles]]] = {
    "iso_c": (IsoC(), iso_c),
    "tsv_m": (TsvM(), tsv_m),
    "wudi": (Wudi(), wudi),
}


def sum_of(deltas: list[Doubles]) -> Doubles:
    """Sum of matrices."""
    total: Doubles = np.sum(deltas, axis=0)
    return total


def decomposed(matrix: Doubles, driver: str) -> tuple[Doubles, Doubles, Doubles]:
    """U, S and V^T, thin."""
    return svd(matrix, full_matrices=False, lapack_driver=driver, check_finite=False)


def polar(vectors: Doubles, driver: str) -> Doubles:
    """The nearest matrix with orthogonal columns or rows."""
    left, singular, right = decomposed(vectors, driver)
    kept = singular > 1e-10 * singular[0]
    return left[:, kept] @ right[kept]


def apart(one: NDArray[Any], other: NDArray[Any]) -> float:
    """|one - other| / |other|."""
    return float(np.linalg.norm(one.astype(np.float64) - other) / np.linalg.norm(other))


def models(
    results: Path, family: str, most: int | None, rows: int
) -> Iterator[tuple[str, list[Floats]]]:
    """The first rows of matrices of the base and of all experts, evenly spread over the model."""
    folders = [results / family / "base"]
    folders += [results / family / "experts" / name / "seed~0" for name in EXPERTS[family]]
    files = [safe_open(folder / "model.safetensors", framework="pt") for folder in folders]
    names = files[0].keys()
    names = [name for name in names if len(files[0].get_slice(name).get_shape()) == 2]
    for place in range(min(most or len(names), len(names))):
        name = names[place * len(names) // (most or len(names))]
        tensors = [file.get_tensor(name)[:rows].float().numpy() for file in files]
        yield name, [np.ascontiguousarray(tensor) for tensor in tensors]


def deltas_of(kind: str, base: Floats, experts: list[Floats]) -> list[Floats]:
    """Deltas [out, in] of one of the kinds."""
    deltas = [expert - base for expert in experts]
    if kind == "fine-tuned":
        return deltas
    adapters = []
    for delta in deltas:
        left, singular, right = decomposed(delta.astype(np.float64), "gesdd")
        product = (left[:, :RANK] * singular[:RANK]).astype(np.float32) @ right[:RANK].astype(
            np.float32
        )
        adapters.append(product)
    return adapters if kind == "adapters of rank 16" else [base + one - base for one in adapters]


def compare(results: Path, family: str, most: int | None, rows: int) -> list[list[object]]:
    """Rows of the table for one family: the largest error of each kind and method."""
    worst: dict[tuple[str, str], list[float]] = {}
    used = 0
    for name, (base, *experts) in models(results, family, most, rows):
        if any(np.array_equal(base, expert) for expert in experts):
            continue
        used += 1
        for kind in KINDS:
            deltas = deltas_of(kind, base, experts)
            for label, (method, direct) in METHODS.items():
                # gesvd is slow, and matters where singular values are rounding noise.
                drivers = label != "wudi" and kind != "fine-tuned"
                errors = compare_tensor(deltas, method, direct, drivers)
                old = worst.setdefault((kind, label), [0.0] * len(errors))
                worst[kind, label] = [max(pair) for pair in zip(old, errors, strict=True)]
        logger.info("%s %s", family, name)
    return [
        [family, used, kind, label, *(f"{error:.0e}" for error in errors)]
        for (kind, label), errors in worst.items()
    ]


def compare_tensor(
    deltas: list[Floats], method: Method, direct: Callable[..., Doubles], drivers: bool
) -> list[float]:
    """mergegrid against gesdd; gesvd against gesdd with mergegrid's cut, and in float32 without."""
    exact = [delta.astype(np.float64) for delta in deltas]
    experts = {f"e{number}": {"w": delta} for number, delta in enumerate(deltas)}
    merged = merge({"w": np.zeros_like(deltas[0])}, experts, method=method, threads=1)["w"]
    expected = direct(exact, "gesdd")
    errors = [apart(merged, expected)]
    if drivers:
        errors.append(apart(direct(exact, "gesvd"), expected))
        errors.append(apart(direct(deltas, "gesvd", cut=-1), direct(deltas, "gesdd", cut=-1)))
    return errors


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for the table")
    add("--results", type=Path, default=Path("results"), help="results of the quickstart")
    add("--family", nargs="+", choices=EXPERTS, default=list(EXPERTS))
    add("--matrices", type=int, help="most matrices of each model; by default all")
    add("--rows", type=int, default=2000, help="most rows of a matrix")
    arguments = parser.parse_args()
    rows = []
    for family in arguments.family:
        rows += compare(arguments.results, family, arguments.matrices, arguments.rows)
    heads = ["Experts", "Matrices", "Deltas", "Method", "Error", "gesvd / gesdd", "float32, no cut"]
    table = tabulate(rows, heads, "pipe", disable_numparse=True, missingval="")
    arguments.work.mkdir(parents=True, exist_ok=True)
    (arguments.work / "gram_accuracy.md").write_text(table + "\n")
    logger.info("\n%s", table)


if __name__ == "__main__":
    main()
