"""The study of decoders: what is refused, what is chosen, and what a job is asked."""

import copy
import warnings

import pytest

from mergegrid.checkpoints.sources.source import PathOrigin, parse_origin
from mergegrid.errors import ConfigError
from mergegrid.study.schema.benchmarks import Benchmark
from mergegrid.study.schema.decoder_jobs import (
    finetune_request,
    generate_parts,
    merge_part,
    questions_of,
    score_request,
    similarity_parts,
    statistics_request,
)
from mergegrid.study.schema.finetuning import Lora
from mergegrid.study.schema.job_parameters import as_parameters, read_parameters
from mergegrid.study.schema.loading import check_paths, check_study

REMOVE = object()
WORDS = {"generator": "instructions", "count": 5}
LOCAL = {"source": "path:model", "licence": "made here"}
JUDGE = {"model": "tiny", "length_controlled": True, "length_files": {"source": "path:gamed"}}
STUDY = {
    "benchmarks": {
        "sums": {"kind": "gsm8k", "records": {"source": "path:sums.jsonl"}},
        "programs": {"kind": "mbpp", "generated": {"generator": "functions", "count": 5}},
        "hidden": {"kind": "humaneval"},
        "formats": {"kind": "instructions", "generated": WORDS},
        "talk": {"kind": "alpaca_eval", "records": {"source": "path:talk.json"}, "judge": JUDGE},
    },
    "families": {
        "llama": {
            "base": LOCAL,
            "experts": {
                "math": {"benchmarks": ["sums"], "source": LOCAL},
                "code": {"benchmarks": ["programs", "hidden"], "source": LOCAL, "chat": True},
                "chat": {
                    "benchmarks": ["formats", "sums", "talk"],
                    "data": {"generated": dict(WORDS)},
                },
            },
        }
    },
    "rates": [0.9],
    "merges": {"sets": ["pairs", "all"]},
}


@pytest.fixture
def decoders():
    """A correct study of decoders, free to be changed."""
    return copy.deepcopy(STUDY)


def read(decoders):
    return check_study({"decoders": decoders}, "study.yaml").decoders


def put(content, place, value):
    *keys, last = place.split(".")
    for key in keys:
        content = content.setdefault(key, {})
    if value is REMOVE:
        del content[last]
    else:
        content[last] = value


