"""Summary of a finished run: findings, where its results are, and how its time was spent."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from mergegrid.study.reporting.brief_findings import brief_findings
from mergegrid.study.reporting.costs import job_costs
from mergegrid.study.reporting.libraries import mixed_libraries
from mergegrid.study.reporting.stage_names import STAGES
from mergegrid.study.schema.study import Study
from mergegrid.study.scoring.scores import read_scores

#: Files that answer most, by path below the results: the first three that exist are listed.
_FILES = {
    "findings.md": "the findings in words, with intervals and tests",
    "report.html": "everything on one page",
    "tables/merges_wide.md": "every merge, beside single experts and base",
    "tables/drop_rates_wide.md": "every expert alone, at every drop rate",
    "figures/{family}/drop_rates.svg": "the same as a figure",
    "tables/benchmarks.md": "every metric of every model",
    "scores.parquet": "all scores, one per row",
}
_MOST_FILES = 3


def stage_times(logs: Path) -> pd.DataFrame:
    """Sum the time of each stage over its jobs.

    Returns:
        Columns `stage`, `jobs`, `seconds`, `cpu_seconds` and `peak_mb` (of the largest job).
    """
    jobs = job_costs(logs).groupby("rule", sort=False)
    times = jobs.agg(
        jobs=("job", "size"),
        seconds=("seconds", "sum"),
        cpu_seconds=("cpu_seconds", "sum"),
        peak_mb=("memory_mb", "max"),
    )
    times.insert(0, "stage", [STAGES[rule] for rule in times.index])
    return times.reset_index(drop=True)


def library_warnings(study: Study) -> list[str]:
    """Return a warning for each library of which several versions produced the study's scores."""
    path = Path(study.paths.results) / "scores.parquet"
    if not path.is_file():
        return []
    scores = read_scores([path])
    if "libraries" not in scores:
        return [f"warning: {path} was written by an earlier version; the next run rebuilds it"]
    return [f"warning: {path}: {note}" for note in mixed_libraries(scores)]


def useful_files(study: Study) -> dict[str, str]:
    """The three files of a study to open first, and what is in each."""
    results = Path(study.paths.results)
    family = next(iter(study.families))
    files = {
        (results / name.format(family=family)).as_posix(): text for name, text in _FILES.items()
    }
    present = [path for path in files if Path(path).is_file()]
    return {path: files[path] for path in present[:_MOST_FILES]}


def summary(study: Study) -> str:
    """Return findings, times and places of a study that has run."""
    results = Path(study.paths.results)
    times = stage_times(Path(study.paths.logs))
    if times.empty and not (results / "scores.parquet").is_file():
        return (
            f"nothing in {results} yet: the study has not run; start it with mergegrid run, or "
            "with snakemake --cores all in a clone"
        )
    table = times.to_string(index=False, float_format=lambda value: f"{value:.0f}")
    places = {
        "findings": results / "findings.md",
        "scores": results / "scores.parquet",
        "tables": results / "tables",
        "figures": results / "figures",
        "report": results / "report.html",
    }
    lines = [f"{name:8} {path}" for name, path in places.items() if path.exists()]
    head = "Time of each stage (jobs run in parallel, so the sum exceeds the elapsed time):"
    return "\n".join([*_findings(results), head, table, "", *lines, *library_warnings(study)])


def conclusion(study: Study, commands: Mapping[str, str]) -> str:
    """Return the text at the end of a run: findings, files to open, and what to type next.

    Args:
        study: the study.
        commands: commands to type next, and what each does.
    """
    files = useful_files(study)
    lines = [
        *_block("Findings:", brief_findings(Path(study.paths.results, "findings.md"))),
        *_block("Open:", _columns(files)),
        *_block("Next:", [line for name, text in commands.items() for line in (f"# {text}", name)]),
        *library_warnings(study),
    ]
    return "\n".join(lines).rstrip()


def next_commands(study: Study, files: Sequence[str], runner: str) -> dict[str, str]:
    """Commands to type after a run, and what each does.

    Args:
        study: the study.
        files: its configuration files.
        runner: `snakemake` or `mergegrid`, by which the run was started.
    """
    report = shlex.quote(f"{study.paths.results}/report.html")
    named = shlex.join(files)
    if runner == "mergegrid":
        make = f"mergegrid run {named} --cores 1 -- --report {report}"
    else:
        make = f"snakemake --cores 1 --configfile {named} --report {report}"
    return {
        make: "all tables and figures on one page",
        f"mergegrid summary {named}": "the findings with intervals and tests, and times",
    }


def _findings(results: Path) -> list[str]:
    """The findings in words; none before a study has ended."""
    text = results / "findings.md"
    return [text.read_text(encoding="utf-8")] if text.is_file() else []


def _block(head: str, lines: list[str]) -> list[str]:
    return [head, *(f"  {line}" for line in lines), ""] if lines else []


def _columns(texts: Mapping[str, str]) -> list[str]:
    width = max(map(len, texts), default=0)
    return [f"{name:{width}}  {text}" for name, text in texts.items()]
