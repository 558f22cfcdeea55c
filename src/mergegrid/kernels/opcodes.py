"""Opcodes of the program loop, with their operands, scalars and meaning.

A program is a sequence of instructions on float32 arrays of one length; `program_loop` executes it
block by block. `OPCODES` is the reference for writing one, and `checks` validates programs with it.
"""

from dataclasses import dataclass

#: Elements processed at a time: a few arrays of this length fit into the L1 cache.
BLOCK = 1 << 10
# From STORE_FLOAT32 on, opcodes are sinks: they produce a result and no array.
# fmt: off
(
    LOAD_FLOAT32, LOAD_BFLOAT16, LOAD_FLOAT16, SUBTRACT, PRODUCT, QUOTIENT, SCALED,
    PLUS_NUMBER, DIVIDED, RANDOM_WORDS, THIN, WEIGHTED_SUM, WEIGHTED_MEAN, PLUS, WHERE_CHANGED,
    WHERE_NONZERO, EXCEEDS, KEEP_LARGE, AGREEING_MEAN, ELECTED_SUM, STORE_FLOAT32,
    STORE_BFLOAT16, STORE_FLOAT16, COUNT_HIGH, COUNT_EQUAL, PLACE_OF_EQUAL, COUNT_NEAR, DOTS,
) = range(28)
# fmt: on
#: Magnitudes that COUNT_NEAR counts separately.
GUESSES = 4
#: Value of `shift` with which COUNT_NEAR lists magnitudes instead of counting them in bins.
LIST_OTHERS = 32
#: Partial sums of an inner product: element i is added to sum i modulo LANES, in order; at the end
#: the sums are added in order.
LANES = 8
#: Number of array sizes passed to the program loop.
SIZES = 12
#: Columns of a matrix that the product loop stores together.
TILE = 256


@dataclass(frozen=True)
class Opcode:
    """Signature and meaning of an opcode.

    In `meaning`, a, b, c are the operands. Magnitudes are the lower 31 bits of float32 numbers,
    which have the order of their absolute values. `counts` and `sums` are arrays of the caller.
    """

    name: str
    meaning: str
    operands: int | None
    """Number of operands; None: one or more, each with a weight among the floats."""
    floats: tuple[str, ...] = ()
    """Float scalars, after the weights of a variable number of operands."""
    integers: tuple[str, ...] = ()
    """Unsigned integer scalars."""
    itemsize: int = 0
    """Bytes of a stored element, for opcodes that load or store."""


_COUNT_NEAR_INTEGERS = ("low", "width", "shift", *(f"guess {n + 1}" for n in range(GUESSES)))
OPCODES = {
    LOAD_FLOAT32: Opcode("load float32", "elements of an input row", 0, (), ("row",), 4),
    LOAD_BFLOAT16: Opcode("load bfloat16", "the same, widened to float32", 0, (), ("row",), 2),
    LOAD_FLOAT16: Opcode("load float16", "the same, widened to float32", 0, (), ("row",), 2),
    SUBTRACT: Opcode("subtract", "a - b", 2),
    PRODUCT: Opcode("product", "a * b", 2),
    QUOTIENT: Opcode("quotient", "a / b", 2),
    SCALED: Opcode("scaled", "factor * a", 1, ("factor",)),
    PLUS_NUMBER: Opcode("plus number", "a + number", 1, ("number",)),
    DIVIDED: Opcode("divided", "a / divisor", 1, ("divisor",)),
    RANDOM_WORDS: Opcode(
        "random words",
        "Philox words (uint32) of consecutive blocks, four words each, from `first block` on",
        0,
        integers=("key 0", "key 1", "key 2", "key 3", "first block"),
    ),
    THIN: Opcode(
        "thin", "factor * b where the word a < threshold, else 0", 2, ("factor",), ("threshold",)
    ),
    WEIGHTED_SUM: Opcode("weighted sum", "sum of weight * operand, in order", None),
    WEIGHTED_MEAN: Opcode(
        "weighted mean", "sum of weight * operand in float64, over total", None, ("total",)
    ),
    PLUS: Opcode("plus", "a + factor * b, and exactly a where that product is 0", 2, ("factor",)),
    WHERE_CHANGED: Opcode("where changed", "c where a is not 0, else b", 3),
    WHERE_NONZERO: Opcode("where nonzero", "b where a is not 0, else 0", 2),
    EXCEEDS: Opcode("exceeds", "1 where |a| > factor * |b|, else 0", 2, ("factor",)),
    KEEP_LARGE: Opcode(
        "keep large",
        "a where its magnitude > threshold, or equals it before element `boundary`; else 0",
        1,
        integers=("threshold", "boundary"),
    ),
    AGREEING_MEAN: Opcode(
        "agreeing mean",
        "weighted mean of the operands that have the sign of their plain sum, or of `undecided` if "
        "that is 0; 0 where there are none",
        None,
        ("undecided",),
    ),
    ELECTED_SUM: Opcode(
        "elected sum",
        "sum of weight * operand over the operands that have the sign of the weighted sum of all, "
        "or of `undecided` if that is 0; divided by the sum of their weights if `divide` is not 0",
        None,
        ("undecided",),
        ("divide",),
    ),
    STORE_FLOAT32: Opcode("store float32", "write a to the next output row", 1, itemsize=4),
    STORE_BFLOAT16: Opcode("store bfloat16", "the same, rounded to nearest even", 1, itemsize=2),
    STORE_FLOAT16: Opcode("store float16", "the same, rounded to nearest even", 1, itemsize=2),
    COUNT_HIGH: Opcode(
        "count high",
        "histogram of the upper 15 bits of magnitudes; counts[-1] is the number of zeros",
        1,
    ),
    COUNT_EQUAL: Opcode("count equal", "number of magnitudes equal to bits", 1, (), ("bits",)),
    PLACE_OF_EQUAL: Opcode(
        "place of equal",
        "counts[1] = index of the magnitude equal to bits with `rank` equal ones before it; "
        "counts[0] += number of equal ones",
        1,
        integers=("bits", "rank"),
    ),
    COUNT_NEAR: Opcode(
        "count near",
        "counts of magnitudes below low, equal to each guess, and others in low + [0, width) by "
        "(magnitude - low) >> shift; see `counting.count_near`",
        1,
        integers=_COUNT_NEAR_INTEGERS,
    ),
    DOTS: Opcode(
        "dots",
        "inner products of a and b, for every `part` elements; part k adds to the row "
        "sums[first row + k]",
        2,
        integers=("part", "first row"),
    ),
}
"""Every opcode."""
