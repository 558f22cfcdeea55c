"""The model card of an adapter that was extracted or merged."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mergegrid.checkpoints.front_matter import CARD
from mergegrid.checkpoints.licences import MIXED, merged_licence
from mergegrid.checkpoints.parents import Parent


def write_adapter_card(
    folder: Path, title: str, parents: Mapping[str, Parent], text: str, notes: Sequence[str]
) -> None:
    """Write the card, with front matter for the hub; a license only if all parents agree.

    Args:
        folder: folder of the adapter.
        title: name of the adapter.
        parents: what it was made from, the base first under the name `base`.
        text: how it was made, and what it holds.
        notes: what is not in it, a line each.
    """
    # Imported here: only writing a card needs it, and it takes 0.06 s.
    from huggingface_hub.repocard_data import ModelCardData

    base = parents["base"]
    licence = merged_licence([parent.licence for parent in parents.values()])
    known = licence != MIXED
    front = ModelCardData(
        base_model=base.repo,
        base_model_relation="adapter" if base.repo else None,
        library_name="peft",
        license=licence.identifier if known else None,
        license_name=licence.name if known else None,
        license_link=licence.link if known else None,
        tags=["lora", "mergegrid"],
    )
    rows = "\n".join(
        f"| {name} | {_linked(parent)} | `{parent.licence.label}` |"
        for name, parent in parents.items()
    )
    remarks = "".join(f"- {note}\n" for note in notes)
    (folder / CARD).write_text(
        f"---\n{front.to_yaml()}\n---\n\n# {title}\n\n{text}\n\n"
        f"| | model | license |\n| --- | --- | --- |\n{rows}\n\n{remarks}",
        encoding="utf-8",
    )


def _linked(parent: Parent) -> str:
    return f"[{parent.name}]({parent.link})" if parent.link else f"`{parent.name}`"
