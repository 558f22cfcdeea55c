"""The plan of a pass: what it takes, and how it fits into less."""

import re

import pytest

from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.engine.budget import plan_budget
from mergegrid.engine.engine import CHUNK_SIZE, Engine
from mergegrid.engine.ops.operations import GRAIN
from mergegrid.errors import ConfigError
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.methods.ties import Ties
from mergegrid.sparsifiers.dare import Dare

INFOS = {f"layers.{n}.mlp.weight": TensorInfo((4096, 4096), DTYPES["bfloat16"]) for n in range(4)}
EXPERTS = ("code", "math")


class Unread(Checkpoint):
    """Of a model nothing is read before it is merged."""

    def read(self, name, start, stop, room):
        raise AssertionError(f"{name} is read")


@pytest.fixture
def planned(recipe_of, monkeypatch):
    """The plan of a recipe for models that need not be read, in a process that does not grow."""
    monkeypatch.setattr("mergegrid.engine.budget.resident", lambda: 10**8)
    engine = Engine(Unread(INFOS), {name: Unread(INFOS) for name in EXPERTS})

    def make(threads=4, max_memory=None, recipes=None):
        chosen = recipes or [recipe_of(TaskArithmetic(), EXPERTS, Dare(rate=0.9))]
        bound = [engine.bind(recipe) for recipe in chosen]
        return plan_budget(engine, bound, INFOS, threads, max_memory, "cpu")

    return make


def test_runs_are_shortened_before_threads_are_given_up(planned):
    whole = planned()
    assert (whole.options.threads, whole.options.chunk_size) == (4, CHUNK_SIZE)
    found, limit = [], whole.memory
    while True:
        limit -= 1 << 20
        try:
            smaller = planned(max_memory=limit)
        except ConfigError as error:
            refused = str(error)
            break
        assert smaller.memory <= limit
        found.append((smaller.options.threads, smaller.options.chunk_size))
    lengths = [CHUNK_SIZE >> n for n in range(5)]
    assert lengths[-1] == GRAIN
    steps = [*((4, length) for length in lengths), *((n, GRAIN) for n in (3, 2, 1))]
    assert list(dict.fromkeys(found)) == steps[1:]
    needed = re.search(r"one thread needs (\d+) MB", refused)
    assert needed
    assert limit / 1e6 < int(needed[1]) + 1


def test_what_is_gone_through_and_written_is_the_sum_of_all_models(planned, recipe_of):
    size = 4 * 4096 * 4096 * 2
    assert (planned().reads, planned().writes) == (3 * size, size)
    ties = [recipe_of(Ties(trim=trim), EXPERTS) for trim in (0.5, 0.9)]
    assert (planned(recipes=ties).reads, planned(recipes=ties).writes) == (6 * size, 2 * size)
