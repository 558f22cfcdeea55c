"""Parts of the docs that are made from the results of finished studies.

`STUDIES` has all of them; `make_readme.py` writes the parts into the pages.
"""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mergegrid.study.reporting.files import markdown_table
from mergegrid.study.reporting.rows import sweep_rows
from mergegrid.study.reporting.summary import stage_times
from mergegrid.study.schema.loading import read_study
from mergegrid.study.schema.study import Study

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "figures"
RATES = ["0", "0.1", "0.5", "0.9", "0.99", "1"]
FIGURES = ["drop_rates", "merges", "deltas"]
DECODER_FIGURES = ["drop_rates", "merges"]
GLUE_FIGURES = ["drop_rates", "pairs", "similarity"]
#: Columns of the table of five benchmarks.
SHOWN = ["model", "benchmark", "metric", "score", "n"]


@dataclass(frozen=True)
class Finished:
    """Where the results of a finished study are."""

    study: Study

    @property
    def results(self) -> Path:
        """Folder of its results."""
        return ROOT / self.study.paths.results

    @property
    def tables(self) -> Path:
        """Folder of its tables."""
        return self.results / "tables"

    def table(self, name: str, **options: object) -> pd.DataFrame:
        """Read one of its tables."""
        return pd.read_csv(self.tables / f"{name}.csv", **options)

    def times(self) -> str:
        """Return the time per stage."""
        table = stage_times(ROOT / self.study.paths.logs)
        numbers = table.columns.drop("stage")
        return markdown_table(table.astype(dict.fromkeys(numbers, "int64")))

    def families(self) -> list[str]:
        """Return its families, encoders first."""
        halves = (self.study.encoders, self.study.decoders)
        return [name for half in halves if half is not None for name in half.families]

    def copy_figures(self, family: str, figures: Mapping[str, str]) -> None:
        """Copy figures of a family into the docs.

        Args:
            figures: name in the docs, by name in the results.
        """
        for figure, name in figures.items():
            drawn = self.results / "figures" / family / f"{figure}.png"
            shutil.copy2(drawn, PICTURES / f"{name}.png")


def drop_rates(study: Finished, family: str) -> str:
    """Return the scores of one family at a few rates."""
    wide = study.table("drop_rates_wide", dtype="string").fillna("")
    wide = wide[wide["family"] == family]
    rates = [rate for rate in RATES if (wide[rate] != "").any()]
    return markdown_table(wide[["task", "metric", "sparsifier", *rates]])


def merges(study: Finished, family: str) -> str:
    """Return the scores of the merges of all experts of a family."""
    wide = study.table("merges_wide", dtype="string").fillna("")
    wide = wide[wide["family"] == family]
    largest = wide[wide["experts"].str.count(r"\+") == wide["experts"].str.count(r"\+").max()]
    used = [name for name in largest.columns if (largest[name] != "").any()]
    return markdown_table(largest[used].drop(columns=["family", "experts", "selection"]))


def quickstart(study: Finished) -> dict[str, str]:
    """Return the parts made from a finished quickstart in full, and copy its figures."""
    encoder, decoder = study.families()
    study.copy_figures(encoder, {name: name for name in FIGURES})
    study.copy_figures(decoder, {name: f"decoder_{name}" for name in DECODER_FIGURES})
    return {
        "drop rates": drop_rates(study, encoder),
        "merges": merges(study, encoder),
        "decoder drop rates": drop_rates(study, decoder),
        "decoder merges": merges(study, decoder),
        "times": study.times(),
    }


def over_tasks(study: Finished) -> str:
    """Return the mean score over all tasks against the drop rate, one row per sparsifier."""
    points = study.table("drop_rates")
    means = points.groupby(["sparsifier", "rate"], sort=False)["mean"].mean().unstack()
    whole = means.at["none", 0.0]
    means = means.drop(index="none").sort_index(axis=1)
    means.loc[means.index != "base", 0.0] = whole
    texts = means.map("{:.3f}".format).where(means.notna(), "")
    texts.columns = [f"{rate:g}" for rate in texts.columns]
    return markdown_table(texts.reset_index())


