"""What mergekit computes otherwise than mergegrid, one line each."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mergegrid.recipes.mergekit.inputs import Inputs
from mergegrid.recipes.mergekit.output import dtype_of
from mergegrid.recipes.mergekit.parameters import numbers


def differences_of(inputs: Inputs, sparsifier: dict[str, Any]) -> Iterator[str]:
    """Lines about everything that makes results differ from mergekit's.

    Args:
        inputs: models and parameters of the mergekit file.
        sparsifier: the sparsifier that replaces mergekit's.
    """
    method = inputs.file.method
    definition = inputs.file.definition
    yield from _precision(inputs)
    if definition.sparsifier and sparsifier["kind"] == "none":
        given = "1" if inputs.given("density") else "not set, which is 1"
        yield f"density is {given}: {method} drops nothing, in mergekit neither"
    if sparsifier["kind"] in ("dare", "drop_only", "della"):
        yield (
            "masks are drawn by mergegrid's generator with seed 0; mergekit draws others, "
            "new ones on every run without --random-seed"
        )
    if sparsifier["kind"] == "dare":
        yield (
            "kept deltas are divided by exactly the density; mergekit scales each tensor to the "
            "L1 norm before dropping"
        )
    if sparsifier["kind"] == "della":
        yield (
            "kept deltas are divided by their keep probability, as in the paper; mergekit scales "
            "each tensor to the L1 norm before dropping"
        )
    if any(source.model.adapter for source in inputs.experts.values()):
        yield (
            "deltas of adapters are exact in float32; mergekit merges adapters into their models "
            "first, in the dtype of these"
        )
    if inputs.file.tokenizer:
        yield (
            "embeddings keep the rows of the base beyond the tokens of its tokenizer; mergekit "
            "writes as many rows as there are tokens"
        )
    first, last = inputs.file.slices[0], inputs.file.slices[-1]
    if len(first.sources) < len(last.sources) and inputs.file.method != "passthrough":
        yield (
            "final norm and head are merged of all models of the last slice; mergekit takes only "
            "as many of them as the first slice has"
        )
    yield from _OF_METHOD.get(method, ())


_OF_METHOD = {
    "nuslerp": (
        "mergegrid takes the line instead of the circle where the sine is below 1e-4; mergekit "
        "where it is below 1e-8",
    ),
    "karcher": (
        "mergegrid iterates until steps are below 1e-10; mergekit stops after 10 steps or below "
        "1e-5",
    ),
}


def _precision(inputs: Inputs) -> Iterator[str]:
    dtype = dtype_of(inputs.file, "dtype")
    if dtype is None:
        yield (
            "dtype is not set: mergekit computes in the dtype of the models and rounds every step; "
            "mergegrid computes in float32 and rounds once"
        )
    elif dtype == "float64":
        yield "dtype is float64: mergegrid computes in float32"
    elif dtype != "float32":
        yield (
            f"dtype is {dtype}: mergekit rounds models and every step to it; mergegrid computes in "
            "float32 and rounds once"
        )
        rounded = _rounded_weights(inputs, dtype)
        if rounded:
            yield f"mergekit also rounds weights: {', '.join(rounded)}"


def _rounded_weights(inputs: Inputs, dtype: str) -> list[str]:
    """Weights of deltas that mergekit rounds to a dtype, as in `0.3 to 0.30078125`."""
    if "lambda" not in inputs.file.definition.shared:
        return []
    weights = {number for item in inputs.per_model("weight").values() for number in numbers(item)}
    texts = []
    for weight in sorted(map(float, weights)):
        rounded = _rounded(weight, dtype)
        if rounded != np.float32(weight):
            texts.append(f"{weight:g} to {rounded:.8g}")
    return texts


def _rounded(number: float, dtype: str) -> float:
    if dtype == "float16":
        return float(np.float16(number))
    # bfloat16 is the upper half of float32, rounded to nearest, ties to even.
    bits = int(np.float32(number).view(np.uint32))
    upper = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    return float(np.uint32(upper).view(np.float32))
