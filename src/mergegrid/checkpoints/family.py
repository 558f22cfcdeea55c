"""A family: a base and its experts, opened, checked and brought to the same tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mergegrid.checkpoints.adapters.adapted import AdaptedCheckpoint
from mergegrid.checkpoints.adapters.adapter import Adapter, is_adapter, read_adapter
from mergegrid.checkpoints.adapters.base_name import check_base_name
from mergegrid.checkpoints.checkpoint import Checkpoint, Renamed
from mergegrid.checkpoints.compatibility import check_configs, check_homologous, unmerged_tensors
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.tensor_names import (
    canonical,
    read_config,
    with_names_of_base,
    with_tied_embeddings,
)
from mergegrid.checkpoints.token_alignment import BASE, Tokenizers, check_vocabularies
from mergegrid.checkpoints.tokenizers import read_tokenizers
from mergegrid.checkpoints.vocabulary import Aligned, VocabularySettings, align


@dataclass(frozen=True)
class Family:
    """A base and its experts."""

    stored: Mapping[str, Checkpoint]
    """The models as stored in their folders: the base, under the name "", and the experts."""
    opened: Mapping[str, Checkpoint]
    """The experts under the tensor names of the base, with their own vocabulary sizes."""
    aligned: Aligned
    """Base and experts with the same number of embedding rows."""
    tokenizers: Tokenizers
    """Tokenizers by model, the base under the name ""; models without one are left out, and experts
    that are not homologous."""
    notes: list[str]
    """Lines about tolerated differences, and about tensors that are left out or resized."""
    adapters: Mapping[str, Adapter]
    """The experts that are adapters."""


def open_family(
    base_folder: Path,
    expert_folders: Mapping[str, Path],
    vocabulary: VocabularySettings | None = None,
    homologous: bool = True,
    base_is: Sequence[str] = (),
) -> Family:
    """Open the folders of a base and its experts: whole models, or LoRA adapters of the base.

    Weights are read only where a file stores a tied matrix twice, to check that both are equal.

    Args:
        base_folder: folder of the base.
        expert_folders: folders of the experts by name.
        vocabulary: how to treat rows and tokens that not all models have.
        homologous: whether the configs must agree (in `rope_theta`, say), and adapters name this
            base, or only the shapes.
        base_is: further names of the base, which an adapter may give instead of its folder's.

    Raises:
        CheckpointError: a model is damaged, cannot be merged, or is not homologous with the base.
    """
    config = read_config(base_folder)
    stored: dict[str, Checkpoint] = {"": open_checkpoint(base_folder)}
    base = canonical(stored[""], config, f"base {base_folder}")
    experts: dict[str, Checkpoint] = {}
    base_only: set[str] = set()
    notes: list[str] = []
    adapters: dict[str, Adapter] = {}
    for name, folder in expert_folders.items():
        where = f"expert {name}"
        if is_adapter(folder):
            adapter = read_adapter(folder, base, config)
            if homologous:
                notes += check_base_name(adapter.config, base_folder, name, base_is)
            notes += [*adapter.notes, _note(name)]
            stored[name], adapters[name] = adapter.file, adapter
            experts[name] = AdaptedCheckpoint(base, adapter)
            continue
        expert_config = read_config(folder) or config
        stored[name] = open_checkpoint(folder)
        expert = canonical(stored[name], expert_config, where)
        # A matrix that the base ties is one matrix in the merge, whatever the expert's config says.
        expert = canonical(with_names_of_base(expert, base, config, where), config, where)
        experts[name] = with_tied_embeddings(expert, folder, base)
        missing, head_notes = unmerged_tensors(base, experts[name], name, config, expert_config)
        base_only.update(missing)
        if homologous:
            notes += check_configs(base_folder, folder, name)
        notes += head_notes
    if base_only:
        base = Renamed(base, {name: name for name in base if name not in base_only})
    tokenizers = read_tokenizers({BASE: base_folder, **expert_folders})
    by_token = homologous or (vocabulary is not None and vocabulary.policy == "union")
    notes += check_vocabularies(tokenizers, by_token)
    aligned = align(base, experts, vocabulary, tokenizers if by_token else {})
    for name, expert in aligned.experts.items():
        check_homologous(aligned.base, expert, name)
    known = (
        tokenizers if by_token else {name: tokenizers[name] for name in tokenizers if name == BASE}
    )
    return Family(stored, experts, aligned, known, [*notes, *aligned.notes], adapters)


def _note(name: str) -> str:
    return (
        f"expert {name} is a LoRA adapter: its delta is computed in float32, without the rounding "
        "that a folder with the merged adapter has"
    )
