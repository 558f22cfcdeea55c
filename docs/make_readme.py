"""Update the generated parts of README.md and docs: figures, tables, times and the rule graph.

Reads the results of finished studies and benchmarks (`make quickstart`, `make glue-small`,
`make benchmarks`, `make bench-merge`, `make bench-methods`, `config/adamr.yaml`,
`config/racing.yaml` and `config/overlays/ranking.yaml` with `mergegrid racing`,
`config/lambda_sweep.yaml`, and `gram_accuracy.py`, `findings_simulation.py`, `pairs.py`,
`adapters.py`, `adapter_study.py` and `extraction.py` of `benchmarks/`), as far as they exist.
Replaces the text between markers such as
`<!-- begin: drop rates -->` and `<!-- end: drop rates -->`, in whichever page has them.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
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
#: Columns of the table of five benchmarks.
SHOWN = ["model", "benchmark", "metric", "score", "n"]


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


def drop_rates(tables: Path, family: str) -> str:
    """Return the scores of one family at a few rates."""
    wide = pd.read_csv(tables / "drop_rates_wide.csv", dtype="string").fillna("")
    wide = wide[wide["family"] == family]
    rates = [rate for rate in RATES if (wide[rate] != "").any()]
    return markdown_table(wide[["task", "metric", "sparsifier", *rates]])


def merges(tables: Path, family: str) -> str:
    """Return the scores of the merges of all experts of a family."""
    wide = pd.read_csv(tables / "merges_wide.csv", dtype="string").fillna("")
    wide = wide[wide["family"] == family]
    largest = wide[wide["experts"].str.count(r"\+") == wide["experts"].str.count(r"\+").max()]
    used = [name for name in largest.columns if (largest[name] != "").any()]
    return markdown_table(largest[used].drop(columns=["family", "experts", "selection"]))


def times(logs: Path) -> str:
    """Return the time per stage of a study."""
    table = stage_times(logs)
    numbers = table.columns.drop("stage")
    return markdown_table(table.astype(dict.fromkeys(numbers, "int64")))


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


def quickstart() -> dict[str, str]:
    """Return the parts made from a finished quickstart in full, and copy its figures."""
    study = read_study(ROOT / "config" / "quickstart_full.yaml")
    results, logs = ROOT / study.paths.results, ROOT / study.paths.logs
    if not (results / "tables").is_dir():
        sys.stderr.write(f"{results} has no tables; their parts of the docs stay unchanged\n")
        return {}
    assert study.encoders is not None
    assert study.decoders is not None
    (encoder,), (decoder,) = study.encoders.families, study.decoders.families
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
    """Return the mean score over all tasks against the drop rate, one row per sparsifier."""
    points = pd.read_csv(tables / "drop_rates.csv")
    means = points.groupby(["sparsifier", "rate"], sort=False)["mean"].mean().unstack()
    whole = means.at["none", 0.0]
    means = means.drop(index="none").sort_index(axis=1)
    means.loc[means.index != "base", 0.0] = whole
    texts = means.map("{:.3f}".format).where(means.notna(), "")
    texts.columns = [f"{rate:g}" for rate in texts.columns]
    return markdown_table(texts.reset_index())


def over_pairs(tables: Path) -> str:
    """Return the mean scores of the methods over all pairs, and the effect of each sparsifier."""
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
    """Return the parts made from a finished `make glue-small`, and copy its figures."""
    study = read_study(ROOT / "config" / "glue_small.yaml")
    results = ROOT / study.paths.results
    if not (results / "tables" / "sparsifier_effects.csv").is_file():
        sys.stderr.write(f"{results} has no tables; their parts of the docs stay unchanged\n")
        return {}
    assert study.encoders is not None
    (family,) = study.encoders.families
    for figure in GLUE_FIGURES:
        drawn = results / "figures" / family / f"{figure}.png"
        shutil.copy2(drawn, ROOT / "docs" / "figures" / f"glue_{figure}.png")
    return {
        "glue drop rates": over_tasks(results / "tables"),
        "glue pairs": over_pairs(results / "tables"),
        "glue times": times(ROOT / study.paths.logs),
    }


def pairs_benchmark() -> dict[str, str]:
    """Return the part made from a finished `python benchmarks/pairs.py`."""
    table = ROOT / ".bench" / "pairs" / "pairs.md"
    if not table.is_file():
        sys.stderr.write(f"{table} is missing; its part of the docs stays unchanged\n")
        return {}
    return {"pairs benchmark": table.read_text(encoding="utf-8").split("\n\n")[0]}


def five_benchmarks() -> dict[str, str]:
    """Return the part made from a finished `make benchmarks`."""
    study = read_study(ROOT / "config" / "benchmarks.yaml")
    path = ROOT / study.paths.results / "tables" / "benchmarks.csv"
    if not path.is_file():
        sys.stderr.write(f"{path} is missing; its part of the docs stays unchanged\n")
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


def towards_base() -> dict[str, str]:
    """Return the part made from the finished study of AdamR."""
    study = read_study(ROOT / "config" / "adamr.yaml")
    tables = ROOT / study.paths.results / "tables"
    if not (tables / "drop_rates.csv").is_file():
        sys.stderr.write(f"{tables} has no scores; their part of the docs stays unchanged\n")
        return {}
    assert study.encoders is not None
    families = study.encoders.families.items()
    strengths = {name: family.finetune.towards_base for name, family in families}
    sizes = pd.read_csv(tables / "delta_ranges.csv").groupby(["family", "expert"])["mean"].mean()
    points = pd.read_csv(tables / "drop_rates.csv")
    points = points[points["sparsifier"].isin(["none", "dare"])]
    points["score"] = points["mean"].map("{:.3f}".format) + points["std"].map(" ± {:.3f}".format)
    keys = ["family", "expert", "metric"]
    table = points.pivot(index=keys, columns="rate", values="score").reset_index()
    table.columns = [name if isinstance(name, str) else f"DARE {name:g}" for name in table.columns]
    size = sizes[pd.MultiIndex.from_frame(table[["family", "expert"]])]
    table.insert(0, "towards_base", table.pop("family").map(strengths))
    table.insert(3, "mean size of a delta", [f"{value:.1e}" for value in size])
    table = table.rename(columns={"expert": "task", "DARE 0": "expert"})
    return {"towards base": markdown_table(table.sort_values(["task", "towards_base"]))}


def racing() -> dict[str, str]:
    """Return what racing would have cost the finished study of it."""
    study = read_study(ROOT / "config" / "racing.yaml")
    return racing_losses("racing", ROOT / study.paths.results / "racing.csv")


def racing_losses(part: str, losses: Path) -> dict[str, str]:
    """Return the part made from the table of `mergegrid racing`."""
    if not losses.is_file():
        sys.stderr.write(f"{losses} is missing; its part of the docs stays unchanged\n")
        return {}
    table = pd.read_csv(losses)
    for name in ("evaluated", "differ"):
        table[name] = [f"{100 * share:.0f} %" for share in table[name]]
    for name in ("validation", "test", "worst"):
        table[name] = [f"{points:.2f}" for points in table[name]]
    return {part: markdown_table(table)}


def ranking() -> dict[str, str]:
    """Return the parts made from the finished ranking of methods, and copy its figure."""
    files = (ROOT / "config" / "glue_small.yaml", ROOT / "config" / "overlays" / "ranking.yaml")
    study = read_study(*files)
    results = ROOT / study.paths.results
    if not (results / "tables" / "ranking.csv").is_file():
        sys.stderr.write(f"{results} has no ranking; its parts of the docs stay unchanged\n")
        return {}
    assert study.encoders is not None
    (family,) = study.encoders.families
    drawn = results / "figures" / family / "ranking.png"
    shutil.copy2(drawn, ROOT / "docs" / "figures" / "ranking.png")
    ranks = pd.read_csv(results / "tables" / "ranking.csv", dtype={"size": str})
    findings = pd.read_csv(results / "tables" / "findings.csv")
    return {
        "ranking": all_sets(ranks[ranks["size"] == "all"]),
        "ranking by size": by_size(ranks),
        "ranking and dare": dare_effects(findings),
        "ranking times": times(ROOT / study.paths.logs),
        **racing_losses("ranking and racing", results / "racing.csv"),
    }


def all_sets(ranks: pd.DataFrame) -> str:
    """Return the ranking over all sets, with intervals."""
    table = ranks[["method", "sparsifier"]].assign(
        settings=ranks["candidates"].map("{:.0f}".format),
        score=ranks["score"].map("{:.3f}".format),
        percent=ranks["percent"].map("{:.1f}".format),
        rank=[
            f"{row.rank:g} ({row.rank_low:g} to {row.rank_high:g})" for row in ranks.itertuples()
        ],
        behind=_points(ranks["behind"], ranks["low"], ranks["high"]),
    )
    table["apart"] = ["yes" if apart else "" for apart in ranks["significant"]]
    return markdown_table(table)


def by_size(ranks: pd.DataFrame) -> str:
    """Return scores in percent of the experts', a column per size of the sets."""
    keys = ["method", "sparsifier"]
    percent = ranks.pivot(index=keys, columns="size", values="percent")
    sizes = sorted(percent.columns.drop("all"), key=int)
    table = percent[sizes].reindex(
        pd.MultiIndex.from_frame(ranks.loc[ranks["size"] == "all", keys])
    )
    table = table.map("{:.1f}".format, na_action="ignore").fillna("")
    return markdown_table(table.rename(columns="{} experts".format).reset_index())


