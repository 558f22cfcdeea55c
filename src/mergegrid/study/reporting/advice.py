"""What a study cannot say, what it cost, and what would tell more."""

import math
from collections.abc import Iterator

import pandas as pd

from mergegrid.study.reporting.rows import BASE, selected_rows, sweep_rows
from mergegrid.study.reporting.sentences import (
    Row,
    enumerated,
    points,
    recipe_of,
    recipe_words,
    sets_of,
    sparsifier_of,
)
from mergegrid.study.reporting.stage_names import STAGES
from mergegrid.study.reporting.style import words
from mergegrid.study.reporting.tables import LEAST_GAIN
from mergegrid.study.scoring.design import SINGLE
from mergegrid.study.scoring.findings import LEAST

_LEVELS = {
    "se_examples": ("test examples", "more test examples"),
    "se_masks": ("mask seeds", "more mask seeds (`seeds.mask`)"),
    "se_training": ("training seeds", "more training seeds (`seeds.training`)"),
}
_LONGEST = 5


def limits(findings: pd.DataFrame, scores: pd.DataFrame) -> list[str]:
    """Say what cannot be said of a family, and why."""
    return [*_missing_parts(findings, scores), *_missing_levels(scores)]


def _missing_parts(findings: pd.DataFrame, scores: pd.DataFrame) -> Iterator[str]:
    kinds = set(findings["kind"])
    merges = selected_rows(scores)
    if merges.empty:
        yield "Which recipe is best: no experts were merged."
    elif "best" not in kinds:
        yield "Which recipe is best: every set of experts was merged by one recipe only."
    if not merges.empty and "experts" not in kinds:
        yield (
            "Whether a merge is better than its experts: the single experts were not scored on "
            "its tasks (`sweep: null`, or benchmarks that they do not have)."
        )
    elif SINGLE in set(findings["against"]):
        yield (
            "Whether a merge is better than the best single expert over all tasks: an expert is "
            "scored on its own task only, so merges are compared with the experts together, "
            "each on its task."
        )
    sparsifiers = set(merges["sparsifier"]) - {"none"}
    if sparsifiers and "sparsifier" not in kinds:
        names = enumerated(sorted(map(words, sparsifiers)))
        yield (
            f"Whether {names} helps: no method was also run without a sparsifier (`kind: none` in "
            "`merges.sparsifiers`)."
        )
    if scores[scores["study"] == "sweep"].empty:
        yield "How many deltas can be dropped: no sweep scored the single experts."
    if weak := _hardly_trained(scores):
        is_are, their = ("is", "its task") if len(weak) == 1 else ("are", "their tasks")
        yield (
            f"What merging or dropping costs {enumerated(weak)}: alone, {enumerated(weak)} "
            f"{is_are} not 2 points better than the base, so on {their} there is nothing to lose "
            "and recipes differ by chance (table `drop_rates_wide`)."
        )


def _hardly_trained(scores: pd.DataFrame) -> list[str]:
    """Experts that are hardly better than the base on any task that they were scored on."""
    means = (
        sweep_rows(scores)
        .query("sparsifier in ('none', @BASE)")
        .groupby(["expert", "task", "sparsifier"])["value"]
        .mean()
        .unstack("sparsifier")
        .reindex(columns=["none", BASE])
    )
    gains = (means["none"] - means[BASE]).dropna().groupby("expert").max()
    return [str(name) for name in gains.index[gains < LEAST_GAIN]]


def _missing_levels(scores: pd.DataFrame) -> Iterator[str]:
    if scores["training_seed"].nunique() == 1:
        yield (
            "Whether other fine-tunes of the same experts would give the same: there is one "
            "training seed (or the experts are ready-made), and no interval covers others."
        )
    masked = scores[scores["mask_seed"].notna() & (scores["rate"] < 1)]
    if masked["mask_seed"].nunique() == 1:
        yield (
            "Whether other random masks would give the same: there is one mask seed, and no "
            "interval covers others."
        )
    sets = selected_rows(scores)["experts"].unique()
    if len(sets) == 1:
        yield (
            f"Whether other sets of experts would give the same: one set was merged, "
            f"{sets[0].replace('+', ' + ')}."
        )
    elif len(sets) > 1:
        yield (
            "What would hold for other experts: findings are about these experts. Where a second "
            "interval is given, it is for other experts like these, as far as these differ from "
            "each other."
        )


