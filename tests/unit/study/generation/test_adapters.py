"""Adapters in studies: merged in memory for the engines, they are the models that PEFT merges."""

import adapters
import pytest
import torch
from small_models import llama, save

from mergegrid.errors import CheckpointError
from mergegrid.methods.average import Average
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.study.decoders.importing import import_decoder
from mergegrid.study.generation.merged import Merger, Models


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A base, a DoRA adapter that names another base, and the same expert whole; imported."""
    folder = tmp_path_factory.mktemp("imported")
    base = llama().float()
    save(base, folder / "sources" / "llama")
    adapted = adapters.adapt(base, {"target_modules": adapters.LINEAR, "use_dora": True})
    adapted.peft_config["default"].base_model_name_or_path = "org/Other-7B"
    adapted.save_pretrained(folder / "sources" / "adapter")
    save(adapted.merge_and_unload(), folder / "sources" / "whole")
    for name in ("llama", "adapter", "whole"):
        import_decoder(folder / "sources" / name, folder / name, {"source": f"path:{name}"})
    return folder


def weights(folder, expert, **options):
    models = Models(base=folder / "llama", experts={"dora": folder / expert}, **options)
    recipe = Recipe(family="llama", experts=("dora",), sparsifier=NoSparsifier(), method=Average())
    return Merger(models).weights(recipe)


def test_the_engine_gets_the_weights_of_the_expert(imported):
    ours = weights(imported, "adapter", base_is=("org/Other-7B",))
    theirs = weights(imported, "whole")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=2**-24)


def test_an_adapter_of_another_base_is_refused_unless_the_family_says_that_it_is_the_same(imported):
    with pytest.raises(CheckpointError, match="base_is: org/Other-7B"):
        weights(imported, "adapter")


def test_the_place_that_a_base_was_imported_from_names_it(imported, tmp_path):
    import_decoder(
        imported / "sources" / "llama", tmp_path / "base", {"source": "hub:org/Other-7B@main"}
    )
    models = Models(base=tmp_path / "base", experts={"dora": imported / "adapter"})
    Merger(models)
