"""Every table and figure by name: which results it is made from, and by which function."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from mergegrid.reporting import figures, tables


@dataclass(frozen=True)
class Results:
    """Files of a run that tables and figures are made from; each needs one kind of them."""

    scores: list[Path] = field(default_factory=list)
    """`scores.parquet`"""
    deltas: list[Path] = field(default_factory=list)
    """Delta ranges, one file per expert and training seed."""
    experts: list[Path] = field(default_factory=list)
    """Published experts, one folder per expert and training seed."""
    decoders: list[Path] = field(default_factory=list)
    """Published decoders, one folder per expert and training seed."""
    sources: list[Path] = field(default_factory=list)
    """Records of what was fetched."""
    licences: dict[str, str | None] = field(default_factory=dict)
    """Terms of use by record, where the configuration states them."""

    @classmethod
    def from_files(
        cls, files: Mapping[str, str | Sequence[str]], licences: str | None = None
    ) -> "Results":
        """Results from file names, one or several of each kind, and licences as JSON."""
        lists = {
            kind: [names] if isinstance(names, str) else names for kind, names in files.items()
        }
        paths = {kind: [Path(name) for name in names] for kind, names in lists.items()}
        return cls(**paths, licences=json.loads(licences or "{}"))

    def read_scores(self) -> pd.DataFrame:
        """All scores."""
        return pd.concat([pd.read_parquet(path) for path in self.scores], ignore_index=True)

    def read_deltas(self) -> pd.DataFrame:
        """All delta ranges."""
        return pd.concat([pd.read_parquet(path) for path in self.deltas], ignore_index=True)

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
    "benchmarks": lambda results: tables.benchmarks(results.read_scores()),
    "delta_ranges": lambda results: tables.delta_ranges(results.read_deltas()),
    "experts": lambda results: tables.expert_table(results.read_experts()),
    "decoders": lambda results: tables.decoder_table(results.read_decoders()),
    "sources": lambda results: results.read_sources(),
}

FIGURES: dict[str, Callable[[Results, str], Figure]] = {
    "drop_rates": lambda results, family: figures.drop_rate_figure(results.read_scores(), family),
    "merges": lambda results, family: figures.merges_figure(results.read_scores(), family),
    "deltas": lambda results, family: figures.deltas_figure(results.read_deltas(), family),
}


def make_table(name: str, results: Results) -> pd.DataFrame:
    """The table of a name."""
    return TABLES[name](results)


def draw_figure(name: str, family: str, results: Results) -> Figure:
    """The figure of a name, for one family."""
    return FIGURES[name](results, family)
