"""Tables from scores, deltas, similarities and training records.

Spreads (`std`, `min`, `max`) are over the runs of a setting: training seeds and mask seeds. `std`
is the sample standard deviation (n - 1), missing for a single run. Values are rounded only in the
tables ending in `_wide`. Comments of the form `[a, b]` give the columns that identify a row.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mergegrid.delta_reports.paper_range import SHARE_SMALL
from mergegrid.study.reporting.catalogue import TABLES
from mergegrid.study.reporting.rows import (
    BASE,
    ORACLE,
    SINGLE,
    SPREAD,
    in_order,
    rates_text,
    rows_of_study,
    selected_with_references,
    spread,
    sweep_rows,
    with_variants,
)

LEAST_GAIN = 0.02
"""A share of a smaller, or negative, gain is meaningless."""
_LINE = ["family", "task", "expert", "sparsifier", "variant"]
_MERGE = ["family", "experts", "method", "sparsifier"]


def drop_rates(scores: pd.DataFrame) -> pd.DataFrame:
    """Score of each expert alone against the drop rate.

    The unchanged expert is one row, with sparsifier `none` at rate 0; so is the base with the
    expert's head, with sparsifier `base`. `stderr` is the mean standard error over the examples,
    `change` the mean difference to the unchanged expert with the same training seed.
    """
    rows = sweep_rows(scores)  # [recipe, task], one recipe per mask seed
    keys = ["family", "expert", "task", "training_seed"]
    whole = rows[rows["sparsifier"] == "none"].groupby(keys)["value"].mean()
    rows = rows.join(whole.rename("whole"), on=keys)
    rows["change"] = rows["value"] - rows["whole"]
    keys = [*_LINE, "rate", "metric"]
    table = spread(rows, keys, stderr=("stderr", "mean"), change=("change", "mean"))
    return in_order(table, [*_LINE, "rate"], like=rows)[[*keys, *SPREAD, "stderr", "change"]]


def drop_rates_wide(scores: pd.DataFrame) -> pd.DataFrame:
    """The drop rates with one row per line of a plot and one column per rate, `mean ± std`.

    Every sparsifier starts with the unchanged expert; the base has a row of its own.
    """
    points = drop_rates(scores)  # [line, rate]
    points["text"] = _mean_and_std(points)
    points["rate"] = points["rate"].map("{:g}".format)
    lines = points[points["sparsifier"] != "none"]
    whole = points.loc[points["sparsifier"] == "none", ["family", "expert", "task", "rate", "text"]]
    dropped = lines[lines["sparsifier"] != BASE]
    starts = dropped[[*_LINE, "metric"]].drop_duplicates().merge(whole)  # [line], at rate 0
    rates = sorted({*points["rate"]}, key=float)
    wide = _pivot(pd.concat([lines, starts]), [*_LINE, "metric"], "rate", rates)  # [line]
    variant = (" (" + wide["variant"] + ")").where(wide["variant"] != "", "")
    wide = wide.assign(sparsifier=wide["sparsifier"] + variant)
    return wide[["family", "task", "expert", "metric", "sparsifier", *rates]]


def merges(scores: pd.DataFrame) -> pd.DataFrame:
    """Test score of every selected merge on every task of its experts.

    `expert` and `base` are the scores of the task's single expert and of the base with its head,
    for the same training seeds; `retained` is the share of the gain between the two that the merge
    keeps.
    """
    rows = selected_with_references(scores)  # [recipe, task]
    keys = [*_MERGE, "rate", "settings", "task", "metric", "selection"]
    table = spread(rows, keys, expert=("expert", "mean"), base=("base", "mean"))
    table = in_order(table, [*_MERGE, "rate", "settings", "task"], like=rows)
    gain = table["expert"] - table["base"]
    table["retained"] = ((table["mean"] - table["base"]) / gain).where(gain > LEAST_GAIN)
    return table[[*keys[:-1], *SPREAD, "expert", "base", "retained", "selection"]]


def merge_summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Spread of the selected merges per task and, as task `mean`, over the tasks of each set.

    The references `single experts`, `base` and `multitask oracle` are listed as methods. `rate` is
    text: the selected rates, several if they differ between training seeds or tasks. A run is a
    training seed with a mask seed; if candidates are selected per task, that is several recipes.
    """
    selected = selected_with_references(scores)  # [recipe, task]
    # [family, experts, training_seed, task]
    alone = selected.drop_duplicates(["family", "experts", "training_seed", "task"])
    no_mask = pd.array([pd.NA] * len(alone), dtype="Int64")
    alone = alone.assign(sparsifier="", rate=float("nan"), mask_seed=no_mask)
    rows = pd.concat(
        [
            alone.assign(method=SINGLE, value=alone["expert"]),
            alone.assign(method=ORACLE, value=alone["oracle"]),
            alone.assign(method=BASE, value=alone["base"]),
            selected,
        ]
    ).dropna(subset="value")
    run = [*_MERGE, "selection", "training_seed", "mask_seed"]
    grouping: dict[str, Any] = {"as_index": False, "sort": False, "dropna": False}
    of_tasks = rows.groupby([*run, "task"], **grouping)["value"].mean()  # [run, task]
    means = of_tasks.groupby(run, **grouping)["value"].mean().assign(task="mean")  # [run]
    keys = [*_MERGE, "selection"]
    table = spread(pd.concat([of_tasks, means]), [*keys, "task"])  # [merge, task or mean]
    rates = rows.groupby(keys)["rate"].agg(rates_text).rename("rate").astype("string")
    table = table.join(rates, on=keys)
    table = in_order(table, [*_MERGE, "task"], like=pd.concat([selected, means]))
    return table[[*keys, "rate", "task", *SPREAD]]