def dare_effects(findings: pd.DataFrame) -> str:
    """Return what DARE changes over all sets, in points, a row per method."""
    rows = findings[(findings["kind"] == "sparsifier") & findings["experts"].isna()]
    rows = rows.sort_values("difference", ascending=False)
    table = rows[["method"]].assign(
        points=_points(rows["difference"], rows["low"], rows["high"]),
        p=rows["p_corrected"].map("{:.3g}".format),
    )
    return markdown_table(table)


def _points(values: pd.Series, low: pd.Series, high: pd.Series) -> list[str]:
    triples = zip(100 * values, 100 * low, 100 * high, strict=True)
    return [
        f"{value:.2f} ({least:.2f} to {most:.2f})" if pd.notna(least) else f"{value:.2f}"
        for value, least, most in triples
    ]


def lambda_sweep() -> dict[str, str]:
    """Return the part made from the finished sweep of λ, and copy its figure."""
    study = read_study(ROOT / "config" / "lambda_sweep.yaml")
    results = ROOT / study.paths.results
    if not (results / "tables" / "answers.csv").is_file():
        sys.stderr.write(f"{results} has no tables; their part of the docs stays unchanged\n")
        return {}
    assert study.decoders is not None
    (family,) = study.decoders.families
    drawn = results / "figures" / family / "pareto.png"
    shutil.copy2(drawn, ROOT / "docs" / "figures" / "lambda_pareto.png")
    table = pd.read_csv(results / "tables" / "answers.csv")
    table = table[(table["split"] == "test") & (table["experts"] != "unchanged")]
    merged = table["settings"].map(lambda text: json.loads(text)["method"].get("coefficient"))
    ends = table["sparsifier"].map({"base": 0.0, "none": 1.0})
    table.insert(0, "λ", merged.where(table["experts"].str.contains("+", regex=False), ends))
    errors = (table["mean"] * (1 - table["mean"]) / (table["n"] - 1)) ** 0.5
    table["accuracy"] = table["mean"].map("{:.3f}".format) + errors.map(" ± {:.3f}".format)
    table["tokens"] = table["tokens"].map("{:.1f}".format)
    table["tokens"] += table["tokens_stderr"].map(" ± {:.1f}".format)
    shown = ["λ", "accuracy", "tokens", "cut", "n"]
    return {"lambda sweep": markdown_table(table.sort_values("λ")[shown])}


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
    fill(
        {
            "rule graph": rule_graph(),
            **quickstart(),
            **glue_small(),
            **five_benchmarks(),
            **towards_base(),
            **racing(),
            **lambda_sweep(),
            **ranking(),
            **benchmark("merge benchmark", "merge.md"),
            **benchmark("method benchmark", "methods.md"),
            **benchmark("gram accuracy", "gram_accuracy.md"),
            **benchmark("extraction benchmark", "extraction.md"),
            **benchmark("adapter benchmark", "adapters.md"),
            **benchmark("findings simulation", "findings_simulation.md"),
            **pairs_benchmark(),
            **benchmark("adapter scores", "adapter_study/scores.md"),
            **benchmark("adapter distances", "adapter_study/distances.md"),
        }
    )
    fill({"merge in short": merge_in_short((ROOT / "docs" / "speed.md").read_text("utf-8"))})


if __name__ == "__main__":
    main()
