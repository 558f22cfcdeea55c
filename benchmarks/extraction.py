"""Measure the extraction of LoRA adapters from models of 1.1B parameters.

    python benchmarks/extraction.py --work .bench

The models are those of `adapters.py`: `math` has a delta of full rank, the worst case, and
`code-merged` one of rank 64, rounded to bfloat16. Prints wall and CPU time, peak memory beside the
bound that the plan states, and the energy; writes `extraction.md` into the work folder. Exit code
1: a run needs more memory than was stated.
"""

import argparse
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

from measure import measure, read_all
from merge import SHAPES, make_models
from tabulate import tabulate

CASES = (
    ("math", ("--rank", "64")),
    ("code-merged", ("--rank", "64")),
    ("code-merged", ("--energy", "0.95")),
)
PLAN = re.compile(r"at most ([\d,]+) MB of memory")
SUMMARY = re.compile(r"adapted at (ranks? [\d to]+): they keep ([\d.]+) %")
logger = logging.getLogger("benchmark")


def run(work: Path, models: Path, engine: Path, model: str, rule: tuple[str, ...]) -> list[object]:
    """Measure one extraction; a row of the table, the stated memory last."""
    out, log = work / "adapter", work / "logs" / f"extract {model} {rule[1]}.log"
    shutil.rmtree(out, ignore_errors=True)
    inputs = [file for name in ("base", model) for file in (models / name).glob("*.safetensors")]
    read_all(sorted(inputs), work / "logs" / "warm")
    cost = measure([engine, "extract", models / "base", models / model, out, *rule], log)
    shutil.rmtree(out)
    text = log.read_text()
    plan, summary = PLAN.search(text), SUMMARY.search(text)
    assert plan, f"{log} states no memory"
    assert summary, f"{log} has no summary"
    logger.info("%s %s: %.0f s wall, %.0f s CPU", model, " ".join(rule), cost.wall, cost.cpu)
    ranks, kept = summary.groups()
    stated = float(plan[1].replace(",", ""))
    return [model, " ".join(rule), cost.wall, cost.cpu, ranks, f"{kept} %", cost.memory, stated]


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for models and results")
    add("--scale", choices=SHAPES, default="full", help="small: for a trial run")
    engine = Path(sys.executable).with_name("mergegrid")
    add("--engine", type=Path, default=engine, help="the mergegrid program")
    return parser.parse_args()


def main() -> int:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    arguments = parse()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    models = make_models(work, arguments.scale, deep=False).folder
    program = Path(__file__).with_name("adapter_models.py")
    subprocess.run([sys.executable, program, models], check=True)
    rows = [run(work, models, arguments.engine, model, rule) for model, rule in CASES]
    heads = ["Model", "Rule", "Wall, s", "CPU, s", "Result", "Energy", "Peak, MB", "Stated, MB"]
    table = tabulate(rows, heads, tablefmt="github", floatfmt=".0f")
    (work / "extraction.md").write_text(table + "\n")
    logger.info("\n%s\n\nWritten: %s", table, work / "extraction.md")
    return int(any(row[-2] > row[-1] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