def merges_wide(scores: pd.DataFrame) -> pd.DataFrame:
    """Merges with one column per task and their mean over the tasks of the set."""
    summary = merge_summary(scores)  # [merge, task or mean]
    tasks = [task for task in summary["task"].unique() if task != "mean"]
    summary["text"] = _mean_and_std(summary)
    rate = (" at " + summary["rate"]).where(summary["rate"] != "", "")
    with_rate = summary["sparsifier"] + rate
    summary["sparsifier"] = with_rate.where(summary["sparsifier"] != "none", "none")
    return _pivot(summary, [*_MERGE, "selection"], "task", [*tasks, "mean"])  # [merge]


def merge_candidates(scores: pd.DataFrame) -> pd.DataFrame:
    """Every candidate with its mean over tasks and mask seeds on the selection split.

    `chosen_for` is `mean`; or, if candidates are selected per task, the expert of the task, and a
    candidate has a row per task. Where candidates raced, `share` is the share of the split that the
    mean is of.
    """
    rows = rows_of_study(scores, "merges")
    rows = rows[rows["split"] == rows["selection"]]  # [recipe, task]
    per_task = rows["aim"].eq("each").fillna(False)
    rows = rows.assign(chosen_for=rows["head"].where(per_task, "mean"))
    keys = ["family", "experts", "chosen_for", "training_seed"]
    keys += ["method", "sparsifier", "rate", "settings"]
    grouped = rows.groupby([*keys, "selection"], as_index=False, sort=False)
    table = grouped.agg(
        mean=("value", "mean"), runs=("recipe_digest", "nunique"), selected=("selected", "any")
    )
    shown = [*keys, "mean", "runs", "selected", "selection"]
    if "share" in rows:
        shares = grouped["share"].mean()["share"].fillna(1.0)
        table, shown = table.assign(share=shares), [*shown, "share"]
    return in_order(table, keys, like=rows)[shown]


def benchmarks(scores: pd.DataFrame) -> pd.DataFrame:
    """Every metric of every decoder on every benchmark, with the engine that generated answers.

    `stderr` is the mean standard error over the questions, `n` their number.
    """
    rows = scores[scores["engine"] != ""]  # [recipe, task, metric, split, engine]
    keys = [*_MERGE, "rate", "settings", "task", "metric", "split", "engine"]
    table = spread(rows, keys, stderr=("stderr", "mean"), n=("n", "first"))
    order = [*_MERGE, "rate", "settings", "task", "split"]
    return in_order(table, order, like=rows)[[*keys, *SPREAD, "stderr", "n"]]


def delta_ranges(deltas: pd.DataFrame) -> pd.DataFrame:
    """Size of the deltas of each whole expert; `qNN` is the percentile NN of |delta|.

    `share_zero` have no delta; `lost_in_...` lose it when base + delta is rounded to the dtype.
    """
    quantiles = ["mean", "q50", "q90", "q99", "q999", "max", SHARE_SMALL]
    return _whole_deltas(
        deltas, [*quantiles, "share_zero", "lost_in_bfloat16", "lost_in_float16", "n"]
    )


def delta_deciles(deltas: pd.DataFrame) -> pd.DataFrame:
    """Signed deltas of each whole expert: `dNN` is the percentile NN."""
    columns = ["lowest", *(f"d{percent}" for percent in range(10, 100, 10)), "highest"]
    return _whole_deltas(deltas, columns)


