"""Compare mergekit files merged by mergegrid with mergekit itself, on tiny models.

    python benchmarks/mergekit_parity.py --mergekit path/to/python

Merges every configuration of `tests/helpers/mergekit_cases.py` with both, in float32, and prints
the table of docs/mergekit.md. Takes a minute.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from textwrap import dedent

import yaml

from mergegrid import open_model
from mergegrid.api import job_of, run_job
from mergegrid.errors import MergegridError
from mergegrid.recipes.mergekit.importing import import_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
import mergekit_cases
from mergekit_cases import CASES, Case, Comparison, at_float32, compare

#: Why a model is not mergekit's to the bit.
REASONS = {
    "rounding": "float32 sums in another order",
    "selection": "int(density·n) kept, or round((1-density)·n) dropped",
    "line": "the line instead of the circle for nearly parallel tensors",
    "masks": "random masks",
}


def ours(case: Case, folder: Path, config: dict[str, object]) -> str:
    """Merge with mergegrid; return the sparsifier and method, or the error."""
    folder.mkdir()
    path = folder / "config.yml"
    try:
        path.write_text(dedent(case.config))
        imported = import_file(path, case.ignore_unused)
        path.write_text(yaml.safe_dump(config))
        run_job(job_of(path, folder / "out", case.ignore_unused))
    except MergegridError as error:
        return f"refused: {str(error).partition(': ')[2]}"
    content = yaml.safe_load(imported.text())
    kinds = [content[part]["kind"] for part in ("sparsifier", "method")]
    return " + ".join(f"`{kind}`" for kind in kinds if kind != "none")


def closeness(case: Case, found: Comparison) -> str:
    """What differs from mergekit, in words."""
    bits = f"{found.equal_bits:.1%} of elements equal to the bit"
    if found.equal_bits == 1:
        return "equal to the bit"
    if case.expected == "selection":
        return f"{bits}; others in at most {found.differing_per_tensor} elements of a tensor"
    return f"{bits}; at most {found.largest:.0e} of the largest parameter"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mergekit", required=True, help="Python that has mergekit")
    python = parser.parse_args().mergekit
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        models = mergekit_cases.models(work / "models")
        configs = [at_float32(dedent(case.config), models) for case in CASES]
        becomes = [
            ours(case, work / f"{number}", config)
            for number, (case, config) in enumerate(zip(CASES, configs, strict=True))
        ]
        jobs = {
            work / f"{number}" / "mergekit": config
            for number, config in enumerate(configs)
            if (work / f"{number}" / "out").exists()
        }
        errors = mergekit_cases.run_mergekit(python, jobs)
        write = sys.stdout.write
        write("| configuration | becomes | beside mergekit |\n| --- | --- | --- |\n")
        for number, (case, result) in enumerate(zip(CASES, becomes, strict=True)):
            beside = ""
            folder = work / f"{number}"
            if error := errors.get(folder / "mergekit"):
                beside = f"mergekit: {error}"
            elif case.expected == "masks":
                beside = REASONS["masks"]
            elif (folder / "out").exists():
                found = compare(open_model(folder / "out"), open_model(folder / "mergekit"))
                reason = "" if found.equal_bits == 1 else f" ({REASONS[case.expected]})"
                beside = closeness(case, found) + reason
            write(f"| {case.name} | {result} | {beside} |\n")


if __name__ == "__main__":
    main()
