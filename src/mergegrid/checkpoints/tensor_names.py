"""One set of names for the models of a family, with one name for each matrix.

Files differ in what they call the same parameters: with or without the prefix of the body
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
    lacking_prefix,
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
from mergegrid.errors import CheckpointError

logger = logging.getLogger(__name__)

_READ_AT_ONCE = 2**20


def read_config(folder: Path) -> Config:
    """The `config.json` of a folder, empty where there is none."""
    path = folder / "config.json"
    return read_json(path) if path.is_file() else {}


def canonical(checkpoint: Checkpoint, config: Config, where: str) -> Checkpoint:
    """A checkpoint with the names of the class in its config, each matrix under one of them.

    Raises:
        CheckpointError: a matrix that the architecture ties has two values in the file, or it
            cannot be known whether it is tied.
    """
    start = len(wrapper(checkpoint))
    prefix = lacking_prefix([name[start:] for name in checkpoint], config)
    names = {}
    for stored in checkpoint:
        name = stored[start:]
        inside = not is_task_head(name, config) and not is_output(name)
        names[prefix + name if inside and name != "final_logits_bias" else name] = stored
    if prefix or start:
        logger.info(
            "%s: names are completed to those of its class, as %s", where, next(iter(names))
        )
    _keep_one_name(names, checkpoint, config, where)
    if not unties_all(config):
        _refuse_equal(names, checkpoint, config, where)
    same = list(names) == list(names.values()) == list(checkpoint)
    return checkpoint if same else Renamed(checkpoint, names)


def _keep_one_name(
    names: dict[str, str], checkpoint: Checkpoint, config: Config, where: str
) -> None:
    """Take from `names`, which lead to those in the file, all but one of each tied matrix."""
    kind = str(text_config(config).get("model_type"))
    tied = ties_output(config)
    if kind not in T5 and tied is False:
        return
    embedding, others = tied_names(names, config)
    for other in others:
        assert embedding is not None, "only then there are others"
        if kind in T5 and tied is False and is_output(other):
            continue
        if embedding not in names:
            if tied is None:
                return
            names[embedding] = names.pop(other)
            continue
        one, two = names[embedding], names[other]
        if not _equal(checkpoint, one, two):
            # transformers loads both then, and does not tie them.
            if tied is None or (kind in T5 and is_output(other)):
                continue
            raise CheckpointError(
                f"{where}: its architecture ties {two} to {one}, but the file holds two different "
                "matrices; remove the one that was not trained, or set tie_word_embeddings to "
                "false in config.json if both are used"
            )
        if tied is None:
            raise CheckpointError(
                f"{where}: {one} and {two} are equal, and nothing says whether they are one "
                f"matrix: model_type {kind} is unknown and config.json has no "
                "tie_word_embeddings; add it there"
            )
        logger.info("%s: %s is tied to %s and is not merged apart", where, two, one)
        del names[other]
    for other, bias in tied_biases(names).items() if tied else ():
        if bias not in names or _equal(checkpoint, names[bias], names[other]):
            names.setdefault(bias, names.pop(other))


def _refuse_equal(
    names: Mapping[str, str], checkpoint: Checkpoint, config: Config, where: str
) -> None:
    """Refuse two matrices with a row for every token that are equal, though no table ties them."""
    shapes = {stored: checkpoint.infos[stored].shape for stored in names.values()}
    rows = vocabulary_sizes(config)
    rows |= {shapes[stored][0] for name, stored in names.items() if is_output(name)}
    found = [stored for stored, shape in shapes.items() if len(shape) == 2 and shape[0] in rows]
    for one, two in combinations(found, 2):
        if _equal(checkpoint, one, two):
            raise CheckpointError(
                f"{where}: {one} and {two} are equal, and their names do not say whether they are "
                "one matrix; remove the one that transformers ties to the other when it loads the "
                "model, or set tie_word_embeddings to false in config.json if both are used"
            )


def _equal(checkpoint: Checkpoint, one: str, two: str) -> bool:
    """Whether two tensors of a checkpoint hold the same values; read in runs of a few megabytes."""
    infos = checkpoint.infos[one], checkpoint.infos[two]
    places = getattr(checkpoint, "places", {})
    if infos[0].shape != infos[1].shape:
        return False
    if one in places and places[one] == places[two]:
        return True
    for start in range(0, infos[0].count, _READ_AT_ONCE):
        stop = min(start + _READ_AT_ONCE, infos[0].count)
        values = np.empty((2, stop - start), np.float32)
        for name, info, row in zip((one, two), infos, values, strict=True):
            room = np.empty(stop - start, info.dtype.numpy)
            decode(checkpoint.read(name, start, stop, room), info.dtype, row)
        if not np.array_equal(values[0], values[1], equal_nan=True):
            return False
    return True


def with_names_of_base(
    expert: Checkpoint, base: Collection[str], config: Config, who: str
) -> Checkpoint:
    """An expert under the names of its base, where one prefix or `gamma` makes the difference.

    Raises:
        CheckpointError: names differ by a prefix, but not all.
    """
    expert = _with_norms_of(expert, base, who)
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
    lost = [name for name in missing if name not in names]
    if 2 * len(lost) > len(missing):
        return expert
    if lost or len(names) < len(expert):
        raise CheckpointError(
            f"{who}: its names differ from the base's by the prefix {prefix!r}, which explains "
            f"{len(missing) - len(lost)} of {len(missing)} tensors and not the other {len(lost)}, "
            f"first {(lost or missing)[0]}; save the whole model under one prefix"
        )
    logger.info("%s: names are those of the base, but for the prefix %r", who, prefix)
    return Renamed(expert, names)


def _with_norms_of(expert: Checkpoint, base: Collection[str], who: str) -> Checkpoint:
    """An expert whose norms have a `weight`, as now, or a `gamma`, as in BERT's first files.

    transformers loads `LayerNorm.gamma` and `LayerNorm.beta`, and saves the names of today.
    """
    older = any(name.endswith("LayerNorm.gamma") for name in base)
    ends = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    if not older:
        ends = {new: old for old, new in ends.items()}
    names = {}
    for name in expert:
        end = next((end for end in ends if name.endswith(end)), None)
        renamed = name.removesuffix(end) + ends[end] if end else name
        names[name if renamed in expert else renamed] = name
    if list(names) == list(expert):
        return expert
    logger.info("%s: its norms are named as those of the base", who)
    return Renamed(expert, names)


def _is_body(name: str, config: Config) -> bool:
    return not (is_task_head(name, config) or is_output(name) or is_constant(name, config))


def _prefixes(missing: Collection[str], expert: Collection[str]) -> Counter[tuple[str, str]]:
    """How many missing names each prefix explains, of the expert's names or of the base's."""
    found: Counter[tuple[str, str]] = Counter()
    wanted = set(missing)
    for name in missing:
        for rest in _without_first_parts(name):
            if rest in expert:
                found["base", name.removesuffix(rest)] += 1
    for name in expert:
        for rest in _without_first_parts(name):
            if rest in wanted:
                found["expert", name.removesuffix(rest)] += 1
    return found


def _without_first_parts(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(1, len(parts))]


def with_tied_embeddings(
    checkpoint: Checkpoint, folder: Path, names: Collection[str]
) -> Checkpoint:
    """A checkpoint that also offers those of `names` which it lacks as tied embeddings.

    A model that uses one matrix for input and output is saved with either name or with both; a
    base and an expert may have been saved differently. What else is missing stays missing.
    """
    config = read_config(folder)
    # Before transformers 5, a config left out the key where it was true.
    if not config or text_config(config).get("tie_word_embeddings") is False:
        return checkpoint
    ends = tuple(f".{module}.weight" for module in (*INPUTS, *OUTPUTS))
    saved = [name for name in checkpoint if f".{name}".endswith(ends)]
    missing = [name for name in names if name not in checkpoint]
    tied = {name: saved[0] for name in missing if saved and f".{name}".endswith(ends)}
    for name, saved_name in tied.items():
        logger.info("%s: %s is tied to %s", folder, name, saved_name)
    return Renamed(checkpoint, {n: n for n in checkpoint} | tied) if tied else checkpoint
