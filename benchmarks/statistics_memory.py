"""Measure the peak memory of gathering model statistics, for decoders of two sizes.

    python benchmarks/statistics_memory.py --work .bench              # 8 GB of disk
    python benchmarks/statistics_memory.py --work .bench --texts 2    # for a trial run

Creates random models in the shapes of SmolLM2-135M and TinyLlama-1.1B, gathers the statistics of
`fisher` and `regmean` from random texts, and prints the peak memory beside what a study states for
such a job. Writes `statistics_memory.md` into the work folder.
"""

import argparse
import json
import logging
import random
import subprocess
import sys
from pathlib import Path

from measure import measure
from report import machine
from tabulate import tabulate

from mergegrid.study.runtime.memory_estimates import size_of, statistics_mb

SMALL = {"layers": 30, "hidden": 576, "intermediate": 1536, "heads": 9, "key_value_heads": 3}
SHAPES = {"SmolLM2-135M": SMALL | {"vocabulary": 49152}, "TinyLlama-1.1B": {}}
LENGTH = 256
"""Tokens after which a text is cut; every text has more words."""
HEADS = ["Shape", "Statistics", "Model, MB", "File, MB", "Wall, s", "CPU, s", "Peak, MB"]
HEADS += ["Stated, MB"]

logger = logging.getLogger("benchmark")


def write_texts(path: Path, count: int) -> None:
    """Write random texts as JSON lines."""
    chance = random.Random(1)
    words = [f"word{number}" for number in range(1000)]
    texts = (" ".join(chance.choices(words, k=LENGTH)) for _ in range(count))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def rows_of(name: str, work: Path, texts: Path) -> list[list[str]]:
    """Measure both kinds of statistics of one model: rows of the table."""
    folder = work / "models" / f"statistics-{name}"
    program = Path(__file__).with_name("models.py")
    command = [sys.executable, program, folder, json.dumps(SHAPES[name]), "--experts", "0"]
    subprocess.run(command, check=True)
    model, out = folder / "base", work / "statistics.safetensors"
    size = size_of(model)
    rows = []
    for kind in ("fisher", "regmean"):
        engine = Path(sys.executable).with_name("mergegrid")
        options = ["--kind", kind, "--texts", texts, "--max-length", str(LENGTH)]
        log = work / "logs" / f"statistics {name} {kind}.log"
        cost = measure([engine, "statistics", model, out, *options], log, {"OMP_NUM_THREADS": "1"})
        row = [name, kind, f"{size.stored / 1e6:.0f}", f"{out.stat().st_size / 1e6:.0f}"]
        row += [f"{cost.wall:.0f}", f"{cost.cpu:.0f}", f"{cost.memory:.0f}"]
        rows.append([*row, str(statistics_mb(size))])
        logger.info("%s", ", ".join(rows[-1]))
        out.unlink()
    return rows


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for models and results")
    parser.add_argument("--texts", type=int, default=4, help="number of texts")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    texts = work / "texts.jsonl"
    write_texts(texts, arguments.texts)
    rows = [row for name in SHAPES for row in rows_of(name, work, texts)]
    table = tabulate(rows, HEADS, "pipe", disable_numparse=True)
    facts = machine() | {"texts": f"{arguments.texts} of {LENGTH} tokens"}
    about = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    (work / "statistics_memory.md").write_text(f"{table}\n\n{about}\n")
    logger.info("\n%s", table)


if __name__ == "__main__":
    main()
