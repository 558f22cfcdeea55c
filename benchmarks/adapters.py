"""Compare merges of two LoRA adapters, of ranks 16 and 64, with merges of the same experts whole.

    python benchmarks/adapters.py --work .bench

The base and the work folder are those of `merge.py`; adapters of all linear layers are created in
it, and from each a whole model. Runs of both kinds alternate. Prints every run and a table with
medians; writes `adapters.md` into the work folder.

Limits: as of `merge.py`: inputs are in the page cache, and weights are random.
"""

import argparse
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

import yaml
from cases import CASES, EXPERTS, Case
from measure import Cost, measure, read_all
from merge import SHAPES, make_models
from tabulate import tabulate

KINDS = {"whole models": "merged", "adapters": "lora"}
MEASURED = ("dare + task arithmetic", "dare + ties, per tensor")
logger = logging.getLogger("benchmark")


def run(work: Path, models: Path, engine: Path, case: Case, kind: str) -> Cost:
    """Measure one merge of a case with one kind of experts."""
    content = yaml.safe_load(case.merge_file())
    folders = {name: f"{name}-{KINDS[kind]}" for name in EXPERTS}
    content["experts"] = {name: f"../{folder}" for name, folder in folders.items()}
    recipe = models / "recipes" / f"{KINDS[kind]}.yaml"
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))
    out, logs = work / "out", work / "logs"
    shutil.rmtree(out, ignore_errors=True)
    inputs = [file for name in ("base", *folders.values()) for file in _weights(models / name)]
    os.sync()
    read_all(inputs, logs / "warm")
    cost = measure([engine, "merge", recipe, out], logs / f"adapters {KINDS[kind]}.log")
    shutil.rmtree(out)
    figures = f"{cost.wall:8.2f} s wall {cost.cpu:8.2f} s CPU {cost.memory:8.0f} MB peak"
    logger.info("%s", f"{case.name:26} {kind:14} {figures}")
    return cost


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for models and results")
    add("--scale", choices=SHAPES, default="full", help="small: for a trial run")
    add("--repeats", type=int, default=3, help="runs of each merge")
    engine = Path(sys.executable).with_name("mergegrid")
    add("--engine", type=Path, default=engine, help="the mergegrid program")
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    arguments = parse()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    models = make_models(work, arguments.scale, deep=False).folder
    program = Path(__file__).with_name("adapter_models.py")
    subprocess.run([sys.executable, program, models], check=True)
    rows = []
    for case in (case for case in CASES if case.name in MEASURED):
        costs: dict[str, list[Cost]] = {kind: [] for kind in KINDS}
        for kind in KINDS:  # Unmeasured: loops may have to be compiled.
            run(work, models, arguments.engine, case, kind)
        for _ in range(arguments.repeats):
            for kind in KINDS:
                costs[kind].append(run(work, models, arguments.engine, case, kind))
        for kind, runs in costs.items():
            cells = (median(getattr(cost, key) for cost in runs) for key in ("wall", "cpu"))
            rows.append([case.name, kind, *cells, median(cost.memory for cost in runs)])
    heads = ["Merge", "Experts", "Wall, s", "CPU, s", "Peak, MB"]
    table = tabulate(rows, heads, tablefmt="github", floatfmt=("", "", ".1f", ".1f", ".0f"))
    (work / "adapters.md").write_text(table + "\n")
    logger.info("\n%s\n\nWritten: %s", table, work / "adapters.md")


if __name__ == "__main__":
    main()