MATH, CHAT = "families.llama.experts.math", "families.llama.experts.chat"
SUMS = "benchmarks.sums"
#: Place, what is put there, and what the message must say.
WRONG = [
    ("benchmarks", {}, "decoders.benchmarks = {}: Dictionary should have at least 1 item"),
    ("benchmarks.a b", {"kind": "humaneval"}, "a b = 'a b': use only letters, digits"),
    ("benchmarks.mean", {"kind": "humaneval"}, "a benchmark cannot be called mean: tables have"),
    (
        "benchmarks.formats",
        REMOVE,
        "experts.chat refers to benchmark 'formats', which is not in ",
    ),
    (f"{SUMS}.kind", "gsm", "decoders.benchmarks.sums.kind = 'gsm': Input should be 'gsm8k', '"),
    (f"{SUMS}.records", REMOVE, "sums: a benchmark of kind gsm8k has 0 sources of questions; give"),
    (f"{SUMS}.generated", WORDS, "sums: a benchmark of kind gsm8k has 2 sources of questions; giv"),
    ("benchmarks.hidden", {"kind": "humaneval", "generated": WORDS, "records": LOCAL}, "has 2 sou"),
    ("benchmarks.formats.generated.generator", "x", "generated.generator = 'x': Input should be "),
    ("benchmarks.formats.generated.count", 0, "generated.count = 0: Input should be greater than"),
    (f"{SUMS}.prompt", "Solve!", "sums.prompt = 'Solve!': the prompt has no {instruction} placeho"),
    (f"{SUMS}.start", -1, "sums.start = -1: Input should be greater than or equal to 0"),
    (f"{SUMS}.end", 0, "sums.end = 0: Input should be greater than or equal to 1"),
    (f"{SUMS}.judge", {"model": "x"}, "a benchmark of kind gsm8k has no judge; `judge` belongs to"),
    ("benchmarks.talk.judge", REMOVE, "a benchmark of kind alpaca_eval needs a judge; `judge` bel"),
    (f"{SUMS}.sampling.samples", 2, "2 answers at temperature 0 are identical; set a temperature"),
    (f"{SUMS}.sampling.top_p", 0, "sampling.top_p = 0: Input should be greater than 0"),
    (f"{SUMS}.sampling.topp", 1, "sampling.topp is not a known key; did you mean 'top_p'?"),
    ("benchmarks.hidden.pass_at", [1, 10], "pass@10 needs that many answers, and there are 1; ra"),
    ("benchmarks.hidden.pass_at", [], "hidden.pass_at = []: List should have at least 1 item"),
    (
        "benchmarks.talk.sampling",
        {"samples": 2, "temperature": 1},
        "talk: alpaca_eval compares one answer to each question, and sampling.samples is 2; leave",
    ),
    (f"{MATH}.benchmarks", [], "math.benchmarks = []: List should have at least 1 item"),
    (f"{MATH}.benchmarks", ["sums", "sums"], "sums is listed more than once; list it once"),
    (f"{MATH}.source", REMOVE, "math: an expert is either ready (`source`) or fine-tuned (`data"),
    (f"{CHAT}.source", LOCAL, "chat: an expert is either ready (`source`) or fine-tuned (`data`)"),
    (f"{CHAT}.data", {}, "data: instructions need `records` or `generated`; give exactly"),
    (
        f"{CHAT}.data.records",
        LOCAL,
        "instructions need `records` or `generated`; give exactly",
    ),
    (
        f"{CHAT}.data.prompt",
        "Do it.",
        "data.prompt = 'Do it.': the prompt has no {instruction}",
    ),
    (f"{CHAT}.data.validation_fraction", 1, "validation_fraction = 1: Input should be less than"),
    (f"{CHAT}.finetune", {"lora": {"rank": 0}}, "finetune.lora.rank = 0: Input should be greater"),
    (f"{CHAT}.finetune", {"towards_base": -1}, "finetune.towards_base = -1: Input should be gr"),
    (
        f"{CHAT}.finetune",
        {"lora": {}, "towards_base": 0.1},
        "llama: experts.chat is fine-tuned with `lora` and towards_base = 0.1, but adapters have",
    ),
    (f"{MATH}.finetune", {"rank": 8}, "finetune.rank is not a known key; known keys: learning_ra"),
    (
        "families.llama.experts.base",
        {"benchmarks": ["sums"], "source": LOCAL},
        "families.llama.experts: an expert is called base, like the base itself; rename it",
    ),
    ("families.llama.dtype", "int8", "llama.dtype = 'int8': Input should be 'base', 'float32', "),
    ("families.llama.generation", {"gpus": 0}, "generation.gpus = 0: Input should be greater than"),
    ("generation.backend", "tgi", "generation.backend = 'tgi': Input should be 'auto', 'transfor"),
    ("generation.memory_fraction", 2, "memory_fraction = 2: Input should be less than or equal "),
    ("rates", [0.5, 0.5], "decoders.rates = [0.5, 0.5]: 0.5 is listed more than once; list it on"),
    ("validation_fraction", 0, "validation_fraction = 0: Input should be greater than 0"),
    ("selection", "train", "decoders.selection = 'train': Input should be 'validation' or 'test'"),
    ("merges.sets", [["math", "law"]], "merges.sets lists math, law, which no family has together"),
    (
        "merges.methods",
        [{"kind": "emr"}],
        "emr makes one model per expert; set `expert` to the one",
    ),
    (
        "merges.methods",
        [{"kind": "fisher"}],
        "fisher needs model statistics of every expert, but families.llama.experts.math is ready "
        "and has no texts to gather them from; give it `statistics`",
    ),
    (
        "merges.methods",
        [{"kind": "regmean", "arithmetic": "reference"}],
        "regmean has arithmetic reference, and the reference code has none for decoders",
    ),
    ("merges.methods", [{"kind": "slerp"}], "slerp merges 1 to 2 experts"),
    (
        "merges.sparsifiers",
        [{"kind": "dare", "rate": 0.5, "rates": {"law": 0.9}}],
        "merges.sparsifiers: dare.rates refers to law, which is not an expert",
    ),
    (
        "sweep",
        {"sparsifiers": [{"kind": "dare", "rates": {"math": 0.5}}]},
        "sweep.sparsifiers: dare.rates refers to math, which is not an expert",
    ),
]


