"""Measure merges of two experts of 7 billion parameters, beside copying the files.

    python benchmarks/large.py --work .bench                  # 40 GB of models, 27 GB of outputs
    python benchmarks/large.py --work .bench --layers 3       # a tenth of it
    python benchmarks/large.py --work .bench --matrix-layers 32   # an hour more

Creates a base and two experts of random parameters in the shape of Llama-2-7B, and merges them by
DARE and TIES; and by Iso-C with 3 of the 32 layers, since it takes minutes per layer and its time
grows with their number. Prints wall and CPU time, peak memory and the memory that the plan states,
and beside each merge the floor: reading the inputs and copying one model. Each output is deleted
before the next one is written. Writes `large.md` into the work folder.

The inputs are larger than most page caches, so the speed of the disk counts, in both.
"""

import argparse
import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cases import CASES, EXPERTS, Case
from measure import floor, measure
from report import machine
from tabulate import tabulate

SHAPE = {"hidden": 4096, "intermediate": 11008, "heads": 32, "key_value_heads": 32}
LAYERS, MATRIX_LAYERS = 32, 3
ISO_C = Case("iso_c", {"kind": "none"}, {"kind": "iso_c"}, "")
DARE_TIES = next(case for case in CASES if case.name == "dare + ties, global")
MERGES = (DARE_TIES, ISO_C)
PLAN = re.compile(r"at most ([\d,]+) MB of memory")

logger = logging.getLogger("benchmark")


def make_models(work: Path, layers: int) -> Path:
    """Create the models unless they exist, and return their folder."""
    folder = work / "models" / f"seven-{layers}"
    program = Path(__file__).with_name("models.py")
    shape = json.dumps(SHAPE | {"layers": layers})
    subprocess.run([sys.executable, program, folder, shape], check=True)
    return folder


def check_disk(work: Path, layers: int) -> None:
    """Check that three models and an output fit on the disk.

    Raises:
        SystemExit: they do not.
    """
    hidden, words = SHAPE["hidden"], 32000
    layer = 4 * hidden**2 + 3 * hidden * SHAPE["intermediate"]
    needed = 4.1 * 2 * (layers * layer + 2 * words * hidden)
    free = shutil.disk_usage(work).free
    if free < needed:
        sys.exit(
            f"error: {free / 1e9:.0f} GB free in {work}, {needed / 1e9:.0f} GB needed; "
            "free some space, choose another --work, or fewer --layers"
        )


def run(case: Case, layers: int, work: Path, engine: Path) -> list[str]:
    """Measure one merge and its floor: a row of the table."""
    models = make_models(work, layers)
    out, log = work / "out", work / "logs" / f"large {case.name}.log"
    recipe = models / "recipes" / "large.yaml"
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text(case.merge_file())
    inputs = [file for name in ("base", *EXPERTS) for file in _weights(models / name)]
    shutil.rmtree(out, ignore_errors=True)
    cost = measure([engine, "merge", recipe, out], log)
    shutil.rmtree(out)
    least = floor(inputs, _weights(models / "base"), [out], work / "logs" / "large floor.log")
    shutil.rmtree(out)
    plan = PLAN.search(log.read_text())
    assert plan, f"{log} states no memory"
    size = sum(file.stat().st_size for file in _weights(models / "base"))
    row = [case.name, str(layers), f"{size / 1e9:.1f}"]
    row += [f"{cost.wall:.0f}", f"{cost.cpu:.0f}", f"{cost.memory:.0f}", plan[1]]
    row += [f"{least.wall:.0f}", f"{cost.wall / least.wall:.2f}"]
    logger.info("%s", ", ".join(row))
    return row


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for models and results")
    add("--layers", type=int, default=LAYERS, help="fewer for a trial run")
    add("--matrix-layers", type=int, default=MATRIX_LAYERS, help="layers for Iso-C")
    add("--only", nargs="+", choices=[case.name for case in MERGES], metavar="MERGE")
    add("--keep-models", action="store_true", help="do not delete the models at the end")
    engine = Path(sys.executable).with_name("mergegrid")
    add("--engine", type=Path, default=engine, help="the mergegrid program")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for case in MERGES:
        if arguments.only and case.name not in arguments.only:
            continue
        layers = arguments.layers
        if case is ISO_C:
            layers = min(layers, arguments.matrix_layers)
        models = work / "models" / f"seven-{layers}"
        if not models.is_dir():
            check_disk(work, layers)
        rows.append(run(case, layers, work, arguments.engine))
        if not arguments.keep_models:
            shutil.rmtree(models)
    heads = [
        "Merge",
        "Layers",
        "Model, GB",
        "Wall, s",
        "CPU, s",
        "Peak, MB",
        "Stated, MB",
        "Floor: wall, s",
        "Wall / floor",
    ]
    table = tabulate(rows, heads, "pipe", disable_numparse=True)
    about = "\n".join(f"- {key}: {value}" for key, value in machine().items())
    (work / "large.md").write_text(f"{table}\n\n{about}\n")
    logger.info("\n%s", table)


if __name__ == "__main__":
    main()
