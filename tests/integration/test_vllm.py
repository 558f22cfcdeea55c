"""Generation on a real model, SmolLM2-135M-Instruct: two engines, and variants through one of them.

Takes about 3 minutes on two cores. Parts with vLLM need VLLM_PYTHON where it is not installed: a
Python that has it, and what mergegrid imports.
"""

import importlib.util
import json
import logging
import math
import os
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from tempfile import gettempdir
from types import SimpleNamespace

import pandas as pd
import pytest
import small_models
import smollm2
import torch
from merge_jobs import merge_recipe

import mergegrid
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.methods.ties import Ties
from mergegrid.recipes.output import Output
from mergegrid.recipes.recipe import Recipe, base_only
from mergegrid.sparsifiers.dare import Dare
from mergegrid.study.generation.answering import AnswerJob, answer
from mergegrid.study.generation.merged import Merger, Models
from mergegrid.study.generation.transformers_backend import empty_model, replace_weights
from mergegrid.study.generation.variants import answer_variants
from mergegrid.study.schema.decoder_jobs import Ask
from mergegrid.study.schema.generation import Generation, Sampling

pytestmark = pytest.mark.integration
logger = logging.getLogger(__name__)

RECIPES = [
    Recipe(
        family="smollm2",
        experts=("math",),
        sparsifier=Dare(rate=0.9, seed=1),
        method=TaskArithmetic(coefficient=2.0),
    ),
    Recipe(family="smollm2", experts=("math", "code"), method=Ties(coefficient=5.0)),
    Recipe(family="smollm2", experts=("math",), sparsifier=base_only()),
]
ASK = Ask(benchmark="facts", chat=False, sampling=Sampling(max_tokens=12, stop=["\n\n"]))
# Longer than a block of 128 tokens, in which vLLM keeps what prompts have in common.
PREFIX = (
    "The following questions are about simple facts, and each has a short answer.\n\n"
    + "".join(
        f"Question: What is {number} plus {number}?\nAnswer: {2 * number}\n\n"
        for number in range(8)
    )
)
SUBJECTS = [
    *("the capital of France", "the colour of the sky", "the largest planet", "a triangle"),
    *("the boiling point of water", "a spider", "the opposite of hot", "a prime number"),
    *("the first month", "the author of Hamlet", "gold", "a verb", "photosynthesis", "gravity"),
    *("the tallest mountain", "an even number", "a noun", "the sun", "a bicycle", "an ocean"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Base, experts, and the written checkpoint of each recipe."""
    folder = tmp_path_factory.mktemp("smollm2")
    base = smollm2.import_base(folder / "base")
    for seed, name in enumerate(["math", "code"], start=1):
        smollm2.make_expert(base, folder / name, seed)
    for recipe in RECIPES:
        experts = {name: folder / name for name in recipe.experts}
        merge_recipe(recipe, base, experts, Output(), True, folder / recipe.digest, 1)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def models(folder):
    return Models(base=folder / "base", experts={name: folder / name for name in ("math", "code")})


@pytest.fixture(scope="module")
def questions():
    prompts = [f"{PREFIX}Question: What is {subject}?\nAnswer:" for subject in SUBJECTS]
    ids = [str(number) for number in range(len(prompts))]
    table = {"id": ids, "instruction": SUBJECTS, "prompt": prompts}
    return pd.DataFrame(table).astype("string")


@pytest.fixture(scope="module")
def by_transformers(folder, questions):
    """Answers of a new engine on each written checkpoint: to all questions, and to the first."""
    settings = Generation(backend="transformers", dtype="float32")
    return {
        recipe.digest: answer(
            folder / recipe.digest,
            recipe.digest,
            AnswerJob([ASK], {"facts": questions[:count]}, settings, folder / "transformers.jsonl"),
        )
        for recipe, count in zip(RECIPES, (20, 8, 8), strict=True)
    }


@pytest.fixture(scope="module")
def by_vllm(folder, models, questions):
    """Answers through one engine and by new ones, refusals, and times."""
    order = folder / "order.json"
    order.write_text(
        json.dumps(
            {
                "models": models.model_dump(mode="json"),
                "recipes": [recipe.model_dump(mode="json") for recipe in RECIPES],
                "folders": [str(folder / recipe.digest) for recipe in RECIPES],
                "ask": ASK.model_dump(mode="json"),
                "questions": questions.to_dict("list"),
            }
        )
    )
    found = run_with_vllm("vllm_variants.py", order)
    for what, (wall, used) in found["seconds"].items():
        logger.info("%s: %.1f s, %.1f s of a processor", what, wall, used)
    return found


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Answers of a small family by two processes on the CPU, and by transformers."""
    folder = tmp_path_factory.mktemp("split")
    # vLLM's attention on the CPU wants heads of 32.
    base = small_models.llama(hidden_size=128)
    small_models.save(base, folder / "base")
    for seed, name in enumerate(["math", "code"], start=1):
        small_models.save(small_models.finetuned(base, seed), folder / name)
    models = Models(
        base=folder / "base", experts={name: folder / name for name in ("math", "code")}
    )
    recipes = [RECIPES[0], RECIPES[1], RECIPES[0]]
    prompts = [[3, 4, 5], [6, 7, 8, 9]]
    order = folder / "order.json"
    order.write_text(
        json.dumps(
            {
                "models": models.model_dump(mode="json"),
                "recipes": [recipe.model_dump(mode="json") for recipe in recipes],
                "questions": prompts,
                "tokens": 6,
            }
        )
    )
    # Each process of vLLM gets a processor of its own.
    first, *others = sorted(os.sched_getaffinity(0))
    places = {"VLLM_CPU_OMP_THREADS_BIND": f"{first}|{(others or [first])[0]}"}
    found = run_with_vllm("vllm_split.py", order, **places)
    merger, expected = Merger(models), {}
    for recipe in recipes:
        shell = folder / recipe.digest
        shell.mkdir(exist_ok=True)
        merger.write_shell(shell)
        model = empty_model(shell, "float32")
        replace_weights(model, merger.weights(recipe))
        words = small_models.tokenizer()
        answers = [model.generate(torch.tensor([ids]), max_new_tokens=6)[0] for ids in prompts]
        expected[recipe.digest] = [
            words.decode(answer[len(ids) :], skip_special_tokens=True)
            for ids, answer in zip(prompts, answers, strict=True)
        ]
    size = sum(math.prod(info.shape) * info.dtype.size for info in merger.infos.values())
    return SimpleNamespace(found=found, expected=expected, recipes=recipes, size=size)


def run_with_vllm(script, *arguments, **environment):
    """Run a script in the environment that has vLLM; return the JSON in its last line."""
    python = os.environ.get("VLLM_PYTHON")
    if python is None and importlib.util.find_spec("vllm") is None:
        pytest.skip(
            "vLLM is not installed here; set VLLM_PYTHON to a Python that has it and what "
            "mergegrid imports"
        )
    source = str(Path(mergegrid.__file__).parents[1])
    done = subprocess.run(
        [python or sys.executable, Path(__file__).with_name(script), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", **environment},
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(columns):
    return pd.DataFrame(columns)[["id", "sample", "prompt_digest", "output", "finish", "tokens"]]


def test_vllm_has_what_vllm_compat_relies_on():
    contract = run_with_vllm("vllm_contract.py")
    assert [name for name, held in contract.items() if not held] == []


def test_variants_differ_so_that_a_mix_up_would_show(by_transformers):
    outputs = [tuple(found["output"])[:8] for found in by_transformers.values()]
    for one, other in combinations(outputs, 2):
        assert sum(a != b for a, b in zip(one, other, strict=True)) >= 3


def test_transformers_answers_for_variants_as_for_their_checkpoints(
    folder, models, questions, by_transformers
):
    few = questions[:6]
    found = answer_variants(
        models,
        RECIPES,
        lambda recipe: recipe.digest,
        AnswerJob(
            [ASK],
            {"facts": few},
            Generation(backend="transformers", dtype="float32"),
            folder / "variants.jsonl",
        ),
    )
    for recipe in RECIPES:
        wanted = by_transformers[recipe.digest][: len(few)]
        pd.testing.assert_frame_equal(found[recipe.digest], wanted)


def test_vllm_answers_as_transformers_does_in_float32(by_vllm, by_transformers):
    for name, wanted in by_transformers.items():
        found = table(by_vllm["new"][name])[: len(wanted)]
        pd.testing.assert_frame_equal(found, table(wanted), check_dtype=False)


def test_vllm_answers_for_variants_as_for_their_checkpoints(by_vllm):
    assert len(by_vllm["one"]) == len(RECIPES)
    assert by_vllm["one"] == by_vllm["new"]


def test_a_model_that_is_split_answers_as_a_whole_one(split):
    answers = {
        name: [text.strip() for text in texts] for name, texts in split.found["answers"].items()
    }
    assert answers == split.expected
    assert len({tuple(each) for each in split.expected.values()}) == 2


def test_processes_of_a_split_model_share_one_merge(split):
    # The last one is asked for once more, to be refused.
    slugs = [recipe.slug for recipe in split.recipes]
    assert split.found["merged"] == [*slugs, slugs[0]]
    assert len(split.found["files"]) == len(split.recipes)
    for place, size in split.found["files"]:
        # Besides the tensors there is a header.
        assert 0 <= size - split.size < 10_000
        assert place == ("/dev/shm" if Path("/dev/shm").is_dir() else gettempdir())
        assert not list(Path(place).glob("mergegrid-*"))


def test_what_one_of_several_processes_refuses_is_said(split):
    said = "vLLM did not load the merged model: "
    assert split.found["refused"].startswith(said)
    assert "did not replace its VocabParallelEmbedding" in split.found["refused"]


def test_variants_share_a_compiled_model(by_vllm):
    (first, second, other), (shared, same, apart) = by_vllm["hashes"]
    assert len({first, second, other}) == 3
    assert shared == same
    assert apart not in (shared, first)


def test_a_variant_that_vllm_holds_in_part_is_refused(by_vllm):
    left_out, output_matrix, probe = by_vllm["refused"]
    assert "did not replace its ParallelLMHead" in left_out
    assert "output matrix differs from that of the merged model" in output_matrix
    assert "log-probabilities are off by" in probe
