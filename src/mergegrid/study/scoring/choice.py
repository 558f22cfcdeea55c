"""Choosing among the variants of one set of experts, benchmark scores in, chosen variants out.

Of every method behind every sparsifier, the setting with the best mean over benchmarks and mask
seeds on the selection split is chosen for each training seed, the first of equals; in a sweep
nothing is chosen, so all count.
"""

from collections.abc import Sequence

import pandas as pd

STAGE_VERSIONS = {"select": 1}


def choose(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores of one set of experts on all its benchmarks, with `selected` filled in."""
    scores = scores.copy()
    scores["selected"] = True
    for _, group in scores.groupby(["training_seed", "method", "sparsifier"], sort=False):
        settings: list[Sequence[object]] = list(
            group[["settings", "rate"]].drop_duplicates().itertuples(index=False)
        )
        if group["study"].iloc[0] == "sweep" or len(settings) == 1:
            continue
        compared = group[group["primary"] & (group["split"] == group["selection"])]
        means = compared.groupby(["settings", "rate"], sort=False)["value"].mean()
        best = means.idxmax()
        mine = list(zip(group["settings"], group["rate"], strict=True))
        scores.loc[group.index, "selected"] = [each == best for each in mine]
    return scores
