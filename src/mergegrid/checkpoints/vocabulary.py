"""Experts whose vocabulary is larger than the base's: cut to its rows, or all padded to one size.

Fine-tuning often adds a padding token, and with it a row to the embeddings: 32001 rows in
`WizardMath-13B-V1.0`, 32000 in its base.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.checkpoints.dtypes import Dtype, Stored, decode, encode
from mergegrid.errors import CheckpointError

VocabularyPolicy = Literal["base_rows", "pad"]
"""`base_rows` merges the rows that the base has and cuts those that an expert added; `pad` brings
every model to the largest number of rows with the mean of its own (arXiv 2311.03099, its code)."""

INPUTS = ("shared", "embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in")
"""Modules with a row per token of the input, as transformers names them."""
OUTPUTS = (
    "lm_head",
    "embed_out",
    "lm_head.decoder",
    "predictions.decoder",
    "predictions",
    "generator_lm_head",
    "vocab_projector",
)
"""Modules with a row, and often a bias, per token of the output."""
_READ_AT_ONCE = 2**20


@dataclass(frozen=True)
class Aligned:
    """A base and its experts with equal numbers of rows."""

    base: Checkpoint
    experts: dict[str, Checkpoint]
    rows: int | None
    """Tokens that a merge has where the base was padded: the `vocab_size` of its config."""
    report: list[str]
    """A line per tensor that was cut or padded."""


def align(
    base: Checkpoint, experts: Mapping[str, Checkpoint], policy: VocabularyPolicy = "base_rows"
) -> Aligned:
    """Base and experts whose embeddings have equal numbers of rows; nothing is copied.

    Only tensors with a row per token are touched, known by name; those that differ otherwise are
    left for `check_homologous` to refuse.

    Raises:
        CheckpointError: an expert has fewer rows than its base, and `policy` is `base_rows`.
    """
    models = {"base": base} | {f"expert {name}": expert for name, expert in experts.items()}
    rows = {
        name: [model.infos[name].shape[0] for model in models.values() if name in model]
        for name in base
        if is_vocabulary(name) and _differ_in_rows(name, base, experts)
    }
    if policy == "base_rows":
        targets = {name: base.infos[name].shape[0] for name in rows}
    else:
        targets = {name: max(counts) for name, counts in rows.items()}
    report: list[str] = []
    aligned = [_resized(who, model, targets, policy, report) for who, model in models.items()]
    padded = [count for name, count in targets.items() if count > base.infos[name].shape[0]]
    return Aligned(
        aligned[0], dict(zip(experts, aligned[1:], strict=True)), max(padded, default=None), report
    )


def is_vocabulary(name: str) -> bool:
    """Whether a tensor has a row per token, as `model.embed_tokens.weight` has."""
    module, _, leaf = name.rpartition(".")
    return leaf in ("weight", "bias") and any(
        module == known or module.endswith(f".{known}") for known in (*INPUTS, *OUTPUTS)
    )


def _differ_in_rows(name: str, base: Checkpoint, experts: Mapping[str, Checkpoint]) -> bool:
    """Whether some expert's tensor has another number of rows, and all agree in the rest."""
    shape = base.infos[name].shape
    others = [expert.infos[name].shape for expert in experts.values() if name in expert]
    return any(other != shape for other in others) and all(
        shape and other and other[1:] == shape[1:] for other in others
    )


def _resized(
    who: str,
    model: Checkpoint,
    targets: Mapping[str, int],
    policy: VocabularyPolicy,
    report: list[str],
) -> Checkpoint:
    changed = {}
    for name, rows in targets.items():
        if name not in model or model.infos[name].shape[0] == rows:
            continue
        info = model.infos[name]
        difference = abs(info.shape[0] - rows)
        some = f"{difference} row{'s' if difference > 1 else ''}"
        are = "are" if difference > 1 else "is"
        if rows < info.shape[0]:
            report.append(f"{who}: {some} of {name} beyond the base's {rows} {are} left out")
        elif policy == "pad":
            report.append(
                f"{who}: {some} of {name} {are} added, the mean of the {info.shape[0]} it has"
            )
        else:
            raise CheckpointError(
                f"{name} has {info.shape[0]} rows in {who} and {rows} in the base; an expert with "
                "fewer tokens cannot be merged row by row: ask for the vocabulary policy pad, or "
                "name the right base"
            )
        changed[name] = TensorInfo((rows, *info.shape[1:]), info.dtype)
    return ResizedCheckpoint(model, changed) if changed else model


class ResizedCheckpoint(Checkpoint):
    """A checkpoint of which some tensors have fewer rows, or more: the mean of those it has.

    The mean is taken in float64 and rounded to float32, then to the stored type. It is read once,
    when the checkpoint is made, in runs of a megabyte or so.
    """

    def __init__(self, checkpoint: Checkpoint, resized: Mapping[str, TensorInfo]) -> None:
        super().__init__(checkpoint.infos | dict(resized))
        self._checkpoint = checkpoint
        self._new_rows = {
            name: _mean_row(checkpoint, name)
            for name, info in resized.items()
            if info.count > checkpoint.infos[name].count
        }

    def stored_name(self, name: str) -> str:
        """The name that a tensor has where it is stored."""
        return self._checkpoint.stored_name(name)

    def read(self, name: str, start: int, stop: int, room: Stored) -> Stored:
        """Elements of a tensor, new rows included."""
        there = self._checkpoint.infos[name].count
        if stop <= there:
            found: Stored = self._checkpoint.read(name, start, stop, room)
            return found
        known = max(there - start, 0)
        if known:
            room[:known] = self._checkpoint.read(name, start, there, room[:known])
        row = self._new_rows[name]
        place_in_row = (start + known) % row.size
        room[known:] = np.resize(np.roll(row, -place_in_row), stop - start - known)
        return room


def _mean_row(checkpoint: Checkpoint, name: str) -> Stored:
    info = checkpoint.infos[name]
    rows, width = info.shape[0], math.prod(info.shape[1:])
    at_once = max(_READ_AT_ONCE // max(width, 1), 1)
    stored = np.empty(at_once * width, info.dtype.numpy)
    values = np.empty(at_once * width, np.float32)
    total: NDArray[np.float64] = np.zeros(width)
    for first in range(0, rows, at_once):
        count = min(at_once, rows - first) * width
        start = first * width
        decode(
            checkpoint.read(name, start, start + count, stored[:count]), info.dtype, values[:count]
        )
        total += values[:count].reshape(-1, width).sum(axis=0, dtype=np.float64)
    return _rounded(total / rows, info.dtype)


def _rounded(values: NDArray[np.float64], dtype: Dtype) -> Stored:
    stored = np.empty(values.size, dtype.numpy)
    encode(values.astype(np.float32), dtype, stored)
    return stored
