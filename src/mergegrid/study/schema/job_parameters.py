"""Parameters of jobs: named parts of the configuration, recipes and wildcards, as one JSON text.

Snakemake compares this text with that of the last run: a job reruns when a part of it changes. So
it holds what the job depends on, and nothing else.

Example:
    >>> text = as_parameters(recipe=Recipe(family="minilm", experts=("trec",)), homologous=True)
    >>> recipe, homologous = read_parameters(text, recipe=Recipe, homologous=bool)
"""

import json
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from mergegrid.hashing import canonical_json


def as_parameters(**parts: Any) -> str:
    """The canonical JSON of named parts: settings, lists of settings, or plain values."""
    return canonical_json(to_jsonable_python(parts))


def read_parameters(text: str, **types: Any) -> tuple[Any, ...]:
    """Parts of a JSON text, each validated as its type, in the order of `types`."""
    parts = json.loads(text)
    return tuple(TypeAdapter(kind).validate_python(parts[name]) for name, kind in types.items())
