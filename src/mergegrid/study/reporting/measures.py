"""Tables with measures that papers on merging report: percent of experts, gains, forgetting.

Comments of the form `[a, b]` give the columns that identify a row of a frame.
"""

from typing import Any

import numpy as np
import pandas as pd

from mergegrid.study.reporting.catalogue import TABLES
from mergegrid.study.reporting.hypervolume import added_volume
from mergegrid.study.reporting.rows import (
    BASE,
    in_order,
    rates_text,
    selected_with_references,
    sweep_rows,
    with_variants,
)
from mergegrid.study.reporting.tables import LEAST_GAIN

_MERGE = ["family", "experts", "method", "sparsifier"]
_SET = ["family", "experts", "training_seed"]
_Z = 1.96
"""Standard deviations of a 95 % interval."""


def against_experts(scores: pd.DataFrame) -> pd.DataFrame:
    """Every selected merge against the single experts, the best of them, and the base.

    A run is a training seed with a mask seed; all measures are computed run by run, with the
    references of the same training seed, and averaged over runs.
    """
    runs = _runs(scores)  # [merge, selection, run]
    keys = [*_MERGE, "selection"]
    grouped = runs.groupby(keys, as_index=False, sort=False)
    table = grouped.agg(
        rate=("rates", lambda rates: ", ".join(dict.fromkeys(filter(None, rates)))),
        tasks=("tasks", "max"),
        mean=("value", "mean"),
        std=("value", "std"),
        runs=("value", "size"),
        percent=("percent", "mean"),
        percent_std=("percent", "std"),
        gain=("gain", "mean"),
        retained=("retained", "mean"),
        over_best=("over_best", "mean"),
        hypervolume=("hypervolume", "mean"),
    )
    return in_order(table, keys, like=runs)[list(TABLES["against_experts"].columns)]


def success_rates(scores: pd.DataFrame) -> pd.DataFrame:
    """How often a merge is better than the base and than the best expert, over sets of experts.

    The score of a set is its mean over tasks and runs.
    """
    merges = against_experts(scores)  # [merge]
    size = merges["experts"].str.count(r"\+") + 1
    sized = merges.assign(size=size.astype(str))
    parts = [sized] if size.nunique() < 2 else [sized, sized.assign(size="all")]
    keys = ["family", "size", "method", "sparsifier", "selection"]
    rows = []
    for values, group in pd.concat(parts).groupby(keys, sort=False):
        better = group["gain"].dropna() > 0
        over = group["over_best"].dropna() > 0
        low, high = _wilson(int(better.sum()), len(better))
        rows.append(
            {
                **dict(zip(keys, values, strict=True)),
                "sets": len(group),
                "over_base": better.mean() if len(better) else np.nan,
                "low": low,
                "high": high,
                "over_best_expert": over.mean() if len(over) else np.nan,
                "percent": group["percent"].mean(),
                "percent_std": group["percent"].std(),
                "gain_over_best": group["over_best"].mean(),
            }
        )
    columns = list(TABLES["success_rates"].columns)
    table = pd.DataFrame(rows, columns=columns)
    return in_order(table, keys, like=table)[columns]


def forgetting(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores on tasks that are no expert's own, beside the base: what fine-tuning forgot."""
    rows = with_variants(scores[scores["head"] == ""])  # [recipe, task, metric]
    keys = [*_MERGE, "rate", "settings", "task", "metric", "split"]
    of_task = ["family", "task", "metric", "split"]
    # The base is the same model whichever expert it stands for.
    base = rows[rows["sparsifier"] == BASE].groupby(of_task)["value"].mean().rename("base")
    rows = rows.join(base, on=of_task)
    grouped = rows.groupby(keys, as_index=False, sort=False)
    table = grouped.agg(
        mean=("value", "mean"),
        std=("value", "std"),
        runs=("value", "size"),
        stderr=("stderr", "mean"),
        n=("n", "first"),
        base=("base", "mean"),
    )
    table["change"] = table["mean"] - table["base"]
    return in_order(table, keys, like=rows)[list(TABLES["forgetting"].columns)]


def _runs(scores: pd.DataFrame) -> pd.DataFrame:
    """Measures of each run of each selected merge [family, experts, method, sparsifier, run]."""
    rows = selected_with_references(scores)  # [recipe, task]
    # A share of a score near zero, or below, is meaningless.
    known = rows["expert"].where(rows["expert"] > LEAST_GAIN)
    rows = rows.assign(percent=100 * rows["value"] / known)
    run = [*_MERGE, "selection", "training_seed", "mask_seed"]
    grouping: dict[str, Any] = {"as_index": False, "sort": False, "dropna": False}
    runs = rows.groupby(run, **grouping).agg(
        rates=("rate", rates_text),
        tasks=("task", "nunique"),
        value=("value", "mean"),
        # Missing if it is of one task.
        percent=("percent", lambda shares: shares.mean(skipna=False)),
        expert=("expert", lambda values: values.mean(skipna=False)),
        base=("base", lambda values: values.mean(skipna=False)),
    )
    runs["gain"] = runs["value"] - runs["base"]
    possible = runs["expert"] - runs["base"]
    runs["retained"] = (runs["gain"] / possible).where(possible > LEAST_GAIN)
    alone = _expert_scores(scores, rows)
    best: list[float] = []
    hypervolume: list[float] = []
    for _, group in rows.groupby(run, sort=False, dropna=False):
        experts = alone[tuple(group[_SET].iloc[0])]  # [expert, task]
        best.append(experts.mean(axis=1, skipna=False).max(skipna=False))
        merge = group.set_index("task")["value"].reindex(experts.columns).to_numpy(np.float64)
        values = experts.to_numpy(np.float64)
        meaningful = bool((values.max(axis=0) > LEAST_GAIN).all() and not np.isnan(merge).any())
        hypervolume.append(added_volume(merge, values) if meaningful else np.nan)
    runs["over_best"] = runs["value"] - best
    runs["hypervolume"] = hypervolume
    return runs


def _expert_scores(scores: pd.DataFrame, merged: pd.DataFrame) -> dict[Any, pd.DataFrame]:
    """Scores [expert, task] of the single experts of each set (family, experts, training seed).

    Missing where an expert has no score on a task of the set: encoders have a head for their own
    task only, and decoders answer the benchmarks that are listed for them.
    """
    sweep = sweep_rows(scores)
    alone = sweep[sweep["sparsifier"] == "none"]
    values = alone.groupby(["family", "expert", "training_seed", "task"])["value"].mean().to_dict()
    return {
        (family, experts, seed): pd.DataFrame(
            {
                task: [
                    values.get((family, one, seed, task), np.nan) for one in str(experts).split("+")
                ]
                for task in group["task"].unique()
            },
            dtype=float,
        )
        for (family, experts, seed), group in merged.groupby(_SET, sort=False)
    }


def _wilson(successes: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    if not count:
        return float("nan"), float("nan")
    share, spread = successes / count, _Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * np.sqrt(share * (1 - share) / count + spread / (4 * count))
    return float(middle - half), float(middle + half)