def advice(findings: pd.DataFrame) -> list[str]:
    """Say what would tell apart what could not be told apart."""
    open_rows = findings[findings["needed"].notna()]
    # A change that is known to be small needs no more examples.
    beyond = open_rows[["low", "high"]].abs().max(axis=1)
    open_rows = open_rows[(beyond > LEAST) & (open_rows["kind"] != "drop_rate")]
    if open_rows.empty:
        return []
    order = open_rows["experts"].ne("").astype("int64")
    rows = list(open_rows.loc[order.sort_values(kind="stable").index].itertuples(index=False))
    sentences = [_needed(row) for row in rows[:_LONGEST]]
    if len(rows) > _LONGEST:
        sentences.append(
            f"{len(rows) - _LONGEST} more comparisons that are open have their numbers in the "
            "column `needed` of table `findings`."
        )
    return [*sentences, *_largest_source(open_rows)]


def _needed(row: Row) -> str:
    what = {
        "best": lambda: f"{recipe_of(row)} and {recipe_words(row.against)}",
        "experts": lambda: f"{recipe_of(row)} and {row.against}",
        "sparsifier": lambda: f"{words(row.method)} with and without {sparsifier_of(row)}",
    }[row.kind]()
    where = f" on {sets_of(row)}" if row.experts else ""
    size = points(max(abs(row.difference), LEAST))
    if math.isinf(row.needed):
        return (
            f"To tell {what} apart{where}, more test examples are not enough: seeds or sets make "
            f"a difference of {size} points too uncertain (table `findings`)."
        )
    return (
        f"To tell {what} apart{where}, about {_rounded(row.needed)} test examples instead of "
        f"{row.n} are enough, if they differ by {size} points (power 80 %, t test at the "
        "corrected level; table `findings`)."
    )


def _largest_source(rows: pd.DataFrame) -> Iterator[str]:
    variances = rows[list(_LEVELS)] ** 2
    shares = variances.div(variances.sum(axis=1), axis=0).mean()
    name = str(shares.idxmax())
    source, remedy = _LEVELS[name]
    yield (
        f"Of the variance of these differences, {100 * shares[name]:.0f} % is due to {source}: "
        f"{remedy} would narrow the intervals most (columns `se_...` of table `findings`)."
    )


def cost_sentences(costs: pd.DataFrame, scores: pd.DataFrame) -> list[str]:
    """Say what a study cost, and where the time went.

    Args:
        costs: measurements of all jobs, from `job_costs`.
        scores: rows of `scores.parquet`.
    """
    if costs.empty:
        return ["No job of this study has left a record of its time."]
    seconds = costs.groupby("rule", sort=False)["seconds"].sum().sort_values(ascending=False)
    total = float(seconds.sum())
    parts = [f"{STAGES[str(rule)]} {100 * part / total:.0f} %" for rule, part in seconds.items()]
    gpu = float((costs["seconds"] * costs["gpus"]).sum())
    on_gpus = f" and {duration(gpu)} of GPU time" if gpu else ""
    made = [
        f"All jobs together took {duration(total)}, with {duration(costs['cpu_seconds'].sum())} of "
        f"CPU time{on_gpus}: {enumerated(parts[:3])} (each job by its last run; table "
        "`costs/costs.csv`)."
    ]
    return [*made, *_cost_of_recipes(costs, scores)]


def _cost_of_recipes(costs: pd.DataFrame, scores: pd.DataFrame) -> Iterator[str]:
    merges = costs[costs["rule"] == "merges"]
    if not merges.empty:
        encoders = scores[(scores["study"] == "merges") & (scores["engine"] == "")]
        evaluations = len(encoders.drop_duplicates(["recipe_digest", "head", "split"]))
        cost = duration(merges["seconds"].sum() / max(evaluations, 1))
        yield (
            f"Merging and scoring one candidate on one task took {cost} on average; one job does "
            "this for all recipes of a set, so the cost of single methods is not recorded "
            "(`costs/costs.parquet`)."
        )
    single = costs[costs["rule"] == "merge"]
    if not single.empty:
        method = single["job"].str.rsplit("/", n=1).str[-1]
        means = single["seconds"].groupby(method).mean().sort_values()
        low, high = (f"{duration(value)} ({name})" for name, value in means.iloc[[0, -1]].items())
        between = f"from {low} to {high}" if len(means) > 1 else low
        yield f"Merging one decoder took {between} by method (`costs/costs.parquet`)."


def duration(seconds: float) -> str:
    """A time in the unit that reads best: `1.2 s`, `34 minutes`, `5.6 hours`."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def _rounded(number: float) -> str:
    """A number with two significant digits: 1,300."""
    digits = max(0, math.floor(math.log10(max(number, 1))) - 1)
    step = 10**digits
    return f"{math.ceil(number / step) * step:,.0f}"
