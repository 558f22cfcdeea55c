"""What a study found, in a few sentences: best merges, and what each sparsifier changes."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from mergegrid.study.reporting.comparisons import SIGNIFICANT
from mergegrid.study.reporting.rows import BASE, ORACLE, SINGLE
from mergegrid.study.reporting.tables import merge_summary
from mergegrid.study.scoring.scores import read_scores

#: Sets of experts with a sentence of their own; the tables have all.
_SETS = 4


def findings_of(results: Path) -> list[str]:
    """Sentences on the results of a study; none before its scores are there."""
    path = results / "scores.parquet"
    if not path.is_file():
        return []
    scores = read_scores([path])
    compared = results / "comparisons.parquet"
    comparisons = pd.read_parquet(compared) if compared.is_file() else None
    return findings(scores, comparisons)


def findings(scores: pd.DataFrame, comparisons: pd.DataFrame | None = None) -> list[str]:
    """Sentences on scores of the test split, and on paired comparisons if they are given."""
    lines = list(_best_merges(scores))
    if comparisons is not None and len(comparisons):
        lines += _effects_on_merges(comparisons)
        lines += _effects_alone(comparisons)
    return lines


def _best_merges(scores: pd.DataFrame) -> Iterator[str]:
    """The best merge of the largest sets, beside the single experts and the base."""
    if not (scores["study"] == "merges").any():
        return
    summary = merge_summary(scores)  # [merge, task or mean]
    means = summary[summary["task"] == "mean"]
    sets = means[["family", "experts"]].drop_duplicates()
    order = sets["experts"].str.count(r"\+").sort_values(ascending=False, kind="stable").index
    for _, (family, experts) in sets.loc[order[:_SETS]].iterrows():
        rows = means[(means["family"] == family) & (means["experts"] == experts)]
        references = {
            name: rows.loc[rows["method"] == name, "mean"] for name in (SINGLE, ORACLE, BASE)
        }
        merges = rows[~rows["method"].isin(references)]
        best = merges.loc[merges["mean"].idxmax()]
        beside = [f"{name} {value.iloc[0]:.3f}" for name, value in references.items() if len(value)]
        rate = f" at {best['rate']}" if best["sparsifier"] != "none" and best["rate"] else ""
        before = "" if best["sparsifier"] == "none" else f"{best['sparsifier']}{rate} + "
        count = f"best of {len(merges)} merges" if len(merges) > 1 else "merged"
        end = f"; {', '.join(beside)}" if beside else ""
        yield f"{family}, {experts}: {count}: {before}{best['method']} {best['mean']:.3f}{end}"
    if len(sets) > _SETS:
        yield f"{len(sets) - _SETS} more sets of experts are in the table merges_wide"


def _effects_on_merges(comparisons: pd.DataFrame) -> Iterator[str]:
    """What each sparsifier changes before merging."""
    rows = comparisons[comparisons["study"] == "merges"]
    for (family, kind), group in rows.groupby(["family", "sparsifier"], sort=False):
        yield (
            f"{family}, {kind} before merging: {group['difference'].mean():+.3f} on average of "
            f"{_counted(len(group))}; {_significant(group)}"
        )


def _effects_alone(comparisons: pd.DataFrame) -> Iterator[str]:
    """Up to which rate single experts keep their scores under each sparsifier."""
    rows = comparisons[comparisons["study"] == "sweep"]
    rows = rows.assign(rate=pd.to_numeric(rows["rate"], errors="coerce")).dropna(subset="rate")
    for (family, kind), group in rows.groupby(["family", "sparsifier"], sort=False):
        lost = group[(group["difference"] < 0) & (group["p_holm"] < SIGNIFICANT)]
        head = f"{family}, {kind} on single experts"
        rate = group["rate"].max() if lost.empty else lost["rate"].min()
        mean = group.loc[group["rate"] == rate, "difference"].mean()
        if lost.empty:
            yield f"{head}: no significant loss up to rate {rate:g} ({mean:+.3f} there)"
        else:
            yield f"{head}: significant losses from rate {rate:g} on ({mean:+.3f} there)"


def _significant(group: pd.DataFrame) -> str:
    sure = group[group["p_holm"] < SIGNIFICANT]
    better, worse = (sure["difference"] > 0).sum(), (sure["difference"] < 0).sum()
    if not better + worse:
        return "none significant"
    return f"significantly better in {better}, worse in {worse}"


def _counted(number: int) -> str:
    return f"{number} comparison{'' if number == 1 else 's'}"
