"""Summary of the merge benchmark: medians, ratios and a description of the machine."""

import datetime
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from cases import CASES, TEN_RATES
from measure import Cost
from tabulate import tabulate

HEADS = (
    "Merge",
    "Wall, s",
    "CPU, s",
    "Peak, MB",
    "mergekit: wall, s",
    "CPU, s",
    "Peak, MB",
    "CPU, mergekit / mergegrid",
    "Floor: wall, s",
    "Wall, mergegrid / floor",
    "Peak, twice as deep, MB",
)


@dataclass(frozen=True)
class Run:
    """One measured run."""

    program: str
    """`mergegrid`, `mergekit` or `floor`."""
    job: str
    """The case; for mergekit its merge method; for the floor the case that ran before it."""
    models: str
    """The set of models, such as `full-22`."""
    cost: Cost

    def line(self) -> str:
        """Return the run in one line."""
        cost = self.cost
        figures = f"{cost.wall:8.2f} s wall {cost.cpu:8.2f} s CPU {cost.memory:8.0f} MB peak"
        return f"{self.program:10} {self.job:26} {self.models:9} {figures}"


class Results:
    """All runs and their summary."""

    def __init__(self, runs: Sequence[Run], models: str, deep: str | None) -> None:
        self.runs = runs
        self.models = models
        self.deep = deep

    def cost(self, program: str, job: str, models: str | None = None) -> Cost | None:
        """Return the median cost of a job, or None if it was not run."""
        key = (program, job, models or self.models)
        costs = [run.cost for run in self.runs if (run.program, run.job, run.models) == key]
        if not costs:
            return None
        return Cost(
            median(cost.wall for cost in costs),
            median(cost.cpu for cost in costs),
            median(cost.memory for cost in costs),
        )

    def above_floor(self, job: str) -> float | None:
        """Return the median wall time of a job relative to the floor, over pairs of adjacent runs.

        The speed of the machine changes within minutes, so distant runs are not comparable.
        """
        merges, floors = (
            [run.cost.wall for run in self.runs if (run.program, run.job, run.models) == key]
            for key in (("mergegrid", job, self.models), ("floor", job, self.models))
        )
        ratios = [wall / floor for wall, floor in zip(merges, floors, strict=False)]
        return median(ratios) if ratios else None

    def table(self) -> str:
        """Return a Markdown table with one row per merge."""
        rows = []
        for case in (*CASES, TEN_RATES):
            cost = self.cost("mergegrid", case.name)
            if not cost:
                continue
            mergekit = self.cost("mergekit", case.mergekit)
            least, above = self.cost("floor", case.name), self.above_floor(case.name)
            deep = self.cost("mergegrid", case.name, self.deep) if self.deep else None
            rows.append(
                (
                    case.name,
                    *_figures(cost),
                    *_figures(mergekit),
                    f"{mergekit.cpu / cost.cpu:.1f}" if mergekit else "",
                    f"{least.wall:.1f}" if least else "",
                    f"{above:.2f}" if above else "",
                    f"{deep.memory:.0f}" if deep else "",
                )
            )
        return str(tabulate(rows, HEADS, "pipe", disable_numparse=True))

    def ten_rates(self) -> str:
        """Return what ten rates cost relative to one merge; empty if one of both was not run."""
        one, ten = (self.cost("mergegrid", case.name) for case in (CASES[0], TEN_RATES))
        if not one or not ten:
            return ""
        return (
            f"Ten rates in one pass take {ten.wall / one.wall:.1f} times the wall time and "
            f"{ten.cpu / one.cpu:.1f} times the CPU time of one merge.\n\n"
        )

    def write(self, folder: Path, settings: dict[str, str], versions: dict[str, str]) -> None:
        """Write `merge.json` and `merge.md`."""
        facts = machine() | {"mergegrid": version("mergegrid")} | versions
        content = {
            "machine": facts,
            "settings": settings,
            "runs": [asdict(run) for run in self.runs],
        }
        (folder / "merge.json").write_text(json.dumps(content, indent=2) + "\n")
        about = "\n".join(f"- {key}: {value}" for key, value in (facts | settings).items())
        how = "Medians; relative to the floor: medians of the ratios of adjacent runs. Setup:"
        text = f"{self.table()}\n\n{self.ten_rates()}{how}\n\n{about}\n"
        (folder / "merge.md").write_text(text)


def machine() -> dict[str, str]:
    """Describe the machine, without its name."""
    cpu = Path("/proc/cpuinfo").read_text().split("model name", 1)[-1]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "CPU": cpu.splitlines()[0].strip(" \t:"),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory:.0f} GB",
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
    }


def _figures(cost: Cost | None) -> tuple[str, str, str]:
    return (f"{cost.wall:.1f}", f"{cost.cpu:.1f}", f"{cost.memory:.0f}") if cost else ("", "", "")
