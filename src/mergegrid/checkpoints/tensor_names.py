"""Canonical tensor names for the models of a family, with one name for each matrix.

Files use different names for the same parameters: with or without the prefix of the body
(`h.0.ln_1.weight` or `transformer.h.0.ln_1.weight`), and with a tied matrix under one of its names
or under several. Masks are drawn by name, so a matrix with two names would become two matrices.
"""

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from itertools import combinations
from pathlib import Path

import numpy as np

from mergegrid.checkpoints.architectures import (
    T5,
    Config,
    is_constant,
    is_output,
    is_task_head,
    missing_prefix,
    text_config,
    tied_biases,
    tied_names,
    ties_output,
    unties_all,
    vocabulary_sizes,
    wrapper,
)
from mergegrid.checkpoints.checkpoint import Checkpoint, Renamed
from mergegrid.checkpoints.dtypes import decode
from mergegrid.checkpoints.location import read_json
from mergegrid.checkpoints.vocabulary import INPUTS, OUTPUTS
from mergegrid.errors import CheckpointError, HeadersOnlyError

logger = logging.getLogger(__name__)

_CHUNK = 2**20


def read_config(folder: Path) -> Config:
    """The `config.json` of a folder, or an empty config if there is none."""
    path = folder / "config.json"
    return read_json(path) if path.is_file() else {}


def canonical(checkpoint: Checkpoint, config: Config, where: str) -> Checkpoint:
    """A checkpoint under the names of the class in its config, with one name for each matrix.

    Raises:
        CheckpointError: a matrix that the architecture ties has two different values in the file,
            or it is unknown whether two equal matrices are tied.
    """
    start = len(wrapper(checkpoint))
    prefix = missing_prefix([name[start:] for name in checkpoint], config)
    names = {}
    for stored in checkpoint:
        name = stored[start:]
        in_body = not is_task_head(name, config) and not is_output(name)
        names[prefix + name if in_body and name != "final_logits_bias" else name] = stored
    if prefix or start:
        logger.info("%s: tensor names completed to those of its class, e.g. %s", where, min(names))
    _merge_tied_names(names, checkpoint, config, where)
    if not unties_all(config):
        _reject_equal_embeddings(names, checkpoint, config, where)
    same = list(names) == list(names.values()) == list(checkpoint)
    return checkpoint if same else Renamed(checkpoint, names)


def _merge_tied_names(
    names: dict[str, str], checkpoint: Checkpoint, config: Config, where: str
) -> None:
    """Keep one name of each tied matrix in `names`, which maps names to those in the file."""
    kind = str(text_config(config).get("model_type"))
    tied = ties_output(config)
    if kind not in T5 and tied is False:
        return
    embedding, others = tied_names(names, config)
    for other in others:
        assert embedding is not None, f"{other} is tied to nothing"
        if kind in T5 and tied is False and is_output(other):
            continue
        if embedding not in names:
            if tied is None:
                return
            names[embedding] = names.pop(other)
            continue
        one, two = names[embedding], names[other]
        if not _equal(checkpoint, one, two, unknown=tied is not None):
            # transformers then loads both and does not tie them.
            if tied is None or (kind in T5 and is_output(other)):
                continue
            raise CheckpointError(
                f"{where}: its architecture ties {two} to {one}, but the file contains two "
                "different matrices; remove the one that was not trained, or set "
                "tie_word_embeddings to false in config.json if both are used"
            )
        if tied is None:
            raise CheckpointError(
                f"{where}: {one} and {two} are equal, and it is unknown whether they are one "
                f"matrix: model_type {kind} is unknown and config.json has no "
                "tie_word_embeddings; add it there"
            )
        logger.info("%s: %s is tied to %s and merged once", where, two, one)
        del names[other]
    for other, bias in tied_biases(names).items() if tied else ():
        if bias not in names or _equal(checkpoint, names[bias], names[other], unknown=True):
            names.setdefault(bias, names.pop(other))


def _reject_equal_embeddings(
    names: Mapping[str, str], checkpoint: Checkpoint, config: Config, where: str
) -> None:
    """Reject two equal matrices with a row per token that no table of architectures ties."""
    shapes = {stored: checkpoint.infos[stored].shape for stored in names.values()}
    rows = vocabulary_sizes(config)
    rows |= {shapes[stored][0] for name, stored in names.items() if is_output(name)}
    embeddings = [name for name, shape in shapes.items() if len(shape) == 2 and shape[0] in rows]
    for one, two in combinations(embeddings, 2):
        if _equal(checkpoint, one, two, unknown=False):
            raise CheckpointError(
                f"{where}: {one} and {two} are equal, and their names do not say whether they are "
                "one matrix; remove the one that transformers ties to the other when it loads the "
                "model, or set tie_word_embeddings to false in config.json if both are used"
            )


