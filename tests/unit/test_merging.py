"""One recipe of a study, merged into a folder: the values, the identity, and what is refused."""

import json

import numpy as np
import pytest
from merge_jobs import merge_recipe
from safetensors.numpy import load_file, save_file

from mergegrid.errors import CheckpointError, DamagedError
from mergegrid.methods.average import Average
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.recipes.output import Output
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.drop_only import DropOnly
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.study.decoders.importing import import_decoder
from mergegrid.study.generation.merged import Merger, Models

CONFIG = {"model_type": "llama", "hidden_size": 8, "vocab_size": 12, "rope_theta": 10000.0}
EMBEDDINGS = "model.embed_tokens.weight"
SHAPES = {EMBEDDINGS: (12, 8), "model.norm.weight": (8,), "lm_head.weight": (12, 8)}


def model(folder, seed, scale=0.02, base=None, rows=12, **config):
    """A folder with a model; near a base, if one is given."""
    random = np.random.default_rng(seed)
    tensors = {}
    for name, shape in SHAPES.items():
        shape = (rows, *shape[1:]) if shape[0] == 12 else shape
        tensors[name] = (random.standard_normal(shape) * scale).astype(np.float32)
        if base is not None:
            tensors[name][: base[name].shape[0]] += base[name]
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": rows} | config))
    words = {"type": "WordLevel", "vocab": {f"w{number}": number for number in range(12)}}
    (folder / "tokenizer.json").write_text(json.dumps({"model": words}))
    return tensors


@pytest.fixture
def models(tmp_path):
    """A base and two experts: folders and tensors by name."""
    base = model(tmp_path / "base", 0)
    tensors = {"": base}
    for seed, name in enumerate(("math", "code"), start=1):
        tensors[name] = model(tmp_path / name, seed, 0.002, base)
    return tmp_path, tensors


def recipe(**changes):
    values = {"family": "llama", "experts": ("math", "code"), "training_seed": 3}
    return Recipe(**(values | changes))


def merged(place, asked, name="out", homologous=True, **output):
    """The tensors and the manifest of a merge."""
    merge_recipe(
        asked,
        place / "base",
        {each: place / each for each in asked.experts},
        Output(**output),
        homologous,
        place / name,
        threads=1,
    )
    manifest = json.loads((place / name / "manifest.json").read_text())
    return load_file(place / name / "model.safetensors"), manifest


def test_the_folder_holds_what_the_recipe_says(models):
    place, tensors = models
    found, _ = merged(place, recipe(method=TaskArithmetic(coefficient=0.5)))
    assert set(found) == set(SHAPES)
    for name, base in tensors[""].items():
        deltas = (tensors["math"][name] - base) + (tensors["code"][name] - base)
        np.testing.assert_allclose(found[name], base + 0.5 * deltas, atol=1e-7)


def test_one_expert_without_a_sparsifier_is_that_expert(models):
    place, tensors = models
    found, _ = merged(place, recipe(experts=("code",)))
    for name, expert in tensors["code"].items():
        np.testing.assert_array_equal(found[name], expert)
    base, _ = merged(
        place, recipe(experts=("code",), sparsifier=DropOnly(rate=1, seed=0)), name="base again"
    )
    for name, tensor in tensors[""].items():
        np.testing.assert_array_equal(base[name], tensor)


def test_the_manifest_names_the_recipe_as_the_study_does(models):
    place, _ = models
    asked = recipe(sparsifier=Dare(rate=0.5, seed=4), method=Average(weights={"math": 2}))
    _, manifest = merged(place, asked)
    assert Recipe.model_validate(manifest["made_from"]["recipe"]) == asked


def test_the_mask_of_an_expert_does_not_depend_on_where_its_folder_is(models):
    place, _ = models
    asked = recipe(sparsifier=Dare(rate=0.5, seed=4))
    one, _ = merged(place, asked)
    (place / "moved").mkdir()
    for name in ("base", "math", "code"):
        (place / name).rename(place / "moved" / name)
    other, _ = merged(place / "moved", asked)
    for name in SHAPES:
        np.testing.assert_array_equal(one[name], other[name])


