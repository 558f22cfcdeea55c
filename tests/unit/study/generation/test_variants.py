import pandas as pd
import pytest
import small_models
import torch
from merge_jobs import merge_recipe

from mergegrid.checkpoints.safetensors_files import SINGLE
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.methods.ties import Ties
from mergegrid.recipes.output import Output
from mergegrid.recipes.recipe import Recipe, base_only
from mergegrid.sparsifiers.dare import Dare
from mergegrid.study.generation.answering import AnswerJob, answer
from mergegrid.study.generation.backend import GenerationError
from mergegrid.study.generation.merged import Merger, Models
from mergegrid.study.generation.transformers_backend import empty_model, replace_weights
from mergegrid.study.generation.variants import answer_variants
from mergegrid.study.schema.generation import Generation

RECIPES = [
    Recipe(family="tiny", experts=("math",), sparsifier=Dare(rate=0.9, seed=1)),
    Recipe(family="tiny", experts=("math", "code"), method=Ties()),
    Recipe(
        family="tiny",
        experts=("math", "code"),
        sparsifier=Dare(rate=0.5, seed=2),
        method=TaskArithmetic(coefficient=0.7),
    ),
    Recipe(family="tiny", experts=("math",), sparsifier=base_only()),
]
GENERATION = Generation(backend="transformers")


@pytest.fixture(params=["tied", "untied"])
def family(request, tmp_path):
    torch.manual_seed(0)
    base = small_models.llama(tied=request.param == "tied", initializer_range=0.3)
    small_models.save(base, tmp_path / "base")
    for seed, name in enumerate(["math", "code"], start=1):
        moved = small_models.finetuned(base, seed)
        with torch.no_grad():
            for start, end in zip(base.parameters(), moved.parameters(), strict=True):
                end += 30 * (end - start)
        small_models.save(moved, tmp_path / name)
    return tmp_path


def models(family, **output):
    return Models(
        base=family / "base",
        experts={name: family / name for name in ("math", "code")},
        output=Output(**output),
    )


def on_disk(family, output, recipe, asks, questions):
    """Answer with a new engine on the written checkpoint."""
    folder = family / "merged" / recipe.digest[:8]
    experts = {name: family / name for name in recipe.experts}
    merge_recipe(recipe, family / "base", experts, output, True, folder, 1)
    store = family / "disk.jsonl"
    return answer(folder, recipe.digest, AnswerJob(asks, {"words": questions}, GENERATION, store))


def digest_of(recipe):
    return recipe.digest


@pytest.mark.parametrize("output", [Output(), Output(dtype="float32")])
def test_variants_of_one_engine_answer_like_their_checkpoints(family, questions, ask, output):
    asks = [ask(max_tokens=10)]
    actual = answer_variants(
        models(family, dtype=output.dtype),
        RECIPES,
        digest_of,
        AnswerJob(asks, {"words": questions}, GENERATION, family / "store.jsonl"),
    )
    assert list(actual) == [recipe.digest for recipe in RECIPES]
    assert len({tuple(table["output"]) for table in actual.values()}) == len(RECIPES)
    for recipe in RECIPES:
        expected = on_disk(family, output, recipe, asks, questions)
        pd.testing.assert_frame_equal(actual[recipe.digest], expected)


def test_merged_weights_are_bit_identical_to_a_folder(family):
    from safetensors.torch import load_file

    for recipe in RECIPES:
        folder = family / "merged" / recipe.digest[:8]
        experts = {name: family / name for name in recipe.experts}
        merge_recipe(recipe, family / "base", experts, Output(), True, folder, 1)
        expected = load_file(folder / SINGLE)
        actual = Merger(models(family)).weights(recipe)
        assert actual.keys() == expected.keys()
        assert all(torch.equal(actual[name], expected[name]) for name in expected)
        assert {tensor.dtype for tensor in actual.values()} == {torch.bfloat16}


def test_only_variants_that_lack_answers_are_merged(family, questions, ask, monkeypatch):
    merged = []
    weights = Merger.weights

    def counted(self, recipe):
        merged.append(recipe)
        return weights(self, recipe)

    monkeypatch.setattr(Merger, "weights", counted)

    def run(recipes):
        return answer_variants(
            models(family),
            recipes,
            digest_of,
            AnswerJob(
                [ask(max_tokens=4)], {"words": questions}, GENERATION, family / "store.jsonl"
            ),
        )

    first = run(RECIPES[:2])
    assert merged == RECIPES[:2]
    again = run(RECIPES[:3])
    assert merged == RECIPES[:3]
    for recipe in RECIPES[:2]:
        pd.testing.assert_frame_equal(first[recipe.digest], again[recipe.digest])


def test_padded_vocabularies_fit_the_engine(tmp_path, questions, ask):
    base = small_models.llama(tied=True)
    small_models.save(base, tmp_path / "base")
    small_models.save(small_models.finetuned(base, 1), tmp_path / "math")
    more = small_models.finetuned(base, 2, rows=3)
    small_models.save(more, tmp_path / "code", extra=("x1", "x2", "x3"))
    output, asks = Output(vocabulary="pad"), [ask(max_tokens=6)]
    recipe = RECIPES[2]
    actual = answer_variants(
        models(tmp_path, vocabulary="pad"),
        [recipe],
        digest_of,
        AnswerJob(asks, {"words": questions}, GENERATION, tmp_path / "store.jsonl"),
    )
    expected = on_disk(tmp_path, output, recipe, asks, questions)
    pd.testing.assert_frame_equal(actual[recipe.digest], expected)


def test_a_merge_that_lacks_parameters_is_refused(family):
    weights = Merger(models(family)).weights(RECIPES[0])
    network = empty_model(family / "base", "bfloat16")
    replace_weights(network, weights)
    del weights["model.norm.weight"]
    with pytest.raises(GenerationError, match=r"has no model\.norm\.weight \(1 parameters"):
        replace_weights(network, weights)
