"""A family: a base and its experts, opened, checked and brought to the same tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mergegrid.checkpoints.checkpoint import Checkpoint, Renamed
from mergegrid.checkpoints.compatibility import check_configs, check_homologous, left_out
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.tensor_names import (
    canonical,
    read_config,
    with_names_of_base,
    with_tied_embeddings,
)
from mergegrid.checkpoints.vocabulary import Aligned, VocabularyPolicy, align


@dataclass(frozen=True)
class Family:
    """A base and its experts."""

    stored: Mapping[str, Checkpoint]
    """The models as their folders hold them: the base, named "", and the experts."""
    opened: Mapping[str, Checkpoint]
    """The experts with the tensors of the base."""
    aligned: Aligned
    """Base and experts with equal numbers of embedding rows."""
    notes: list[str]
    """What differs and is merged all the same, and what is left out or resized, a line each."""


def open_family(
    base: Path,
    experts: Mapping[str, Path],
    policy: VocabularyPolicy = "base_rows",
    homologous: bool = True,
) -> Family:
    """Open the folders of a base and its experts.

    Weights are read only where a file holds a tied matrix twice: both must be equal.

    Args:
        base: folder of the base.
        experts: folders of the experts by name.
        policy: what happens to embedding rows beyond the base's.
        homologous: whether configurations must agree (`rope_theta`, say), and not shapes alone.

    Raises:
        CheckpointError: a model is damaged, cannot be merged, or is not homologous with the base.
    """
    config = read_config(base)
    stored = {"": open_checkpoint(base)}
    ours = canonical(stored[""], config, f"base {base}")
    theirs: dict[str, Checkpoint] = {}
    away: set[str] = set()
    notes: list[str] = []
    for name, folder in experts.items():
        opened = stored[name] = open_checkpoint(folder)
        who = f"expert {name}"
        config_of_expert = read_config(folder) or config
        named = canonical(opened, config_of_expert, who)
        # What the base ties is one matrix in the merge, whatever the expert's config says.
        named = canonical(with_names_of_base(named, ours, config, who), config, who)
        theirs[name] = with_tied_embeddings(named, folder, ours)
        lacking, heads = left_out(ours, theirs[name], name, config, config_of_expert)
        away.update(lacking)
        if homologous:
            notes += check_configs(base, folder, name)
        notes += heads
    if away:
        ours = Renamed(ours, {name: name for name in ours if name not in away})
    aligned = align(ours, theirs, policy)
    for name, expert in aligned.experts.items():
        check_homologous(aligned.base, expert, name)
    return Family(stored, theirs, aligned, [*notes, *aligned.report])
