"""Every table and figure by name: the function that makes it. What it shows is in `specs`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from mergegrid.study.reporting import comparisons, figures, pairs, pairs_figure, published, tables
from mergegrid.study.reporting.delta_figures import delta_histograms_figure
from mergegrid.study.reporting.libraries import mixed_libraries
from mergegrid.study.reporting.similarity_figures import similarity_figure

STAGE_VERSIONS = {"tables": 1}


@dataclass(frozen=True)
class Results:
    """Files of a run that tables and figures are made from; each needs one or two kinds of them."""

    scores: list[Path] = field(default_factory=list)
    """`scores.parquet`"""
    deltas: list[Path] = field(default_factory=list)
    """Delta ranges, one file per expert and training seed."""
    similarity: list[Path] = field(default_factory=list)
    """Similarities of embeddings, one file per expert and training seed."""
    comparisons: list[Path] = field(default_factory=list)
    """`comparisons.parquet`"""
    experts: list[Path] = field(default_factory=list)
    """Published experts, one folder per expert and training seed."""
    decoders: list[Path] = field(default_factory=list)
    """Published decoders, one folder per expert and training seed."""
    sources: list[Path] = field(default_factory=list)
    """Records of what was fetched."""
    licences: dict[str, str | None] = field(default_factory=dict)
    """Terms of use by record, where the configuration states them."""
    published: list[dict[str, Any]] = field(default_factory=list)
    """Cells of the paper that the study measures again (see `config.published_cells`)."""

    @classmethod
    def from_files(cls, files: Mapping[str, str | Sequence[str]], request: str = "{}") -> "Results":
        """Results from file names, one or several of each kind, and the rest as JSON."""
        lists = {
            kind: [names] if isinstance(names, str) else names for kind, names in files.items()
        }
        paths: dict[str, Any] = {
            kind: [Path(name) for name in names] for kind, names in lists.items()
        }
        return cls(**paths, **json.loads(request))

    def read_scores(self) -> pd.DataFrame:
        """All scores."""
        return pd.concat([pd.read_parquet(path) for path in self.scores], ignore_index=True)

    def read_deltas(self) -> pd.DataFrame:
        """All delta ranges."""
        return pd.concat([pd.read_parquet(path) for path in self.deltas], ignore_index=True)

    def read_similarity(self) -> pd.DataFrame:
        """All similarities of embeddings."""
        return pd.concat([pd.read_parquet(path) for path in self.similarity], ignore_index=True)

    def read_comparisons(self) -> pd.DataFrame:
        """All paired comparisons."""
        return pd.concat([pd.read_parquet(path) for path in self.comparisons], ignore_index=True)

    def read_experts(self) -> list[dict[str, Any]]:
        """How each expert was trained: `training.json` and its place in the study."""
        found = []
        for folder in self.experts:
            training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
            target = training.pop("target")
            family, expert = folder.parts[-4], folder.parts[-2]
            found.append({"family": family, "expert": expert, **target, **training})
        return found

    def read_decoders(self) -> list[dict[str, Any]]:
        """How each decoder was trained, where it was trained here, and its place in the study."""
        found = []
        for folder in self.decoders:
            path = folder / "training.json"
            training = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            family, expert = folder.parts[-4], folder.parts[-2]
            seed = int(folder.name.removeprefix("seed~"))
            place = {"family": family, "expert": expert, "training_seed": seed}
            found.append({**place, "training": training})
        return found

    def read_sources(self) -> pd.DataFrame:
        """What was fetched, one row per record."""
        records = [(path.stem, json.loads(path.read_text())) for path in self.sources]
        return pd.DataFrame(
            {
                "name": [name for name, _ in records],
                "kind": [record["kind"] for _, record in records],
                "source": [record["source"] for _, record in records],
                "licence": [
                    self.licences.get(name) or record["licence"] for name, record in records
                ],
                "resolved": [record["resolved"] for _, record in records],
                "bytes": [record["bytes"] for _, record in records],
                "sha256": [record["sha256"] for _, record in records],
            }
        )


TABLES: dict[str, Callable[[Results], pd.DataFrame]] = {
    "drop_rates": lambda results: tables.drop_rates(results.read_scores()),
    "drop_rates_wide": lambda results: tables.drop_rates_wide(results.read_scores()),
    "merges": lambda results: tables.merges(results.read_scores()),
    "merges_wide": lambda results: tables.merges_wide(results.read_scores()),
    "merge_candidates": lambda results: tables.merge_candidates(results.read_scores()),
    "pairs": lambda results: pairs.pairs(results.read_scores()),
    "sparsifier_effects": lambda results: pairs.sparsifier_effects(
        results.read_scores(), results.published
    ),
    "comparisons": lambda results: comparisons.comparison_table(results.read_comparisons()),
    "comparison_summary": lambda results: comparisons.comparison_summary(
        results.read_comparisons()
    ),
    "published": lambda results: published.published(results.read_scores(), results.published),
    "benchmarks": lambda results: tables.benchmarks(results.read_scores()),
    "delta_ranges": lambda results: tables.delta_ranges(results.read_deltas()),
    "delta_deciles": lambda results: tables.delta_deciles(results.read_deltas()),
    "similarity": lambda results: tables.similarity(results.read_similarity()),
    "experts": lambda results: tables.expert_table(results.read_experts()),
    "decoders": lambda results: tables.decoder_table(results.read_decoders()),
    "sources": lambda results: results.read_sources(),
}

FIGURES: dict[str, Callable[[Results, str], Figure]] = {
    "drop_rates": lambda results, family: figures.drop_rate_figure(results.read_scores(), family),
    "merges": lambda results, family: figures.merges_figure(results.read_scores(), family),
    "pairs": lambda results, family: pairs_figure.pairs_figure(results.read_scores(), family),
    "deltas": lambda results, family: figures.deltas_figure(results.read_deltas(), family),
    "delta_histograms": lambda results, family: delta_histograms_figure(
        results.read_deltas(), family
    ),
    "similarity": lambda results, family: similarity_figure(results.read_similarity(), family),
}


def make_table(name: str, results: Results) -> pd.DataFrame:
    """The table of a name."""
    return TABLES[name](results)


def table_notes(results: Results) -> list[str]:
    """What readers of a table of scores have to know beside it."""
    return mixed_libraries(results.read_scores()) if results.scores else []


def draw_figure(name: str, family: str, results: Results) -> Figure:
    """The figure of a name, for one family."""
    return FIGURES[name](results, family)