def _equal(checkpoint: Checkpoint, one: str, two: str, unknown: bool) -> bool:
    """Whether two tensors of a checkpoint are equal; reads chunks of a few megabytes.

    `unknown` is the answer if only headers have been downloaded; it is checked afterwards.
    """
    infos = checkpoint.infos[one], checkpoint.infos[two]
    locations = getattr(checkpoint, "locations", {})
    if infos[0].shape != infos[1].shape:
        return False
    if one in locations and locations[one] == locations[two]:
        return True
    for start in range(0, infos[0].count, _CHUNK):
        stop = min(start + _CHUNK, infos[0].count)
        values = np.empty((2, stop - start), np.float32)
        for name, info, row in zip((one, two), infos, values, strict=True):
            buffer = np.empty(stop - start, info.dtype.numpy)
            try:
                decode(checkpoint.read(name, start, stop, buffer), info.dtype, row)
            except HeadersOnlyError:
                return unknown
        if not np.array_equal(values[0], values[1], equal_nan=True):
            return False
    return True


def with_names_of_base(
    expert: Checkpoint, base: Collection[str], config: Config, where: str
) -> Checkpoint:
    """An expert under the names of its base, if they differ by one prefix or by `gamma`.

    Raises:
        CheckpointError: some names differ by a prefix, but not all.
    """
    expert = _with_norm_names_of_base(expert, base, where)
    missing = [name for name in base if name not in expert and _is_body(name, config)]
    prefixes = _prefixes(missing, expert)
    if not prefixes:
        return expert
    (longer, prefix), _ = max(prefixes.items(), key=lambda item: (item[1], item[0]))
    names = {}
    for name in expert:
        if longer == "expert":
            names[name.removeprefix(prefix)] = name
        else:
            names[prefix + name if prefix + name in base else name] = name
    unexplained = [name for name in missing if name not in names]
    if 2 * len(unexplained) > len(missing):
        return expert
    if unexplained or len(names) < len(expert):
        raise CheckpointError(
            f"{where}: its tensor names differ from the base's by the prefix {prefix!r}, which "
            f"explains {len(missing) - len(unexplained)} of {len(missing)} tensors but not the "
            f"other {len(unexplained)}, first {(unexplained or missing)[0]}; save the whole model "
            "under one prefix"
        )
    logger.info("%s: tensor names match the base except for the prefix %r", where, prefix)
    return Renamed(expert, names)


def _with_norm_names_of_base(expert: Checkpoint, base: Collection[str], where: str) -> Checkpoint:
    """An expert with the norm names of its base: `weight`, or `gamma` as in the first BERT files.

    transformers loads `LayerNorm.gamma` and `LayerNorm.beta`, and saves the new names.
    """
    old_names = any(name.endswith("LayerNorm.gamma") for name in base)
    suffixes = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    if not old_names:
        suffixes = {new: old for old, new in suffixes.items()}
    names = {}
    for name in expert:
        suffix = next((suffix for suffix in suffixes if name.endswith(suffix)), None)
        renamed = name.removesuffix(suffix) + suffixes[suffix] if suffix else name
        names[name if renamed in expert else renamed] = name
    if list(names) == list(expert):
        return expert
    logger.info("%s: norms renamed to match the base", where)
    return Renamed(expert, names)


def _is_body(name: str, config: Config) -> bool:
    return not (is_task_head(name, config) or is_output(name) or is_constant(name, config))


def _prefixes(missing: Collection[str], expert: Collection[str]) -> Counter[tuple[str, str]]:
    """Number of missing names explained by each prefix, of the base's or the expert's names."""
    prefixes: Counter[tuple[str, str]] = Counter()
    for longer, names, others in (("base", missing, expert), ("expert", expert, set(missing))):
        for name in names:
            parts = name.split(".")
            for rest in (".".join(parts[start:]) for start in range(1, len(parts))):
                if rest in others:
                    prefixes[longer, name.removesuffix(rest)] += 1
    return prefixes


def with_tied_embeddings(
    checkpoint: Checkpoint, folder: Path, names: Collection[str]
) -> Checkpoint:
    """A checkpoint that also provides the missing ones of `names` that are tied embeddings.

    A model with one matrix for input and output is saved with either name or both; a base and an
    expert may have been saved differently. Other missing names stay missing.
    """
    config = read_config(folder)
    # Before transformers 5, configs omitted the key if it was true.
    if not config or text_config(config).get("tie_word_embeddings") is False:
        return checkpoint
    suffixes = tuple(f".{module}.weight" for module in (*INPUTS, *OUTPUTS))
    saved = [name for name in checkpoint if f".{name}".endswith(suffixes)]
    missing = [name for name in names if name not in checkpoint]
    tied = {name: saved[0] for name in missing if saved and f".{name}".endswith(suffixes)}
    for name, saved_name in tied.items():
        logger.info("%s: %s is tied to %s", folder, name, saved_name)
    return Renamed(checkpoint, {name: name for name in checkpoint} | tied) if tied else checkpoint
