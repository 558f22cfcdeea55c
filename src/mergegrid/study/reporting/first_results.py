"""First results: one line for a file of scores, as soon as its job is done."""

from pathlib import Path

import pandas as pd

from mergegrid.study.reporting.rows import BASE, selected_rows, sweep_rows

#: Sparsifiers that a line names; the tables have all of them.
_SHOWN = 3


def first_results(path: Path) -> list[str]:
    """Lines on the scores of one job: an expert alone, or merges of a set of experts.

    Example:
        `trec of minilm alone: 0.870 accuracy, base 0.110; at 0.9 dare 0.860, drop_only 0.300`
    """
    scores = pd.read_parquet(path)
    lines = []
    alone = sweep_rows(scores)
    for (family, expert, task), rows in alone.groupby(["family", "expert", "task"], sort=False):
        lines.append(_alone(f"{family}", f"{expert}", f"{task}", rows))
    merged = selected_rows(scores)
    for (family, experts), rows in merged.groupby(["family", "experts"], sort=False):
        lines.append(_merged(f"{family}", f"{experts}", rows))
    return [line for line in lines if line]


def _alone(family: str, expert: str, task: str, rows: pd.DataFrame) -> str:
    values = rows.groupby(["sparsifier", "rate"], sort=False)["value"].mean()
    kinds = list(dict.fromkeys(rows["sparsifier"]))
    references = []
    if "none" in kinds:
        references.append(f"{values['none'].mean():.3f} {rows['metric'].iloc[0]}")
    if BASE in kinds:
        references.append(f"base {values[BASE].mean():.3f}")
    dropped = rows[~rows["sparsifier"].isin(["none", BASE])]
    text = ""
    if len(dropped):
        # The rate at which most sparsifiers can be compared; the highest, if several are.
        counts = dropped.groupby("rate")["sparsifier"].nunique()
        rate = max(counts.index, key=lambda one: (counts[one], one))
        names = list(dict.fromkeys(dropped.loc[dropped["rate"] == rate, "sparsifier"]))[:_SHOWN]
        parts = [f"{name} {values[name, rate]:.3f}" for name in names]
        text = f"at {rate:g} {', '.join(parts)}"
    on = "" if task == expert else f" on {task}"
    results = "; ".join(part for part in (", ".join(references), text) if part)
    return f"{expert} of {family} alone{on}: {results}" if results else ""


def _merged(family: str, experts: str, rows: pd.DataFrame) -> str:
    of_tasks = rows.groupby(["method", "sparsifier", "task"], sort=False)["value"].mean()
    means = of_tasks.groupby(["method", "sparsifier"], sort=False).mean()
    best = means.max()
    names = [
        method if sparsifier == "none" else f"{sparsifier} + {method}"
        for method, sparsifier in means.index[means == best]
    ]
    tasks = rows["task"].nunique()
    over = f", mean of {tasks} tasks" if tasks > 1 else ""
    count = f"best of {len(means)}: " if len(means) > 1 else ""
    return f"{experts} of {family} merged: {count}{names[0]} {best:.3f}{over}"