def over_pairs(study: Finished) -> str:
    """Return the mean scores of the methods over all pairs, and the effect of each sparsifier."""
    pairs = study.table("pairs")
    effects = study.table("sparsifier_effects")
    alone = pairs.drop_duplicates(["source", "target"])
    rows = [
        {"method": name, "sparsifier": "", "mean": alone[column].mean()}
        for name, column in (
            ("single experts", "expert"),
            ("multitask oracle", "oracle"),
            ("base", "base"),
        )
    ]
    means = pairs.groupby(["method", "sparsifier"], as_index=False, sort=False)["mean"].mean()
    table = pd.concat([pd.DataFrame(rows), means], ignore_index=True)
    shown = ["points", "std_pairs", "std_seeds", "better", "equal", "worse"]
    table = table.merge(effects[["method", "sparsifier", *shown]], how="left")
    counts = ["better", "equal", "worse"]
    return markdown_table(table.astype(dict.fromkeys(counts, "Int64")))


def glue_small(study: Finished) -> dict[str, str]:
    """Return the parts made from a finished `make glue-small`, and copy its figures."""
    (family,) = study.families()
    study.copy_figures(family, {name: f"glue_{name}" for name in GLUE_FIGURES})
    return {
        "glue drop rates": over_tasks(study),
        "glue pairs": over_pairs(study),
        "glue times": study.times(),
    }


def five_benchmarks(study: Finished) -> dict[str, str]:
    """Return the part made from a finished `make benchmarks`."""
    scores = study.table("benchmarks")
    is_base = (scores["sparsifier"] == "drop_only") & (scores["rate"] == 1)
    merged = scores["experts"].str.contains("+", regex=False)
    alone = (scores["sparsifier"] == "none") & ~merged
    scores["model"] = "merged"
    scores.loc[alone, "model"] = "expert"
    scores.loc[is_base, "model"] = "base"
    errors = scores["stderr"].map(" ± {:.3f}".format).where(scores["stderr"].notna(), "")
    scores["score"] = scores["mean"].map("{:.3f}".format) + errors
    scores = scores.rename(columns={"task": "benchmark"})
    return {"five benchmarks": markdown_table(scores.sort_values(SHOWN[1:3])[SHOWN])}


def darex(study: Finished) -> dict[str, str]:
    """Return the parts made from the finished study of DAREx."""
    return {"towards base": towards_base(study), "chosen factors": chosen_factors(study)}


def chosen_factors(study: Finished) -> str:
    """Return the scores of DARE with the factors that change outputs least, for each expert.

    The best factor on the test split is beside them: no choice could do better.
    """
    strengths = _strengths(study)
    keys = ["family", "expert", "training_seed", "sparsifier", "rate"]
    scores = sweep_rows(pd.read_parquet(study.results / "scores.parquet"))
    scores = scores[scores["sparsifier"].isin(["none", "dare"])]
    whole = scores[scores["sparsifier"] == "none"].set_index(keys[:3])["value"]
    changes = study.table("output_change").fillna({"variant": ""})
    least = changes[changes["least"].eq(True)].set_index(keys)["variant"]
    rows = []
    for key, group in scores[scores["sparsifier"] == "dare"].groupby(keys, sort=False):
        if key not in least.index:
            continue
        by_variant = group.set_index("variant")["value"]
        rows.append(
            {
                "towards_base": strengths[key[0]],
                "task": key[1],
                "rate": key[4],
                "expert": whole[key[:3]],
                "q = 1-p": by_variant[""],
                "least change": by_variant[least[key]],
                "best on test": by_variant.max(),
                "q of least change": least[key].removeprefix("rescale=") or "1-p",
            }
        )
    frame = pd.DataFrame(rows)
    groups = frame.groupby(["task", "towards_base", "rate"])
    shown = ["expert", "q = 1-p", "least change", "best on test"]
    means, spread = groups[shown].mean(), groups[shown].std()
    table = means.map("{:.3f}".format) + spread.map(" ± {:.3f}".format)
    table["q of least change"] = groups["q of least change"].agg(", ".join)
    return markdown_table(table.reset_index())


def _strengths(study: Finished) -> dict[str, float]:
    assert study.study.encoders is not None
    families = study.study.encoders.families.items()
    return {name: family.finetune.towards_base for name, family in families}