@pytest.mark.parametrize(("place", "value", "message"), WRONG, ids=[w[2][:40] for w in WRONG])
def test_a_wrong_value_is_refused_with_its_key_and_what_would_do(decoders, place, value, message):
    put(decoders, place, value)
    with pytest.raises(ConfigError) as error:
        read(decoders)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert str(error.value).startswith("study.yaml: decoders")


def test_questions_that_end_before_they_start_are_refused(decoders):
    decoders["benchmarks"]["sums"] |= {"start": 5, "end": 5}
    with pytest.raises(ConfigError, match="empty range 5:5 of questions; `end` must exceed"):
        read(decoders)


def test_a_study_that_scores_nothing_is_refused(decoders):
    for merges in (None, {"sets": []}, {"methods": []}, {"sparsifiers": []}):
        with pytest.raises(ConfigError, match="neither a sweep nor a merge; keep `sweep`"):
            read(decoders | {"sweep": None, "merges": merges})
        assert read(decoders | {"merges": merges})
    assert read(decoders | {"sweep": None})


def test_a_message_about_a_value_that_an_expert_replaces_names_the_expert(decoders):
    put(decoders, f"{CHAT}.finetune", {"epochs": 0})
    with pytest.raises(ConfigError, match=r"experts\.chat\.finetune\.epochs = 0: Input should"):
        read(decoders)


def test_values_of_an_expert_replace_the_familys_and_those_unset_do_not(decoders):
    decoders["families"]["llama"]["finetune"] = {"epochs": 7, "batch_size": 2}
    decoders["families"]["llama"]["experts"]["chat"]["finetune"] = {"batch_size": 4}
    made = read(decoders).families["llama"]
    assert (made.finetune_of("chat").epochs, made.finetune_of("chat").batch_size) == (7, 4)
    assert made.finetune_of("math") == made.finetune


