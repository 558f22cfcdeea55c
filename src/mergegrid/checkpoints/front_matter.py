"""The front matter of a model card: the metadata that the hub shows of a model."""

import re
from pathlib import Path
from typing import Any

import yaml

CARD = "README.md"


def front_matter(folder: Path) -> dict[str, Any]:
    """The front matter of a folder's `README.md`; empty if there is none or it is not valid."""
    card = folder / CARD
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    parts = re.split(r"^---\s*$", text, maxsplit=2, flags=re.MULTILINE)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        front = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    return front if isinstance(front, dict) else {}


def texts(value: Any) -> tuple[str, ...]:
    """The values of an entry that may be one text or a list of texts."""
    values = value if isinstance(value, list) else [value]
    return tuple(str(item) for item in values if item)
