"""Threads, memory and bytes of an extraction, known and printed before the work starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.dtypes import Dtype
from mergegrid.engine.budget import processors
from mergegrid.engine.chunks import BASE
from mergegrid.engine.cutting import chunk_length
from mergegrid.engine.engine import CHUNK_SIZE
from mergegrid.engine.memory import resident
from mergegrid.engine.ops.operations import GRAIN
from mergegrid.errors import ConfigError
from mergegrid.extraction.low_rank import PASSES, RankRule, sketch_width
from mergegrid.kernels.compiled import program_loop

# Growth of the interpreter and its libraries while they work.
_SLACK = 64 << 20
# Per element of a block: two models as read, twice while their buffers grow, the delta in float32,
# and the delta, a product and their difference in float64.
_BLOCK_BYTES = 2 * 2 * 4 + 4 + 3 * 8
# Float64 arrays [rows + columns, width] at a time: random numbers, bases, their factorizations.
_SKETCHES = 8
# Matrices per thread whose factors wait to be written, and the one in work.
_WAITING = 4


@dataclass(frozen=True)
class ExtractionPlan:
    """How an extraction is carried out, and its cost."""

    matrices: int
    """Number of matrices that may be adapted."""
    rule: RankRule
    """The rank of the factors."""
    threads: int
    memory: int
    """Upper bound of memory in bytes, interpreter included."""
    reads: int
    """Bytes of the models that are read; with an energy, at least that many."""
    writes: int
    """Bytes of the factors at the largest rank."""

    def __str__(self) -> str:
        least = "" if self.rule.energy is None else "at least "
        return (
            f"{self.matrices} matrices at rank {self.rule.most} at most, {self.threads} threads, "
            f"at most {self.memory / 1e6:,.0f} MB of memory; {least}{self.reads / 1e9:,.2f} GB to "
            f"read, at most {self.writes / 1e9:,.2f} GB to write"
        )


def plan_extraction(
    models: Mapping[str, Checkpoint],
    targets: Sequence[str],
    rule: RankRule,
    dtype: Dtype,
    threads: int | None,
    max_memory: int | None,
) -> ExtractionPlan:
    """Choose the number of threads, and compute the cost.

    Args:
        models: the base and the model.
        targets: matrices that may be adapted.
        rule: the rank of the factors.
        dtype: dtype of the factors.
        threads: number of threads; one per processor if None.
        max_memory: memory limit in bytes.

    Raises:
        ConfigError: the memory limit is too small for one thread.
    """
    infos = models[BASE].infos
    program_loop()  # It stays in memory.
    shapes = [(infos[name].shape[0], infos[name].shape[1]) for name in targets]
    factors = [min(rule.most, *shape) * sum(shape) * dtype.size for shape in shapes]
    sketches = [8 * sketch_width(rule, shape) * sum(shape) for shape in shapes]
    block = max(chunk_length(info, CHUNK_SIZE, whole_rows=True) for info in infos.values())
    opened = sum(model.open_bytes for model in models.values())
    per_thread = _BLOCK_BYTES * block + _SKETCHES * max(sketches) + _WAITING * max(factors) + opened
    leaves = sum(-(-info.count // GRAIN) for info in infos.values())
    fixed = resident() + _SLACK + 64 * leaves * len(models)
    count = threads or processors()
    if max_memory is not None:
        while count > 1 and fixed + count * per_thread > max_memory:
            count -= 1
        if fixed + per_thread > max_memory:
            raise ConfigError(
                f"--max-memory {max_memory / 1e6:,.0f} MB is too small: one thread needs "
                f"{(fixed + per_thread) / 1e6:,.0f} MB; raise it, or lower the rank"
            )
    adapted = set(targets)
    reads = sum(
        model.read_bytes(name) * (2 + PASSES if name in adapted else 1)
        for model in models.values()
        for name in infos
    )
    return ExtractionPlan(
        *(len(targets), rule, count, fixed + count * per_thread, reads, sum(factors))
    )
