"""Selection among the candidates of one set of experts by their benchmark scores.

For every method with every sparsifier and each training seed, the settings with the best mean over
benchmarks and mask seeds on the selection split are selected; the first, if several are equal. In a
sweep every recipe is selected.
"""

import pandas as pd

STAGE_VERSIONS = {"select": 1}


def choose(scores: pd.DataFrame) -> pd.DataFrame:
    """Fill in `selected` in the scores of one set of experts on all its benchmarks."""
    scores = scores.assign(selected=True)
    for _, group in scores.groupby(["training_seed", "method", "sparsifier"], sort=False):
        candidates = pd.MultiIndex.from_frame(group[["settings", "rate"]])
        if group["study"].iloc[0] == "sweep" or candidates.nunique() == 1:
            continue
        compared = group[group["primary"] & (group["split"] == group["selection"])]
        best = compared.groupby(["settings", "rate"], sort=False)["value"].mean().idxmax()
        scores.loc[group.index, "selected"] = [candidate == best for candidate in candidates]
    return scores
