"""Experts with more tokens than the base, or others: embeddings are brought to the same rows.

Fine-tuning often adds a padding token, and with it a row to the embeddings: 32001 rows in
`WizardMath-13B-V1.0`, 32000 in its base. Rows are cut to the base's, padded, or united by token.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mergegrid.checkpoints.checkpoint import Change, Checkpoint, TensorInfo
from mergegrid.checkpoints.dtypes import Stored, decode, encode
from mergegrid.checkpoints.row_mapping import RowRun
from mergegrid.checkpoints.token_alignment import (
    BASE,
    Renamed,
    Tokenizers,
    check_rows,
    label,
    listed,
    renamed_slots,
    united_ids,
)
from mergegrid.checkpoints.tokenizers import TOKENIZER
from mergegrid.checkpoints.union_rows import TokenRow, UnionRows
from mergegrid.errors import CheckpointError, HeadersOnlyError

VocabularyPolicy = Literal["base_rows", "pad", "union"]
"""`base_rows` merges the rows that the base has and cuts those that an expert added; `pad` brings
every model to the largest number of rows with the mean of its own (arXiv 2311.03099, its code);
`union` has the tokens of all models, and aligns rows by token."""

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
class VocabularySettings:
    """How models with different rows or tokens are brought together."""

    policy: VocabularyPolicy = "base_rows"
    """What happens to rows and tokens that not all models have."""
    sources: Mapping[str, TokenRow] = field(default_factory=dict)
    """Sources of the rows of single tokens, for `union`."""
    multiple: int = 1
    """The number of rows is rounded up to a multiple of this."""


@dataclass(frozen=True)
class Aligned:
    """A base and its experts with the same number of embedding rows."""

    base: Checkpoint
    experts: dict[str, Checkpoint]
    rows: int | None
    """`vocab_size` of merged models if it is not the base's, else None."""
    notes: list[str]
    """A line per tensor that is cut or padded, and lines about tokens."""
    slots: Sequence[Renamed] = ()
    """Slots of the base's vocabulary that experts renamed."""
    ids: Mapping[str, int] | None = None
    """Ids of the tokens of the merged model if vocabularies were united, else None."""
    kept: Sequence[RowRun] = ()
    """Rows that the merged model has exactly as their source does."""


def align(
    base: Checkpoint,
    experts: Mapping[str, Checkpoint],
    settings: VocabularySettings | None = None,
    tokenizers: Tokenizers | None = None,
) -> Aligned:
    """Give the embeddings of base and experts the same rows, without copying them.

    Only tensors with a row per token, recognized by name, are changed. `check_homologous` rejects
    other differences in shape.

    Args:
        base: the base.
        experts: the experts by name.
        settings: policy, sources of single tokens, and number of rows.
        tokenizers: tokenizers by model, the base under ""; `union` needs that of the base.

    Raises:
        CheckpointError: an expert has fewer rows than the base, and the policy is `base_rows`; or
            rows of different tokens would be merged.
        ConfigError: a source has no such token or row.
    """
    settings, tokenizers = settings or VocabularySettings(), tokenizers or {}
    policy = settings.policy
    slots = renamed_slots(tokenizers) if BASE in tokenizers else []
    if policy == "union":
        return _united(base, experts, tokenizers, slots, settings)
    models = {BASE: base, **experts}
    names = vocabulary_tensors(base)
    rows = {
        name: [model.infos[name].shape[0] for model in models.values() if name in model]
        for name in names
        if _differ_in_rows(name, base, experts)
    }
    if policy == "base_rows":
        targets = {name: base.infos[name].shape[0] for name in rows}
    else:
        targets = {name: max(counts) for name, counts in rows.items()}
    if BASE in tokenizers and names:
        merged = [targets.get(name, base.infos[name].shape[0]) for name in names]
        check_rows(tokenizers, min(merged), policy)
    notes: list[str] = []
    resized = [
        _resized(model, name, targets, policy, tokenizers, notes) for name, model in models.items()
    ]
    if BASE in tokenizers:
        notes += [
            f"{label(name)} has other rows than the base and no tokenizer that can be read, so its "
            "rows are taken to be those of the base's tokens"
            for name in sorted(experts.keys() - tokenizers.keys())
            if any(experts[name].infos[tensor].shape != base.infos[tensor].shape for tensor in rows)
        ]
    aligned = Aligned(resized[0], dict(zip(experts, resized[1:], strict=True)), None, notes, slots)
    return _rounded(aligned, base, settings.multiple)


