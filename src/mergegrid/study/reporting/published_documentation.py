"""Generated documentation of published numbers: `docs/published.md`, `docs/public_studies.md`."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergegrid.study.reporting.documentation import GENERATED, text_table
from mergegrid.study.schema.loading import read_study
from mergegrid.study.schema.published import Cell, read_published
from mergegrid.study.schema.published_cells import published_cells

_TRUST = (
    "Trust `high` means printed in the source, `log` from a result file of its authors, `card` "
    "from a page of the hub, `figure` read off a figure, to about 0.1. Numbers that are printed, "
    "but are not what their label says, are in `resources/published.csv` as `doubtful` and not "
    "shown."
)
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{5}(?:v\d+)?)")
_REPOSITORY = re.compile(r"^([\w.-]+/[\w.-]+)(?=: )")


def write_published_documentation(root: Path) -> None:
    """Write `docs/published.md` and `docs/public_studies.md` below a folder."""
    for name, text in (
        ("published", published_text(root)),
        ("public_studies", public_studies_text(root)),
    ):
        (root / "docs" / f"{name}.md").write_text(text, encoding="utf-8")


def published_text(root: Path) -> str:
    """Return the text of `docs/published.md`: published numbers and whether a study measures them.

    Args:
        root: folder that contains `resources`.
    """
    cells = read_published(root / "resources" / "published.csv")
    by_table: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        by_table.setdefault(cell.table, []).append(_row(cell))
    parts = [
        "# Published numbers",
        GENERATED,
        "Numbers of the DARE paper (arXiv 2311.03099) and of public benchmarks, and which of them "
        "a study measures again. The setting `published` of a family maps its models to the "
        "published names; the table `published`, and for pairs `sparsifier_effects`, then shows "
        "both side by side, each published setting beside the same one where a study has it. "
        "[public_studies.md](public_studies.md) lists the studies of public benchmarks.",
        "## What can be measured again",
        text_table(
            ["group", "shows", "can be measured", "why", "configuration", "table"],
            [
                [
                    _named(group),
                    group["shows"],
                    group["can_be_measured"],
                    group["why"],
                    _link(group["config"]),
                    f"[{group['result']}](results.md#{group['result']})" if group["result"] else "",
                ]
                for group in _read(root / "resources" / "measured.csv")
            ],
        ),
        "## The numbers",
        f"Values are in percent, unless the column has another unit. {_TRUST}",
        *(
            part
            for table, rows in by_table.items()
            for part in (f"### {table}", _wide(rows, "models", ""))
        ),
    ]
    return "\n\n".join(parts) + "\n"


def public_studies_text(root: Path) -> str:
    """Return the text of `docs/public_studies.md`: studies of public benchmarks, and their numbers.

    Args:
        root: folder that contains `resources` and `config`.

    Raises:
        ConfigError: a configuration is not valid.
    """
    listed = _read(root / "resources" / "public_studies.csv")
    studies = [study for study in listed if study["config"]]
    absent = [study for study in listed if not study["config"]]
    parts = [
        "# Public benchmarks",
        GENERATED,
        "Each is one configuration: ids of models and data, the protocol of the published "
        "experiment, and its settings. `mergegrid run CONFIG` runs it, and the table "
        "[published](results.md#published) then shows our numbers beside theirs, each at the same "
        "setting. **None has been run in full yet**: they were planned without the hub and without "
        "a GPU, and what could not be verified is said at the top of each file. Tests plan all of "
        "them, and run the arithmetic of `gpt2_glue7` and of `roberta_glue8` on tiny models.",
        text_table(
            ["study", "what", "source", "jobs", "models", "downloads", "hardware"],
            [
                [
                    f"[{_name(study)}](#{_name(study)})",
                    study["what"],
                    _linked(study["source"]),
                    study["jobs"],
                    study["models"],
                    study["downloads"],
                    f"{study['hardware']}; not run here",
                ]
                for study in studies
            ],
        ),
        "Jobs are those of a first run that fetch, prepare, import, measure, merge, answer and "
        "score, as `snakemake --dry-run` counts them; tables and figures come in addition.",
        "## Not here",
        text_table(
            ["benchmark", "source", "why"],
            [[one["what"], _linked(one["source"]), one["why"]] for one in absent],
        ),
        "## Their numbers and ours",
        f"Published / ours, in percent unless the column says tokens; `–` is not run. {_TRUST}",
        *(part for study in studies for part in _study(root, study)),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _study(root: Path, study: Mapping[str, str]) -> list[str]:
    path = root / "config" / study["config"]
    cells = published_cells(read_study(path), root / "resources" / "published.csv")
    rows = [
        {**cell, "dataset": cell["task"], "value": cell["published"] * _scale(cell)}
        for cell in cells
    ]
    parts = [f"### {_name(study)}", f"{_link(study['config'])}: {study['what']}."]
    for family in dict.fromkeys(row["family"] for row in rows):
        parts += [
            f"Family `{family}`:",
            _wide([row for row in rows if row["family"] == family], "experts", " / –"),
        ]
    return parts if rows else [*parts, "No published numbers stand beside it."]


def _scale(cell: Mapping[str, Any]) -> float:
    return 100.0 if cell["unit"] == "percent" else 1.0


def _row(cell: Cell) -> dict[str, Any]:
    return {**vars(cell)}


def _wide(rows: Iterable[Mapping[str, Any]], models: str, suffix: str) -> str:
    """Return a table with a line per setting and a column per data set and metric.

    Args:
        rows: published numbers.
        models: what names the models, `models` or `experts`.
        suffix: what follows each number.
    """
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    names: dict[str, None] = {}
    for row in rows:
        name = f"{row['dataset']} {row['metric']}"
        if row["unit"] not in ("percent", row["metric"]):
            name += f" ({row['unit']})"
        names[name] = None
        rescaled = {None: "", True: ", rescaled", False: ""}[row["rescale"]]
        key = (
            *(row[models], row["method"], row["sparsifier"] + rescaled),
            *("" if row[name] is None else f"{row[name]:g}" for name in ("rate", "scale")),
            *(_linked(row["source"]), row["trust"]),
        )
        digits = 0 if row["unit"] == "tokens" else 2
        lines.setdefault(key, {})[name] = f"{row['value']:.{digits}f}{suffix}"
    return text_table(
        [models, "method", "sparsifier", "rate", "scale", *names, "source", "trust"],
        [
            [*key[:5], *(values.get(name, "") for name in names), *key[5:]]
            for key, values in lines.items()
        ],
    )


def _linked(source: str) -> str:
    """A source with links to its paper and repository."""
    source = _REPOSITORY.sub(r"[\1](https://github.com/\1)", source)
    return _ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", source)


def _read(path: Path) -> Sequence[Mapping[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _name(study: Mapping[str, str]) -> str:
    return Path(study["config"]).stem


def _named(group: Mapping[str, str]) -> str:
    dataset = f", {group['dataset']}" if group["dataset"] else ""
    return f"[{group['table']}](#{group['table']}){dataset}"


def _link(config: str) -> str:
    return f"[{config}](../config/{config})" if config else ""
