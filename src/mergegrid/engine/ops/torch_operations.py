"""Arithmetic with torch, on any of its devices: the same bits as on the CPU.

One operation at a time: nothing is multiplied and added in one instruction, no division becomes a
product with a reciprocal (divisors are tensors, not Python numbers), and no library chooses the
order of a sum (sums are written out).
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mergegrid.checkpoints.dtypes import DTYPES, Dtype, Stored
from mergegrid.engine.ops.cpu import CpuOperations
from mergegrid.engine.ops.operations import GRAIN, HIGH_BINS, LOW_BITS, MaskKey, check_start
from mergegrid.errors import ConfigError
from mergegrid.kernels.opcodes import GUESSES, LANES

Tensor = torch.Tensor

_MAGNITUDE = 0x7FFFFFFF
_LOW = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def check_device(device: str) -> None:
    """Check that torch has a device.

    Raises:
        ConfigError: it has not.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device = {device!r}: torch {torch.__version__} sees no such device; install a CUDA "
            "build of torch and its driver, or merge on the cpu, which gives the same bits"
        )


class TorchOperations:
    """Operations on torch tensors of one device; stored numbers are NumPy arrays."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._buffers: list[NDArray[np.uint8]] = []
        self._used = 0
        self._finite = torch.ones((), dtype=torch.bool, device=self._device)

    def restart(self) -> None:
        """Reuse the buffers for stored numbers; torch frees tensors by itself."""
        self._used = 0
        self._finite = torch.ones((), dtype=torch.bool, device=self._device)

    def buffer(self, count: int, dtype: Dtype) -> Stored:
        """A buffer that is reused: allocating fresh pages costs more than reading into them."""
        size = count * dtype.size
        if self._used == len(self._buffers):
            self._buffers.append(np.empty(size, np.uint8))
        elif self._buffers[self._used].size < size:
            self._buffers[self._used] = np.empty(size, np.uint8)
        self._used += 1
        return self._buffers[self._used - 1][:size].view(dtype.numpy)

    def load(self, stored: Stored | Tensor, dtype: Dtype) -> Tensor:
        """Float32 values on the device; a tensor is returned as it is."""
        if isinstance(stored, Tensor):
            loaded = stored
        elif dtype is DTYPES["bfloat16"]:
            loaded = self._place(stored.view(np.int16)).view(torch.bfloat16).float()
        else:
            loaded = self._place(stored).float()
        self._finite = self._finite & torch.isfinite(loaded).all()
        return loaded

    def store(self, arrays: Sequence[Tensor], dtypes: Sequence[Dtype]) -> list[tuple[Stored, bool]]:
        """Nearest stored numbers, and whether all is finite."""
        rounded = [
            array.to(getattr(torch, dtype.name))
            for array, dtype in zip(arrays, dtypes, strict=True)
        ]
        return [
            (_hosted(numbers), bool(self._finite & torch.isfinite(numbers).all()))
            for numbers in rounded
        ]

    def values(self, array: Tensor) -> Tensor:
        """The tensor itself."""
        return array

    def join(self, parts: Iterable[tuple[int, Tensor]], shape: tuple[int, ...]) -> Tensor:
        """A new tensor."""
        whole = torch.empty(math.prod(shape), device=self._device)
        for start, part in parts:
            whole[start : start + len(part)] = part
        return whole.view(shape)

    def subtract(self, left: Tensor, right: Tensor) -> Tensor:
        """Difference."""
        return left - right

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Product."""
        return left * right

    def quotient(self, left: Tensor, right: Tensor) -> Tensor:
        """Quotient."""
        return left / right

    def plus_number(self, values: Tensor, number: float) -> Tensor:
        """Sum with a number."""
        return values + self._number(number)

    def divided(self, values: Tensor, divisor: float) -> Tensor:
        """Quotient by a number."""
        return values / self._number(divisor)

    def scaled(self, values: Tensor, factor: float) -> Tensor:
        """Product with a number."""
        return values * self._number(factor)

    def weighted_mean(self, arrays: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Mean, summed in float64."""
        total = arrays[0].double() * weights[0]
        for array, weight in zip(arrays[1:], weights[1:], strict=True):
            total += array.double() * weight
        return (total / self._number(sum(weights), torch.float64)).float()

    def weighted_sum(self, arrays: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Sum in the given order."""
        total = self.scaled(arrays[0], weights[0])
        for array, weight in zip(arrays[1:], weights[1:], strict=True):
            total += self.scaled(array, weight)
        return total

    def plus(self, base: Tensor, change: Tensor, factor: float) -> Tensor:
        """The base plus a multiple of a change."""
        product = self.scaled(change, factor)
        return torch.where(product == 0, base, base + product)

    def where_changed(self, change: Tensor, base: Tensor, values: Tensor) -> Tensor:
        """Values where something changes."""
        return torch.where(change == 0, base, values)

    def random_words(self, key: MaskKey, start: int, count: int) -> Tensor:
        """Random words [count], int64."""
        check_start(start)
        k0, k1, c2, c3 = key
        first = start // 4
        blocks = torch.arange(first, first + -(-count // 4), device=self._device)
        upper = torch.full_like(blocks, c2), torch.full_like(blocks, c3)
        lanes = philox((blocks & _LOW, blocks >> 32, *upper), (k0, k1))
        return torch.stack(lanes, dim=1).view(-1)[:count]

    def thin(self, words: Tensor, threshold: int, values: Tensor, factor: float) -> Tensor:
        """What the words keep, times a factor."""
        return torch.where(words < threshold, self.scaled(values, factor), self._number(0))

    def agreeing_mean(
        self, deltas: Sequence[Tensor], weights: Sequence[float], undecided: float = 0.0
    ) -> Tensor:
        """Elected sign and disjoint mean."""
        elected = self.weighted_sum(deltas, [1.0] * len(deltas))
        total, mass = self._agreeing(elected, deltas, weights, undecided)
        return total / torch.where(mass == 0, self._number(1), mass)

    def elected_sum(
        self, deltas: Sequence[Tensor], weights: Sequence[float], undecided: float, mean: bool
    ) -> Tensor:
        """Elected sign by weight and disjoint sum."""
        elected = self.weighted_sum(deltas, weights)
        total, mass = self._agreeing(elected, deltas, weights, undecided)
        return total / torch.where(mass == 0, self._number(1), mass) if mean else total

    def _agreeing(
        self, elected: Tensor, deltas: Sequence[Tensor], weights: Sequence[float], undecided: float
    ) -> tuple[Tensor, Tensor]:
        """Weighted sum of the elements of the elected sign, and the sum of their weights."""
        zero = self._number(0)
        side = torch.where(elected == 0, self._number(undecided), elected)
        total, mass = torch.zeros_like(elected), torch.zeros_like(elected)
        for delta, weight in zip(deltas, weights, strict=True):
            agrees = ((delta > 0) & (side > 0)) | ((delta < 0) & (side < 0))
            total += torch.where(agrees, self.scaled(delta, weight), zero)
            mass += torch.where(agrees, self._number(weight), zero)
        return total, mass

    def net_sign(self, values: Tensor) -> int:
        """Positives minus negatives."""
        return int((values > 0).sum()) - int((values < 0).sum())

    def magnitudes(self, values: Tensor) -> NDArray[np.uint32]:
        """Bits of magnitudes."""
        bits: NDArray[np.uint32] = _magnitudes(values).cpu().numpy().view(np.uint32)
        return bits

    def count_high(self, values: Tensor, counts: NDArray[np.int64]) -> None:
        """Histogram of leading bits."""
        magnitudes = _magnitudes(values)
        bins = torch.bincount(magnitudes >> LOW_BITS, minlength=HIGH_BINS)
        counts[:HIGH_BINS] += bins.cpu().numpy()
        counts[HIGH_BINS] += int((magnitudes == 0).sum())

    def count_equal(self, values: Tensor, bits: int) -> int:
        """Number of equals."""
        return int((_magnitudes(values) == bits).sum())

    def count_near(
        self,
        values: Tensor,
        low: int,
        width: int,
        shift: int,
        guesses: Sequence[int],
        counts: NDArray[np.int64],
    ) -> None:
        """Counts in a range."""
        others = _count_guesses(values, low, width, guesses, counts)
        bins = counts[1 + GUESSES :]
        bins += torch.bincount((others - low) >> shift, minlength=len(bins)).cpu().numpy()

    def list_near(
        self, values: Tensor, low: int, width: int, guesses: Sequence[int], most: int
    ) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Counts, and a list of others."""
        counts = np.zeros(2 + GUESSES, np.int64)
        others = _count_guesses(values, low, width, guesses, counts)
        counts[1 + GUESSES] = len(others)
        return counts, others[:most].cpu().numpy().astype(np.uint32)

    def place_of_equal(self, values: Tensor, bits: int, rank: int) -> int:
        """Index of the equal with a rank."""
        return int(torch.nonzero(_magnitudes(values) == bits)[rank])

    def keep_large(self, values: Tensor, bits: int, boundary: int) -> Tensor:
        """Values from a magnitude on."""
        if bits == 0:
            return values
        magnitudes = _magnitudes(values)
        keeps = magnitudes > bits
        place = min(max(boundary, 0), len(values))
        keeps[:place] |= magnitudes[:place] == bits
        return torch.where(keeps, values, self._number(0))

    def where_nonzero(self, mask: Tensor, values: Tensor) -> Tensor:
        """Values under a mask."""
        return torch.where(mask == 0, self._number(0), values)

    def exceeds(self, left: Tensor, right: Tensor, factor: float) -> Tensor:
        """Comparison of absolute values."""
        return (left.abs() > self.scaled(right.abs(), factor)).float()

    def thin_by_rank(
        self, words: Tensor, values: Tensor, row: int, low: float, high: float
    ) -> Tensor:
        """Values dropped by their rank in the row."""
        magnitudes = values.abs().view(-1, row)
        places = torch.arange(row, device=self._device).expand(magnitudes.shape)
        order = torch.argsort(magnitudes, dim=1, stable=True)
        ranks = torch.empty_like(order).scatter_(1, order, places).double()
        if row > 1:
            drop = high - (high - low) * ranks / self._number(row - 1, torch.float64)
        else:
            drop = torch.full_like(ranks, (low + high) / 2)
        keep = (1 - drop).view(-1)
        one = self._number(1, torch.float64)
        factor = (one / torch.where(keep > 0, keep, one)).float()
        return torch.where(words < torch.round(keep * 2.0**32), values * factor, self._number(0))

    def keep_of_blocks(self, values: Tensor, count: int, block: int) -> Tensor:
        """Values of the first ranks of their block."""
        blocks = torch.nn.functional.pad(values, (0, -len(values) % block)).view(-1, block)
        order = torch.argsort(-blocks.abs(), dim=1, stable=True)[:, :count]
        kept = torch.zeros_like(blocks).scatter_(1, order, blocks.gather(1, order))
        return kept.view(-1)[: len(values)]

    def times_matrices(
        self, arrays: Sequence[Tensor], matrices: Sequence[NDArray[np.float64]], row: int
    ) -> Tensor:
        """Products of rows with matrices, on the CPU: other libraries sum in other orders."""
        host, dtype = CpuOperations(), DTYPES["float32"]
        hosted = [host.load(_hosted(array), dtype) for array in arrays]
        products = host.values(host.times_matrices(hosted, matrices, row))
        return self._place(products)

    def dots(self, left: Tensor, right: Tensor) -> NDArray[np.float64]:
        """Inner products by grain."""
        return self.dots_of([(left, right)]).reshape(-1)

    def dots_of(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> NDArray[np.float64]:
        """Inner products of pairs by grain."""
        return torch.stack([_dot(*pair) for pair in pairs]).cpu().numpy()

    def _place(self, stored: NDArray[Any]) -> Tensor:
        writable = stored if stored.flags.writeable else stored.copy()
        return torch.from_numpy(writable).to(self._device)

    def _number(self, value: float, dtype: torch.dtype = torch.float32) -> Tensor:
        """An array of one number: torch divides by plain numbers through their reciprocal."""
        return torch.full((), value, dtype=dtype, device=self._device)


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four words for each counter; see `mergegrid.kernels.loops`.

    Args:
        counter: four int64 tensors of one shape [n] with values below 2^32, lowest word first.
        key: two numbers below 2^32, lowest word first.

    Returns:
        Four int64 tensors [n] with values below 2^32.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 products wrap modulo 2^64, so both halves of the unsigned product are exact.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            _high(p1).bitwise_xor_(c1).bitwise_xor_(k0),
            p1.bitwise_and_(_LOW),
            _high(p0).bitwise_xor_(c3).bitwise_xor_(k1),
            p0.bitwise_and_(_LOW),
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def _high(product: Tensor) -> Tensor:
    return (product >> 32).bitwise_and_(_LOW)


def _hosted(tensor: Tensor) -> Stored:
    """A tensor in NumPy, bfloat16 as its bits."""
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).cpu().numpy().view(np.uint16)
    numbers: Stored = tensor.cpu().numpy()
    return numbers


def _count_guesses(
    values: Tensor, low: int, width: int, guesses: Sequence[int], counts: NDArray[np.int64]
) -> Tensor:
    """Count magnitudes below a range and equal to guesses; the others in the range, int64."""
    magnitudes = _magnitudes(values).long()
    near = (magnitudes >= low) & (magnitudes < low + width)
    counts[0] += int((magnitudes < low).sum())
    for place, guess in enumerate(guesses, start=1):
        equal = magnitudes == guess
        counts[place] += int(equal.sum())
        near &= ~equal
    return magnitudes[near]


def _magnitudes(values: Tensor) -> Tensor:
    """The bits of magnitudes, which sort like them, as int32."""
    return values.view(torch.int32) & _MAGNITUDE


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Inner products of the grains of two arrays, in float64."""
    products = left.double() * right.double()
    # Padding with zeros changes no sum, because no sum is -0.
    padded = torch.nn.functional.pad(products, (0, -len(products) % GRAIN))
    steps = padded.view(-1, GRAIN // LANES, LANES)
    sums = torch.zeros_like(steps[:, 0])
    for step in steps.unbind(1):
        sums += step
    total = torch.zeros_like(sums[:, 0])
    for lane in sums.unbind(1):
        total += lane
    return total