def test_rates_and_rules_of_tensors_are_kept(models):
    place, tensors = models
    dare = Dare.model_validate(
        {
            "rate": 0.5,
            "rates": {"math": 0.25},
            "rules": [{"tensors": "norms", "rate": 0}, {"tensors": "embeddings", "rate": 1}],
        }
    )
    found, _ = merged(place, recipe(sparsifier=dare, method=TaskArithmetic()))
    base, math, code = tensors.values()
    norm = "model.norm.weight"
    np.testing.assert_allclose(found[norm], math[norm] + code[norm] - base[norm], atol=1e-7)
    np.testing.assert_array_equal(found[EMBEDDINGS], base[EMBEDDINGS])


def test_the_folder_is_written_as_asked(models):
    place, tensors = models
    found, _ = merged(place, recipe(experts=("code",)), dtype="float16")
    for name, expert in tensors["code"].items():
        np.testing.assert_array_equal(found[name], expert.astype(np.float16))


@pytest.mark.parametrize(("vocabulary", "rows"), [("base_rows", 12), ("pad", 14)])
def test_more_rows_of_an_expert_are_cut_or_padded(models, vocabulary, rows):
    place, tensors = models
    model(place / "more", 5, 0.002, tensors[""], rows=14)
    found, _ = merged(place, recipe(experts=("math", "more")), vocabulary=vocabulary)
    assert found[EMBEDDINGS].shape == (rows, 8)
    config = json.loads((place / "out" / "config.json").read_text())
    assert config["vocab_size"] == rows


def test_another_base_is_refused_and_merged_only_on_demand(models):
    place, tensors = models
    model(place / "stranger", 7, 0.002, tensors[""], rope_theta=1e6)
    asked = recipe(experts=("math", "stranger"))
    with pytest.raises(
        CheckpointError, match="architecture of expert stranger differs from the base's"
    ):
        merged(place, asked)
    assert not (place / "out").exists()
    found, _ = merged(place, asked, homologous=False)
    stranger = load_file(place / "stranger" / "model.safetensors")
    for name in SHAPES:
        np.testing.assert_allclose(
            found[name], (tensors["math"][name] + stranger[name]) / 2, atol=1e-7
        )


def test_on_demand_shapes_must_agree_still(models):
    place, tensors = models
    model(place / "stranger", 7)
    narrow = {name: tensor[..., :4].copy() for name, tensor in tensors[""].items()}
    save_file(narrow, place / "stranger" / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"has shape \(12, 8\) in the base and \(12, 4\) in expert st"
    ):
        merged(place, recipe(experts=("math", "stranger")), homologous=False)


def test_the_same_recipe_gives_the_same_bytes(models):
    place, _ = models
    asked = recipe(sparsifier=Dare(rate=0.9, seed=1), method=TaskArithmetic(coefficient=0.3))
    for name in ("one", "two"):
        merged(place, asked, name=name)
    one, two = ((place / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_recipe_without_a_sparsifier_needs_no_seed(models):
    place, tensors = models
    found, _ = merged(place, recipe(sparsifier=NoSparsifier(), method=Average()))
    for name in SHAPES:
        mean = (tensors["math"][name] + tensors["code"][name]) / 2
        np.testing.assert_allclose(found[name], mean, atol=1e-7)


@pytest.fixture
def published(models, tmp_path):
    """The base and the experts as the workflow keeps them; `code` has a row more than the base."""
    place = tmp_path / "published"
    place.mkdir()
    model(tmp_path / "longer", 2, 0.002, models[1][""], rows=13)
    for name, source in {"base": "base", "math": "math", "code": "longer"}.items():
        import_decoder(tmp_path / source, place / name, {})
    return place


def in_memory(place, asked):
    folders = {each: place / each for each in asked.experts}
    return Merger(Models(base=place / "base", experts=folders)).weights(asked)


@pytest.mark.parametrize("merge", [merged, in_memory])
def test_published_models_agree_with_their_manifests_though_rows_are_cut(published, merge):
    merge(published, recipe(method=Average()))


@pytest.mark.parametrize("merge", [merged, in_memory])
@pytest.mark.parametrize("name", ["base", "math", "code"])
@pytest.mark.parametrize("value", [b"\x00\x00\x80\x3f", b"\x00\x00\xc0\x7f"], ids=["1.0", "NaN"])
def test_what_is_damaged_is_found_while_it_is_merged(published, merge, name, value):
    path = published / name / "model.safetensors"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-4] + value)
    with pytest.raises(DamagedError, match=r"model\.norm\.weight in .* manifest\.json") as wrong:
        merge(published, recipe(method=Average()))
    assert wrong.value.folder == published / name
    assert not (published / "out").exists()
