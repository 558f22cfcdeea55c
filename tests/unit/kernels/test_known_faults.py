"""Invalid programs are rejected before they reach memory; compiled loops match their source."""

import ctypes
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergegrid.checkpoints.dtypes import DTYPES, decode, encode
from mergegrid.engine.ops.cpu import CpuOperations
from mergegrid.engine.ops.operations import GRAIN, HIGH_BINS, NO_BITS
from mergegrid.kernels import counting, loops, program_loop
from mergegrid.kernels import opcodes as do
from mergegrid.kernels.expression import Expression, load, store
from mergegrid.kernels.program import Machine, Rows

FLOAT32 = DTYPES["float32"]
COUNT = 8


def machine(rows=2, length=4 * COUNT):
    """A machine with input and output rows for eight float32 elements."""
    made = Machine()
    made.inputs = Rows(np.zeros((rows, length), np.uint8))
    made.outputs = Rows(np.zeros((rows, length), np.uint8))
    return made


def array(count=COUNT, row=0):
    return load("float32", count, row)


def near(low=5, width=8, shift=0, guesses=(NO_BITS,) * 4):
    return Expression(do.COUNT_NEAR, COUNT, [array()], integers=[low, width, shift, *guesses])


def op(op, operands=1, floats=(), integers=(), count=COUNT):
    return Expression(op, count, [array()] * operands, floats, integers)


STORED = store("float32", array())
#: Programs that would read or write outside of arrays, or misinterpret their contents.
WRONG = {
    "no sink": [],
    "one sink twice": [STORED, STORED],
    "an array among sinks": [store("float32", array()), array()],
    "a count as operand": [store("float32", op(do.COUNT_EQUAL, integers=[3]))],
    "an unknown instruction": [store("float32", op(99))],
    "a negative instruction": [store("float32", op(-1))],
    "input row that does not exist": [store("float32", array(row=2))],
    "negative input row": [store("float32", array(row=-1))],
    "input row that is too short": [store("float32", array(count=COUNT + 1))],
    "negative count": [store("float32", array(count=-1))],
    "output rows that do not exist": [store("float32", array()) for _ in range(3)],
    "operand of another length": [store("float32", op(do.SUBTRACT, 2, count=4))],
    "sinks of two lengths": [store("float32", array()), store("float32", array(4))],
    "too few operands": [store("float32", op(do.SUBTRACT, 1))],
    "too many operands": [store("float32", op(do.WHERE_NONZERO, 3))],
    "no operand at all": [store("float32", op(do.WEIGHTED_SUM, 0))],
    "mean of nothing": [store("float32", op(do.WEIGHTED_MEAN, 0, [1.0]))],
    "election of nobody": [store("float32", op(do.AGREEING_MEAN, 0, [0.0]))],
    "too few weights": [store("float32", op(do.WEIGHTED_SUM, 3, [1.0, 1.0]))],
    "mean without the sum of weights": [store("float32", op(do.WEIGHTED_MEAN, 2, [1.0, 1.0]))],
    "sum of nobody": [store("float32", op(do.ELECTED_SUM, 0, [0.0], [1]))],
    "sum without its form": [store("float32", op(do.ELECTED_SUM, 2, [1.0, 1.0, 0.0]))],
    "election without its tie": [store("float32", op(do.AGREEING_MEAN, 2, [1.0, 1.0]))],
    "no factor": [store("float32", op(do.SCALED, 1))],
    "no threshold": [store("float32", op(do.THIN, 2, [1.0]))],
    "threshold beyond a word": [store("float32", op(do.THIN, 2, [1.0], [2**32 + 1]))],
    "negative threshold": [store("float32", op(do.THIN, 2, [1.0], [-1]))],
    "key beyond a word": [store("float32", op(do.RANDOM_WORDS, 0, (), [2**32, 0, 0, 0, 0]))],
    "negative block": [store("float32", op(do.RANDOM_WORDS, 0, (), [0, 0, 0, 0, -1]))],
    "threshold of nothing": [store("float32", op(do.KEEP_LARGE, 1, (), [0, 0]))],
    "boundary beyond the end": [store("float32", op(do.KEEP_LARGE, 1, (), [1, COUNT + 1]))],
    "boundary before the start": [store("float32", op(do.KEEP_LARGE, 1, (), [1, -1]))],
    "histogram without bins": [op(do.COUNT_HIGH)],
    "near without bins": [near()],
    "list without its length": [near(shift=do.LIST_OTHERS)],
    "near of nothing": [near(width=0)],
    "near beyond all magnitudes": [near(low=2**31 - 1, width=2)],
    "guess outside": [near(guesses=(4, NO_BITS, NO_BITS, NO_BITS))],
    "guess twice": [near(guesses=(6, 6, NO_BITS, NO_BITS))],
    "place without counts": [op(do.PLACE_OF_EQUAL, integers=[1, 0])],
    "negative rank": [op(do.PLACE_OF_EQUAL, integers=[1, -1])],
    "bits beyond a word": [op(do.COUNT_EQUAL, integers=[2**32])],
    "products without sums": [op(do.DOTS, 2, integers=[0, 0])],
    "parts beyond the sums": [op(do.DOTS, 2, integers=[GRAIN, 1])],
    "parts that are no blocks": [op(do.DOTS, 2, integers=[1000, 0])],
}


