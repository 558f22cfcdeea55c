"""A family: a base and its experts, opened, checked and brought to the same tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.homology import (
    check_configs,
    check_homologous,
    with_tied,
    without_tied_copy,
)
from mergegrid.checkpoints.vocabulary import Aligned, align
from mergegrid.recipe.vocabulary import VocabularyPolicy


@dataclass(frozen=True)
class Family:
    """A base and its experts."""

    opened: Mapping[str, Checkpoint]
    """The experts with the tensors of the base, as they are stored."""
    aligned: Aligned
    """Base and experts with equal numbers of embedding rows."""


def open_family(
    base: Path,
    experts: Mapping[str, Path],
    policy: VocabularyPolicy = "base_rows",
    homologous: bool = True,
) -> Family:
    """Open the folders of a base and its experts, without reading any weights.

    Args:
        base: folder of the base.
        experts: folders of the experts by name.
        policy: what happens to embedding rows beyond the base's.
        homologous: whether configurations must agree (`rope_theta`, say), and not shapes alone.

    Raises:
        CheckpointError: a model is damaged, cannot be merged, or is not homologous with the base.
    """
    ours = without_tied_copy(open_checkpoint(base), base)
    theirs: dict[str, Checkpoint] = {}
    for name, folder in experts.items():
        opened = open_checkpoint(folder)
        if homologous:
            check_configs(base, folder, name)
        theirs[name] = with_tied(opened, folder, ours)
    aligned = align(ours, theirs, policy)
    for name, expert in aligned.experts.items():
        check_homologous(aligned.base, expert, name)
    return Family(theirs, aligned)
