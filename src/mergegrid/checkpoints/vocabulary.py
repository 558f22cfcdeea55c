"""Experts with more tokens than the base: embeddings are cut to the base's rows or all padded.

Fine-tuning often adds a padding token, and with it a row to the embeddings: 32001 rows in
`WizardMath-13B-V1.0`, 32000 in its base.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mergegrid.checkpoints.checkpoint import Change, Checkpoint, TensorInfo
from mergegrid.checkpoints.dtypes import Stored, decode, encode
from mergegrid.errors import CheckpointError, HeadersOnlyError

VocabularyPolicy = Literal["base_rows", "pad"]
"""`base_rows` merges the rows that the base has and cuts those that an expert added; `pad` brings
every model to the largest number of rows with the mean of its own (arXiv 2311.03099, its code)."""

INPUTS = ("shared", "embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in")
"""Names in transformers of modules with a row per input token."""
OUTPUTS = (
    "lm_head",
    "embed_out",
    "lm_head.decoder",
    "predictions.decoder",
    "predictions",
    "generator_lm_head",
    "vocab_projector",
)
"""Names of modules with a row, and often a bias, per output token."""
_CHUNK = 2**20


@dataclass(frozen=True)
class Aligned:
    """A base and its experts with the same number of embedding rows."""

    base: Checkpoint
    experts: dict[str, Checkpoint]
    rows: int | None
    """`vocab_size` of merged models if the base was padded, else None."""
    notes: list[str]
    """A line per tensor that is cut or padded."""


def align(
    base: Checkpoint, experts: Mapping[str, Checkpoint], policy: VocabularyPolicy = "base_rows"
) -> Aligned:
    """Give the embeddings of base and experts the same number of rows, without copying them.

    Only tensors with a row per token, recognized by name, are resized. `check_homologous` rejects
    other differences in shape.

    Raises:
        CheckpointError: an expert has fewer rows than the base, and `policy` is `base_rows`.
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
    notes: list[str] = []
    aligned = [_resized(model, who, targets, policy, notes) for who, model in models.items()]
    padded = [count for name, count in targets.items() if count > base.infos[name].shape[0]]
    return Aligned(
        aligned[0], dict(zip(experts, aligned[1:], strict=True)), max(padded, default=None), notes
    )


def is_vocabulary(name: str) -> bool:
    """Whether a tensor has a row per token, as `model.embed_tokens.weight` has."""
    module, _, leaf = name.rpartition(".")
    return leaf in ("weight", "bias") and any(
        module == known or module.endswith(f".{known}") for known in (*INPUTS, *OUTPUTS)
    )


def _differ_in_rows(name: str, base: Checkpoint, experts: Mapping[str, Checkpoint]) -> bool:
    """Whether the tensors of base and experts differ in their number of rows, and only in that."""
    shape = base.infos[name].shape
    others = [expert.infos[name].shape for expert in experts.values() if name in expert]
    return any(other != shape for other in others) and all(
        shape and other and other[1:] == shape[1:] for other in others
    )


def _resized(
    model: Checkpoint,
    who: str,
    targets: Mapping[str, int],
    policy: VocabularyPolicy,
    notes: list[str],
) -> Checkpoint:
    """A model with the target number of rows in each tensor; adds a line to `notes` for each."""
    changed = {}
    for name, rows in targets.items():
        if name not in model or model.infos[name].shape[0] == rows:
            continue
        info = model.infos[name]
        count = abs(info.shape[0] - rows)
        difference = f"{who}: {count} row{'s' if count > 1 else ''} of {name}"
        if rows < info.shape[0]:
            notes.append(f"{difference} beyond the base's {rows} left out")
        elif policy == "pad":
            notes.append(f"{difference} added, each the mean of the existing {info.shape[0]}")
        else:
            raise CheckpointError(
                f"{name} has {info.shape[0]} rows in {who} and {rows} in the base; an expert with "
                "fewer tokens than the base cannot be merged row by row: set the vocabulary policy "
                "to pad, or specify another base"
            )
        changed[name] = TensorInfo((rows, *info.shape[1:]), info.dtype)
    return ResizedCheckpoint(model, changed) if changed else model


class ResizedCheckpoint(Checkpoint):
    """A checkpoint in which some tensors have fewer rows, or more, which equal the mean row.

    The mean is computed once, at construction, in float64; it is rounded to float32 and then to the
    stored dtype.
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
        """The name of a tensor in its file."""
        return self._checkpoint.stored_name(name)

    def change(self, name: str) -> Change | None:
        """How a tensor follows from the base's; None where it has new rows."""
        return None if name in self._new_rows else self._checkpoint.change(name)

    def read_bytes(self, name: str) -> int:
        """Bytes that are read for a whole tensor."""
        same = self.infos[name] == self._checkpoint.infos[name] or self.change(name)
        return self._checkpoint.read_bytes(name) if same else self.infos[name].bytes

    @property
    def open_bytes(self) -> int:
        """Memory that each thread holds besides chunks."""
        return self._checkpoint.open_bytes

    @property
    def arrays(self) -> int:
        """Number of arrays in memory for a chunk of a tensor."""
        return self._checkpoint.arrays

    def read(self, name: str, start: int, stop: int, buffer: Stored) -> Stored:
        """Read elements of a tensor, including its new rows."""
        count = self._checkpoint.infos[name].count
        if stop <= count:
            stored: Stored = self._checkpoint.read(name, start, stop, buffer)
            return stored
        existing = max(count - start, 0)
        if existing:
            buffer[:existing] = self._checkpoint.read(name, start, count, buffer[:existing])
        row = self._new_rows[name]
        column = (start + existing) % row.size
        buffer[existing:] = np.resize(np.roll(row, -column), stop - start - existing)
        return buffer


def _mean_row(checkpoint: Checkpoint, name: str) -> Stored:
    info = checkpoint.infos[name]
    rows, width = info.shape[0], math.prod(info.shape[1:])
    height = max(_CHUNK // max(width, 1), 1)
    buffer = np.empty(height * width, info.dtype.numpy)
    values = np.empty(height * width, np.float32)
    total: NDArray[np.float64] = np.zeros(width)
    for first in range(0, rows, height):
        count = min(height, rows - first) * width
        start = first * width
        try:
            stored = checkpoint.read(name, start, start + count, buffer[:count])
        except HeadersOnlyError:
            break  # Nothing is read before the data are there, and then this is computed again.
        decode(stored, info.dtype, values[:count])
        total += values[:count].reshape(-1, width).sum(axis=0, dtype=np.float64)
    mean = np.empty(width, info.dtype.numpy)
    encode((total / rows).astype(np.float32), info.dtype, mean)
    return mean
