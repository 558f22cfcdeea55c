"""Tables from tidy scores: values as they are, rounded only where a table is made for people.

A run is one recipe scored: spreads (`std`, `min`, `max`) are over the runs of a setting, that is
over training seeds and mask seeds. `std` has n-1 below the line and is missing for one run.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mergegrid.study.reporting.style import METHOD_ORDER, SPARSIFIER_ORDER
from mergegrid.study.schema.decoders import DecoderFinetune
from mergegrid.study.schema.families import Finetune

SPREAD = ["mean", "std", "min", "max", "runs"]
#: Names that stand beside methods in summaries: what a merge is measured against.
SINGLE, ORACLE, BASE = "single experts", "multitask oracle", "base"
#: A share of a gain that is below this, or negative, means nothing.
LEAST_GAIN = 0.02
_LINE = ["family", "task", "expert", "sparsifier", "variant"]
_MERGE = ["family", "experts", "method", "sparsifier"]
_QUANTILES = ["q50", "q90", "q99", "q999"]
_SHARES = ["share_zero", "lost_in_bfloat16", "lost_in_float16"]
_ORDERS: dict[str, tuple[str, ...]] = {
    "sparsifier": ("", "none", BASE, *(kind for kind in SPARSIFIER_ORDER if kind != "none")),
    "method": (SINGLE, ORACLE, BASE, *METHOD_ORDER),
}


def drop_rates(scores: pd.DataFrame) -> pd.DataFrame:
    """Score of each expert alone against the drop rate.

    The expert as it is stands once, as sparsifier `none` at rate 0; the base with the expert's
    head once, as `base`. `variant` names settings that tell lines of one sparsifier apart.
    `stderr` is the mean standard error over the examples, `change` the mean difference to the
    expert as it is, run by run with the same training seed.
    """
    rows = sweep_rows(scores)
    same = ["family", "expert", "task", "training_seed"]
    whole = rows[rows["sparsifier"] == "none"].groupby(same)["value"].mean()
    rows = rows.join(whole.rename("whole"), on=same)
    rows["change"] = rows["value"] - rows["whole"]
    keys = [*_LINE, "rate", "metric"]
    table = _spread(rows, keys, stderr=("stderr", "mean"), change=("change", "mean"))
    return in_order(table, [*_LINE, "rate"], like=rows)[[*keys, *SPREAD, "stderr", "change"]]


def drop_rates_wide(scores: pd.DataFrame) -> pd.DataFrame:
    """The drop rates for people: one row per line, one column per rate, `mean ± std`.

    Every sparsifier starts with the expert as it is; the base stands in a row of its own.
    """
    points = drop_rates(scores)
    points["text"] = _mean_and_std(points)
    points["rate"] = points["rate"].map("{:g}".format)
    lines = points[points["sparsifier"] != "none"]
    whole = points.loc[points["sparsifier"] == "none", ["family", "expert", "task", "rate", "text"]]
    dropped = lines[lines["sparsifier"] != BASE]
    starts = dropped[[*_LINE, "metric"]].drop_duplicates().merge(whole)
    rates = sorted({*points["rate"]}, key=float)
    wide = _pivot(pd.concat([lines, starts]), [*_LINE, "metric"], "rate", rates)
    named = wide["sparsifier"] + (" (" + wide["variant"] + ")").where(wide["variant"] != "", "")
    wide = wide.assign(sparsifier=named)
    return wide[["family", "task", "expert", "metric", "sparsifier", *rates]]


def merges(scores: pd.DataFrame) -> pd.DataFrame:
    """Test score of every chosen merge on every task of its experts.

    `expert` and `base` are the scores of the single expert of the task and of the base with its
    head, for the same training seeds; `retained` is the share of the gain between the two that
    the merge keeps.
    """
    rows = _chosen(scores)
    keys = [*_MERGE, "rate", "settings", "task", "metric", "selection"]
    table = _spread(rows, keys, expert=("expert", "mean"), base=("base", "mean"))
    table = in_order(table, [*_MERGE, "rate", "settings", "task"], like=rows)
    gain = table["expert"] - table["base"]
    table["retained"] = ((table["mean"] - table["base"]) / gain).where(gain > LEAST_GAIN)
    return table[[*keys[:-1], *SPREAD, "expert", "base", "retained", "selection"]]


def merge_summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Spread of the chosen merges per task and, as task `mean`, over the tasks of each set.

    Methods `single experts`, `base` and, where the study has one, `multitask oracle` are what the
    merges are measured against. `rate` is text: the chosen rates, several where training seeds or
    tasks chose differently. A run is a training seed with a mask seed: where every task has a
    setting of its own, that is several recipes.
    """
    chosen = _chosen(scores)
    alone = chosen.drop_duplicates(["family", "experts", "training_seed", "task"])
    no_mask = pd.array([pd.NA] * len(alone), dtype="Int64")
    alone = alone.assign(sparsifier="", rate=float("nan"), mask_seed=no_mask)
    rows = pd.concat(
        [
            alone.assign(method=SINGLE, value=alone["expert"]),
            alone.assign(method=ORACLE, value=alone["oracle"]),
            alone.assign(method=BASE, value=alone["base"]),
            chosen,
        ]
    ).dropna(subset="value")
    run = [*_MERGE, "selection", "training_seed", "mask_seed"]
    by_run: dict[str, Any] = {"as_index": False, "sort": False, "dropna": False}
    of_tasks = rows.groupby([*run, "task"], **by_run)["value"].mean()
    means = of_tasks.groupby(run, **by_run)["value"].mean().assign(task="mean")
    keys = [*_MERGE, "selection"]
    table = _spread(pd.concat([of_tasks, means]), [*keys, "task"])
    rates = rows.groupby(keys)["rate"].agg(rates_text).rename("rate").astype("string")
    table = table.join(rates, on=keys)
    table = in_order(table, [*_MERGE, "task"], like=pd.concat([chosen, means]))
    return table[[*keys, "rate", "task", *SPREAD]]


