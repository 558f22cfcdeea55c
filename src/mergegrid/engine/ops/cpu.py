"""Arithmetic on the CPU: expressions, computed by compiled loops without the interpreter's lock."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from mergegrid.checkpoints.dtypes import DTYPES, Dtype, Stored
from mergegrid.engine.blas_compat import one_blas_thread
from mergegrid.engine.ops.operations import GRAIN, NO_BITS, MaskKey, check_start
from mergegrid.kernels import opcodes as do
from mergegrid.kernels.expression import Expression, load, store
from mergegrid.kernels.program import Machine

Floats = NDArray[np.float32]
_FLOAT32 = DTYPES["float32"]


class CpuOperations:
    """Operations on expressions; numbers come out of `store`, `values` and the counts."""

    def __init__(self) -> None:
        self._machine = Machine()
        self._listed = np.empty(0, np.int64)
        self._buffer: Stored | None = None
        self._read = 0

    def restart(self) -> None:
        """Reuse the memory of all arrays that were returned since the last restart."""
        self._read, self._buffer = 0, None
        self._machine.nonfinite_input.value = 0

    def buffer(self, count: int, dtype: Dtype) -> Stored:
        """A row of the machine's memory to read stored numbers into."""
        size = count * dtype.size
        self._buffer = self._machine.inputs.reserve(self._read, size).view(dtype.numpy)
        return self._buffer

    def load(self, stored: Stored, dtype: Dtype) -> Expression:
        """Float32 values of numbers in the last buffer, or of others, which are copied into one."""
        if stored.dtype != dtype.numpy or stored.ndim != 1:
            raise ValueError(
                f"stored numbers are {stored.dtype} {stored.shape}; {dtype.name} is loaded from "
                f"flat arrays of {np.dtype(dtype.numpy)}"
            )
        if stored is not self._buffer:
            self.buffer(stored.size, dtype)[:] = stored
        self._read, self._buffer = self._read + 1, None
        return load(dtype.name, stored.size, self._read - 1)

    def store(
        self, arrays: Sequence[Expression], dtypes: Sequence[Dtype]
    ) -> list[tuple[Stored, bool]]:
        """Nearest stored numbers, all computed together, and whether all is finite."""
        sinks = [store(dtype.name, array) for array, dtype in zip(arrays, dtypes, strict=True)]
        count = arrays[0].count
        size = count * max(dtype.size for dtype in dtypes)
        self._machine.outputs.reserve(len(sinks) - 1, size)
        overflowed = self._machine.run(sinks)
        results = self._machine.outputs.array[: len(sinks)]
        rows = [row[: count * dtype.size] for row, dtype in zip(results, dtypes, strict=True)]
        return [
            (row.view(dtype.numpy), not bad and not self._machine.nonfinite_input.value)
            for row, dtype, bad in zip(rows, dtypes, overflowed, strict=True)
        ]

    def values(self, array: Expression) -> Floats:
        """Float32 numbers, until something else is computed."""
        return self.store([array], [_FLOAT32])[0][0]

    def join(self, parts: Iterable[tuple[int, Expression]], shape: tuple[int, ...]) -> Floats:
        """A new array."""
        whole = np.empty(math.prod(shape), np.float32)
        for start, part in parts:
            whole[start : start + part.count] = self.values(part)
        return whole.reshape(shape)

    def subtract(self, left: Expression, right: Expression) -> Expression:
        """Difference."""
        return Expression(do.SUBTRACT, left.count, [left, right])

    def product(self, left: Expression, right: Expression) -> Expression:
        """Product."""
        return Expression(do.PRODUCT, left.count, [left, right])

    def quotient(self, left: Expression, right: Expression) -> Expression:
        """Quotient."""
        return Expression(do.QUOTIENT, left.count, [left, right])

    def scaled(self, values: Expression, factor: float) -> Expression:
        """Product with a number."""
        return Expression(do.SCALED, values.count, [values], [factor])

    def plus_number(self, values: Expression, number: float) -> Expression:
        """Sum with a number."""
        return Expression(do.PLUS_NUMBER, values.count, [values], [number])

    def divided(self, values: Expression, divisor: float) -> Expression:
        """Quotient by a number."""
        return Expression(do.DIVIDED, values.count, [values], [divisor])

    def weighted_mean(self, arrays: Sequence[Expression], weights: Sequence[float]) -> Expression:
        """Mean, summed in float64."""
        numbers = [*weights, sum(weights)]
        return Expression(do.WEIGHTED_MEAN, arrays[0].count, arrays, numbers)

    def weighted_sum(self, arrays: Sequence[Expression], weights: Sequence[float]) -> Expression:
        """Sum in the given order."""
        return Expression(do.WEIGHTED_SUM, arrays[0].count, arrays, weights)

    def plus(self, base: Expression, change: Expression, factor: float) -> Expression:
        """The base plus a multiple of a change."""
        return Expression(do.PLUS, base.count, [base, change], [factor])

    def where_changed(self, change: Expression, base: Expression, values: Expression) -> Expression:
        """Values where the change is not zero."""
        return Expression(do.WHERE_CHANGED, base.count, [change, base, values])

    def where_nonzero(self, mask: Expression, values: Expression) -> Expression:
        """Values under a mask."""
        return Expression(do.WHERE_NONZERO, values.count, [mask, values])

    def exceeds(self, left: Expression, right: Expression, factor: float) -> Expression:
        """Comparison of absolute values."""
        return Expression(do.EXCEEDS, left.count, [left, right], [factor])

    def random_words(self, key: MaskKey, start: int, count: int) -> Expression:
        """Random words: uint32 in place of float32."""
        check_start(start)
        return Expression(do.RANDOM_WORDS, count, integers=[*key, start // 4])

    def thin(
        self, words: Expression, threshold: int, values: Expression, factor: float
    ) -> Expression:
        """Values that the words keep, times a factor."""
        return Expression(do.THIN, values.count, [words, values], [factor], [threshold])

    def agreeing_mean(
        self, deltas: Sequence[Expression], weights: Sequence[float], undecided: float = 0.0
    ) -> Expression:
        """Elected sign and disjoint mean."""
        numbers = [*weights, undecided]
        return Expression(do.AGREEING_MEAN, deltas[0].count, deltas, numbers)

    def elected_sum(
        self,
        deltas: Sequence[Expression],
        weights: Sequence[float],
        undecided: float,
        mean: bool,
    ) -> Expression:
        """Elected sign by weight and disjoint sum."""
        numbers = [*weights, undecided]
        return Expression(do.ELECTED_SUM, deltas[0].count, deltas, numbers, [int(mean)])

    def keep_large(self, values: Expression, bits: int, boundary: int) -> Expression:
        """Values from a magnitude on."""
        if bits == 0:
            return values
        place = min(max(boundary, 0), values.count)
        return Expression(do.KEEP_LARGE, values.count, [values], integers=[bits, place])

    def magnitudes(self, values: Expression) -> NDArray[np.uint32]:
        """Bits of magnitudes."""
        bits: NDArray[np.uint32] = self.values(values).view(np.uint32) & np.uint32(0x7FFFFFFF)
        return bits

    def count_high(self, values: Expression, counts: NDArray[np.int64]) -> None:
        """Histogram of leading bits."""
        self._machine.run([Expression(do.COUNT_HIGH, values.count, [values])], counts)

    def count_equal(self, values: Expression, bits: int) -> int:
        """Number of equal magnitudes."""
        sink = Expression(do.COUNT_EQUAL, values.count, [values], integers=[bits])
        return self._machine.run([sink])[0]

    def count_near(
        self,
        values: Expression,
        low: int,
        width: int,
        shift: int,
        guesses: Sequence[int],
        counts: NDArray[np.int64],
    ) -> None:
        """Counts in a range."""
        numbers = [low, width, shift, *guesses, *[NO_BITS] * (do.GUESSES - len(guesses))]
        near = Expression(do.COUNT_NEAR, values.count, [values], integers=numbers)
        self._machine.run([near], counts)

    def list_near(
        self, values: Expression, low: int, width: int, guesses: Sequence[int], most: int
    ) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Counts, and a list of others."""
        known = 2 + do.GUESSES
        if self._listed.size < known + most:
            self._listed = np.empty(known + most, np.int64)
        counts = self._listed[: known + most]
        counts[:known] = 0
        self.count_near(values, low, width, do.LIST_OTHERS, guesses, counts)
        end = known + min(int(counts[known - 1]), most)
        return counts[:known].copy(), counts[known:end].astype(np.uint32)

    def place_of_equal(self, values: Expression, bits: int, rank: int) -> int:
        """Index of the equal magnitude with a rank."""
        counts = np.array([0, -1])
        sink = Expression(do.PLACE_OF_EQUAL, values.count, [values], integers=[bits, rank])
        self._machine.run([sink], counts)
        if counts[1] < 0:
            raise IndexError(f"no {rank + 1} magnitudes with the bits {bits:#x}")
        return int(counts[1])

    def net_sign(self, values: Expression) -> int:
        """Positives minus negatives."""
        numbers = self.values(values)
        return int(np.count_nonzero(numbers > 0)) - int(np.count_nonzero(numbers < 0))

    def dots(self, left: Expression, right: Expression) -> NDArray[np.float64]:
        """Inner products by grain."""
        return self.dots_of([(left, right)]).reshape(-1)

    def dots_of(self, pairs: Sequence[tuple[Expression, Expression]]) -> NDArray[np.float64]:
        """Inner products of pairs by grain."""
        count = pairs[0][0].count
        grains = -(-count // GRAIN)
        sums = np.zeros((len(pairs) * grains, do.LANES))
        sinks = [
            Expression(do.DOTS, count, pair, integers=[GRAIN, place * grains])
            for place, pair in enumerate(pairs)
        ]
        self._machine.run(sinks, sums=sums)
        total = np.zeros(len(sums))
        for lane in range(do.LANES):
            total += sums[:, lane]
        return total.reshape(len(pairs), grains)

    def thin_by_rank(
        self, words: Expression, values: Expression, row: int, low: float, high: float
    ) -> Expression:
        """Values dropped by their rank in the row."""
        (numbers, _), (drawn, _) = self.store([values, words], [_FLOAT32, _FLOAT32])
        magnitudes = np.abs(numbers).reshape(-1, row)
        ranks = np.empty(magnitudes.shape, np.int64)
        order = np.argsort(magnitudes, axis=1, kind="stable")
        np.put_along_axis(ranks, order, np.arange(row)[None, :], axis=1)
        middle = (low + high) / 2
        drop = high - (high - low) * ranks / (row - 1) if row > 1 else np.full(ranks.shape, middle)
        keep = (1 - drop).reshape(-1)
        kept = drawn.view(np.uint32) < np.rint(keep * 2.0**32)
        factor = (1 / np.where(keep > 0, keep, 1)).astype(np.float32)
        return self.load(np.where(kept, numbers * factor, np.float32(0)), _FLOAT32)

    def keep_of_blocks(self, values: Expression, count: int, block: int) -> Expression:
        """Values of the first ranks of their block."""
        numbers = self.values(values)
        padded = np.zeros(-(-numbers.size // block) * block, np.float32)
        padded[: numbers.size] = numbers
        blocks = padded.reshape(-1, block)
        order = np.argsort(-np.abs(blocks), axis=1, kind="stable")[:, :count]
        kept = np.zeros_like(blocks)
        np.put_along_axis(kept, order, np.take_along_axis(blocks, order, axis=1), axis=1)
        return self.load(kept.reshape(-1)[: numbers.size], _FLOAT32)

    def times_matrices(
        self, arrays: Sequence[Expression], matrices: Sequence[NDArray[np.float64]], row: int
    ) -> Expression:
        """Products of rows with matrices, in float64."""
        stored = self.store(arrays, [_FLOAT32] * len(arrays))
        total = np.zeros((arrays[0].count // row, row))
        # Slices of one height: the product of a row must not depend on how many stand beside it.
        height = math.lcm(row, GRAIN) // row
        with one_blas_thread():
            for (numbers, _), matrix in zip(stored, matrices, strict=True):
                rows = numbers.reshape(-1, row)
                for start in range(0, len(rows), height):
                    part = rows[start : start + height].astype(np.float64)
                    total[start : start + height] += part @ matrix
        return self.load(total.astype(np.float32).reshape(-1), _FLOAT32)