def towards_base(study: Finished) -> str:
    """Return sizes of deltas and scores of DARE, with and without a decay towards the base."""
    strengths = _strengths(study)
    sizes = study.table("delta_ranges").groupby(["family", "expert"])["mean"].mean()
    points = study.table("drop_rates")
    points = points[points["sparsifier"].isin(["none", "dare"]) & points["variant"].isna()]
    points["score"] = points["mean"].map("{:.3f}".format) + points["std"].map(" ± {:.3f}".format)
    keys = ["family", "expert", "metric"]
    table = points.pivot(index=keys, columns="rate", values="score").reset_index()
    table.columns = [name if isinstance(name, str) else f"DARE {name:g}" for name in table.columns]
    size = sizes[pd.MultiIndex.from_frame(table[["family", "expert"]])]
    table.insert(0, "towards_base", table.pop("family").map(strengths))
    table.insert(3, "mean size of a delta", [f"{value:.1e}" for value in size])
    table = table.rename(columns={"expert": "task", "DARE 0": "expert"})
    return markdown_table(table.sort_values(["task", "towards_base"]))


def racing(study: Finished) -> dict[str, str]:
    """Return what racing would have cost the finished study of it."""
    return racing_losses("racing", study)


def racing_losses(part: str, study: Finished) -> dict[str, str]:
    """Return the part made from the table of `mergegrid racing`, if that was run."""
    losses = study.results / "racing.csv"
    if not losses.is_file():
        sys.stderr.write(f"{losses} is missing; its part of the docs stays unchanged\n")
        return {}
    table = pd.read_csv(losses)
    for name in ("evaluated", "differ"):
        table[name] = [f"{100 * share:.0f} %" for share in table[name]]
    for name in ("validation", "test", "worst"):
        table[name] = [f"{points:.2f}" for points in table[name]]
    return {part: markdown_table(table)}


def ranking(study: Finished) -> dict[str, str]:
    """Return the parts made from the finished ranking of methods, and copy its figure."""
    (family,) = study.families()
    study.copy_figures(family, {"ranking": "ranking"})
    ranks = study.table("ranking", dtype={"size": str})
    return {
        "ranking": all_sets(ranks[ranks["size"] == "all"]),
        "ranking by size": by_size(ranks),
        "ranking and dare": dare_effects(study.table("findings")),
        "ranking times": study.times(),
    }


def full_ranking(study: Finished) -> dict[str, str]:
    """Return the parts made from the finished ranking over fewer sets, without racing."""
    return {
        "full ranking": scores_and_ranks(study),
        "full ranking times": study.times(),
        **racing_losses("ranking and racing", study),
    }


def raced_ranking(study: Finished) -> dict[str, str]:
    """Return the parts made from the finished ranking over fewer sets, with racing."""
    return {"raced ranking": scores_and_ranks(study), "raced ranking times": study.times()}


def scores_and_ranks(study: Finished) -> str:
    """Return the ranking over all sets without intervals."""
    ranks = study.table("ranking", dtype={"size": str})
    ranks = ranks[ranks["size"] == "all"]
    table = ranks[["method", "sparsifier"]].assign(
        score=ranks["score"].map("{:.3f}".format),
        percent=ranks["percent"].map("{:.1f}".format),
        rank=ranks["rank"].map("{:g}".format),
    )
    return markdown_table(table)


def decoder_ranking(study: Finished) -> dict[str, str]:
    """Return the parts made from the finished ranking on a decoder, and copy its figure."""
    (family,) = study.families()
    study.copy_figures(family, {"ranking": "decoder_ranking"})
    # There is one set of experts, so one size.
    return {
        "decoder ranking": all_sets(study.table("ranking")),
        "decoder ranking times": study.times(),
    }


def all_sets(ranks: pd.DataFrame) -> str:
    """Return the ranking over all sets, with intervals."""
    table = ranks[["method", "sparsifier"]].assign(
        settings=ranks["candidates"].map("{:.0f}".format),
        score=ranks["score"].map("{:.3f}".format),
        percent=ranks["percent"].map("{:.1f}".format),
        rank=[
            f"{row.rank:g} ({row.rank_low:g} to {row.rank_high:g})" for row in ranks.itertuples()
        ],
        behind=_points(ranks["behind"], ranks["low"], ranks["high"]),
    )
    table["apart"] = ["yes" if apart else "" for apart in ranks["significant"]]
    return markdown_table(table)


