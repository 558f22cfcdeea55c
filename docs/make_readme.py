"""Bring every generated part of README.md up to date: figures, tables, times and rule graph.

Reads the results of a finished quickstart (`make quickstart`) and benchmark (`make bench-merge`),
whichever there are, and writes what stands between markers such as `<!-- begin: drop rates -->` and
`<!-- end: drop rates -->`.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

from mergegrid.study.reporting.files import markdown_table
from mergegrid.study.reporting.summary import stage_times
from mergegrid.study.schema.loading import read_study

ROOT = Path(__file__).parents[1]
RATES = ["0", "0.1", "0.5", "0.9", "0.99", "1"]
FIGURES = ["drop_rates", "merges", "deltas"]
DECODER_FIGURES = ["drop_rates", "merges"]
GLUE_FIGURES = ["drop_rates", "pairs", "similarity"]
#: Scores of a benchmark as the README shows them.
SHOWN = ["model", "benchmark", "metric", "score", "n"]


def rule_graph() -> str:
    """The rules of the quickstart and how they depend on each other, as a Mermaid diagram.

    Snakemake numbers and orders them anew each time; here they go by name.
    """
    command = [sys.executable, "-m", "snakemake", "--forceall", "--rulegraph", "mermaid-js"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return as_mermaid(printed)


def as_mermaid(printed: str) -> str:
    """Arrows by name; all rules that pass the variants of a set through one engine as one."""
    names = dict(re.findall(r"(id\d+)\[([^\]]+)\]", printed))
    short = {key: re.sub(r"^generate_.*", "generate", name) for key, name in names.items()}
    arrows = re.findall(r"(id\d+) --> (id\d+)", printed)
    lines = sorted({f"    {short[start]} --> {short[end]}" for start, end in arrows})
    return "\n".join(["```mermaid", "flowchart LR", *lines, "```"])


def drop_rates(tables: Path, family: str) -> str:
    """The quickstart's scores at a few rates, those of one family."""
    wide = pd.read_csv(tables / "drop_rates_wide.csv", dtype="string").fillna("")
    wide = wide[wide["family"] == family]
    rates = [rate for rate in RATES if (wide[rate] != "").any()]
    return markdown_table(wide[["task", "metric", "sparsifier", *rates]])


def merges(tables: Path, family: str) -> str:
    """The quickstart's merges of all experts of a family together."""
    wide = pd.read_csv(tables / "merges_wide.csv", dtype="string").fillna("")
    wide = wide[wide["family"] == family]
    largest = wide[wide["experts"].str.count(r"\+") == wide["experts"].str.count(r"\+").max()]
    used = [name for name in largest.columns if (largest[name] != "").any()]
    return markdown_table(largest[used].drop(columns=["family", "experts", "selection"]))


def times(logs: Path) -> str:
    """Where the time of the quickstart went."""
    table = stage_times(logs)
    numbers = table.columns.drop("stage")
    return markdown_table(table.astype(dict.fromkeys(numbers, "int64")))


def replace(text: str, name: str, content: str) -> str:
    """Put new content between the two markers of a name."""
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    if begin not in text or end not in text:
        raise SystemExit(f"README.md lacks {begin} or {end}")
    pattern = f"{re.escape(begin)}.*?{re.escape(end)}"
    return re.sub(pattern, lambda _: f"{begin}\n{content.strip()}\n{end}", text, flags=re.DOTALL)


def quickstart() -> dict[str, str]:
    """Parts that the results of a finished quickstart fill; copies its figures too."""
    study = read_study(ROOT / "config" / "config.yaml")
    results, logs = ROOT / study.paths.results, ROOT / study.paths.logs
    if not (results / "tables").is_dir():
        sys.stderr.write(f"{results} holds no tables, so what they fill stays as it is\n")
        return {}
    assert study.decoders is not None
    (encoder,), (decoder,) = study.families, study.decoders.families
    pictures = ROOT / "docs" / "figures"
    pictures.mkdir(exist_ok=True)
    for family, figures, prefix in (
        (encoder, FIGURES, ""),
        (decoder, DECODER_FIGURES, "decoder_"),
    ):
        for figure in figures:
            drawn = results / "figures" / family / f"{figure}.png"
            shutil.copy2(drawn, pictures / f"{prefix}{figure}.png")
    return {
        "drop rates": drop_rates(results / "tables", encoder),
        "merges": merges(results / "tables", encoder),
        "decoder drop rates": drop_rates(results / "tables", decoder),
        "decoder merges": merges(results / "tables", decoder),
        "times": times(logs),
    }


