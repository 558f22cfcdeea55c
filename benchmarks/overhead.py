"""Measure the overhead of the workflow: planning a study and starting a job.

    python benchmarks/overhead.py

Plans the paper's two studies (`snakemake --dry-run`, in a copy of the project without results), and
runs the imports of every script of the workflow in a new Python process. Prints CPU seconds (user
and system), and whether torch was imported.
"""

import ast
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from measure import measure
from tabulate import tabulate

ROOT = Path(__file__).parents[1]
STUDIES = ("paper_encoders", "paper_decoders")
PARTS = ("Snakefile", "workflow", "profiles", "config", "resources", "environment.yml")
PLAN_SECONDS = 10
"""Target: most CPU seconds for planning a study."""


def imports_of(script: Path) -> list[str]:
    """Return the names of the modules that a script imports anywhere, in order."""
    names = []
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return names


def job_start(script: Path, log: Path) -> tuple[float, bool]:
    """Return the CPU seconds of a script's imports, and whether torch is among them."""
    names = ", ".join(imports_of(script))
    program = f"import sys, {names}; sys.stdout.write(str('torch' in sys.modules))"
    environment = {"PYTHONPATH": str(script.parent)}
    cost = min(
        (measure([sys.executable, "-c", program], log, environment) for _ in range(3)),
        key=lambda cost: cost.cpu,
    )
    return cost.cpu, log.read_text().splitlines()[-1] == "True"


def plan(study: str, folder: Path) -> tuple[int, float]:
    """Return the number of jobs of a study and the CPU seconds that planning them takes."""
    log = folder / "plan.log"
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "rules", "host"]
    config = f"config/{study}.yaml"
    here = Path.cwd()
    os.chdir(folder)
    try:
        cost = measure([*command, "--configfile", config], log)
    finally:
        os.chdir(here)
    jobs = re.search(r"^total\s+(\d+)", log.read_text(), re.MULTILINE)
    assert jobs, f"{log} has no total number of jobs"
    return int(jobs[1]), cost.cpu


def main() -> None:
    """Measure and print."""
    met = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
            copy(ROOT / part, folder / part)
        rows = []
        for study in STUDIES:
            jobs, cpu = plan(study, folder)
            met &= cpu <= PLAN_SECONDS
            rows.append([study, jobs, cpu])
        heads = ["study", "jobs", "CPU seconds to plan"]
        sys.stdout.write(tabulate(rows, heads, tablefmt="pipe", floatfmt=".1f") + "\n\n")
        scripts = [
            path
            for path in sorted((ROOT / "workflow" / "scripts").glob("*.py"))
            if path.stem[0] != "_"
        ]
        starts = [[path.stem, *job_start(path, folder / f"{path.stem}.log")] for path in scripts]
        heads = ["script", "CPU seconds of imports", "torch"]
        sys.stdout.write(tabulate(starts, heads, tablefmt="pipe", floatfmt=".2f") + "\n")
    sys.stdout.write(f"target: at most {PLAN_SECONDS} s per plan; {'met' if met else 'NOT met'}\n")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
