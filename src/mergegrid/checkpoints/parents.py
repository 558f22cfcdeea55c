"""The models that a merged model was made of, as its card names them.

A model counts as one of the hub if its folder lies in a hub cache
(`models--org--name/snapshots/<commit>`), or if its manifest says that it was imported from there.
The card of any other model refers to it by the name of its folder alone: a path of this machine
would be a broken link.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from mergegrid.checkpoints.front_matter import front_matter, texts
from mergegrid.checkpoints.licences import UNKNOWN, Licence, licence_of
from mergegrid.checkpoints.location import read_json

HUB = "https://huggingface.co"
_IMPORTED = re.compile(r"hub:(?P<repo>[^@:]+)(?:@[^:]+)?(?::(?P<subfolder>.+))?")


@dataclass(frozen=True)
class Parent:
    """A model that was merged."""

    folder_name: str
    """Name of its folder."""
    repo: str | None = None
    """Its id on the hub, such as `org/name`."""
    commit: str | None = None
    """The commit of the repository."""
    subfolder: str | None = None
    """The folder in the repository."""
    licence: Licence = UNKNOWN
    """The license that its card states."""
    languages: tuple[str, ...] = ()
    """The languages that its card states."""
    pipeline_tag: str | None = None
    """The task that its card states, such as `text-generation`."""

    @property
    def name(self) -> str:
        """What recipes call it: `org/name@commit:subfolder`, or the name of its folder."""
        if self.repo is None:
            return self.folder_name
        commit = f"@{self.commit}" if self.commit else ""
        return f"{self.repo}{commit}{f':{self.subfolder}' if self.subfolder else ''}"

    @property
    def link(self) -> str | None:
        """The address of its files on the hub."""
        if self.repo is None:
            return None
        return f"{HUB}/{self.repo}/tree/{self.commit}" if self.commit else f"{HUB}/{self.repo}"


def parent_of(folder: Path) -> Parent:
    """Describe a model by where its folder is, its manifest and its card."""
    folder = folder.resolve()
    repo, commit, subfolder = _in_cache(folder) or _imported(folder) or (None, None, None)
    front = front_matter(folder)
    if not front and repo and subfolder:
        # The card of a repository also describes the models in its folders.
        front = front_matter(Path(str(folder).removesuffix(f"/{subfolder}")))
    return Parent(
        folder.name,
        repo,
        commit,
        subfolder,
        licence_of(front, repo),
        texts(front.get("language")),
        next(iter(texts(front.get("pipeline_tag"))), None),
    )


def _in_cache(folder: Path) -> tuple[str, str | None, str | None] | None:
    """Repository, commit and subfolder of a snapshot in a hub cache."""
    for index, part in enumerate(folder.parts):
        if part.startswith("models--"):
            repo = part.removeprefix("models--").replace("--", "/")
            kind, commit, *inside = *folder.parts[index + 1 :], "", ""
            if kind != "snapshots" or not commit:
                return repo, None, None
            return repo, commit, "/".join(filter(None, inside)) or None
    return None


def _imported(folder: Path) -> tuple[str, str | None, str | None] | None:
    """Repository, commit and subfolder of a model that a study imported from the hub."""
    if not (folder / "manifest.json").is_file():
        return None
    made_from = read_json(folder / "manifest.json").get("made_from", {})
    match = _IMPORTED.fullmatch(str(made_from.get("source", "")))
    return (match["repo"], made_from.get("resolved"), match["subfolder"]) if match else None
