"""What selection among merges promises and keeps: validation against test, and what it took."""

import pandas as pd

from mergegrid.study.reporting.rows import in_order, rows_of_study

_SEARCH = ["family", "method", "sparsifier", "experts", "training_seed", "chosen_for"]
_KIND = _SEARCH[:3]
_COLUMNS = ["searches", "candidates", "validation", "test", "optimism", "std", "evaluated"]


def selection(scores: pd.DataFrame) -> pd.DataFrame:
    """Validation and test score of the selected candidates, by method and sparsifier.

    A search compares several candidates on the validation split: one for each set of experts and
    training seed, or for each task of a set. `optimism` is the mean of validation minus test over
    the searches, in points; `evaluated` the share of the evaluations of a full grid, less than 1
    where candidates raced. The last row of a family is over all its searches.
    """
    rows = rows_of_study(scores, "merges")
    rows = rows[rows["selection"] == "validation"]
    per_task = rows["aim"].eq("each").fillna(False)
    rows = rows.assign(chosen_for=rows["head"].where(per_task, "mean"))
    compared = rows[rows["split"] == "validation"]  # [recipe, task]
    whole = compared.groupby(["family", "task"])["n"].transform("max")
    spent = compared["evaluations"] if "evaluations" in compared else compared["n"]
    compared = compared.assign(
        whole=whole,
        spent=spent.fillna(compared["n"]),
        candidate=compared["rate"].astype("string") + compared["settings"],
    )
    searches = compared.groupby(_SEARCH, as_index=False, sort=False).agg(
        candidates=("candidate", "nunique"), spent=("spent", "sum"), whole=("whole", "sum")
    )  # [search]
    selected = rows[rows["selected"]]
    for split in ("validation", "test"):
        values = selected[selected["split"] == split].groupby(_SEARCH)["value"].mean()
        searches = searches.join(values.rename(split), on=_SEARCH)
    searches = searches[searches["candidates"] > 1].dropna(subset=["validation", "test"])
    searches["difference"] = 100 * (searches["validation"] - searches["test"])
    by_kind = in_order(_means(searches, _KIND), _KIND, like=searches)
    everything = _means(searches, ["family"]).assign(method="all", sparsifier="all")
    table = pd.concat([by_kind, everything], ignore_index=True)
    families = {name: place for place, name in enumerate(searches["family"].unique())}
    table = table.sort_values(
        "family", key=lambda names: names.map(families), kind="stable", ignore_index=True
    )
    return table[[*_KIND, *_COLUMNS]]


def _means(searches: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    table = searches.groupby(keys, as_index=False, sort=False).agg(
        searches=("candidates", "size"),
        candidates=("candidates", "mean"),
        validation=("validation", "mean"),
        test=("test", "mean"),
        optimism=("difference", "mean"),
        std=("difference", "std"),
        spent=("spent", "sum"),
        whole=("whole", "sum"),
    )
    return table.assign(evaluated=table["spent"].astype("float64") / table["whole"])