def _whole_deltas(deltas: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    keys = ["family", "expert", "training_seed"]
    table = deltas.loc[deltas["tensor"] == "all", [*keys, *columns]]
    return in_order(table, keys, like=table)


def similarity(similarity: pd.DataFrame) -> pd.DataFrame:
    """Cosine of each layer's embeddings with those of the unchanged expert, a column per layer.

    `value` is the statistic over tokens that a row shows, their `mean` or 5 % quantile `q05`,
    averaged over the runs. The base alone is one row, as sparsifier `base`.
    """
    rows = with_variants(similarity)  # [recipe, layer]
    keys = ["family", "expert", "sparsifier", "variant", "rate"]
    runs = rows[rows["layer"] == 0].groupby(keys, as_index=False, sort=False)
    counts = runs.agg(runs=("layer", "size"), tokens=("tokens", "max"))
    parts = []
    for value in ("mean", "q05"):
        wide = rows.pivot_table(index=keys, columns="layer", values=value, sort=False)
        wide.columns = pd.Index([f"layer_{layer}" for layer in wide.columns])
        parts.append(wide.reset_index().assign(value=value))  # [line, rate]
    table = pd.concat(parts).merge(counts, on=keys)  # [line, rate, value]
    layers = [name for name in table.columns if str(name).startswith("layer_")]
    order = [*keys, "value"]
    table = in_order(table, order, like=rows.assign(value="mean"))
    return table[[*order, *layers, "runs", "tokens"]]


def output_change(similarity: pd.DataFrame) -> pd.DataFrame:
    """How much sparsifying an expert changes the embeddings of the last layer.

    `least` marks, among the variants of a sparsifier at one rate, the one that changes them least
    on average over the mask seeds, the first of equals; it is empty where there is one variant.
    """
    rows = with_variants(similarity)  # [recipe, layer]
    last = rows.groupby("family")["layer"].transform("max")
    rows = rows[rows["layer"] == last].assign(value=rows["change"])  # [recipe]
    group = ["family", "expert", "training_seed", "sparsifier", "rate"]
    keys = [*group, "variant"]
    table = in_order(spread(rows, keys), [*group, "variant"], like=rows)
    table = table[table["sparsifier"] != "none"].reset_index(drop=True)
    groups = table.groupby(group, sort=False)["mean"]
    least = pd.Series(table.index.isin(groups.idxmin()), table.index, "boolean")
    table["least"] = least.mask(groups.transform("size") == 1)
    return table[[*keys, *SPREAD, "least"]]


def expert_table(experts: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Training of each expert and its best epoch on validation, the first if several are equal.

    Ready-made experts, which were not trained here, have neither settings nor epochs.
    """
    rows = []
    for expert in experts:
        curve: list[Mapping[str, float]] = expert["curve"]
        best = max(curve, key=lambda epoch: epoch["validation"], default=dict[str, float]())
        rows.append(
            {
                **{name: expert[name] for name in ("family", "expert", "task", "metric")},
                "training_seed": expert["seed"],
                **(expert["settings"] or {}),
                "best_epoch": best.get("epoch"),
                "best_validation": best.get("validation"),
            }
        )
    return _training_table(rows, "experts")


def decoder_table(decoders: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Training of each decoder and its loss on held-out answers after the last epoch.

    Ready-made decoders, which were not trained here, have neither settings nor a loss.
    """
    rows = []
    for decoder in decoders:
        training = decoder["training"]
        settings = dict(training.get("settings", {}))
        lora = settings.pop("lora", None)
        rows.append(
            {
                **{name: decoder[name] for name in ("family", "expert", "training_seed")},
                **settings,
                "lora_rank": lora and lora["rank"],
                "validation_loss": training["curve"][-1]["loss"] if training else None,
            }
        )
    return _training_table(rows, "decoders")


def _training_table(rows: Sequence[Mapping[str, Any]], name: str) -> pd.DataFrame:
    """Rows with the columns of the catalogue, and `towards_base` where a model was trained so."""
    added = ["towards_base"] if any("towards_base" in row for row in rows) else []
    return pd.DataFrame(rows, columns=[*TABLES[name].columns, *added])


def source_table(sources: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Models and data sets as fetched, one row per record."""
    return pd.DataFrame(sources, columns=list(TABLES["sources"].columns))


def _mean_and_std(table: pd.DataFrame) -> list[str]:
    pairs = zip(table["mean"], table["std"], strict=True)
    return [f"{mean:.3f}" + ("" if pd.isna(std) else f" ± {std:.3f}") for mean, std in pairs]


def _pivot(table: pd.DataFrame, keys: list[str], column: str, names: list[str]) -> pd.DataFrame:
    """Spread the column `text` over columns, [keys, column] to [keys]; gaps are empty."""
    order = table[keys].drop_duplicates()
    wide = table.pivot(index=keys, columns=column, values="text").reindex(columns=names)
    return order.merge(wide.reset_index(), on=keys).fillna("")[[*keys, *names]]
