"""Licenses of models, and the license of a merge of several.

A merge is under the license of its inputs where all have the same. Otherwise, or if that has
neither an identifier of the hub nor an address, its card says `other` with the name `mixed`, and a
file LICENSE lists every input with its license: no license is chosen among several, and never the
most permissive. This is information for readers of the card, not
legal advice.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergegrid.checkpoints.front_matter import texts

LICENCE_FILE = "LICENSE"
#: Identifiers and names of licenses that restrict use, naming or redistribution.
_RESTRICTED = re.compile(r"other|.*-nc\b.*|.*community.*|.*research.*|llama.*|gemma.*", re.I)


@dataclass(frozen=True)
class Licence:
    """A license as a card states it."""

    identifier: str
    """Identifier of the hub's list, such as `apache-2.0`; `other` for any that is not in it."""
    name: str | None = None
    """Name of another license."""
    link: str | None = None
    """Address of its text."""

    @property
    def label(self) -> str:
        """What readers know it by."""
        return self.name or self.identifier

    @property
    def key(self) -> tuple[str, str | None]:
        """What makes two licenses the same."""
        return self.identifier, self.name or self.link

    @property
    def is_restricted(self) -> bool:
        """Whether its terms may restrict use, naming or redistribution."""
        return any(_RESTRICTED.fullmatch(text) for text in (self.identifier, self.name) if text)


UNKNOWN = Licence("unknown")
MIXED = Licence("other", "mixed", LICENCE_FILE)


def licence_of(front: Mapping[str, Any], repo: str | None) -> Licence:
    """The license in the front matter of a card; files are linked in their repository."""
    stated = texts(front.get("license"))
    if not stated:
        return UNKNOWN
    if len(stated) > 1:
        return Licence("other", ", ".join(stated))
    name, link = (next(iter(texts(front.get(f"license_{key}"))), None) for key in ("name", "link"))
    if link and "://" not in link:
        link = f"https://huggingface.co/{repo}/blob/main/{link}" if repo else None
    return Licence(stated[0], name, link)


def merged_licence(licences: Sequence[Licence]) -> Licence:
    """The license of a merge of models with these licenses, the base's first.

    Copies of one named license in several repositories are one license.
    """
    first = licences[0]
    if any(licence.key != first.key for licence in licences):
        return MIXED
    # An `other` license needs an address of its text.
    return MIXED if first.identifier == "other" and not first.link else first
