"""The model card, the recipe and the license of a merged model."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mergegrid.checkpoints.card_scores import (
    CardScore,
    model_index,
    scores_table,
    write_eval_results,
)
from mergegrid.checkpoints.front_matter import CARD
from mergegrid.checkpoints.licences import LICENCE_FILE, MIXED, merged_licence
from mergegrid.checkpoints.parents import Parent

RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class Card:
    """What a model card says."""

    title: str
    """Name of the model."""
    parents: Mapping[str, Parent]
    """The models that were merged, the base first, by their names in the recipe."""
    recipe: str
    """The merge file, as YAML."""
    digests: Mapping[str, str]
    """Digest of all tensors of each parent, and of the merged model by its title."""
    notes: Sequence[str] = ()
    """What was cut, padded or left out."""
    scores: Sequence[CardScore] = ()
    """How the model scored, where a study measured it."""

    def write(self, folder: Path) -> None:
        """Write the card into a model folder, with LICENSE if no single license covers it."""
        (folder / CARD).write_text(f"---\n{self._front()}\n---\n\n{self._text()}", encoding="utf-8")
        if self._licence == MIXED:
            (folder / LICENCE_FILE).write_text(self._licence_file(), encoding="utf-8")
        if self.scores:
            write_eval_results(folder, self.scores)

    @property
    def _licence(self) -> Any:
        return merged_licence([parent.licence for parent in self.parents.values()])

    def _front(self) -> str:
        """The metadata that the hub shows, as YAML."""
        # Imported here: only writing a card needs it, and it takes 0.06 s.
        from huggingface_hub.repocard_data import ModelCardData

        parents = list(self.parents.values())
        models = list(dict.fromkeys(parent.repo for parent in parents if parent.repo))
        data = ModelCardData(
            base_model=models or None,
            base_model_relation="merge" if models else None,
            eval_results=model_index(self.scores) if self.scores else None,
            language=list(_common([parent.languages for parent in parents]) or ()) or None,
            library_name="transformers",
            license=self._licence.identifier,
            license_name=self._licence.name,
            license_link=self._licence.link,
            model_name=self.title if self.scores else None,
            pipeline_tag=_common([parent.pipeline_tag for parent in parents]),
            tags=["merge", "mergegrid"],
        )
        return str(data.to_yaml())

    def _text(self) -> str:
        base, *experts = self.parents.items()
        lines = "\n".join(
            f"| {name} | {_linked(parent)} | `{parent.licence.label}` |"
            for name, parent in [("base", base[1]), *experts]
        )
        digests = "\n".join(f"{digest}  {name}" for name, digest in self.digests.items())
        remarks = "".join(f"- {note}\n" for note in self.notes)
        return (
            f"# {self.title}\n\n{self._terms()}"
            "Merged with mergegrid from\n\n"
            f"| | model | license |\n| --- | --- | --- |\n{lines}\n\n"
            f"by this recipe (`{RECIPE}`):\n\n```yaml\n{self.recipe}```\n\n"
            f"```bash\nmergegrid merge {RECIPE} {shlex.quote(self.title)}\n```\n\n"
            f"{f'Notes of the merge:{chr(10)}{chr(10)}{remarks}{chr(10)}' if remarks else ''}"
            f"{self._scores()}"
            "Digests of all tensors, as `mergegrid inspect` prints them:\n\n"
            f"```\n{digests}\n```\n\n"
            "`manifest.json` lists the digest of every tensor and file.\n"
        )

    def _scores(self) -> str:
        if not self.scores:
            return ""
        return f"Scores of the study that exported it:\n\n{scores_table(self.scores)}\n"

    def _terms(self) -> str:
        """The first lines of a card, where the licenses of the inputs need attention."""
        restricted: dict[str, list[str]] = {}
        for parent in dict.fromkeys(self.parents.values()):
            if parent.licence.is_restricted:
                restricted.setdefault(parent.licence.label, []).append(_linked(parent))
        lines = [
            f"> **License:** {', '.join(names)}: `{label}`, whose terms may restrict use, naming "
            "and redistribution. They apply to this model."
            for label, names in restricted.items()
        ]
        if self._licence == MIXED:
            lines.append(
                f"> **License:** the terms of all licenses in [{LICENCE_FILE}]({LICENCE_FILE}) "
                "apply."
            )
        return "\n>\n".join(lines) + "\n\n" if lines else ""

    def _licence_file(self) -> str:
        entries = "".join(
            f"{parent.name}\n  license: {parent.licence.label}\n"
            f"  text: {parent.licence.link or parent.link or 'ask its authors'}\n\n"
            for parent in dict.fromkeys(self.parents.values())
        )
        return (
            "This model was merged from the models below. The terms of all their licenses apply.\n"
            "This list is information, not legal advice.\n\n" + entries
        )


def write_recipe(folder: Path, recipe: Mapping[str, Any]) -> str:
    """Write the recipe into a model folder and return its text."""
    text = yaml.safe_dump(dict(recipe), sort_keys=True, default_flow_style=False)
    (folder / RECIPE).write_text(text, encoding="utf-8")
    return text


def _linked(parent: Parent) -> str:
    return f"[{parent.name}]({parent.link})" if parent.link else f"`{parent.name}`"


def _common(values: Sequence[Any]) -> Any:
    """The value of all that have one, if they agree; else None."""
    stated = {value for value in values if value}
    return stated.pop() if len(stated) == 1 else None