def test_adapters_of_one_expert_are_adapters_and_go_into_its_request(decoders):
    decoders["families"]["llama"]["experts"]["chat"]["finetune"] = {"lora": {"rank": 4}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study = read(decoders)
        asked = finetune_request(study, "llama", "chat", 3)
        again = type(asked).model_validate_json(asked.model_dump_json())
    assert study.families["llama"].finetune_of("chat").lora == Lora(rank=4)
    assert again == asked
    assert (again.settings.lora, again.seed) == (Lora(rank=4), 3)


def test_the_engine_of_a_family_is_the_studys_with_its_own_values_on_top(decoders):
    decoders["generation"] = {"dtype": "bfloat16", "gpus": 2}
    other = decoders["families"]["llama"] | {"generation": {"gpus": 4}}
    decoders["families"]["large"] = other
    study = read(decoders)
    assert study.generation_of("llama") == study.generation
    large = study.generation_of("large")
    assert (large.gpus, large.dtype) == (4, "bfloat16")


def test_an_ability_that_two_experts_have_is_the_firsts(decoders):
    family = read(decoders).families["llama"]
    assert family.owners(("math", "chat")) == {
        "sums": "math",
        "formats": "chat",
        "talk": "chat",
    }
    assert family.owners(("chat", "math"))["sums"] == "chat"


def test_benchmarks_are_asked_as_their_owner_is(decoders):
    study = read(decoders)
    recipes = study.merge_recipes("llama", ("math", "code"), 0)
    asks = generate_parts(study, "llama", recipes)["asks"]
    assert [(ask.benchmark, ask.chat) for ask in asks] == [
        ("sums", False),
        ("programs", True),
        ("hidden", True),
    ]
    decoders["families"]["llama"]["chat"] = True
    decoders["families"]["llama"]["experts"]["code"]["chat"] = False
    asks = generate_parts(read(decoders), "llama", recipes)["asks"]
    assert [ask.chat for ask in asks] == [True, False, False]


def test_an_expert_alone_is_asked_with_its_sampling_and_merges_as_the_benchmark_has_it(decoders):
    put(decoders, "benchmarks.sums.sampling", {"temperature": 0.6, "top_p": 0.95, "top_k": 20})
    put(decoders, f"{MATH}.sampling", {"temperature": 0.7, "top_p": 0.8})
    study = read(decoders)
    alone = generate_parts(study, "llama", study.sweep_recipes("llama", "math", 0))
    merged = generate_parts(study, "llama", study.merge_recipes("llama", ("math", "code"), 0))
    values = {
        name: [(each.temperature, each.top_p, each.top_k) for each in sampled]
        for name, sampled in (
            ("alone", [ask.sampling for ask in alone["asks"]]),
            ("merged", [a.sampling for a in merged["asks"] if a.benchmark == "sums"]),
        )
    }
    assert values == {"alone": [(0.7, 0.8, 20)], "merged": [(0.6, 0.95, 20)]}
    # A greedy benchmark stays greedy.
    put(decoders, "benchmarks.sums.sampling", {})
    study = read(decoders)
    (ask,) = generate_parts(study, "llama", study.sweep_recipes("llama", "math", 0))["asks"]
    assert ask.sampling.temperature == 0


def test_merges_have_the_files_of_the_chosen_expert_and_models_alone_their_own(decoders):
    put(decoders, "families.llama.files_of", "code")
    study = read(decoders)
    pair, other = ("math", "code"), ("math", "chat")
    recipes = {
        "pair": study.merge_recipes("llama", pair, 0)[0],
        "without it": study.merge_recipes("llama", other, 0)[0],
        "math": study.sweep_recipes("llama", "math", 0)[0],
        "base": study.sweep_recipes("llama", "math", 0)[1],
    }
    files = {}
    for name, recipe in recipes.items():
        output = merge_part(study, recipe).output
        assert output.config == output.tokenizer
        files[name] = output.config
    assert files == {"pair": "code", "without it": "base", "math": "math", "base": "base"}
    put(decoders, "families.llama.files_of", "nobody")
    with pytest.raises(ConfigError, match="files_of = 'nobody' is not among the experts"):
        read(decoders)
    put(decoders, "families.llama.files_of", "code")
    put(decoders, "generation.one_engine", True)
    with pytest.raises(ConfigError, match="files_of gives variants different configs"):
        read(decoders)


@pytest.mark.parametrize("sets", [["pairs"], ["all", "pairs"], [["code", "math"], "pairs"]])
def test_every_variant_is_asked_for_once(decoders, sets):
    decoders["rates"] = [0, 0.9]
    decoders["merges"] = {
        "sets": sets,
        "methods": [{"kind": "average"}, {"kind": "ties", "trim": [0.5, 0.8]}],
        "sparsifiers": [{"kind": "none"}, {"kind": "dare"}, {"kind": "dare", "rate": 0.9}],
    }
    study = read(decoders)
    sets = study.expert_sets("llama")
    assert len({frozenset(each) for each in sets}) == len(sets)
    for recipes in (
        study.sweep_recipes("llama", "math", 0),
        *(study.merge_recipes("llama", experts, 0) for experts in sets),
    ):
        assert len({recipe.digest for recipe in recipes}) == len(recipes)
        assert len({recipe.slug for recipe in recipes}) == len(recipes)
    # Three settings of methods, each behind nothing and behind DARE at 0.9.
    assert len(recipes) == 3 * 2
    scored = score_request(study, "llama", "sums", recipes * 2).recipes
    assert scored == recipes


AVERAGE, NONE = {"kind": "average"}, {"kind": "none"}
#: Methods, sparsifiers, and whether there is anything to choose.
CHOICES = [
    ([AVERAGE], [NONE, {"kind": "dare"}], False),
    ([AVERAGE, {"kind": "ties"}], [NONE, {"kind": "dare"}, {"kind": "magnitude"}], False),
    ([AVERAGE], [{"kind": "dare", "seed": [0, 1, 2]}], False),
    ([AVERAGE], [{"kind": "dare", "rate": [0.5, 0.9]}], True),
    ([AVERAGE], [{"kind": "magnitude", "scope": ["global", "per_tensor"]}], True),
    ([{"kind": "ties", "trim": [0.5, 0.8]}], [NONE], True),
    # At rate 0 all is kept, which is the kind `none`.
    ([AVERAGE], [NONE, {"kind": "dare", "rate": [0, 0.9]}], False),
    # Two grids of one kind are compared with each other.
    ([{"kind": "ties"}, {"kind": "ties", "trim": 0.5}], [NONE], True),
    ([AVERAGE], [{"kind": "dare", "rate": 0.5}, {"kind": "dare", "rate": 0.9}], True),
    ([AVERAGE], [{"kind": "dare", "rate": 0.9}, {"kind": "dare", "rate": 0.9}], False),
]


@pytest.mark.parametrize(("methods", "sparsifiers", "chooses"), CHOICES)
def test_there_is_a_choice_where_one_kind_has_several_settings(
    decoders, methods, sparsifiers, chooses
):
    decoders["merges"] = {"methods": methods, "sparsifiers": sparsifiers}
    study = read(decoders)
    assert study.chooses is chooses
    merged = score_request(
        study, "llama", "sums", study.merge_recipes("llama", ("math", "code"), 0)
    )
    alone = score_request(study, "llama", "sums", study.sweep_recipes("llama", "math", 0))
    # Single experts are reported on the questions that merges are.
    fraction = 0.1 if chooses else 0.0
    assert merged.validation_fraction == alone.validation_fraction == fraction
    assert (merged.selection, alone.selection) == ("validation" if chooses else "none", "none")


def test_on_the_test_split_nothing_is_held_out(decoders):
    decoders["merges"]["sparsifiers"] = [{"kind": "dare", "rate": [0.5, 0.9]}]
    study = read(decoders | {"selection": "test"})
    asked = score_request(study, "llama", "sums", study.merge_recipes("llama", ("math", "code"), 0))
    assert (asked.validation_fraction, asked.selection) == (0.0, "test")
    assert not read(decoders | {"merges": None}).chooses


@pytest.mark.parametrize("selection", ["validation", "test"])
def test_texts_that_a_factor_is_chosen_by_are_not_scored(decoders, selection):
    decoders["merges"]["sparsifiers"] = [{"kind": "dare", "rate": 0.9}]
    decoders |= {"selection": selection, "similarity": {"split": "validation"}}
    study = read(decoders)
    assert not study.chooses
    read_texts = similarity_parts(study, "llama", "math", 0)["split"]
    assert (read_texts.split, read_texts.validation_fraction) == ("validation", 0.1)
    recipes = study.sweep_recipes("llama", "math", 0)
    assert score_request(study, "llama", "sums", recipes).validation_fraction == 0.1
    decoders["similarity"] = {}
    assert score_request(read(decoders), "llama", "sums", recipes).validation_fraction == 0.0


def requests(study):
    """Everything that the jobs of family `llama` are asked, as their texts."""
    found = {}
    for seed in study.seeds.training:
        found["finetune", seed] = finetune_request(study, "llama", "chat", seed)
        groups = [(name,) for name in ("math", "code", "chat")] + study.expert_sets("llama")
        for experts in groups:
            recipes = (
                study.sweep_recipes("llama", experts[0], seed)
                if len(experts) == 1
                else study.merge_recipes("llama", experts, seed)
            )
            found["generate", experts] = generate_parts(study, "llama", recipes)
            for recipe in recipes:
                found["merge", recipe.digest] = merge_part(study, recipe)
            for name in study.families["llama"].owners(experts):
                found["questions", name] = questions_of(study.benchmarks[name])
                found["score", experts, name] = score_request(study, "llama", name, recipes)
    return {key: as_parameters(request=request) for key, request in found.items()}


OTHER = {
    "base": {"source": "path:other"},
    "generation": {"gpus": 4},
    "experts": {"law": {"benchmarks": ["more"], "source": LOCAL}},
}
MORE = {"kind": "humaneval", "pass_at": [1, 2], "sampling": {"samples": 2, "temperature": 0.8}}


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"benchmarks.more": MORE, "families.other": OTHER}, set()),
        ({"harness": {"tasks": ["arc_easy"]}}, set()),
        ({"families.llama.base.licence": "new", f"{MATH}.source.licence": "new"}, set()),
        ({f"{SUMS}.records.licence": "new"}, set()),
        ({"benchmarks.talk.records.licence": "new"}, set()),
        ({"benchmarks.talk.judge.length_files.licence": "new"}, set()),
        ({"benchmarks.talk.judge.model": "other"}, {("score", "talk")}),
        ({f"{SUMS}.end": 9}, {("questions", "sums"), ("score", "sums")}),
        ({f"{SUMS}.sampling.max_tokens": 9}, {("generate", None), ("score", "sums")}),
        ({"generation.batch_size": 9}, {("generate", None)}),
    ],
    ids=lambda each: ", ".join(sorted(map(str, each)))[:60],
)
def test_a_request_changes_with_what_it_depends_on_alone(decoders, changes, again):
    decoders["benchmarks"]["talk"]["judge"]["length_files"]["licence"] = "old"
    before = requests(read(decoders))
    for place, value in changes.items():
        put(decoders, place, value)
    after = requests(read(decoders))
    assert set(before) <= set(after)
    differing = {
        (key[0], key[-1] if key[0] in ("questions", "score") else None)
        for key in before
        if before[key] != after[key]
    }
    assert differing == again