@pytest.mark.parametrize("sinks", WRONG.values(), ids=WRONG)
def test_a_wrong_program_is_refused_and_writes_nothing(sinks):
    made = machine()
    with pytest.raises(ValueError, match=r"\w"):
        made.run(sinks)
    assert not made.outputs.array.any()


@pytest.mark.parametrize(
    "arrays",
    [
        {"counts": np.zeros(HIGH_BINS, np.int64)},  # The last bin would count zeros too.
        {"counts": np.zeros(HIGH_BINS + 1, np.int32)},
        {"counts": np.zeros(HIGH_BINS + 1)},
        {"counts": np.zeros(2 * HIGH_BINS + 2, np.int64)[::2]},
        {"counts": np.zeros((1, HIGH_BINS + 1), np.int64)},
        {"counts": np.frombuffer(bytes(8 * HIGH_BINS + 8), np.int64)},
    ],
)
def test_counts_of_another_kind_are_refused(arrays):
    with pytest.raises(ValueError, match="count"):
        machine().run([op(do.COUNT_HIGH)], **arrays)


@pytest.mark.parametrize(
    "sums",
    [
        np.zeros((0, do.LANES)),
        np.zeros((1, do.LANES - 1)),
        np.zeros(do.LANES),
        np.zeros((1, do.LANES), np.float32),
        np.zeros((2, 2 * do.LANES))[:, ::2],
    ],
)
def test_sums_of_another_kind_are_refused(sums):
    with pytest.raises(ValueError, match="sums"):
        machine().run([op(do.DOTS, 2, integers=[GRAIN, 0])], sums=sums)


def test_rows_that_would_overlap_are_refused():
    with pytest.raises(ValueError, match="multiple"):
        machine(length=4 * COUNT + 2).run([STORED])
    for memory in (np.zeros((2, 8)), np.zeros(8, np.uint8), np.zeros((4, 8), np.uint8)[::2]):
        with pytest.raises(ValueError, match="bytes"):
            Rows(memory)


@pytest.mark.parametrize(
    "stored", [np.zeros(4), np.zeros(4, np.uint16), np.zeros((2, 2), np.float32)]
)
def test_numbers_are_not_taken_for_another_type(stored):
    with pytest.raises(ValueError, match="float32 is loaded from flat arrays"):
        CpuOperations().load(stored, FLOAT32)


@pytest.mark.parametrize("start", [1, 2, 3, 5, -4])
def test_random_words_start_at_whole_blocks(start):
    with pytest.raises(ValueError, match="multiple of four"):
        CpuOperations().random_words((0, 0, 0, 0), start, 4)


@pytest.mark.parametrize("number", range(do.DOTS + 1))
def test_the_signature_of_every_opcode_is_checked(number):
    assert set(do.OPCODES) == set(range(do.DOTS + 1))
    with pytest.raises(ValueError, match="takes"):
        machine().run([op(number, operands=5, floats=[0.0] * 9, integers=[0] * 9)])


def uncompiled(*arguments):
    """The same loop in Python, where arrays know their length."""

    def pointer(argument):
        if isinstance(argument, int):
            return ctypes.c_void_p(argument)
        return ctypes.cast(argument, ctypes.c_void_p)

    with warnings.catch_warnings():
        # Numbers of one element say when they wrap around or divide by zero.
        warnings.simplefilter("ignore", RuntimeWarning)
        program_loop.execute(*map(pointer, arguments))


