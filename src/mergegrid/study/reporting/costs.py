"""Costs of a study: time, memory and GPUs of its jobs, as recorded by Snakemake and the jobs.

A job counts once, by its last run; failed and killed runs do not count.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from mergegrid.study.reporting import style
from mergegrid.study.reporting.stage_names import STAGES

STAGE_VERSIONS = {"costs": 2}

#: Columns of Snakemake's benchmark files, with their names here.
_MEASURED = {"s": "seconds", "cpu_time": "cpu_seconds", "max_rss": "memory_mb"}
#: Columns of the files of `gpu_monitor`, with their names here.
_GPU_USE = {"gpus": "gpus", "memory_mb": "gpu_memory_mb", "load": "gpu_load"}
COLUMNS = ["rule", "job", *_MEASURED.values(), *_GPU_USE.values()]


def job_costs(logs: Path) -> pd.DataFrame:
    """Read the measurements of all jobs, with rules in the order in which data flows.

    Returns:
        Columns `rule`, `job` (path below the logs of its rule), `seconds`, `cpu_seconds`,
        `memory_mb` (peak) and, for a job with GPUs, `gpus`, `gpu_memory_mb` (peak of the sum over
        GPUs) and `gpu_load` (percent, mean over time and GPUs).
    """
    rows = []
    for rule in STAGES:
        folder = logs / "benchmarks" / rule
        for file in sorted(folder.rglob("*.tsv")):
            job = file.relative_to(folder).with_suffix("").as_posix()
            # If a study's logs are in a folder `benchmarks`, it also has the files of GPU use.
            if not job.endswith(".gpu"):
                gpu_use = logs / rule / f"{job}.gpu.tsv"
                numbers = _last_line(file, _MEASURED) | _last_line(gpu_use, _GPU_USE)
                rows.append({"rule": rule, "job": job, **numbers})
    texts = {"rule": "string", "job": "string"}
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(COLUMNS, "float64") | texts)


def cost_table(jobs: pd.DataFrame, requested_mb: Mapping[str, int | None]) -> pd.DataFrame:
    """Sum the costs of the jobs of each rule.

    Args:
        jobs: measurements, from `job_costs`.
        requested_mb: memory in MB that the first attempt of each rule requests.

    Returns:
        Columns `rule`, `jobs`, `hours` and `cpu_hours` (sums over jobs), `cores` (mean number of
        busy cores), `max_memory_mb` (of the largest job), `asked_memory_mb` (requested),
        `memory_used` (share of the requested memory), `gpu_hours`, `max_gpu_memory_mb` and
        `gpu_load` (mean over GPU hours).
    """
    jobs = jobs.assign(
        gpu_seconds=jobs["seconds"] * jobs["gpus"],
        busy=jobs["seconds"] * jobs["gpus"] * jobs["gpu_load"],
    )
    table = jobs.groupby("rule", as_index=False, sort=False).agg(
        jobs=("job", "size"),
        hours=("seconds", _hours),
        cpu_hours=("cpu_seconds", _hours),
        max_memory_mb=("memory_mb", "max"),
        gpu_hours=("gpu_seconds", _hours),
        max_gpu_memory_mb=("gpu_memory_mb", "max"),
        busy=("busy", _hours),
    )
    table["cores"] = table["cpu_hours"] / table["hours"]
    table["asked_memory_mb"] = table["rule"].map(requested_mb).astype("Int64")
    table["memory_used"] = (table["max_memory_mb"] / table["asked_memory_mb"]).astype("float64")
    table["gpu_load"] = table["busy"] / table["gpu_hours"]
    columns = ["rule", "jobs", "hours", "cpu_hours", "cores", "max_memory_mb", "asked_memory_mb"]
    return table[[*columns, "memory_used", "gpu_hours", "max_gpu_memory_mb", "gpu_load"]]


def costs_figure(table: pd.DataFrame) -> Figure:
    """Draw the time of each rule: a bar for the hours of its jobs, with CPU hours inside."""
    with style.styled():
        figure = Figure(figsize=(style.WIDTH, 1.2 + 0.3 * max(len(table), 1)), layout="constrained")
        axis = figure.subplots()
        scale, unit = _unit(float(table["hours"].max()) if len(table) else 0.0)
        places = range(len(table))
        wall, cpu = table["hours"] * scale, table["cpu_hours"] * scale
        axis.barh(places, wall, color=style.lighter(style.GREY), label="jobs, side by side")
        axis.barh(places, cpu, height=0.4, color=style.GREY, label="processors")
        for place, jobs, end in zip(places, table["jobs"], wall, strict=True):
            text = f"  {jobs} job{'s' if jobs > 1 else ''}"
            axis.text(end, place, text, va="center", size=style.SMALL)
        axis.set_yticks(places, [STAGES[rule] for rule in table["rule"]])
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel(f"{unit}, added up over jobs")
        if len(table):
            axis.legend(loc="best")
        figure.suptitle("Where the time goes")
    return figure


def _last_line(file: Path, columns: Mapping[str, str]) -> dict[str, float]:
    """Read the last line of a file of measurements; very short jobs have missing values."""
    if not file.is_file():
        return {}
    measurements = pd.read_csv(file, sep="\t")
    last = measurements[list(columns)].apply(pd.to_numeric, errors="coerce").iloc[-1]
    return {name: float(last[column]) for column, name in columns.items()}


def _hours(seconds: pd.Series) -> float:
    return float(seconds.sum(min_count=1)) / 3600


def _unit(hours: float) -> tuple[float, str]:
    if hours >= 2:
        return 1, "hours"
    return (60, "minutes") if hours * 60 >= 2 else (3600, "seconds")
