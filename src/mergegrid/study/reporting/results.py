"""The result files from which tables and figures are made."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mergegrid.study.reporting.entries import Kind


@dataclass(frozen=True)
class Results:
    """Result files by kind; a table or figure needs one kind of them."""

    scores: list[Path] = field(default_factory=list)
    """`scores.parquet`"""
    sweeps: list[Path] = field(default_factory=list)
    """Scores of single experts, one file per expert and training seed."""
    deltas: list[Path] = field(default_factory=list)
    """Sizes of deltas, one file per expert and training seed."""
    similarity: list[Path] = field(default_factory=list)
    """Similarities of embeddings, one file per expert and training seed."""
    comparisons: list[Path] = field(default_factory=list)
    """`comparisons.parquet`"""
    ranking: list[Path] = field(default_factory=list)
    """`ranking.parquet`"""
    answers: list[Path] = field(default_factory=list)
    """`answers.parquet`"""
    findings: list[Path] = field(default_factory=list)
    """`findings.parquet`"""
    experts: list[Path] = field(default_factory=list)
    """Published experts, one folder per expert and training seed."""
    decoders: list[Path] = field(default_factory=list)
    """Published decoders, one folder per expert and training seed."""
    sources: list[Path] = field(default_factory=list)
    """Records of fetched models and data sets."""
    licences: dict[str, str | None] = field(default_factory=dict)
    """Configured terms of use, by the name of the record."""
    published: list[dict[str, Any]] = field(default_factory=list)
    """Numbers of the paper that the study measures again (see `schema.published_cells`)."""

    @classmethod
    def from_files(cls, files: Mapping[str, str | Sequence[str]], request: str = "{}") -> "Results":
        """Collect the files of each kind; `request` holds `licences` and `published` as JSON."""
        paths: dict[str, Any] = {
            kind: [Path(name) for name in ([names] if isinstance(names, str) else names)]
            for kind, names in files.items()
        }
        return cls(**paths, **json.loads(request))

    def read(self, kind: Kind) -> Any:
        """Read the files of a kind: a table, or a record per model or source."""
        if kind == "experts":
            return [_read_expert(folder) for folder in self.experts]
        if kind == "decoders":
            return [_read_decoder(folder) for folder in self.decoders]
        if kind == "sources":
            return [self._read_source(path) for path in self.sources]
        paths: list[Path] = getattr(self, kind)
        return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)

    def _read_source(self, path: Path) -> dict[str, Any]:
        record = json.loads(path.read_text(encoding="utf-8"))
        licence = self.licences.get(path.stem) or record["licence"]
        return {**record, "name": path.stem, "licence": licence}


def _read_expert(folder: Path) -> dict[str, Any]:
    """Read how an expert was trained, `training.json`; its path names family and expert."""
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    target = training.pop("target")
    return {"family": folder.parts[-4], "expert": folder.parts[-2], **target, **training}


def _read_decoder(folder: Path) -> dict[str, Any]:
    """Read how a decoder was trained; `training` is empty for one that was not trained here."""
    path = folder / "training.json"
    return {
        "family": folder.parts[-4],
        "expert": folder.parts[-2],
        "training_seed": int(folder.name.removeprefix("seed~")),
        "training": json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {},
    }
