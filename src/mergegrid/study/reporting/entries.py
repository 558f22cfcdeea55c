"""What a catalogue entry of a table or figure holds, and descriptions of common columns.

The workflow imports this module at every start, so functions and their libraries are imported when
they are called.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as MatplotlibFigure

    from mergegrid.study.reporting.results import Results

Kind = Literal[
    "scores",
    "sweeps",
    "deltas",
    "similarity",
    "experts",
    "decoders",
    "sources",
    "comparisons",
    "ranking",
    "answers",
    "findings",
]


@dataclass(frozen=True)
class Table:
    """One table."""

    function: str
    """Function that makes it from the results in `needs`: `module.name` in this package."""
    topic: str
    """Heading in the report."""
    caption: str
    """What the table shows, and how to read it."""
    columns: Mapping[str, str]
    """Description of each column by name; `<rate>` stands for a column per rate."""
    needs: Kind = "scores"
    """Kind of results that it is made from."""
    cites: bool = False
    """Whether the function also takes the paper's numbers."""

    def make(self, results: "Results") -> "pd.DataFrame":
        """Make the table."""
        data = results.read(self.needs)
        table: pd.DataFrame = _function(self.function)(
            *((data, results.published) if self.cites else (data,))
        )
        return table


@dataclass(frozen=True)
class Figure:
    """One figure of one family."""

    function: str
    """Function that draws it from the results in `needs`: `module.name` in this package."""
    caption: str
    """What the figure shows, and how to read it; `{family}` is filled in."""
    needs: Kind = "scores"
    """Kind of results that it is made from."""

    def draw(self, family: str, results: "Results") -> "MatplotlibFigure":
        """Draw the figure of a family."""
        figure: MatplotlibFigure = _function(self.function)(results.read(self.needs), family)
        return figure


def _function(path: str) -> Any:
    module, _, name = path.partition(".")
    return getattr(import_module(f"{__package__}.{module}"), name)


COMMON = {
    "family": "base and experts, as named in the configuration",
    "experts": "merged experts, joined by `+`; a single name is an expert alone",
    "expert": "name of the expert",
    "task": "task or benchmark that was scored",
    "metric": "metric of the task",
    "method": "merging method",
    "sparsifier": "how deltas were sparsified before merging; `none` keeps them",
    "variant": "settings that distinguish variants of one sparsifier",
    "rate": "drop rate",
    "settings": "all other parameters of sparsifier and method, as JSON",
    "training_seed": "seed of the experts' fine-tuning",
    "mean": "mean over the runs: training seeds and mask seeds",
    "std": "sample standard deviation over runs (n - 1); missing for a single run",
    "min": "smallest value over runs",
    "max": "largest value over runs",
    "runs": "number of scored recipes",
    "stderr": "mean standard error over the examples of a run",
    "n": "number of examples or questions of a run",
    "split": "`validation` or `test`",
    "selection": "split on which candidates were compared; `test` follows the paper and is "
    "optimistically biased",
    "source": "expert merged with the target",
    "target": "expert whose task is scored",
    "engine": "engine that generated the answers",
}
"""Descriptions of columns that occur in several tables."""
SPREAD = ("mean", "std", "min", "max", "runs")


def columns(*names: str, **descriptions: str) -> dict[str, str]:
    """Describe columns, in order: from `descriptions`, or else from `COMMON`."""
    return {name: descriptions.get(name) or COMMON[name] for name in names}
