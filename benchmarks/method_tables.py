"""Tables of the benchmark of methods."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from measure import Cost
from model_sets import SETS
from report import machine
from tabulate import tabulate

UNIT = "task_arithmetic"
"""The method that others are compared with."""


@dataclass(frozen=True)
class Measured:
    """One measured run."""

    models: str
    program: str
    """`mergegrid`, `direct` or `FusionBench`."""
    method: str
    cost: Cost
    stated: float | None
    """Memory in MB that the plan of mergegrid states."""

    def line(self) -> str:
        """Return the run in one line."""
        cost = self.cost
        stated = f" of {self.stated:.0f} stated" if self.stated else ""
        figures = f"{cost.wall:8.1f} s wall {cost.cpu:8.1f} s CPU {cost.memory:8.0f} MB peak"
        return f"{self.models:9} {self.program:12} {self.method:16} {figures}{stated}"


class Runs:
    """Medians over the runs of each program, models and method."""

    def __init__(self, rows: Sequence[Measured]) -> None:
        self._rows = rows

    def cost(self, models: str, program: str, method: str) -> Cost | None:
        """Median cost, or None without a run."""
        key = (models, program, method)
        costs = [row.cost for row in self._rows if (row.models, row.program, row.method) == key]
        if not costs:
            return None
        return Cost(*(median(getattr(c, key) for c in costs) for key in ("wall", "cpu", "memory")))

    def stated(self, models: str, method: str) -> float | None:
        """Memory that the plan of the last run stated."""
        key = (models, "mergegrid", method)
        found = [row for row in self._rows if (row.models, row.program, row.method) == key]
        return found[-1].stated if found else None


def all_methods(runs: Runs, methods: Sequence[str]) -> str:
    """Return a table with a row for every model set and method."""
    rows = []
    for models in SETS.values():
        unit = runs.cost(models.name, "mergegrid", UNIT)
        for method in methods:
            cost = runs.cost(models.name, "mergegrid", method)
            if cost:
                stated = runs.stated(models.name, method)
                ratio = f"{cost.cpu / unit.cpu:.2f}" if unit else ""
                rows.append((models.title, method, *_figures(cost), f"{stated:.0f}", ratio))
    heads = ("Models", "Method", "Wall, s", "CPU, s", "Peak, MB", "Stated, MB", f"CPU / {UNIT}")
    return str(tabulate(rows, heads, "pipe", disable_numparse=True))


def direct_way(runs: Runs, methods: Sequence[str]) -> str:
    """Return a table of the methods that were also run the direct way."""
    rows = []
    for models in SETS.values():
        for method in methods:
            ours = runs.cost(models.name, "mergegrid", method)
            for program in ("direct", "FusionBench"):
                other = runs.cost(models.name, program, method)
                if ours and other:
                    ratio = f"{other.cpu / ours.cpu:.1f}"
                    label = "torch" if program == "direct" else program
                    rows.append((models.title, method, label, *_figures(other), ratio))
    heads = ("Models", "Method", "With", "Wall, s", "CPU, s", "Peak, MB", "CPU / mergegrid")
    return str(tabulate(rows, heads, "pipe", disable_numparse=True))


def write_tables(rows: Sequence[Measured], methods: Sequence[str], path: Path) -> str:
    """Write the tables and the facts about the machine, and return the tables."""
    runs = Runs(rows)
    tables = f"{all_methods(runs, methods)}\n\n{direct_way(runs, methods)}"
    facts = machine() | {name: version(name) for name in ("mergegrid", "torch", "numpy")}
    about = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    path.write_text(f"{tables}\n\n{about}\n")
    return tables


def _figures(cost: Cost) -> tuple[str, str, str]:
    return f"{cost.wall:.1f}", f"{cost.cpu:.1f}", f"{cost.memory:.0f}"