def merges_wide(scores: pd.DataFrame) -> pd.DataFrame:
    """Merges for people: one column per task and their mean over the tasks of the set."""
    summary = merge_summary(scores)
    tasks = [task for task in summary["task"].unique() if task != "mean"]
    summary["text"] = _mean_and_std(summary)
    at = summary["sparsifier"] + (" at " + summary["rate"]).where(summary["rate"] != "", "")
    summary["sparsifier"] = at.where(summary["sparsifier"] != "none", "none")
    return _pivot(summary, [*_MERGE, "selection"], "task", [*tasks, "mean"])


def merge_candidates(scores: pd.DataFrame) -> pd.DataFrame:
    """Every candidate with its mean over tasks and mask seeds on the selection split.

    Where every task has a choice of its own, a candidate is a row for each: `chosen_for` is the
    expert whose task it is, else `mean`.
    """
    rows = rows_of_study(scores, "merges")
    rows = rows[rows["split"] == rows["selection"]]
    rows = rows.assign(chosen_for=rows["head"].where(rows["aim"].eq("each").fillna(False), "mean"))
    keys = ["family", "experts", "chosen_for", "training_seed"]
    keys += ["method", "sparsifier", "rate", "settings"]
    grouped = rows.groupby([*keys, "selection"], as_index=False, sort=False)
    table = grouped.agg(
        mean=("value", "mean"), runs=("recipe_digest", "nunique"), selected=("selected", "any")
    )
    return in_order(table, keys, like=rows)[[*keys, "mean", "runs", "selected", "selection"]]


def delta_ranges(deltas: pd.DataFrame) -> pd.DataFrame:
    """Size of the deltas of each whole expert; `qNN` is the percentile NN of |delta|.

    `share_zero` have no delta; `lost_in_...` lose theirs when base + delta is rounded to the dtype.
    """
    return _whole_deltas(deltas, ["mean", *_QUANTILES, "max", "share_below_0.002", *_SHARES, "n"])


def delta_deciles(deltas: pd.DataFrame) -> pd.DataFrame:
    """Deltas of each whole expert with their signs: `dNN` is the percentile NN."""
    columns = ["lowest", *(f"d{percent}" for percent in range(10, 100, 10)), "highest"]
    return _whole_deltas(deltas, columns)


