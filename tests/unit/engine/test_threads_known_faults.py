"""Nothing that is merged or counted depends on how many threads there are."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
import threadpoolctl
from scipy.linalg import lapack

from mergegrid.engine.blas_compat import one_blas_thread
from mergegrid.engine.engine import EngineOptions
from mergegrid.engine.thresholds import smallest
from mergegrid.methods.fisher import Fisher
from mergegrid.methods.model_stock import ModelStock
from mergegrid.methods.regmean import RegMean
from mergegrid.methods.sce import Sce
from mergegrid.methods.slerp import Slerp
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.methods.ties import Ties
from mergegrid.sparsifiers.breadcrumbs import Breadcrumbs
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.della import Della
from mergegrid.sparsifiers.magnitude import Magnitude

SHAPES = {"a.weight": (700, 384), "b.weight": (96, 300), "norm.bias": (65_537,), "scale": ()}
FACTORS = """
import hashlib
import numpy as np
from mergegrid.checkpoints.checkpoint import InMemory, TensorInfo
from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.engine.ops.cpu import CpuOperations
from mergegrid.engine.method import MethodInputs
from mergegrid.engine.tensors import Tensors

from mergegrid.methods.regmean import RegMean

random = np.random.default_rng(0)
for size in (64, 300, 768):
    grams = {}
    for expert in "xy":
        # Whole numbers: the inputs do not depend on who sums.
        entries = random.integers(-100, 100, (size, size))
        gram = (entries + entries.T) / 256 + np.eye(size) * (size // 64 + 8)
        grams[expert] = InMemory({"w": gram.astype(np.float32)})
    info = TensorInfo((size, size), DTYPES["float32"])
    inputs = MethodInputs(("x", "y"), Tensors({"w": info}), None, None, grams)
    (prepass,) = RegMean().prepasses(inputs)
    rounds = prepass.rounds()
    try:
        next(rounds)
    except StopIteration as stop:
        found = stop.value
    ops = CpuOperations()
    rows = random.standard_normal(size * 256).astype(np.float32)
    loaded = ops.load(rows, DTYPES["float32"])
    product = ops.values(ops.times_matrices([loaded], [found["x"]], size))
    for array in (*found.values(), product):
        print(hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest())
"""


def test_matrices_are_the_same_however_many_threads_blas_may_start():
    found = set()
    for count in ("1", "2", "7"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names, count)
        command = [sys.executable, "-c", FACTORS]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert len(done.stdout.split()) == 9
        found.add(done.stdout)
    assert len(found) == 1


@pytest.fixture(scope="module")
def models():
    """A base, three experts and their statistics, of tensors of many runs and of one element."""
    random = np.random.default_rng(3)
    base = {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()
    }
    experts = {
        expert: {
            name: (value + 0.01 * random.standard_normal(value.shape)).astype(np.float32)
            for name, value in base.items()
        }
        for expert in ("chat", "code", "math")
    }
    return base, experts


def statistics(experts, method):
    random = np.random.default_rng(4)
    if isinstance(method, Fisher):
        return {
            name: {key: np.abs(value) for key, value in each.items()}
            for name, each in experts.items()
        }
    found = {}
    for name in experts:
        inputs = {key: random.standard_normal((1000, SHAPES[key][1])) for key in list(SHAPES)[:2]}
        found[name] = {key: (x.T @ x / 1000).astype(np.float32) for key, x in inputs.items()}
    return found


@pytest.mark.parametrize(
    ("method", "sparsifier"),
    [
        (RegMean(), Dare(rate=0.5)),
        (RegMean(offdiagonal=1, ridge=0.1), None),
        (ModelStock(), Della(rate=0.5)),
        (Sce(select=0.3), None),
        (Slerp(), Dare(rate=0.9)),
        (Fisher(normalize=True), None),
        (Ties(), Magnitude(rate=0.3, scope="global")),
        (Ties(arithmetic="reference"), None),
        (TaskArithmetic(coefficient=0.3), Breadcrumbs(rate=0.5)),
    ],
    ids=lambda spec: getattr(spec, "kind", None),
)
def test_every_method_gives_the_same_bytes_with_any_number_of_threads(
    merge, models, method, sparsifier
):
    base, experts = models
    names = list(experts)[:2] if isinstance(method, Slerp) else list(experts)
    given = {name: experts[name] for name in names}
    found = set()
    for threads, chunk_size in ((1, 1 << 16), (2, 1 << 17), (7, 1 << 16)):
        merged = merge(
            base, given, method, sparsifier,
            statistics=statistics(given, method),
            options=EngineOptions(threads=threads, chunk_size=chunk_size),
        )  # fmt: skip
        found.add(b"".join(merged[name].tobytes() for name in SHAPES))
    assert len(found) == 1


def blas_threads():
    return [each["num_threads"] for each in threadpoolctl.threadpool_info() if is_blas(each)]


def is_blas(library):
    return library["user_api"] == "blas"


def test_blas_is_held_until_the_last_thread_is_done_and_then_as_before():
    assert lapack, "its library is loaded, and so counted"
    with threadpoolctl.threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        inside, leave = Barrier(4, timeout=20), Barrier(4, timeout=20)

        def hold():
            with one_blas_thread():
                inside.wait()
                leave.wait()

        with ThreadPoolExecutor(3) as pool:
            held = [pool.submit(hold) for _ in range(3)]
            inside.wait()
            with one_blas_thread():
                pass
            assert set(blas_threads()) == {1}
            leave.wait()
            for each in held:
                each.result()
        assert blas_threads() == before


def test_blas_is_released_when_the_work_fails():
    before = blas_threads()
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        raise ZeroDivisionError
    assert blas_threads() == before


class Others(np.ndarray):
    """A list whose length is looked up by all threads before any of them goes on."""

    barrier: Barrier

    @property
    def size(self):
        self.barrier.wait(timeout=10)
        return len(self)


@pytest.mark.parametrize("threads", [2, 7])
def test_what_threads_list_at_the_same_time_is_counted(threads):
    """A selection lists a limited number of magnitudes; lost updates would let it list more."""
    count, listed = 1 << 24, 1000
    rounds = smallest(("w",), count, 0.5, lambda chunk: None)
    next(rounds)
    sample = np.arange(1 << 20, dtype=np.uint32)
    measure = rounds.send([sample]).measure
    asked = []

    def run(others):
        def list_near(values, low, width, guesses, most):
            asked.append(most)
            return np.zeros(6, np.int64), others

        return SimpleNamespace(
            name="w", start=0, count=count, ops=SimpleNamespace(list_near=list_near)
        )

    barrier = Barrier(threads)

    def work(_):
        others = np.zeros(listed, np.uint32).view(Others)
        others.barrier = barrier
        measure(run(others))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    measure(run(np.zeros(0, np.uint32)))
    assert asked[-1] == asked[0] - threads * listed