def _united(
    base: Checkpoint,
    experts: Mapping[str, Checkpoint],
    tokenizers: Tokenizers,
    slots: Sequence[Renamed],
    settings: VocabularySettings,
) -> Aligned:
    """Base and experts with the rows of the union of their vocabularies."""
    models = {BASE: base, **experts}
    names = vocabulary_tensors(base)
    for model, checkpoint in models.items():
        _check_union(model, checkpoint, base, names, tokenizers)
    base_ids = tokenizers[BASE].ids
    ids = united_ids(tokenizers, slots, settings.sources)
    united = UnionRows(models, tokenizers, names, ids, slots, settings.sources)
    notes = [
        f"output.tokens: the row of {token} comes from {row.source}"
        for token, row in settings.sources.items()
    ]
    renamed = {slot.new for slot in slots}
    if added := [token for token in ids if token not in base_ids and token not in renamed]:
        notes.append(
            f"{len(added)} token{'s' if len(added) > 1 else ''} added to the base's vocabulary: "
            + listed(f"{token} (id {ids[token]})" for token in added)
        )
    aligned = Aligned(united.base, united.experts, None, notes, slots, ids, united.kept)
    return _rounded(aligned, base, settings.multiple)


def _check_union(
    model: str,
    checkpoint: Checkpoint,
    base: Checkpoint,
    names: Sequence[str],
    tokenizers: Tokenizers,
) -> None:
    """Check that the tokens and rows of a model are known, so that they can be united.

    Raises:
        CheckpointError: they are not.
    """
    refused = f"the vocabularies cannot be united: {label(model)}"
    tokenizer = tokenizers.get(model)
    if model == BASE and tokenizer is None:
        raise CheckpointError(
            f"{refused} has no {TOKENIZER}; save its tokenizer in its folder, or set "
            "output.vocabulary: base_rows"
        )
    if tokenizer is not None and tokenizer.file != TOKENIZER:
        raise CheckpointError(
            f"{refused} has {tokenizer.file} but no {TOKENIZER}; convert its tokenizer with "
            "transformers (AutoTokenizer, save_pretrained), or set output.vocabulary: base_rows"
        )
    counts = {checkpoint.infos[name].shape[0] for name in names if name in checkpoint}
    if len(counts) != 1:
        raise CheckpointError(
            f"{refused} has embeddings of {', '.join(map(str, sorted(counts))) or 'unknown'} rows "
            f"({', '.join(names) or 'no tensor has a known name'}), not of one number; set "
            "output.vocabulary: base_rows"
        )
    if tokenizer is None and counts != {base.infos[name].shape[0] for name in names}:
        raise CheckpointError(
            f"{refused} has another number of rows than the base, and no {TOKENIZER} that says "
            "which tokens they are; put its tokenizer into its folder"
        )


def vocabulary_tensors(checkpoint: Checkpoint) -> list[str]:
    """Names of the tensors with a row per token."""
    return [name for name in checkpoint if is_vocabulary(name)]


def _rounded(aligned: Aligned, base: Checkpoint, multiple: int) -> Aligned:
    """Models whose rows are rounded up to a multiple, new ones being the mean of the others."""
    names = vocabulary_tensors(base)
    counts = {name: aligned.base.infos[name].shape[0] for name in names}
    rounded = {name: -(-count // multiple) * multiple for name, count in counts.items()}
    notes = list(aligned.notes)
    models = [aligned.base, *aligned.experts.values()]
    if rounded != counts:
        notes.append(
            f"embeddings are padded to {max(rounded.values())} rows, a multiple of {multiple}, "
            "with the mean of the others"
        )
        models = [_with_rows(model, rounded) for model in models]
    changed = any(rounded[name] != base.infos[name].shape[0] for name in names)
    return replace(
        aligned,
        base=models[0],
        experts=dict(zip(aligned.experts, models[1:], strict=True)),
        rows=max(rounded.values()) if changed else None,
        notes=notes,
    )


def _with_rows(model: Checkpoint, rows: Mapping[str, int]) -> Checkpoint:
    resized = {
        name: TensorInfo((count, *model.infos[name].shape[1:]), model.infos[name].dtype)
        for name, count in rows.items()
        if name in model
    }
    return ResizedCheckpoint(model, resized)


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
    model_name: str,
    targets: Mapping[str, int],
    policy: VocabularyPolicy,
    tokenizers: Tokenizers,
    notes: list[str],
) -> Checkpoint:
    """A model with the target number of rows in each tensor; adds a line to `notes` for each."""
    changed = {}
    who = label(model_name) if model_name else "base"
    tokens = len(tokenizers[model_name]) if model_name in tokenizers else None
    for name, rows in targets.items():
        if name not in model or model.infos[name].shape[0] == rows:
            continue
        info = model.infos[name]
        count = abs(info.shape[0] - rows)
        difference = f"{who}: {count} row{'s' if count > 1 else ''} of {name}"
        if rows < info.shape[0]:
            padding = "" if tokens is None or tokens > rows else ": padding only, nothing is lost"
            notes.append(f"{difference} beyond the base's {rows} left out{padding}")
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