def test_more_or_longer_answers_and_other_metrics_ask_no_other_questions(decoders):
    hidden = decoders["benchmarks"]["hidden"]
    before = questions_of(read(decoders).benchmarks["hidden"])
    hidden |= {"pass_at": [1, 2], "sampling": {"samples": 2, "temperature": 1, "max_tokens": 9}}
    assert questions_of(read(decoders).benchmarks["hidden"]) == before
    hidden["prompt"] = "{instruction}"
    assert questions_of(read(decoders).benchmarks["hidden"]) != before


def test_a_questions_request_is_read_again_by_its_job(decoders):
    study = read(decoders)
    for name in study.benchmarks:
        benchmark = questions_of(study.benchmarks[name])
        text = as_parameters(benchmark=benchmark)
        assert read_parameters(text, benchmark=Benchmark) == (benchmark,)


def test_in_one_engine_the_request_holds_the_merges(decoders):
    study = read(decoders)
    recipes = study.merge_recipes("llama", ("math", "code"), 0)
    assert generate_parts(study, "llama", recipes)["merges"] == []
    decoders["families"]["llama"] |= {"generation": {"one_engine": True}, "dtype": "float16"}
    merges = generate_parts(read(decoders), "llama", recipes)["merges"]
    assert [each.recipe for each in merges] == recipes
    assert {each.output.dtype for each in merges} == {"float16"}


