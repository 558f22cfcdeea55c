"""What others call the models of a family, so that their numbers stand beside ours."""

import csv
from dataclasses import dataclass
from pathlib import Path

from mergegrid.errors import ConfigError
from mergegrid.settings import Settings
from mergegrid.study.schema.names import Name

#: Kinds of numbers that stand in no table as a fact.
_NOT_SURE = ("memory", "doubtful")


class PublishedMerge(Settings):
    """A published merge, of which an expert is the checkpoint."""

    models: str
    """Published names of the merged models, joined by `+`."""
    method: str
    """Published name of the method."""


class Published(Settings):
    """Whose published numbers stand beside those of a family.

    Names are those of the column `models` in `resources/published.csv`.
    """

    experts: dict[Name, list[str]] = {}
    """The published names of experts, e.g. `{math: [Math, WizardMath-13B]}`."""
    base: str | None = None
    """The published name of the base."""
    pairs: str | None = None
    """The paper's name of the models whose average change over all pairs it gives."""
    merges: dict[Name, PublishedMerge] = {}
    """Experts that are checkpoints of published merges, to check the scoring without merging."""
    tables: list[str] = []
    """The tables of numbers to compare with, as in the column `table`; by default all that have the
    names."""
    differs: dict[Name, str] = {}
    """What differs from the published experiment on a benchmark or task; the table `published` says
    so beside its numbers."""

    @property
    def names(self) -> list[str]:
        """The published names of all models, alone or merged."""
        experts = [name for names in self.experts.values() for name in names]
        merged = [merge.models for merge in self.merges.values()]
        return [*experts, *merged, *([self.base] if self.base else [])]

    def check(self, experts: list[str]) -> None:
        """Raise if an expert does not exist.

        Raises:
            ValueError: one is not among the family's.
        """
        for key, names in (("experts", self.experts), ("merges", self.merges)):
            if wrong := sorted(set(names) - set(experts)):
                raise ValueError(
                    f"published.{key} has {wrong[0]!r}, which is not among the experts "
                    f"({', '.join(experts)}); name one of these"
                )


@dataclass(frozen=True)
class Cell:
    """One published number."""

    table: str
    models: str
    """Names of models, several joined by `+`."""
    method: str
    sparsifier: str
    rate: float | None
    scale: float | None
    rescale: bool | None
    dataset: str
    metric: str
    unit: str
    value: float
    source: str
    trust: str


def read_published(path: Path) -> list[Cell]:
    """All published numbers that are known for sure.

    Raises:
        ConfigError: the file is not there.
    """
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
    except FileNotFoundError as error:
        raise ConfigError(
            f"a family names published numbers, and there is no {path}; copy the folder "
            "`resources` of the project there, or leave `published` out"
        ) from error
    return [
        Cell(
            table=row["table"],
            models=row["models"],
            method=row["method"],
            sparsifier=row["sparsifier"],
            rate=_number(row["rate"]),
            scale=_number(row["scale"]),
            rescale={"": None, "yes": True, "no": False}[row["rescale"]],
            dataset=row["dataset"],
            metric=row["metric"],
            unit=row["unit"],
            value=float(row["value"]),
            source=row["source"],
            trust=row["trust"],
        )
        for row in rows
        if row["trust"] not in _NOT_SURE
    ]


def _number(text: str) -> float | None:
    return float(text) if text else None
