"""The model card of an extracted adapter."""

from pathlib import Path

from mergegrid.checkpoints.front_matter import CARD
from mergegrid.checkpoints.licences import MIXED, merged_licence
from mergegrid.checkpoints.parents import Parent
from mergegrid.extraction.report import ExtractionReport


def write_card(
    folder: Path, title: str, base: Parent, model: Parent, report: ExtractionReport
) -> None:
    """Write the card, with front matter for the hub; a license only if base and model agree."""
    # Imported here: only writing a card needs it, and it takes 0.06 s.
    from huggingface_hub.repocard_data import ModelCardData

    licence = merged_licence([base.licence, model.licence])
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
        for name, parent in (("base", base), ("model", model))
    )
    notes = "".join(f"- {note}\n" for note in report.notes)
    text = (
        f"---\n{front.to_yaml()}\n---\n\n# {title}\n\n"
        "LoRA adapter extracted with mergegrid: the low-rank part of the difference between a "
        "model and its base.\n\n"
        f"| | model | license |\n| --- | --- | --- |\n{rows}\n\n"
        f"{report.summary[0].upper()}{report.summary[1:]}.\n\n{notes}"
    )
    (folder / CARD).write_text(text, encoding="utf-8")


def _linked(parent: Parent) -> str:
    return f"[{parent.name}]({parent.link})" if parent.link else f"`{parent.name}`"