def test_experts_of_another_base_are_merged_only_on_demand(decoders):
    recipe = read(decoders).merge_recipes("llama", ("math", "code"), 0)[0]
    assert merge_part(read(decoders), recipe).homologous
    decoders["families"]["llama"]["other_base"] = True
    assert not merge_part(read(decoders), recipe).homologous


def test_unset_prompts_and_limits_are_the_papers_and_set_ones_the_users(decoders):
    before = read(decoders).benchmarks["sums"]
    assert before.template.endswith("### Response: Let's think step by step.")
    assert (before.full_sampling.max_tokens, before.full_sampling.stop[0]) == (1024, "Instruction:")
    decoders["benchmarks"]["sums"] |= {
        "prompt": "{instruction}?",
        "sampling": {"max_tokens": 3, "stop": []},
    }
    after = read(decoders).benchmarks["sums"]
    assert after.template == "{instruction}?"
    assert (after.full_sampling.max_tokens, after.full_sampling.stop) == (3, [])


def test_experts_learn_in_the_prompt_they_are_asked_in_unless_told_otherwise(decoders):
    study = read(decoders)
    asked = finetune_request(study, "llama", "chat", 0)
    assert asked.prompt == study.benchmarks["formats"].template
    decoders["families"]["llama"]["experts"]["chat"]["data"]["prompt"] = "Q: {instruction}"
    assert finetune_request(read(decoders), "llama", "chat", 0).prompt == "Q: {instruction}"


