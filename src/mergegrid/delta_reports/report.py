"""Report on the deltas of one expert: sizes, losses by rounding, and whether DARE applies."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.checkpoints.family import open_family
from mergegrid.checkpoints.layers import reading_order
from mergegrid.delta_reports.paper_range import LARGE, SMALL
from mergegrid.delta_reports.sizes import DeltaSizes, delta_sizes
from mergegrid.errors import CheckpointError, ConfigError
from mergegrid.progress import byte_progress

STAGE_VERSIONS = {"deltas": 1}

# Shares for the paper's "mostly" and "often".
_MOSTLY, _OFTEN = 0.8, 0.1
_HEAD = ("tensor", "parameters", "median", "q99", "max", "L1", "L2", "unchanged")


@dataclass(frozen=True)
class DeltaReport:
    """How far an expert is from its base."""

    sizes: Sequence[DeltaSizes]
    """The whole model first, then each tensor."""
    dtype: str
    """Dtype that parameters are rounded to, as in `bfloat16`."""
    notes: Sequence[str]
    """What was cut from the expert, a line each."""

    @property
    def whole(self) -> DeltaSizes:
        """The whole model."""
        return self.sizes[0]

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
                f"{LARGE} and reached 0.03: use the base that the expert was fine-tuned from."
            )
        return (
            f"DARE may fail at high rates: only {small}, where deltas of the paper's models mostly "
            f"lie ({sizes}). Score a low rate first."
        )

    def __str__(self) -> str:
        whole = self.whole
        lost = whole.unchanged - whole.zero
        width = max(len(tensor.tensor) for tensor in self.sizes)
        tensors = sorted(self.sizes[1:], key=lambda size: reading_order(size.tensor))
        lines = [_line(_HEAD, width), *(_line(_cells(tensor), width) for tensor in tensors)]
        return "\n".join(
            [
                *lines,
                _line(_cells(whole), width),
                *self.notes,
                f"rounded to {self.dtype}, {_percent(whole.unchanged, whole.n)} of all parameters "
                f"equal the base: {_percent(whole.zero, whole.n)} have no delta, "
                f"{_percent(lost, whole.n)} lose it to rounding",
                self.verdict,
            ]
        )

    def write_csv(self, path: Path) -> None:
        """Write all measurements, one row per tensor."""
        rows = [
            {
                **tensor.row(),
                "l1": tensor.l1,
                "l2": tensor.l2,
                f"share_above_{LARGE}": tensor.large / tensor.n,
                "share_unchanged": tensor.unchanged / tensor.n,
            }
            for tensor in self.sizes
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
    name: str = "",
    base_is: Sequence[str] = (),
) -> DeltaReport:
    """Measure the deltas of an expert, a model folder or an adapter, and show the progress.

    Args:
        base: folder of the base.
        expert: folder of the expert.
        dtype: dtype that parameters are rounded to; by default the base's.
        threads: number of threads.
        name: what notes and errors call the expert; by default the name of its folder.
        base_is: further names of the base, for an adapter that names it otherwise.

    Raises:
        CheckpointError: a model is damaged, or the expert is not homologous with the base.
        ConfigError: the dtype is unknown.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}; use one of {', '.join(DTYPES)}")
    for folder in (base, expert):
        if not folder.is_dir():
            raise CheckpointError(f"there is no folder {folder}; pass the folder of a model")
    name = name or expert.resolve().name
    family = open_family(base, {name: expert}, base_is=base_is)
    aligned = family.aligned
    models = aligned.base, aligned.experts[name]
    stored = sorted({info.dtype.name for info in aligned.base.infos.values()})
    size = sum(model.read_bytes(tensor) for model in models for tensor in aligned.base)
    with byte_progress("deltas", size) as progress:
        sizes = delta_sizes(*models, DTYPES.get(dtype or ""), threads, progress)
    return DeltaReport(sizes, dtype or " and ".join(stored), family.notes)


def expert_delta_sizes(base: Path, expert: Path, name: str, threads: int = 1) -> list[DeltaSizes]:
    """Measure the deltas between two model folders, for the rows and tensors that both have.

    Configurations may differ, so that an expert can be compared with a base it was not tuned from.

    Raises:
        CheckpointError: a model is damaged, or shapes differ.
    """
    # A study names the base of its adapters.
    aligned = open_family(base, {name: expert}, homologous=False).aligned
    return delta_sizes(aligned.base, aligned.experts[name], threads=threads)


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole
    # Almost all is not all, and a few are not none.
    if 0 < part < whole and (share > 99.95 or share < 0.05):
        return "over 99.9 %" if share > 50 else "under 0.1 %"
    return f"{share:.1f} %"


def _cells(tensor: DeltaSizes) -> tuple[str, ...]:
    sizes = (tensor.quantiles["q50"], tensor.quantiles["q99"], tensor.max, tensor.l1, tensor.l2)
    shown = (f"{size:.3g}" for size in sizes)
    return tensor.tensor, f"{tensor.n:,}", *shown, _percent(tensor.unchanged, tensor.n)


def _line(cells: Sequence[str], width: int) -> str:
    return "  ".join([f"{cells[0]:<{width}}", *(f"{cell:>13}" for cell in cells[1:])])
