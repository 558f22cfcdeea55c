"""The deltas of one expert as a report: sizes per tensor, what rounding loses, does DARE apply."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.checkpoints.family import open_family
from mergegrid.deltas.paper_range import LARGE, SMALL
from mergegrid.deltas.sizes import Range, delta_ranges
from mergegrid.errors import CheckpointError, ConfigError
from mergegrid.progress import byte_progress

STAGE_VERSIONS = {"deltas": 1}

# Where the paper says "mostly" and "often".
_MOSTLY, _OFTEN = 0.8, 0.1
_HEAD = ("tensor", "parameters", "median", "q99", "max", "L1", "L2", "unchanged")


@dataclass(frozen=True)
class DeltaReport:
    """How far an expert is from its base."""

    ranges: Sequence[Range]
    """Of the whole model first, then of each tensor."""
    dtype: str
    """What parameters are rounded to, as in `bfloat16`."""
    notes: Sequence[str]
    """What was cut of the expert, a line each."""

    @property
    def whole(self) -> Range:
        """Of the whole model."""
        return self.ranges[0]

    @property
    def verdict(self) -> str:
        """Whether DARE applies, by the paper's ranges (arXiv 2311.03099, section 4.6)."""
        whole = self.whole
        if whole.max == 0:
            return "There is no delta: the expert is the base."
        small = f"{_percent(whole.small, whole.n)} of |delta| are below {SMALL}"
        if whole.small >= _MOSTLY * whole.n:
            return f"DARE applies: {small}."
        median, largest = f"{whole.quantiles['q50']:.2g}", f"{whole.max:.2g}"
        sizes = f"half of all are below {median}, the largest is {largest}"
        if whole.large > _OFTEN * whole.n:
            return (
                f"DARE fails on such deltas: {_percent(whole.large, whole.n)} of |delta| are above "
                f"{LARGE} ({sizes}). In the paper it broke down where deltas often exceeded "
                f"{LARGE} and reached 0.03: take the base that the expert was fine-tuned from."
            )
        return (
            f"DARE may fail at high rates: only {small}, where deltas of the paper's models mostly "
            f"lie ({sizes}). Score a low rate first."
        )

    def __str__(self) -> str:
        whole = self.whole
        lost = whole.unchanged - whole.zero
        width = max(len(each.tensor) for each in self.ranges)
        lines = [_line(_HEAD, width), *(_line(_cells(each), width) for each in self.ranges[1:])]
        return "\n".join(
            [
                *lines,
                _line(_cells(whole), width),
                *self.notes,
                f"rounded to {self.dtype}, {_percent(whole.unchanged, whole.n)} of all parameters "
                f"stay the base's: {_percent(whole.zero, whole.n)} have no delta, "
                f"{_percent(lost, whole.n)} lose theirs",
                self.verdict,
            ]
        )

    def write_csv(self, path: Path) -> None:
        """Write all that was measured, one row per tensor."""
        rows = [
            {
                **each.row(),
                "l1": each.l1,
                "l2": each.l2,
                f"share_above_{LARGE}": each.large / each.n,
                "share_unchanged": each.unchanged / each.n,
            }
            for each in self.ranges
        ]
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def measure(
    base: Path,
    expert: Path,
    dtype: str | None = None,
    threads: int = 1,
) -> DeltaReport:
    """Measure the deltas between two model folders, and show the progress.

    Raises:
        CheckpointError: a model is damaged, or the expert is not homologous with the base.
        ConfigError: the dtype is none that parameters can be stored in.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype = {dtype!r}: name one of {', '.join(DTYPES)}")
    for folder in (base, expert):
        if not folder.is_dir():
            raise CheckpointError(f"there is no folder {folder}; name the folder of a model")
    name = expert.resolve().name
    family = open_family(base, {name: expert})
    aligned = family.aligned
    models = aligned.base, aligned.experts[name]
    stored = sorted({info.dtype.name for info in aligned.base.infos.values()})
    size = sum(model.infos[each].bytes for model in models for each in aligned.base)
    with byte_progress("deltas", size) as progress:
        ranges = delta_ranges(*models, DTYPES.get(dtype or ""), threads, progress)
    return DeltaReport(ranges, dtype or " and ".join(stored), family.notes)


def expert_ranges(base: Path, expert: Path, name: str, threads: int = 1) -> list[Range]:
    """Sizes of the deltas between two model folders, of the rows and tensors that both have.

    Configurations may differ, since another base than the expert's own may be what is studied.

    Raises:
        CheckpointError: a model is damaged, or the two have other shapes.
    """
    aligned = open_family(base, {name: expert}, homologous=False).aligned
    return delta_ranges(aligned.base, aligned.experts[name], threads=threads)


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole
    # All but a few is not all, and a few are not none.
    if 0 < part < whole and (share > 99.95 or share < 0.05):
        return "over 99.9 %" if share > 50 else "under 0.1 %"
    return f"{share:.1f} %"


def _cells(each: Range) -> tuple[str, ...]:
    sizes = (each.quantiles["q50"], each.quantiles["q99"], each.max, each.l1, each.l2)
    shown = (f"{size:.3g}" for size in sizes)
    return each.tensor, f"{each.n:,}", *shown, _percent(each.unchanged, each.n)


def _line(cells: Sequence[str], width: int) -> str:
    return "  ".join([f"{cells[0]:<{width}}", *(f"{cell:>13}" for cell in cells[1:])])