def test_local_files_that_are_not_there_are_told_with_their_key(decoders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = {
        "sums.jsonl": "decoders.benchmarks.sums.records",
        "talk.json": "decoders.benchmarks.talk.records",
        "gamed": "decoders.benchmarks.talk.judge.length_files",
        "model": "decoders.families.llama.base",
        "data": "decoders.families.llama.experts.chat.data.records",
    }
    decoders["families"]["llama"]["experts"]["chat"]["data"] = {"records": {"source": "path:data"}}
    study = check_study({"decoders": decoders}, "study.yaml")
    for name in wanted:
        (tmp_path / name).mkdir()
    check_paths(study)
    for name, key in wanted.items():
        (tmp_path / name).rmdir()
        with pytest.raises(ConfigError) as error:
            check_paths(study)
        assert f"{key}.source = 'path:{name}': {tmp_path / name} does not exist" in str(error.value)
        (tmp_path / name).mkdir()


def test_a_path_below_an_environment_variable_is_that_of_the_moment(monkeypatch, tmp_path):
    origin = parse_origin("path:${MERGEGRID_TEST_DATA}/gsm8k/test.jsonl")
    assert origin == PathOrigin("${MERGEGRID_TEST_DATA}/gsm8k/test.jsonl")
    monkeypatch.setenv("MERGEGRID_TEST_DATA", str(tmp_path))
    assert origin.path == f"{tmp_path}/gsm8k/test.jsonl"
    assert parse_origin("path:plain/folder").path == "plain/folder"


def test_an_unset_variable_is_named_and_only_where_the_path_is_needed(decoders, monkeypatch):
    monkeypatch.delenv("MERGEGRID_TEST_DATA", raising=False)
    text = "path:${MERGEGRID_TEST_DATA}/sums.jsonl"
    decoders["benchmarks"]["sums"]["records"] = {"source": text}
    study = check_study({"decoders": decoders}, "study.yaml")
    with pytest.raises(ConfigError) as error:
        check_paths(study)
    assert str(error.value) == (
        f"source {text}: the environment variable MERGEGRID_TEST_DATA is not set; "
        "set it to the intended folder"
    )


@pytest.fixture
def calibrated(decoders):
    """The study with methods that need statistics, and texts for the ready experts."""
    experts = decoders["families"]["llama"]["experts"]
    texts = {"source": "path:texts.jsonl", "licence": "made here"}
    experts["math"]["statistics"] = {"records": texts, "texts": "body"}
    experts["code"]["statistics"] = {"generated": WORDS, "prompt": "Do: {instruction}"}
    decoders["merges"]["methods"] = [{"kind": "fisher", "examples": [2, 4]}, {"kind": "average"}]
    return decoders


def test_statistics_are_gathered_from_texts_or_from_the_training_examples(calibrated):
    study = read(calibrated)
    requests = {name: statistics_request(study, "llama", name) for name in ("math", "code", "chat")}
    files = [statistic.file for statistic in requests["math"].statistics]
    assert files == ["fisher~exact~2.safetensors", "fisher~exact~4.safetensors"]
    assert requests["code"].prompt == "Do: {instruction}"
    assert requests["code"].chat
    # Its first benchmark's.
    assert requests["chat"].prompt == study.benchmarks["formats"].template
    assert requests["chat"].max_length == 1024


def test_texts_are_fetched_where_a_method_needs_them(calibrated):
    keys = {source.name: source.key for source in read(calibrated).sources()}
    assert keys["statistics~llama~math"] == "families.llama.experts.math.statistics.records"
    assert "statistics~llama~code" not in keys
    calibrated["merges"]["methods"] = [{"kind": "average"}]
    assert "statistics~llama~math" not in {source.name for source in read(calibrated).sources()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": [{"kind": "fisher", "examples": 5}]}, "chat has at most 4 to gather"),
        ({"vocabulary": "union"}, "llama.vocabulary is union, but fisher merges the rows of the"),
        ({"statistics": {"generated": WORDS, "texts": "body"}}, "`texts` is a column of `records`"),
        ({"statistics": {"texts": "body"}}, "need `records` or `generated`"),
    ],
)
def test_statistics_that_cannot_be_gathered_are_refused(calibrated, change, message):
    family = calibrated["families"]["llama"]
    if "methods" in change:
        calibrated["merges"] |= change
    elif "statistics" in change:
        family["experts"]["math"] |= change
    else:
        family |= change
    with pytest.raises(ConfigError, match=message):
        read(calibrated)
