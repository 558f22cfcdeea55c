"""Summary of the merge benchmark: medians, ratios, targets and a description of the machine."""

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
"""Target: mergekit's CPU time is at least this multiple of mergegrid's."""
MEMORY = 800.0
"""Target: mergegrid's peak memory is at most this many MB."""
MEMORY_GROWTH = 1.1
"""Target: on a model twice as deep, the peak memory is at most this multiple."""
RATES_RATIO = 4.0
"""Target: ten rates cost at most this multiple of one merge."""
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
    "Targets met",
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


@dataclass(frozen=True)
class Check:
    """One target and the measured value."""

    case: str
    quantity: str
    measured: float
    target: str
    met: bool


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
        checks = self.checks()
        for case in (*CASES, TEN_RATES):
            cost = self.cost("mergegrid", case.name)
            if not cost:
                continue
            mergekit = self.cost("mergekit", case.mergekit)
            least, above = self.cost("floor", case.name), self.above_floor(case.name)
            met = [check.met for check in checks if check.case == case.name]
            rows.append(
                (
                    case.name,
                    *_figures(cost),
                    *_figures(mergekit),
                    f"{mergekit.cpu / cost.cpu:.1f}" if mergekit else "",
                    f"{least.wall:.1f}" if least else "",
                    f"{above:.2f}" if above else "",
                    ("yes" if all(met) else "NO") if met else "",
                )
            )
        return str(tabulate(rows, HEADS, "pipe", disable_numparse=True))

    def checks(self) -> list[Check]:
        """Return every target that the runs cover."""
        checks: list[Check] = []
        for case in CASES:
            cost = self.cost("mergegrid", case.name)
            if not cost:
                continue
            if mergekit := self.cost("mergekit", case.mergekit):
                ratio = mergekit.cpu / cost.cpu
                checks.append(_at_least(case.name, "CPU, mergekit / mergegrid", ratio, CPU_RATIO))
            if above := self.above_floor(case.name):
                checks.append(
                    _at_most(case.name, "wall, mergegrid / floor", above, case.wall_limit)
                )
            checks.append(_at_most(case.name, "peak memory, MB", cost.memory, MEMORY))
            deep = self.cost("mergegrid", case.name, self.deep) if self.deep else None
            if deep:
                ratio = deep.memory / cost.memory
                what = "peak memory, twice as deep / this"
                checks.append(_at_most(case.name, what, ratio, MEMORY_GROWTH))
        one, ten = (self.cost("mergegrid", case.name) for case in (CASES[0], TEN_RATES))
        if one and ten:
            name = TEN_RATES.name
            checks.append(_at_most(name, "wall, ten / one", ten.wall / one.wall, RATES_RATIO))
            checks.append(_at_most(name, "CPU, ten / one", ten.cpu / one.cpu, RATES_RATIO))
        return checks

    def verdicts(self) -> str:
        """Return the targets as a Markdown table."""
        rows = [
            (check.case, check.quantity, check.measured, check.target, "yes" if check.met else "NO")
            for check in self.checks()
        ]
        heads = ("Merge", "Quantity", "Measured", "Target", "Met")
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
        how = "Medians; relative to the floor: medians of the ratios of adjacent runs. Setup:"
        text = f"{self.table()}\n\n{self.verdicts()}\n\n{how}\n\n{about}\n"
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


def _at_least(case: str, quantity: str, measured: float, target: float) -> Check:
    return Check(case, quantity, measured, f"at least {target:g}", measured >= target)


def _at_most(case: str, quantity: str, measured: float, target: float) -> Check:
    return Check(case, quantity, measured, f"at most {target:g}", measured <= target)