def over_tasks(tables: Path) -> str:
    """Score against drop rate, the mean over the tasks of a study, a row per sparsifier."""
    points = pd.read_csv(tables / "drop_rates.csv")
    means = points.groupby(["sparsifier", "rate"], sort=False)["mean"].mean().unstack()
    whole = means.at["none", 0.0]
    means = means.drop(index="none").sort_index(axis=1)
    means.loc[means.index != "base", 0.0] = whole
    texts = means.map("{:.3f}".format).where(means.notna(), "")
    texts.columns = [f"{rate:g}" for rate in texts.columns]
    return markdown_table(texts.reset_index())


def over_pairs(tables: Path) -> str:
    """The methods over all ordered pairs, and what each sparsifier changes."""
    pairs = pd.read_csv(tables / "pairs.csv")
    effects = pd.read_csv(tables / "sparsifier_effects.csv")
    alone = pairs.drop_duplicates(["source", "target"])
    rows = [
        {"method": name, "sparsifier": "", "mean": alone[column].mean()}
        for name, column in (
            ("single experts", "expert"),
            ("multitask oracle", "oracle"),
            ("base", "base"),
        )
    ]
    means = pairs.groupby(["method", "sparsifier"], as_index=False, sort=False)["mean"].mean()
    table = pd.concat([pd.DataFrame(rows), means], ignore_index=True)
    shown = ["points", "std_pairs", "std_seeds", "better", "equal", "worse"]
    table = table.merge(effects[["method", "sparsifier", *shown]], how="left")
    counts = ["better", "equal", "worse"]
    return markdown_table(table.astype(dict.fromkeys(counts, "Int64")))


def glue_small() -> dict[str, str]:
    """Parts that a finished run of `make glue-small` fills; copies its figures too."""
    study = read_study(ROOT / "config" / "glue_small.yaml")
    results = ROOT / study.paths.results
    if not (results / "tables" / "sparsifier_effects.csv").is_file():
        sys.stderr.write(f"{results} holds no tables, so what they fill stays as it is\n")
        return {}
    (family,) = study.families
    for figure in GLUE_FIGURES:
        drawn = results / "figures" / family / f"{figure}.png"
        shutil.copy2(drawn, ROOT / "docs" / "figures" / f"glue_{figure}.png")
    return {
        "glue drop rates": over_tasks(results / "tables"),
        "glue pairs": over_pairs(results / "tables"),
        "glue times": times(ROOT / study.paths.logs),
    }


def pairs_benchmark() -> dict[str, str]:
    """The part that a finished `python benchmarks/pairs.py` fills."""
    table = ROOT / ".bench" / "pairs" / "pairs.md"
    if not table.is_file():
        sys.stderr.write(f"there is no {table}, so what it fills stays as it is\n")
        return {}
    return {"pairs benchmark": table.read_text(encoding="utf-8").split("\n\n")[0]}


def five_benchmarks() -> dict[str, str]:
    """The part that a finished run of `make benchmarks` fills."""
    study = read_study(ROOT / "config" / "benchmarks.yaml")
    path = ROOT / study.paths.results / "tables" / "benchmarks.csv"
    if not path.is_file():
        sys.stderr.write(f"there is no {path}, so what it fills stays as it is\n")
        return {}
    scores = pd.read_csv(path)
    is_base = (scores["sparsifier"] == "drop_only") & (scores["rate"] == 1)
    merged = scores["experts"].str.contains("+", regex=False)
    alone = (scores["sparsifier"] == "none") & ~merged
    scores["model"] = "merged"
    scores.loc[alone, "model"] = "expert"
    scores.loc[is_base, "model"] = "base"
    errors = scores["stderr"].map(" ± {:.3f}".format).where(scores["stderr"].notna(), "")
    scores["score"] = scores["mean"].map("{:.3f}".format) + errors
    scores = scores.rename(columns={"task": "benchmark"})
    return {"five benchmarks": markdown_table(scores.sort_values(SHOWN[1:3])[SHOWN])}


def benchmark() -> dict[str, str]:
    """The part that a finished benchmark fills."""
    table = ROOT / ".bench" / "merge.md"
    if not table.is_file():
        sys.stderr.write(f"there is no {table}, so what it fills stays as it is\n")
        return {}
    return {"merge benchmark": table.read_text(encoding="utf-8")}


def main() -> None:
    """Rewrite the generated parts of README.md."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    parts = {
        "rule graph": rule_graph(),
        **quickstart(),
        **glue_small(),
        **five_benchmarks(),
        **benchmark(),
        **pairs_benchmark(),
    }
    for name, content in parts.items():
        text = replace(text, name, content)
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
