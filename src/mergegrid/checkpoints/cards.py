"""The model card and the recipe of a merged model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

RECIPE = "recipe.yaml"
CARD = "README.md"


def model_name(folder: Path) -> str:
    """The name of a model: its hub id if it is in a hub cache, else the name of its folder."""
    folder = folder.resolve()
    for part in folder.parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return folder.name


def write_recipe(folder: Path, recipe: Mapping[str, Any]) -> str:
    """Write the recipe into a model folder and return its text."""
    text = yaml.safe_dump(dict(recipe), sort_keys=True, default_flow_style=False)
    (folder / RECIPE).write_text(text, encoding="utf-8")
    return text


def write_card(
    folder: Path, base: str, experts: Mapping[str, str], recipe: str, notes: Sequence[str]
) -> None:
    """Write the model card, with front matter for the hub."""
    front = {
        "base_model": [base, *experts.values()],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["merge", "mergegrid"],
    }
    names = "\n".join(f"- {name}: `{model}`" for name, model in experts.items())
    remarks = "".join(f"\n{note}\n" for note in notes)
    text = (
        f"---\n{yaml.safe_dump(front, sort_keys=True)}---\n\n"
        f"# {folder.name.removeprefix('.').removesuffix('.draft')}\n\n"
        f"Merged with mergegrid from the base `{base}` and its experts\n\n{names}\n\n"
        f"with this recipe:\n\n```yaml\n{recipe}```\n{remarks}\n"
        "`manifest.json` contains digests of the inputs and tensors; `mergegrid inspect` checks "
        "them.\n"
    )
    (folder / CARD).write_text(text, encoding="utf-8")