def similarity(similarity: pd.DataFrame) -> pd.DataFrame:
    """Cosine of each layer's embeddings with those of the expert as it is, a column per layer.

    `value` says what of the tokens a row shows, their `mean` or their 5 % quantile `q05`: its mean
    over the runs. The base alone stands once, as `base`.
    """
    rows = _with_variants(similarity)
    keys = ["family", "expert", "sparsifier", "variant", "rate"]
    runs = rows[rows["layer"] == 0].groupby(keys, as_index=False, sort=False)
    counts = runs.agg(runs=("layer", "size"), tokens=("tokens", "max"))
    parts = []
    for value in ("mean", "q05"):
        wide = rows.pivot_table(index=keys, columns="layer", values=value, sort=False)
        wide.columns = pd.Index([f"layer_{layer}" for layer in wide.columns])
        parts.append(wide.reset_index().assign(value=value))
    table = pd.concat(parts).merge(counts, on=keys)
    layers = [name for name in table.columns if str(name).startswith("layer_")]
    order = [*keys, "value"]
    table = in_order(table, order, like=rows.assign(value="mean"))
    return table[[*order, *layers, "runs", "tokens"]]


def _whole_deltas(deltas: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    table = deltas.loc[deltas["tensor"] == "all", ["family", "expert", "training_seed", *columns]]
    return in_order(table, ["family", "expert", "training_seed"], like=table)


def expert_table(experts: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """How each expert was trained, and its best epoch on validation, the first of equals.

    Ready experts, which were not trained here, have neither settings nor epochs.
    """
    rows = []
    for expert in experts:
        curve: list[Mapping[str, float]] = expert["curve"]
        best = max(curve, key=lambda entry: entry["validation"], default=dict[str, float]())
        rows.append(
            {
                **{name: expert[name] for name in ("family", "expert", "task", "metric")},
                "training_seed": expert["seed"],
                **(expert["settings"] or {}),
                "best_epoch": best.get("epoch"),
                "best_validation": best.get("validation"),
            }
        )
    head = ["family", "expert", "task", "training_seed", "metric", *Finetune.model_fields]
    return pd.DataFrame(rows, columns=[*head, "best_epoch", "best_validation"])


def decoder_table(decoders: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """How each decoder was trained, and its loss on held-out answers after the last epoch.

    Ready decoders, which were not trained here, have neither settings nor a loss.
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
    head = ["family", "expert", "training_seed"]
    names = [name for name in DecoderFinetune.model_fields if name != "lora"]
    return pd.DataFrame(rows, columns=[*head, *names, "lora_rank", "validation_loss"])


def benchmarks(scores: pd.DataFrame) -> pd.DataFrame:
    """Every metric of every decoder on every benchmark, with the engine that wrote the answers.

    `stderr` is the mean standard error over the questions, `n` their number.
    """
    rows = scores[scores["engine"] != ""]
    keys = [*_MERGE, "rate", "settings", "task", "metric", "split", "engine"]
    table = _spread(rows, keys, stderr=("stderr", "mean"), n=("n", "first"))
    order = [*_MERGE, "rate", "settings", "task", "split"]
    return in_order(table, order, like=rows)[[*keys, *SPREAD, "stderr", "n"]]


def rows_of_study(scores: pd.DataFrame, study: str) -> pd.DataFrame:
    """The primary scores of a study; where engines differ, each task says by which."""
    rows = scores[scores["primary"]]
    several = rows["family"].map(rows.groupby("family")["engine"].nunique()) > 1
    marked = rows["task"] + " [" + rows["engine"] + "]"
    rows = rows.assign(task=rows["task"].mask(several, marked))
    return rows[rows["study"] == study].reset_index(drop=True)


def sweep_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """Test rows of the sweep; the recipe that leaves the base alone goes by that name."""
    rows = rows_of_study(scores, "sweep").rename(columns={"experts": "expert"})
    return _with_variants(rows[rows["split"] == "test"])


def _with_variants(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the settings that tell lines of one sparsifier apart; the base has its name."""
    is_base = (rows["sparsifier"] == "drop_only") & (rows["rate"] == 1)
    rows = rows.assign(sparsifier=rows["sparsifier"].mask(is_base, BASE))
    labels = variant_labels(rows)
    pairs = zip(rows["sparsifier"], rows["settings"], strict=True)
    return rows.assign(variant=pd.Series([labels[pair] for pair in pairs], rows.index, "string"))


def variant_labels(rows: pd.DataFrame) -> dict[tuple[str, str], str]:
    """The settings that differ within a sparsifier, e.g. `scope=global`, by kind and settings."""
    labels = {}
    for kind, group in rows.groupby("sparsifier"):
        variants = {text: json.loads(text)["sparsifier"] for text in group["settings"].unique()}
        names = sorted({name for settings in variants.values() for name in settings})
        told = [name for name in names if len({str(s.get(name)) for s in variants.values()}) > 1]
        for text, settings in variants.items():
            values = {name: settings[name] for name in told if name in settings}
            label = ", ".join(f"{name}={_plain(value)}" for name, value in values.items())
            labels[str(kind), text] = label
    return labels


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _chosen(scores: pd.DataFrame) -> pd.DataFrame:
    """Test rows of chosen merges, beside the scores of single expert, base and oracle."""
    rows = rows_of_study(scores, "merges")
    chosen = rows[(rows["split"] == "test") & rows["selected"]]
    references = _references(scores, chosen)
    # Experts that share a task give one score: a run is one recipe scored.
    of_head = ["head", "value", "stderr", "n"]
    same = list(chosen.columns.drop(of_head))
    chosen = chosen.groupby(same, sort=False, dropna=False)[["value"]].mean().reset_index()
    keys = ["family", "experts", "task", "training_seed"]
    together = (
        rows_of_study(scores, "oracle").query("split == 'test'").groupby(keys)["value"].mean()
    )
    chosen = chosen.join(together.rename("oracle"), on=keys)
    return chosen.merge(references, how="left", on=keys)


def _references(scores: pd.DataFrame, merged: pd.DataFrame) -> pd.DataFrame:
    """Scores `expert` and `base` by set, task and training seed.

    They are of the expert whose head or ability the merge is scored on; where several of a set
    have the heads of one task, the mean of theirs.
    """
    sweep = sweep_rows(scores)
    keys = ["family", "expert", "task", "training_seed"]
    kinds = {"none": "expert_score", BASE: "base"}
    both = [
        sweep[sweep["sparsifier"] == kind].groupby(keys)["value"].mean().rename(name)
        for kind, name in kinds.items()
    ]
    alone = pd.concat(both, axis=1).reset_index()
    heads = merged[["family", "experts", "task", "head"]].drop_duplicates()
    heads = heads.rename(columns={"head": "expert"})
    members = heads.merge(alone, on=["family", "expert", "task"])
    keys = ["family", "experts", "task", "training_seed"]
    means = members.groupby(keys, as_index=False)[list(kinds.values())].mean()
    return means.rename(columns={"expert_score": "expert"})


def _spread(rows: pd.DataFrame, keys: list[str], **more: tuple[str, str]) -> pd.DataFrame:
    """Mean, standard deviation and range of the values of each group, and its number of runs."""
    aggregates = {name: ("value", "size" if name == "runs" else name) for name in SPREAD}
    return rows.groupby(keys, as_index=False, sort=False).agg(**aggregates, **more)


def in_order(table: pd.DataFrame, columns: list[str], like: pd.DataFrame) -> pd.DataFrame:
    """Sort by columns: kinds as registered, other names as they first appear in `like`."""

    def ranks(column: "pd.Series[Any]") -> "pd.Series[Any]":
        if pd.api.types.is_numeric_dtype(column):
            return column
        known = _ORDERS.get(str(column.name), ())
        names = list(dict.fromkeys([*known, *like[column.name], *column]))
        return column.map({name: rank for rank, name in enumerate(names)}).astype("int64")

    return table.sort_values(columns, key=ranks, ignore_index=True)


def _mean_and_std(table: pd.DataFrame) -> list[str]:
    pairs = zip(table["mean"], table["std"], strict=True)
    return [f"{mean:.3f}" + ("" if pd.isna(std) else f" ± {std:.3f}") for mean, std in pairs]


def rates_text(rates: "pd.Series[float]") -> str:
    """The rates in a column, each once, e.g. `0.5, 0.9`."""
    return ", ".join(f"{rate:g}" for rate in sorted(rates.dropna().unique()))


def _pivot(table: pd.DataFrame, keys: list[str], column: str, names: list[str]) -> pd.DataFrame:
    """Texts of a long table side by side, rows in their order, gaps empty."""
    order = table[keys].drop_duplicates()
    wide = table.pivot(index=keys, columns=column, values="text").reindex(columns=names)
    return order.merge(wide.reset_index(), on=keys).fillna("")[[*keys, *names]]
