"""Benchmark cases: the same merges as merge files of mergegrid and as configs of mergekit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

EXPERTS = ("math", "code")
RATES = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
DARE = {"kind": "dare", "rate": 0.9, "seed": 1}
TASK_ARITHMETIC = {"kind": "task_arithmetic", "coefficient": 0.5}

PER_EXPERT: dict[str, dict[str, float]] = {
    "dare_linear": {"weight": 0.5, "density": 0.1},
    "ties": {"weight": 1.0, "density": 0.2},
    "dare_ties": {"weight": 1.0, "density": 0.1},
}
"""mergekit's parameters per expert, by merge method. Density is 1 - rate, or 1 - trim."""


@dataclass(frozen=True)
class Case:
    """One merge of two experts into their base."""

    name: str
    sparsifier: dict[str, Any]
    method: dict[str, Any]
    mergekit: str
    """The equivalent merge method of mergekit. Its TIES always trims per tensor."""

    def merge_file(self) -> str:
        """Return the merge file, to be written into a folder beside the models."""
        return yaml.safe_dump(
            {
                "base": "../base",
                "experts": {name: f"../{name}" for name in EXPERTS},
                "sparsifier": self.sparsifier,
                "method": self.method,
            },
            sort_keys=False,
        )


def _ties(scope: str) -> dict[str, Any]:
    return {"kind": "ties", "coefficient": 1.0, "trim": 0.8, "scope": scope}


CASES = (
    Case("dare + task arithmetic", DARE, TASK_ARITHMETIC, "dare_linear"),
    Case("ties, global", {"kind": "none"}, _ties("global"), "ties"),
    Case("ties, per tensor", {"kind": "none"}, _ties("per_tensor"), "ties"),
    Case("dare + ties, global", DARE, _ties("global"), "dare_ties"),
    Case("dare + ties, per tensor", DARE, _ties("per_tensor"), "dare_ties"),
)
TEN_RATES = Case("ten rates", DARE | {"rate": RATES}, TASK_ARITHMETIC, "")


def mergekit_config(method: str, models: Path, dtype: str) -> str:
    """Return the config of mergekit, with absolute paths; the merged model is always bfloat16.

    Args:
        method: mergekit's merge method.
        models: folder of the models.
        dtype: dtype of the arithmetic: `bfloat16`, the usual choice in mergekit's documentation, or
            `float32`, which computes as mergegrid does and rounds once.
    """
    return yaml.safe_dump(
        {
            "merge_method": method,
            "base_model": str(models / "base"),
            "models": [
                {"model": str(models / name), "parameters": dict(PER_EXPERT[method])}
                for name in EXPERTS
            ],
            "parameters": {"normalize": method != "dare_linear"},
            "dtype": dtype,
            "out_dtype": "bfloat16",
        },
        sort_keys=False,
    )
