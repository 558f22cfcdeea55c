"""The table of the form of answers, and the rows that the figure of it starts from."""

import pandas as pd

from mergegrid.study.reporting.catalogue import TABLES
from mergegrid.study.reporting.rows import in_order, spread, with_variants

#: What identifies a setting: recipes that differ in training seed and mask seed only.
SETTING = [
    *("family", "experts", "method", "sparsifier", "rate", "settings"),
    *("task", "metric", "split"),
]


def answer_table(answers: pd.DataFrame) -> pd.DataFrame:
    """Length of answers, with the share that was cut and that reasons, beside the score.

    `length_change` compares with the unchanged expert of the benchmark and the same training seed,
    run by run.
    """
    rows = with_variants(answers)  # [recipe, task, split]
    keys = ["family", "head", "task", "split", "training_seed"]
    alone = rows[(rows["study"] == "sweep") & (rows["sparsifier"] == "none")]
    expert = alone.groupby(keys)["tokens"].mean().rename("expert_tokens")
    rows = rows.join(expert, on=keys)
    rows["length_change"] = rows["tokens"] / rows["expert_tokens"] - 1
    passes = [name for name in answers.columns if name.startswith("pass@")]
    table = spread(
        rows,
        SETTING,
        tokens=("tokens", "mean"),
        tokens_std=("tokens", "std"),
        tokens_stderr=("tokens_stderr", "mean"),
        **{
            name: (name, "mean") for name in ("length_change", "cut", "thinks", "majority", *passes)
        },
        samples=("samples", "min"),
        n=("n", "first"),
    )
    shown = [name for name in TABLES["answers"].columns if not name.startswith("<")]
    return in_order(table, SETTING, like=rows)[[*shown, *passes]]
