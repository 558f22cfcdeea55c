"""Update the generated parts of README.md and docs: figures, tables, times and the rule graph.

Reads the results of finished studies (`study_parts.py`) and benchmarks (`.bench`), as far as they
exist. Replaces the text between markers such as `<!-- begin: drop rates -->` and
`<!-- end: drop rates -->`, in whichever page has them.
"""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from study_parts import STUDIES

ROOT = Path(__file__).parents[1]
#: Files of benchmarks in `.bench`, by the name of the part that is made from them.
BENCHMARKS = {
    "merge benchmark": "merge.md",
    "method benchmark": "methods.md",
    "large merges": "large.md",
    "statistics memory": "statistics_memory.md",
    "gram accuracy": "gram_accuracy.md",
    "extraction benchmark": "extraction.md",
    "adapter benchmark": "adapters.md",
    "findings simulation": "findings_simulation.md",
    "adapter scores": "adapter_study/scores.md",
    "adapter distances": "adapter_study/distances.md",
}


def rule_graph() -> str:
    """Return the rules of the quickstart and their dependencies, as a Mermaid diagram.

    Snakemake numbers and orders them differently each time, so they are sorted by name.
    """
    command = [sys.executable, "-m", "snakemake", "--forceall", "--rulegraph", "mermaid-js"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return as_mermaid(printed)


def as_mermaid(printed: str) -> str:
    """Return sorted arrows between rule names; all `generate_*` rules count as one."""
    names = dict(re.findall(r"(id\d+)\[([^\]]+)\]", printed))
    short = {key: re.sub(r"^generate_.*", "generate", name) for key, name in names.items()}
    arrows = re.findall(r"(id\d+) --> (id\d+)", printed)
    lines = sorted({f"    {short[start]} --> {short[end]}" for start, end in arrows})
    return "\n".join(["```mermaid", "flowchart LR", *lines, "```"])


def pages() -> list[Path]:
    """Return the pages that may have generated parts."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def fill(parts: Mapping[str, str]) -> None:
    """Write the parts between their markers.

    Args:
        parts: content by the name of its markers.

    Raises:
        SystemExit: no page has the markers of a part; nothing is written then.
    """
    texts = {page: page.read_text(encoding="utf-8") for page in pages()}
    for name, content in parts.items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        page = next((page for page, text in texts.items() if begin in text and end in text), None)
        if page is None:
            raise SystemExit(f"neither README.md nor a page in docs/ has both {begin} and {end}")
        before, _, rest = texts[page].partition(begin)
        after = rest.partition(end)[2]
        texts[page] = f"{before}{begin}\n{content.strip()}\n{end}{after}"
    for page, text in texts.items():
        page.write_text(text, encoding="utf-8")


def pairs_benchmark() -> dict[str, str]:
    """Return the part made from a finished `python benchmarks/pairs.py`."""
    table = ROOT / ".bench" / "pairs" / "pairs.md"
    if not table.is_file():
        sys.stderr.write(f"{table} is missing; its part of the docs stays unchanged\n")
        return {}
    return {"pairs benchmark": table.read_text(encoding="utf-8").split("\n\n")[0]}


def benchmark(name: str, file: str) -> dict[str, str]:
    """Return the part made from the tables of a finished benchmark."""
    table = ROOT / ".bench" / file
    if not table.is_file():
        sys.stderr.write(f"{table} is missing; its part of the docs stays unchanged\n")
        return {}
    return {name: table.read_text(encoding="utf-8")}


def merge_in_short(page: str) -> str:
    """Return a sentence about the first row of the benchmark beside mergekit.

    Args:
        page: docs/speed.md, with the table and below it lines such as `- mergekit: 0.1.5`.
    """
    part = page.partition("<!-- begin: merge benchmark -->")[2]
    names, _, first = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in part.strip().splitlines()[:3]
    )
    merge, wall, cpu, peak, their_wall, their_cpu, their_peak = first[:7]
    assert names[1:7] == ["Wall, s", "CPU, s", "Peak, MB", "mergekit: wall, s", *names[2:4]]
    setup = dict(re.findall(r"^- (\w+): (.*)$", part, re.MULTILINE))
    return (
        f"One measurement, {merge} of two experts of 1.1 billion parameters on "
        f"{setup['cores']} CPU cores: {wall} s,\n{cpu} s of CPU time and {peak} MB of memory; "
        f"mergekit {setup['mergekit']}: {their_wall} s, {their_cpu} s and {their_peak} MB.\n"
        "[Speed and memory](docs/speed.md) has the others, the setup and the command."
    )


def main() -> None:
    """Update the generated parts of all pages."""
    parts = {"rule graph": rule_graph(), **pairs_benchmark()}
    for study in STUDIES:
        parts |= study()
    for name, file in BENCHMARKS.items():
        parts |= benchmark(name, file)
    fill(parts)
    fill({"merge in short": merge_in_short((ROOT / "docs" / "speed.md").read_text("utf-8"))})


if __name__ == "__main__":
    main()
