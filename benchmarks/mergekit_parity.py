"""Compare mergekit files merged by mergegrid with mergekit itself, on tiny models.

    python benchmarks/mergekit_parity.py --mergekit path/to/python

Merges every configuration of `tests/helpers/mergekit_cases.py` with both, in float32, prints the
table of docs/mergekit.md and updates it there. Takes a minute.
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
from mergegrid.recipes.mergekit.importing import import_file, is_mergekit

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
import mergekit_cases
from mergekit_cases import CASES, LENGTHS, LIMITS, Case, at_float32, compare, length_ratio

DOCS = Path(__file__).parents[1] / "docs" / "mergekit.md"
#: Why a model is not mergekit's to the bit.
REASONS = {
    "rounding": "float32 sums in another order",
    "selection": "int(density·n) kept, or round((1-density)·n) dropped",
    "line": "the line instead of the circle for nearly parallel tensors",
    "steps": "iterated further",
    "masks": "other random masks",
    "masks of della": "other random masks, and another rescaling",
}


def merge(case: Case, folder: Path, models: Path) -> str:
    """Merge with mergegrid; return the sparsifier and method, or the error."""
    folder.mkdir()
    path = folder / "config.yml"
    path.write_text(dedent(case.config))
    try:
        imported = import_file(path, case.ignore_unused) if is_mergekit(path) else None
        path.write_text(yaml.safe_dump(at_float32(dedent(case.config), models)))
        run_job(job_of(path, folder / "out", case.ignore_unused))
    except MergegridError as error:
        return f"refused: {str(error).partition(', line ')[2].partition(': ')[2]}"
    assert imported is not None, "all cases are files of mergekit"
    content = yaml.safe_load(imported.text())
    kinds = [content[part]["kind"] for part in ("sparsifier", "method")]
    return " + ".join(f"`{kind}`" for kind in kinds if kind != "none")


def closeness(case: Case, folder: Path, base: Path) -> str:
    """How a model differs from mergekit's, in words."""
    if case.expected in LENGTHS:
        ratio = length_ratio(*map(open_model, (folder / "out", folder / "mergekit", base)))
        return f"{REASONS[case.expected]}; the merged delta is {ratio:.3f} times as long"
    limit, _ = LIMITS[case.expected]
    found = compare(open_model(folder / "out"), open_model(folder / "mergekit"), limit)
    if found.equal_bits == 1:
        return "equal to the bit"
    text = f"{found.equal_bits:.1%} of elements equal to the bit"
    if found.beyond:
        text += f", at most {found.beyond} of a tensor other than by rounding"
    else:
        text += f", the others to {found.largest:.0e} of the largest"
    return f"{text}: {REASONS[case.expected]}"


def main() -> None:
    """Print the table, and update the docs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mergekit", required=True, help="Python that has mergekit")
    python = parser.parse_args().mergekit
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        models = mergekit_cases.models(work / "models")
        becomes = {}
        for number, case in enumerate(CASES):
            becomes[work / str(number)] = merge(case, work / str(number), models)
        jobs = {
            folder / "mergekit": yaml.safe_load((folder / "config.yml").read_text())
            for folder in becomes
            if (folder / "out").exists()
        }
        errors = mergekit_cases.run_mergekit(python, jobs)
        lines = ["| configuration | becomes | beside mergekit |", "| --- | --- | --- |"]
        for case, (folder, result) in zip(CASES, becomes.items(), strict=True):
            error = errors.get(folder / "mergekit", "")
            beside = ""
            if error is None:
                beside = closeness(case, folder, models / "base")
            elif error:
                beside = f"mergekit: {error}"
            lines.append(f"| {case.name} | {result} | {beside} |")
    table = "\n".join(lines) + "\n"
    sys.stdout.write(table)
    before, begin, rest = DOCS.read_text().partition("<!-- begin: mergekit parity -->\n")
    _, end, after = rest.partition("<!-- end: mergekit parity -->")
    DOCS.write_text(f"{before}{begin}{table}{end}{after}")


if __name__ == "__main__":
    main()