def by_size(ranks: pd.DataFrame) -> str:
    """Return scores in percent of the experts', a column per size of the sets."""
    keys = ["method", "sparsifier"]
    percent = ranks.pivot(index=keys, columns="size", values="percent")
    sizes = sorted(percent.columns.drop("all"), key=int)
    table = percent[sizes].reindex(
        pd.MultiIndex.from_frame(ranks.loc[ranks["size"] == "all", keys])
    )
    table = table.map("{:.1f}".format, na_action="ignore").fillna("")
    return markdown_table(table.rename(columns="{} experts".format).reset_index())


def dare_effects(findings: pd.DataFrame) -> str:
    """Return what DARE changes over all sets, in points, a row per method."""
    rows = findings[(findings["kind"] == "sparsifier") & findings["experts"].isna()]
    rows = rows.sort_values("difference", ascending=False)
    table = rows[["method"]].assign(
        points=_points(rows["difference"], rows["low"], rows["high"]),
        p=rows["p_corrected"].map("{:.3g}".format),
    )
    return markdown_table(table)


def _points(values: pd.Series, low: pd.Series, high: pd.Series) -> list[str]:
    triples = zip(100 * values, 100 * low, 100 * high, strict=True)
    return [
        f"{value:.2f} ({least:.2f} to {most:.2f})" if pd.notna(least) else f"{value:.2f}"
        for value, least, most in triples
    ]


def lambda_sweep(study: Finished) -> dict[str, str]:
    """Return the part made from the finished sweep of λ, and copy its figure."""
    (family,) = study.families()
    study.copy_figures(family, {"pareto": "lambda_pareto"})
    table = study.table("answers")
    table = table[(table["split"] == "test") & (table["experts"] != "unchanged")]
    merged = table["settings"].map(lambda text: json.loads(text)["method"].get("coefficient"))
    ends = table["sparsifier"].map({"base": 0.0, "none": 1.0})
    table.insert(0, "λ", merged.where(table["experts"].str.contains("+", regex=False), ends))
    errors = (table["mean"] * (1 - table["mean"]) / (table["n"] - 1)) ** 0.5
    table["accuracy"] = table["mean"].map("{:.3f}".format) + errors.map(" ± {:.3f}".format)
    table["tokens"] = table["tokens"].map("{:.1f}".format)
    table["tokens"] += table["tokens_stderr"].map(" ± {:.1f}".format)
    table["cut"] = table["cut"].map("{:.0%}".format)
    shown = ["λ", "accuracy", "tokens", "cut", "n"]
    return {"lambda sweep": markdown_table(table.sort_values("λ")[shown])}


@dataclass(frozen=True)
class StudyParts:
    """The parts of the docs that a study makes."""

    files: tuple[str, ...]
    """The study's files, relative to `config`."""
    needed: str
    """Table that exists when it is finished."""
    parts: Callable[[Finished], dict[str, str]]
    """Content by the name of its markers."""

    def __call__(self) -> dict[str, str]:
        """Return the parts, or none if the study is not finished."""
        finished = Finished(read_study(*(ROOT / "config" / file for file in self.files)))
        if not (finished.tables / f"{self.needed}.csv").is_file():
            sys.stderr.write(f"{finished.results} has no tables; their parts stay unchanged\n")
            return {}
        return self.parts(finished)


RANKING_FILES = ("glue_small.yaml", "overlays/ranking.yaml")
RACING_FILES = (*RANKING_FILES, "overlays/racing.yaml")
STUDIES = (
    StudyParts(("quickstart_full.yaml",), "merges_wide", quickstart),
    StudyParts(("glue_small.yaml",), "sparsifier_effects", glue_small),
    StudyParts(("benchmarks.yaml",), "benchmarks", five_benchmarks),
    StudyParts(("adamr.yaml",), "drop_rates", darex),
    StudyParts(("racing.yaml",), "merges_wide", racing),
    StudyParts(("lambda_sweep.yaml",), "answers", lambda_sweep),
    StudyParts(RANKING_FILES, "ranking", full_ranking),
    StudyParts(RACING_FILES, "ranking", raced_ranking),
    StudyParts((*RACING_FILES, "overlays/more_sets.yaml"), "ranking", ranking),
    StudyParts(("decoder_ranking.yaml",), "ranking", decoder_ranking),
)
