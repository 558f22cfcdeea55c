"""Compare digests of the benchmark's merges before and after a change of the engine.

    python benchmarks/digests.py --work .bench
    python benchmarks/digests.py --work .bench --against OTHER_CHECKOUT/.venv/bin/mergegrid

Creates the models of `merge.py` in the work folder unless they exist, merges them by each of its
cases, and prints a digest of the tensors of every result. With `--against`, another version of
mergegrid runs the same merges. Exit code 1: a digest differs.
"""

import argparse
import hashlib
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

from cases import CASES, Case
from merge import SHAPES, Models, make_models


def merged_digest(engine: Path, case: Case, models: Models, output: Path) -> str:
    """Return the SHA-256 of the digests of all tensors that an engine writes, in hexadecimal."""
    merge_file = models.folder / "recipes" / "digest.yaml"
    merge_file.parent.mkdir(exist_ok=True)
    merge_file.write_text(case.merge_file())
    shutil.rmtree(output, ignore_errors=True)
    subprocess.run([engine, "merge", merge_file, output], check=True, stdout=subprocess.DEVNULL)
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    shutil.rmtree(output)
    tensors = json.dumps(manifest["weights"]["tensors"], sort_keys=True)
    return hashlib.sha256(tensors.encode()).hexdigest()


def main() -> int:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for models and results")
    parser.add_argument("--scale", choices=SHAPES, default="full", help="small: for a trial run")
    parser.add_argument(
        "--engine",
        type=Path,
        default=Path(sys.executable).with_name("mergegrid"),
        help="the mergegrid program",
    )
    parser.add_argument("--against", type=Path, help="mergegrid program of another version")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    models = make_models(work, arguments.scale, deep=False)
    engines = [engine for engine in (arguments.engine, arguments.against) if engine]
    same = True
    for case in CASES:
        digests = [merged_digest(engine, case, models, work / "out") for engine in engines]
        equal = len(set(digests)) == 1
        same = same and equal
        verdict = "" if len(digests) == 1 else "same" if equal else " != ".join(digests)
        print(f"{case.name:24} {digests[0]} {verdict}".rstrip())  # noqa: T201
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