@pytest.fixture(scope="module")
def in_python():
    """Operations whose loops run as they are written, with every index checked."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (loops, counting):
            for name, value in list(vars(module).items()):
                if hasattr(value, "py_func"):
                    patch.setattr(module, name, value.py_func)
        with pytest.MonkeyPatch.context() as machines:
            machines.setattr("mergegrid.kernels.program.program_loop", lambda: uncompiled)
            slow = CpuOperations()
        yield slow


def everything(ops, arrays, weights, start, threshold, bits):
    """The results of every instruction, as bytes."""
    ops.restart()
    one, two, three = loaded = [ops.load(array, FLOAT32) for array in arrays]
    count = one.count
    words = ops.random_words((1, 2**32 - 1, 3, 4), start, count)
    results = [
        ops.subtract(one, two),
        ops.product(one, two),
        ops.quotient(one, two),
        ops.scaled(one, weights[0]),
        ops.plus_number(one, weights[0]),
        ops.divided(one, weights[1]),
        words,
        ops.thin(words, threshold, one, weights[0]),
        ops.weighted_sum([one], weights[:1]),
        ops.weighted_sum(loaded, weights),
        ops.weighted_mean(loaded, weights),
        ops.plus(one, ops.thin(words, threshold, two, 2.0), weights[0]),
        ops.where_changed(ops.thin(words, threshold, two, 2.0), one, three),
        ops.where_nonzero(ops.thin(words, threshold, two, 1.0), three),
        ops.agreeing_mean([one, two], weights[:2]),
        ops.agreeing_mean(loaded, weights, undecided=1.0),
        ops.keep_large(one, bits, count // 2),
    ]
    found = []
    for dtype in DTYPES.values():
        stored = ops.store(results, [dtype] * len(results))
        found += [(numbers.tobytes(), finite) for numbers, finite in stored]
    histogram, bins = np.zeros(HIGH_BINS + 1, np.int64), np.zeros(5 + 64, np.int64)
    ops.count_high(one, histogram)
    ops.count_near(one, bits, 1 << 12, 6, [bits], bins)
    found += [histogram.tobytes(), bins.tobytes(), ops.count_equal(one, bits)]
    found += [each.tobytes() for each in ops.list_near(one, bits, 1 << 20, [bits], 5)]
    with np.errstate(invalid="ignore"):
        sums = ops.dots_of([(one, two), (three, one)])
        # The payload of a NaN is the processor's own.
        found.append(np.where(np.isnan(sums), np.nan, sums).tobytes())
    if ops.count_equal(one, bits):
        found.append(ops.place_of_equal(one, bits, 0))
    return found


@pytest.mark.parametrize("count", [1, 3, 8, 1023, 1024, 1025, 2049])
def test_the_compiled_loops_do_what_is_written(in_python, count):
    random = np.random.default_rng(count)
    arrays = [random.standard_normal(count).astype(np.float32) for _ in range(3)]
    arrays[1][::3] = 0
    arrays[2][::5] = -0.0
    bits = int(np.abs(arrays[0][:1]).view(np.uint32)[0])
    given = (arrays, [0.5, -3.0, 1.0], 2**33, 3 << 30, bits)
    assert everything(in_python, *given) == everything(CpuOperations(), *given)


@given(
    st.lists(st.floats(width=32), min_size=3, max_size=24),
    st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3),
    st.integers(0, 2**32),
)
def test_the_compiled_loops_do_what_is_written_for_any_number(in_python, numbers, weights, keep):
    values = np.array(numbers, np.float32)
    arrays = [values, values[::-1].copy(), np.roll(values, 1)]
    given = (arrays, weights, 4, keep, 0x3F800000)
    slow, fast = everything(in_python, *given), everything(CpuOperations(), *given)
    for one, other in zip(slow, fast, strict=True):
        if one != other:
            # The payload of a NaN is the processor's own; where one is, both have one.
            (left, ok), (right, also_ok) = one, other
            assert not ok
            assert not also_ok
            assert len(left) == len(right)


@pytest.mark.parametrize(
    "sinks",
    [
        WRONG["input row that does not exist"],
        WRONG["input row that is too short"],
        WRONG["output rows that do not exist"],
        WRONG["near without bins"],
        WRONG["histogram without bins"],
        [op(do.PLACE_OF_EQUAL, integers=[0x3F800000, 0])],
        [store("float32", Expression(do.SUBTRACT, 16, [array(16), array(16)]))],
    ],
)
@pytest.mark.usefixtures("in_python")
def test_what_the_checks_refuse_would_leave_the_arrays(monkeypatch, sinks):
    monkeypatch.setattr("mergegrid.kernels.program.program_loop", lambda: uncompiled)
    made = machine()
    made.inputs.array.view(np.float32)[:] = 1
    if sinks == WRONG["near without bins"]:
        made.inputs.array.view(np.uint32)[:] = 6
    with pytest.raises(ValueError, match=r"\w"):
        made.run(sinks)
    monkeypatch.setattr("mergegrid.kernels.program.check_program", lambda *_: None)
    with pytest.raises((IndexError, ValueError), match=r"out of bounds|broadcast"):
        made.run(sinks)


@given(st.lists(st.integers(0, 2**16 - 1), max_size=40), st.sampled_from(["bfloat16", "float16"]))
def test_reading_and_writing_numbers_returns_them(bits, dtype):
    stored = np.array(bits, np.uint16).view(DTYPES[dtype].numpy)
    values, back = np.empty(len(bits), np.float32), np.empty_like(stored)
    decode(stored, DTYPES[dtype], values)
    encode(values, DTYPES[dtype], back)
    plain = np.isfinite(values)
    assert np.array_equal(stored[plain].view(np.uint16), back[plain].view(np.uint16))
