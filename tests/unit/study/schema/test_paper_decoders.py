"""The study of the paper's decoders: what it names, what it asks, and how many jobs that makes."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
from project import Project, job_counts

from mergegrid.methods.average import Average
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.drop_only import DropOnly
from mergegrid.sparsifiers.magnitude import Magnitude
from mergegrid.sparsifiers.masked_finetuned import MaskedFinetuned
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.study.schema.loading import read_study
from mergegrid.study.tasks.questions import prepare_questions

NAME = "paper_decoders"
CONFIG = Path(__file__).parents[4] / "config" / f"{NAME}.yaml"
RATES = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99]


@dataclass(frozen=True)
class Repository:
    """What is known of a repository of the hub."""

    weights: Literal["bin", "safetensors", "unknown"]
    gated: bool = False
    named: Literal["source", "elsewhere"] = "source"


MODELS = {
    "huggyllama/llama-7b": Repository("safetensors"),
    "NousResearch/Llama-2-7b-hf": Repository("safetensors"),
    "NousResearch/Llama-2-13b-hf": Repository("safetensors"),
    "NousResearch/Llama-2-70b-hf": Repository("safetensors"),
    "codellama/CodeLlama-7b-Python-hf": Repository("safetensors"),
    "codellama/CodeLlama-13b-Python-hf": Repository("safetensors"),
    "codellama/CodeLlama-34b-Python-hf": Repository("safetensors"),
    "TheBloke/wizardLM-7B-HF": Repository("unknown"),
    "WizardLMTeam/WizardLM-13B-V1.2": Repository("bin"),
    "WizardLMTeam/WizardLM-70B-V1.0": Repository("bin"),
    "WizardLMTeam/WizardMath-7B-V1.0": Repository("bin"),
    "vanillaOVO/WizardMath-13B-V1.0": Repository("bin"),
    "WizardLMTeam/WizardMath-70B-V1.0": Repository("bin"),
    "vanillaOVO/WizardCoder-Python-7B-V1.0": Repository("bin"),
    "WizardLMTeam/WizardCoder-Python-13B-V1.0": Repository("bin"),
    "WizardLMTeam/WizardCoder-Python-34B-V1.0": Repository("bin"),
    "layoric/llama-2-13b-code-alpaca": Repository("bin"),
    "meta-llama/Llama-2-7b-hf": Repository("safetensors", gated=True, named="elsewhere"),
    "meta-llama/Llama-2-13b-hf": Repository("safetensors", gated=True, named="elsewhere"),
    "meta-llama/Llama-2-70b-hf": Repository("safetensors", gated=True, named="elsewhere"),
    "meta-llama/CodeLlama-7b-Python-hf": Repository("unknown", gated=True, named="elsewhere"),
    "meta-llama/CodeLlama-13b-Python-hf": Repository("unknown", gated=True, named="elsewhere"),
    "meta-llama/CodeLlama-34b-Python-hf": Repository("unknown", gated=True, named="elsewhere"),
    "vanillaOVO/WizardLM-7B-V1.0": Repository("bin", named="elsewhere"),
    "vanillaOVO/WizardLM-13B-V1.2": Repository("bin", named="elsewhere"),
    "vanillaOVO/WizardMath-7B-V1.0": Repository("bin", named="elsewhere"),
    "vanillaOVO/WizardCoder-Python-13B-V1.0": Repository("bin", named="elsewhere"),
    "MaziyarPanahi/WizardLM-70B-V1.0": Repository("safetensors", named="elsewhere"),
    "jhadams/WizardLM_WizardCoder-Python-34B-V1.0_safetensors": Repository(
        "safetensors", named="elsewhere"
    ),
    "Qwen/Qwen2.5-7B-Instruct": Repository("unknown", named="elsewhere"),
    "DTang161/ModelMergingCode": Repository("bin", named="elsewhere"),
}

#: Benchmark: repository and subfolder, where its questions are in there, and one of them.
GSM8K = {"question": "What is 2 + 3?", "answer": "#### 5"}
MATH = {"problem": "What is $2 + 3$?", "solution": r"\boxed{5}", "level": "Level 1", "type": "x"}
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "def two():\n    ",
    "canonical_solution": "return 2",
    "test": "def check(two):\n    assert two() == 2",
    "entry_point": "two",
}
MBPP = {"task_id": 11, "text": "Write two.", "code": "", "test_list": ["assert two() == 2"]}
ALPACA = {"instruction": "Say hello.", "output": "Hello.", "generator": "x", "dataset": "y"}
DATA = {
    "gsm8k": ("openai/gsm8k", "main", ["test-00000-of-00001.parquet"], GSM8K),
    "math": (
        "EleutherAI/hendrycks_math",
        None,
        ["algebra/test-00000-of-00001.parquet", "geometry/test-00000-of-00001.parquet"],
        MATH,
    ),
    "humaneval": (
        "openai/openai_humaneval",
        "openai_humaneval",
        ["test-00000-of-00001.parquet"],
        HUMANEVAL,
    ),
    "mbpp": ("google-research-datasets/mbpp", "full", ["test-00000-of-00001.parquet"], MBPP),
    "alpaca_eval": ("tatsu-lab/alpaca_eval", "alpaca_eval.json", [], ALPACA),
}

#: The paper's experts: the base it takes for each, and the benchmarks it asks them.
INSTRUCT, NUMBERS, PROGRAMS = ["alpaca_eval"], ["gsm8k", "math"], ["humaneval", "mbpp"]
EXPERTS = {
    ("TheBloke/wizardLM-7B-HF", "huggyllama/llama-7b"): INSTRUCT,
    ("WizardLMTeam/WizardMath-7B-V1.0", "NousResearch/Llama-2-7b-hf"): NUMBERS,
    ("WizardLMTeam/WizardLM-13B-V1.2", "NousResearch/Llama-2-13b-hf"): [
        *INSTRUCT,
        *NUMBERS,
        *PROGRAMS,
    ],
    ("vanillaOVO/WizardMath-13B-V1.0", "NousResearch/Llama-2-13b-hf"): NUMBERS,
    ("layoric/llama-2-13b-code-alpaca", "NousResearch/Llama-2-13b-hf"): PROGRAMS,
    ("WizardLMTeam/WizardLM-70B-V1.0", "NousResearch/Llama-2-70b-hf"): INSTRUCT,
    ("WizardLMTeam/WizardMath-70B-V1.0", "NousResearch/Llama-2-70b-hf"): NUMBERS,
    ("vanillaOVO/WizardCoder-Python-7B-V1.0", "codellama/CodeLlama-7b-Python-hf"): PROGRAMS,
    ("WizardLMTeam/WizardCoder-Python-13B-V1.0", "codellama/CodeLlama-13b-Python-hf"): PROGRAMS,
    ("WizardLMTeam/WizardCoder-Python-34B-V1.0", "codellama/CodeLlama-34b-Python-hf"): PROGRAMS,
}
WRONG = ("WizardLMTeam/WizardCoder-Python-13B-V1.0", "NousResearch/Llama-2-13b-hf")

STEPS = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{instruction}\n\n### Response: Let's think step by step."
)
PROGRAM = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n\n### Instruction:\nCreate a Python script for this problem:\n{instruction}"
    "\n\n### Response:"
)
CONVERSATION = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: {instruction} ASSISTANT:"
)
TURNS = ["Instruction:", "Instruction", "Response:", "Response"]
ASKED = {
    "gsm8k": (STEPS, 1024, TURNS),
    "math": (STEPS, 2048, TURNS),
    "humaneval": (PROGRAM, 2048, []),
    "mbpp": (PROGRAM, 2048, []),
    "alpaca_eval": (CONVERSATION, 2048, []),
}

#: Coefficients and rates behind cells of Table 1, by experts.
TABLE_1 = [
    (("math", "lm"), 1.0, 0.2),
    (("math", "lm"), 0.5, 0.6),
    (("code", "lm"), 1.0, 0.3),
    (("code", "lm"), 0.5, 0.4),
    (("math", "code"), 1.0, 0.5),
    (("math", "code"), 0.5, 0.9),
    (("math", "code", "lm"), 1.0, 0.1),
    (("math", "code", "lm"), 0.5, 0.5),
]


@pytest.fixture(scope="module")
def study():
    return read_study(CONFIG).decoders


def sources(study):
    """All sources of models, by base and expert."""
    for family in study.families.values():
        yield family.base
        for expert in family.experts.values():
            yield expert.source


@pytest.mark.slow
def test_the_jobs_are_as_many_as_the_grids_have_points(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    project = Project(tmp_path / "project", f"config/{NAME}.yaml")
    counts = job_counts(project.snakemake("--dry-run", "--quiet", "rules", "host"))

    between = len(RATES) - 1
    expert_and_base, rescaled, masked = 2, 1, 2
    alone = expert_and_base + 3 * between + rescaled + masked
    average, task_arithmetic, ties = 1, 2, 2 * 3
    none, dare = 1, 7
    merged = (average + task_arithmetic + ties) * (none + dare)
    pairs, triples = 3, 1
    experts, families = len(EXPERTS) + 1, len({base for _, base in EXPERTS}) + 1
    variants = experts * alone + (pairs + triples) * merged
    assert counts["merge"] == counts["generate"] == variants == 673

    by_benchmarks = sum(len(asked) for asked in EXPERTS.values()) + len(PROGRAMS)
    assert counts["score"] == by_benchmarks + 5 + 5 + 4 + 5
    assert counts["choose"] == experts + pairs + triples
    assert counts["fetch"] == len(DATA) + families + experts
    assert counts["import_decoder"] == families
    assert counts["decoder"] == counts["deltas"] == experts
    assert counts["questions"] == len(DATA)
    assert not (tmp_path / "hub").exists()


def test_every_model_is_one_that_is_known_and_that_anyone_may_fetch(study):
    named = {source.origin.repo for source in sources(study)}
    assert named == {name for name, known in MODELS.items() if known.named == "source"}
    assert not any(MODELS[name].gated for name in named)


def test_copies_and_gated_twins_and_the_judge_are_known_too():
    owners = "|".join({name.split("/")[0] for name in MODELS})
    # In front of sources stands `hub:`; what is left are comments and the judge.
    found = re.findall(rf"(?<!hub:)\b((?:{owners})/[\w.-]*\w)", CONFIG.read_text())
    assert set(found) == {name for name, known in MODELS.items() if known.named == "elsewhere"}


def test_no_repository_that_is_gone_is_named():
    text = CONFIG.read_text()
    assert not re.search(r"\bWizardLM/|decapoda", text)
    for gone in ("WizardMath-13B-V1.0", "WizardCoder-Python-7B-V1.0", "WizardLM-7B-V1.0"):
        assert f"WizardLMTeam/{gone}" not in text


def test_no_commit_is_invented(study):
    models = [source.origin for source in sources(study)]
    data = [benchmark.records.origin for benchmark in study.benchmarks.values()]
    assert all(origin.revision is None for origin in [*models, *data])


def test_every_source_states_its_licence(study):
    assert all(source.licence for source in sources(study))
    assert all(benchmark.records.licence for benchmark in study.benchmarks.values())


def test_every_expert_has_the_base_and_the_benchmarks_of_the_paper(study):
    found = {
        (expert.source.origin.repo, family.base.origin.repo): expert.benchmarks
        for family in study.families.values()
        for expert in family.experts.values()
    }
    assert found == EXPERTS | {WRONG: PROGRAMS}


def test_only_the_wrong_base_is_one_and_says_so(study):
    for family in study.families.values():
        pairs = {
            (each.source.origin.repo, family.base.origin.repo): each
            for each in family.experts.values()
        }
        assert family.other_base == (WRONG in pairs)
        for each, expert in pairs.items():
            assert (expert.trained_by == "continued_pretraining") == (each == WRONG)
            assert expert.trained_by is not None


def test_rates_and_seeds_are_the_papers(study):
    assert study.rates == RATES
    assert study.seeds.mask == [0]
    assert study.seeds.training == [0]


def test_prompts_lengths_and_stops_are_the_papers(study):
    for name, (prompt, max_tokens, stop) in ASKED.items():
        benchmark = study.benchmarks[name]
        asked = benchmark.full_sampling
        assert benchmark.template == prompt
        assert (asked.max_tokens, asked.stop) == (max_tokens, stop)
        assert (asked.temperature, asked.top_p, asked.samples) == (0, 1, 1)
        assert (benchmark.start, benchmark.end, benchmark.pass_at) == (0, None, [1])
    assert set(study.benchmarks) == set(ASKED)
    assert not any(
        family.chat_of(expert) for family in study.families.values() for expert in family.experts
    )


@pytest.mark.parametrize("name", DATA)
def test_of_a_data_set_the_test_questions_are_read(study, name, tmp_path):
    repository, inside, files, record = DATA[name]
    benchmark = study.benchmarks[name]
    assert (benchmark.records.origin.repo, benchmark.records.origin.subfolder) == (
        repository,
        inside,
    )
    if not files:
        path = tmp_path / inside
        path.write_text(json.dumps([record, record]))
        files = [path, path]
    else:
        path = tmp_path
        for file in files:
            for split in ("test", "train", "validation"):
                there = path / file.replace("test-", f"{split}-")
                there.parent.mkdir(exist_ok=True)
                pd.DataFrame([record]).to_parquet(there)
    asked = prepare_questions(benchmark, path)
    assert len(asked) == len(files)
    before, after = ASKED[name][0].split("{instruction}")
    assert asked["prompt"].str.startswith(before).all()
    assert asked["prompt"].str.endswith(after).all()


def test_the_judge_is_asked_as_the_papers_was_and_is_not_that_one(study):
    judge = study.benchmarks["alpaca_eval"].judge
    assert judge.style == "function"
    assert "0613" not in judge.model


@pytest.mark.parametrize(
    "sparsifier",
    [
        NoSparsifier(),
        Dare(rate=0.9),
        DropOnly(rate=0.9),
        Magnitude(rate=0.9),
        Magnitude(rate=0.7, rescale=True),
        MaskedFinetuned(rate=0.9),
        MaskedFinetuned(rate=0.1),
    ],
    ids=lambda each: each.kind,
)
def test_single_experts_are_thinned_in_every_way_of_the_paper(study, sparsifier):
    for name, family in study.families.items():
        for expert in family.experts:
            recipe = Recipe(family=name, experts=(expert,), sparsifier=sparsifier)
            assert recipe in study.sweep_recipes(name, expert, 0)


@pytest.mark.parametrize(
    ("method", "sparsifier"),
    [
        (Average(), NoSparsifier()),
        (TaskArithmetic(coefficient=1.0), NoSparsifier()),
        (Average(), Dare(rate=0.2)),
    ],
)
def test_the_merges_that_its_code_shows_as_examples_are_there(study, method, sparsifier):
    recipe = merge(("math", "lm"), method, sparsifier)
    assert recipe in study.merge_recipes("llama2-13b", ("math", "lm"), 0)


@pytest.mark.parametrize(("experts", "coefficient", "rate"), TABLE_1)
def test_the_settings_of_table_1_are_candidates(study, experts, coefficient, rate):
    recipes = study.merge_recipes("llama2-13b", experts, 0)
    method = TaskArithmetic(coefficient=coefficient)
    assert merge(experts, method, Dare(rate=rate)) in recipes
    assert merge(experts, method, NoSparsifier()) in recipes


def test_ties_retains_what_the_paper_let_it_retain(study):
    recipes = study.merge_recipes("llama2-13b", ("math", "lm"), 0)
    ties = [recipe for recipe in recipes if recipe.method.kind == "ties"]
    settings = {(each.method.coefficient, round(1 - each.method.trim, 6)) for each in ties}
    assert settings == {(each, kept) for each in (0.5, 1.0) for kept in (0.5, 0.7, 0.9)}
    assert {each.method.scope for each in ties} == {"global"}
    assert {each.sparsifier.kind for each in ties} == {"none", "dare"}


def test_only_the_experts_of_one_family_are_merged(study):
    sets = {name: study.expert_sets(name) for name in study.families}
    assert {name for name, each in sets.items() if each} == {"llama2-13b"}
    members = {frozenset(each) for each in sets["llama2-13b"]}
    pairs = [{"lm", "math"}, {"lm", "code"}, {"math", "code"}]
    assert members == {frozenset(each) for each in [*pairs, {"lm", "math", "code"}]}


def test_an_ability_belongs_to_the_expert_that_was_trained_for_it(study):
    family = study.families["llama2-13b"]
    owners = family.owners(("math", "code", "lm"))
    assert owners == dict.fromkeys(NUMBERS, "math") | dict.fromkeys(PROGRAMS, "code") | {
        "alpaca_eval": "lm"
    }


def merge(experts, method, sparsifier):
    return Recipe(family="llama2-13b", experts=experts, method=method, sparsifier=sparsifier)
