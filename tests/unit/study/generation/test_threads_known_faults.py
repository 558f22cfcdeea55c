"""Variants are merged with the threads of their job, not with one per processor."""

import pytest
import small_models
import torch

from mergegrid.engine import engine
from mergegrid.methods.ties import Ties
from mergegrid.recipes.recipe import Recipe
from mergegrid.study.generation.merged import Merger, Models


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_a_merger_starts_only_the_configured_threads(tmp_path, monkeypatch, threads):
    torch.manual_seed(0)
    base = small_models.llama(tied=True)
    small_models.save(base, tmp_path / "base")
    small_models.save(small_models.finetuned(base, 1), tmp_path / "math")
    started = []

    class Counted(engine.Workers):
        def __init__(self, count, make):
            started.append(count)
            super().__init__(count, make)

    monkeypatch.setattr(engine, "Workers", Counted)
    given = {} if threads is None else {"threads": threads}
    models = Models(base=tmp_path / "base", experts={"math": tmp_path / "math"}, **given)
    merger = Merger(models)
    assert merger.weights(Recipe(family="tiny", experts=("math",), method=Ties()))
    assert started == [threads or 1]
