"""How tensors are cut into runs, tasks and windows."""

import math

from hypothesis import given
from hypothesis import strategies as st

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.engine.chunks import row_length
from mergegrid.engine.cutting import chunk_length, cut_tensor, tasks, windows
from mergegrid.engine.ops.operations import GRAIN

shapes = st.lists(st.integers(1, 3000), min_size=0, max_size=3).map(tuple)
models = st.lists(shapes, min_size=1, max_size=12)
chunks = st.integers(1, 40).map(lambda grains: grains * GRAIN)


def infos_of(shapes):
    return {f"t{n}": TensorInfo(shape, DTYPES["float32"]) for n, shape in enumerate(shapes)}


def cut(shape, chunk_size, whole_rows=False):
    return list(cut_tensor("w", TensorInfo(shape, DTYPES["float32"]), chunk_size, whole_rows))


@given(shape=shapes, chunk_size=chunks, whole_rows=st.booleans())
def test_runs_cover_a_tensor_once_in_order_and_start_at_grains(shape, chunk_size, whole_rows):
    if math.prod(shape) > 1 << 24:
        shape = shape[:2]
    runs = cut(shape, chunk_size, whole_rows)
    assert [start for _, start, _ in runs] == [0, *(stop for _, _, stop in runs[:-1])]
    assert runs[-1][2] == math.prod(shape)
    assert all(start % GRAIN == 0 for _, start, _ in runs)
    longest = chunk_length(TensorInfo(shape, DTYPES["float32"]), chunk_size, whole_rows)
    assert max(stop - start for _, start, stop in runs) == longest
    if whole_rows:
        assert all((stop - start) % row_length(shape) == 0 for _, start, stop in runs)
    else:
        assert longest <= chunk_size


def test_rows_are_kept_whole_in_runs_no_longer_than_needed():
    three = 3 * GRAIN
    assert cut((3000, 96), GRAIN, whole_rows=True) == [("w", 0, three), ("w", three, 3000 * 96)]
    # Rows of 1001 end with a grain only after 65 million elements.
    assert cut((2000, 1001), GRAIN, whole_rows=True) == [("w", 0, 2_002_000)]


def test_a_row_is_what_one_index_of_the_first_dimension_holds():
    shapes = [(7, 5), (7, 5, 3), (7,), (), (4, 0)]
    assert [row_length(shape) for shape in shapes] == [5, 15, 7, 1, 0]


def test_tensors_without_elements_have_no_runs():
    assert cut((0, 4), GRAIN) == cut((4, 0), GRAIN, whole_rows=True) == []


@given(shapes=models, chunk_size=chunks)
def test_tasks_hold_every_run_once_in_order(shapes, chunk_size):
    infos = infos_of([shape[:2] for shape in shapes])
    bundles = list(tasks(infos, infos, chunk_size, whole_rows=False))
    runs = [run for bundle in bundles for run in bundle]
    assert runs == [
        run for name in infos for run in cut_tensor(name, infos[name], chunk_size, False)
    ]
    assert all(bundles)


@given(shapes=models, most=st.integers(1, 20))
def test_windows_hold_every_tensor_once_in_order_and_no_more_than_asked(shapes, most):
    infos = infos_of(shapes)
    found = list(windows(infos, most))
    assert [name for window in found for name in window] == list(infos)
    assert all(1 <= len(window) <= most for window in found)
