"""Tables of paired comparisons: one by one, and counted."""

import pandas as pd

from mergegrid.study.reporting.tables import variant_labels

#: Below it, a corrected p-value counts as sure.
SURE = 0.05


def comparison_table(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Every comparison, in the order of studies, families, experts and kinds."""
    return _merged_only(comparisons.drop(columns="engine"))


def comparison_summary(comparisons: pd.DataFrame) -> pd.DataFrame:
    """How often each sparsifier is better or worse than none.

    A line of a sweep is a sparsifier at a rate, of merges a sparsifier in front of a method.
    `p_sign` is the two-sided sign test of better against worse, equal ones left out.
    """
    rows = comparisons.assign(
        better=comparisons["difference"] > 0,
        worse=comparisons["difference"] < 0,
        sure=comparisons["p_holm"] < SURE,
    )
    sweep = rows["study"] == "sweep"
    labels = variant_labels(rows[sweep])
    pairs = zip(rows["sparsifier"], rows["settings"], strict=True)
    # The rates and settings of merges were chosen: they tell no lines apart.
    rows["variant"] = [labels.get(pair, "") for pair in pairs]
    rows["variant"] = rows["variant"].where(sweep, "")
    rows["at"] = rows["rate"].where(sweep, "")
    rows["surely_better"] = rows["better"] & rows["sure"]
    rows["surely_worse"] = rows["worse"] & rows["sure"]
    keys = ["study", "family", "method", "sparsifier", "variant", "at"]
    counts = ["better", "worse", "surely_better", "surely_worse"]
    table = rows.groupby(keys, as_index=False, sort=False).agg(
        rate=("rate", _all),
        comparisons=("difference", "size"),
        difference=("difference", "mean"),
        **{name: (name, "sum") for name in counts},
    )
    both = zip(table["better"], table["worse"], strict=True)
    table["p_sign"] = pd.Series([_sign_test(*each) for each in both], table.index, "float64")
    head = [*keys[:-1], "rate", "comparisons", "difference"]
    order = table["study"].eq("merges").astype("int64")
    table = table.assign(order=order).sort_values("order", kind="stable", ignore_index=True)
    return _merged_only(table[[*head, *counts, "p_sign"]])


def _merged_only(table: pd.DataFrame) -> pd.DataFrame:
    """A table without the method of rows about single experts, which merge nothing."""
    return table.assign(method=table["method"].where(table["study"] == "merges", ""))


def _all(rates: "pd.Series[str]") -> str:
    found = {rate for text in rates for rate in text.split(", ")}
    return ", ".join(sorted(found, key=float))


def _sign_test(better: int, worse: int) -> float:
    # Half of what a table's job would take to start, and few tables need it.
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
