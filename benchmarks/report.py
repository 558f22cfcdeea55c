"""From runs to the summary: medians, ratios, which wanted figures are met, and the machine."""

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

CPU_RATIO = 8.0
"""Wanted: mergekit's CPU time is at least this many times ours."""
MEMORY = 800.0
"""Wanted: our peak memory is at most this many MB."""
MEMORY_GROWTH = 1.1
"""Wanted: on a model twice as deep, our peak memory is at most this many times as much."""
RATES_RATIO = 4.0
"""Wanted: ten rates cost at most this many times one merge."""
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
    "Wanted figures met",
)


@dataclass(frozen=True)
class Run:
    """One measured run."""

    program: str
    """`mergegrid`, `mergekit` or `floor`."""
    job: str
    """The case; for mergekit its merge method; for the floor the case that was run before it."""
    models: str
    """The set of models, such as `full-22`."""
    cost: Cost

    def line(self) -> str:
        """The run in one line."""
        cost = self.cost
        figures = f"{cost.wall:8.2f} s wall {cost.cpu:8.2f} s CPU {cost.memory:8.0f} MB peak"
        return f"{self.program:10} {self.job:26} {self.models:9} {figures}"


@dataclass(frozen=True)
class Check:
    """One wanted figure and what was found."""

    case: str
    figure: str
    found: float
    wanted: str
    met: bool


class Results:
    """All runs, and what they say."""

    def __init__(self, runs: Sequence[Run], models: str, deep: str | None) -> None:
        self.runs = runs
        self.models = models
        self.deep = deep

    def cost(self, program: str, job: str, models: str | None = None) -> Cost | None:
        """The median cost of a job, or nothing where it was not run."""
        key = (program, job, models or self.models)
        costs = [run.cost for run in self.runs if (run.program, run.job, run.models) == key]
        if not costs:
            return None
        return Cost(
            median(each.wall for each in costs),
            median(each.cpu for each in costs),
            median(each.memory for each in costs),
        )

    def above_floor(self, job: str) -> float | None:
        """How many times as long as the floor a job takes: each run beside the floor run after it.

        The machine's speed changes within minutes, so runs far apart do not compare.
        """
        ours, floors = (
            [run.cost.wall for run in self.runs if (run.program, run.job, run.models) == key]
            for key in (("mergegrid", job, self.models), ("floor", job, self.models))
        )
        ratios = [wall / floor for wall, floor in zip(ours, floors, strict=False)]
        return median(ratios) if ratios else None

    def table(self) -> str:
        """A row per merge, as a Markdown table."""
        rows = []
        checks = self.checks()
        for case in (*CASES, TEN_RATES):
            ours = self.cost("mergegrid", case.name)
            if not ours:
                continue
            theirs = self.cost("mergekit", case.mergekit)
            least, above = self.cost("floor", case.name), self.above_floor(case.name)
            met = [check.met for check in checks if check.case == case.name]
            rows.append(
                (
                    case.name,
                    *_figures(ours),
                    *_figures(theirs),
                    f"{theirs.cpu / ours.cpu:.1f}" if theirs else "",
                    f"{least.wall:.1f}" if least else "",
                    f"{above:.2f}" if above else "",
                    ("yes" if all(met) else "NO") if met else "",
                )
            )
        return str(tabulate(rows, HEADS, "pipe", disable_numparse=True))

    def checks(self) -> list[Check]:
        """Every wanted figure that the runs can judge."""
        found: list[Check] = []
        for case in CASES:
            ours = self.cost("mergegrid", case.name)
            if not ours:
                continue
            if theirs := self.cost("mergekit", case.mergekit):
                ratio = theirs.cpu / ours.cpu
                found.append(_at_least(case.name, "CPU, mergekit / mergegrid", ratio, CPU_RATIO))
            if above := self.above_floor(case.name):
                found.append(_at_most(case.name, "wall, mergegrid / floor", above, case.wall_limit))
            found.append(_at_most(case.name, "peak memory, MB", ours.memory, MEMORY))
            deep = self.cost("mergegrid", case.name, self.deep) if self.deep else None
            if deep:
                ratio = deep.memory / ours.memory
                what = "peak memory, twice as deep / this"
                found.append(_at_most(case.name, what, ratio, MEMORY_GROWTH))
        one, ten = (self.cost("mergegrid", each.name) for each in (CASES[0], TEN_RATES))
        if one and ten:
            name = TEN_RATES.name
            found.append(_at_most(name, "wall, ten / one", ten.wall / one.wall, RATES_RATIO))
            found.append(_at_most(name, "CPU, ten / one", ten.cpu / one.cpu, RATES_RATIO))
        return found

    def verdicts(self) -> str:
        """The wanted figures as a Markdown table."""
        rows = [
            (each.case, each.figure, each.found, each.wanted, "yes" if each.met else "NO")
            for each in self.checks()
        ]
        heads = ("Merge", "Figure", "Found", "Wanted", "Met")
        return str(tabulate(rows, heads, "pipe", floatfmt=".2f"))

    def write(self, folder: Path, settings: dict[str, str], versions: dict[str, str]) -> None:
        """Write `merge.json` and `merge.md`."""
        facts = machine() | {"mergegrid": version("mergegrid")} | versions
        content = {
            "machine": facts,
            "settings": settings,
            "runs": [asdict(run) for run in self.runs],
            "checks": [asdict(check) for check in self.checks()],
        }
        (folder / "merge.json").write_text(json.dumps(content, indent=2) + "\n")
        about = "\n".join(f"- {key}: {value}" for key, value in (facts | settings).items())
        how = "Medians; above the floor: of the ratios of runs side by side. Measured with:"
        text = f"{self.table()}\n\n{self.verdicts()}\n\n{how}\n\n{about}\n"
        (folder / "merge.md").write_text(text)


def machine() -> dict[str, str]:
    """What a reader must know about the machine, without its name."""
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


def _at_least(case: str, figure: str, found: float, wanted: float) -> Check:
    return Check(case, figure, found, f"at least {wanted:g}", found >= wanted)


def _at_most(case: str, figure: str, found: float, wanted: float) -> Check:
    return Check(case, figure, found, f"at most {wanted:g}", found <= wanted)
