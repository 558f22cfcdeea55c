"""Tables of paired comparisons: one by one, and counted."""

import pandas as pd

from mergegrid.study.reporting.rows import variant_labels

SIGNIFICANT = 0.05
"""Corrected p-values below it count as significant."""


def comparison_table(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Every comparison, in the order of studies, families, experts and kinds."""
    return _without_method_of_sweeps(comparisons.drop(columns="engine"))


def comparison_summary(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Number of comparisons that each sparsifier wins and loses against none.

    A row is a sparsifier at a rate in a sweep, or a sparsifier with a method among merges. `p_sign`
    is the two-sided sign test of better against worse, without ties.
    """
    significant = comparisons["p_holm"] < SIGNIFICANT
    better, worse = comparisons["difference"] > 0, comparisons["difference"] < 0
    rows = comparisons.assign(
        better=better,
        worse=worse,
        surely_better=better & significant,
        surely_worse=worse & significant,
    )  # [study, family, experts, head, task, method, sparsifier, rate, settings]
    sweep = rows["study"] == "sweep"
    labels = variant_labels(rows[sweep])
    pairs = zip(rows["sparsifier"], rows["settings"], strict=True)
    # Rates and settings of merges were selected, so they do not separate rows.
    rows["variant"] = [labels.get(pair, "") for pair in pairs]
    rows["variant"] = rows["variant"].where(sweep, "")
    rows["rate_of_sweep"] = rows["rate"].where(sweep, "")
    keys = ["study", "family", "method", "sparsifier", "variant", "rate_of_sweep"]
    counts = ["better", "worse", "surely_better", "surely_worse"]
    table = rows.groupby(keys, as_index=False, sort=False).agg(
        rate=("rate", _distinct_rates),
        comparisons=("difference", "size"),
        difference=("difference", "mean"),
        **{name: (name, "sum") for name in counts},
    )
    wins_and_losses = zip(table["better"], table["worse"], strict=True)
    p_values = [_sign_test(better, worse) for better, worse in wins_and_losses]
    table["p_sign"] = pd.Series(p_values, table.index, "float64")
    order = table["study"].eq("merges").astype("int64")
    table = table.assign(order=order).sort_values("order", kind="stable", ignore_index=True)
    head = [*keys[:-1], "rate", "comparisons", "difference"]
    return _without_method_of_sweeps(table[[*head, *counts, "p_sign"]])


def _without_method_of_sweeps(table: pd.DataFrame) -> pd.DataFrame:
    """Empty the method of single experts, which are not merged."""
    return table.assign(method=table["method"].where(table["study"] == "merges", ""))


def _distinct_rates(texts: "pd.Series[str]") -> str:
    rates = {rate for text in texts for rate in text.split(", ")}
    return ", ".join(sorted(rates, key=float))


def _sign_test(better: int, worse: int) -> float:
    # Importing it takes half the time of a table's job, and few tables need it.
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
