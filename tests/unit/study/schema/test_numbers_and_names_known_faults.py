"""Small wrong inputs: booleans for numbers, octal numbers, names that collide."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergegrid.errors import ConfigError
from mergegrid.recipes.merge_file import read_merge_file, recipes_of
from mergegrid.study.schema.loading import read_study
from mergegrid.study.schema.names import RESULTS
from mergegrid.yaml_files import read_yaml

RULES = Path(__file__).parents[4] / "workflow" / "rules"
NUMBERS = [
    ("rates", [0.5]),
    ("seeds.training", [0]),
    ("seeds.mask", [0]),
    ("tasks.rte.validation_fraction", 0.1),
    ("tasks.rte.test_fraction", 0.2),
    ("tasks.rte.split_seed", 0),
    ("tasks.rte.sizes", {"train": 5}),
    ("families.bert.finetune", {"learning_rate": 1e-5}),
    ("families.bert.finetune", {"epochs": 2}),
    ("families.bert.finetune", {"max_grad_norm": 1}),
    ("families.bert.experts.stsb.finetune", {"epochs": 1}),
    ("families.bert.max_length", 128),
    ("similarity", {"examples": 3}),
    ("merges.methods", [{"kind": "ties", "trim": 0.5}]),
    ("merges.methods", [{"kind": "ties", "trim": [0.5]}]),
    ("merges.methods", [{"kind": "task_arithmetic", "coefficient": [1]}]),
    ("merges.methods", [{"kind": "average", "weights": {"rte": 1}}]),
    ("merges.methods", [{"kind": "average", "weights": [{"rte": 1}]}]),
    ("merges.methods", [{"kind": "fisher", "examples": 8}]),
    ("merges.methods", [{"kind": "regmean", "ridge": 0.1}]),
    ("merges.sparsifiers", [{"kind": "dare", "rate": 0.9}]),
    ("merges.sparsifiers", [{"kind": "dare", "rate": [0.9]}]),
    ("merges.sparsifiers", [{"kind": "dare", "rate": 0.9, "seed": 1}]),
    ("merges.sparsifiers", [{"kind": "dare", "rate": 0.9, "rates": {"rte": 0.5}}]),
    ("merges.sparsifiers", [{"kind": "breadcrumbs", "rate": 0.9, "largest": 0.1}]),
    (
        "merges.sparsifiers",
        [{"kind": "dare", "rate": 0.9, "rules": [{"tensors": "norms", "rate": 0.5}]}],
    ),
]


def put(content, place, value):
    *keys, last = place.split(".")
    for key in keys:
        content = content.setdefault(key, {})
    content[last] = value


def replaced(value, wrong):
    """The same with another number for the last one."""
    if isinstance(value, dict):
        *_, last = value
        return {**value, last: replaced(value[last], wrong)}
    if isinstance(value, list):
        return [*value[:-1], replaced(value[-1], wrong)]
    return wrong


@pytest.mark.parametrize(("place", "value"), NUMBERS)
@pytest.mark.parametrize("wrong", [True, False, float("nan"), float("inf"), "nan", "-inf", "1e999"])
def test_what_is_no_number_is_refused_wherever_a_number_belongs(content, place, value, wrong, read):
    put(content, place, value)
    read(content)
    put(content, place, replaced(value, wrong))
    with pytest.raises(ConfigError, match=r"number|integer|finite") as error:
        read(content)
    assert str(error.value).startswith("study.yaml: ")
    assert str(wrong) in str(error.value)


@pytest.mark.parametrize(
    ("written", "value"), [(1, 1.0), ("1e-5", 1e-5), ("0.5", 0.5), (0.25, 0.25), ("1", 1.0)]
)
def test_numbers_may_be_whole_or_texts_as_yaml_reads_some(content, written, value, read):
    """YAML takes 1e-5 for a text."""
    content["families"]["bert"]["finetune"] = {"max_grad_norm": written}
    study = read(content)
    assert study.families["bert"].finetune.max_grad_norm == value


@given(st.booleans(), st.integers(0, 3), st.lists(st.floats(0, 1), max_size=3, unique=True))
def test_a_boolean_among_rates_is_found(boolean, place, rates):
    from mergegrid.sparsifiers.dare import Dare

    values = {f"expert{number}": rate for number, rate in enumerate(rates)}
    assert Dare(rate=0.5, rates=values).rates == values
    names = list(values)
    names.insert(place, "wrong")
    with pytest.raises(ValueError, match="expected a number"):
        Dare(rate=0.5, rates={name: values.get(name, boolean) for name in names})


@pytest.mark.parametrize("value", ["yes", "true", "True", "on", "no", "off"])
@pytest.mark.parametrize(
    "line", ["rate: {}", "rate: [0.5, {}]", "rate: 0.5, seed: {}", "rate: 0.5, rates: {{a: {}}}"]
)
def test_merge_files_take_no_boolean_for_a_number(tmp_path, line, value):
    """YAML reads all of these as booleans."""
    path = tmp_path / "merge.yaml"
    text = "base: b\nexperts: {{a: a, c: c}}\nsparsifier: {{kind: dare, {}}}\n"
    path.write_text(text.format(line.format(value)))
    with pytest.raises(ConfigError, match=r"merge\.yaml: sparsifier.*expected a number"):
        recipes_of(read_merge_file(path), path)


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("010", 8),
        ("-010", 8),
        ("00", 8),
        ("0_7", 8),
        ("1:30", 60),
        ("12:30:45", 60),
        ("1:30.5", 60),
    ],
)
@pytest.mark.parametrize("line", ["seed: {}", "seeds: [1, {}]", "a: {{b: {}}}", "{}: 1"])
def test_numbers_to_other_bases_are_refused(tmp_path, text, base, line):
    path = tmp_path / "study.yaml"
    path.write_text(f"title: x\n{line.format(text)}\n")
    with pytest.raises(ConfigError, match=rf"{text} in line 2 .*base-{base} "):
        read_yaml(path)
    path.write_text(f"title: x\n{line.format(repr(text))}\n")
    assert text in str(read_yaml(path))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("10", 10), ("-3", -3), ("0x1F", 31), ("1_000", 1000), ("0.05", 0.05),
        ("5e+1", "5e+1"), ("1.5e+1", 15.0), ("007.5", 7.5), ("08", "08"),
    ],
)  # fmt: skip
def test_other_numbers_are_read_as_before(tmp_path, text, value):
    path = tmp_path / "study.yaml"
    path.write_text(f"x: {text}\n")
    assert read_yaml(path) == {"x": value}


def made_beside_families():
    """What rules write directly below results."""
    texts = [path.read_text() for path in RULES.glob("*.smk")]
    found = {name for text in texts for name in re.findall(r"<results>/([\w.-]+)", text)}
    return sorted(found)


def test_all_that_lies_beside_families_is_reserved():
    assert set(made_beside_families()) <= set(RESULTS)
    assert "tables" in made_beside_families()


@pytest.mark.parametrize("name", [*RESULTS, "Tables", "SOURCES", "Scores.parquet"])
def test_no_family_takes_the_place_of_other_results(content, name, read):
    content["families"][name] = content["families"].pop("bert")
    with pytest.raises(ConfigError, match=rf"cannot be called {re.escape(name)}: results holds"):
        read(content)


@pytest.mark.parametrize(
    ("results", "logs", "name", "taken"),
    [
        ("results", "logs", "logs", False),
        ("results", "results/logs", "logs", True),
        ("results", "./results/sub/logs", "sub", True),
        ("results", "results/logs", "Logs", True),
        ("out/results", "out/logs", "logs", False),
        ("results", "results", "expert", False),
    ],
)
def test_no_family_takes_the_place_of_logs(content, results, logs, name, taken, read):
    paths = {"results": results, "logs": logs}
    content["families"][name] = content["families"].pop("bert")
    if taken:
        with pytest.raises(ConfigError, match=f"cannot be called {name}"):
            read(content, paths=paths)
    else:
        read(content, paths=paths)


SUMS = {"kind": "gsm8k", "generated": {"generator": "word_problems", "count": 5}}
DECODERS = {
    "benchmarks": {"sums": SUMS},
    "families": {
        "llama": {
            "base": {"source": "hub:a/b"},
            "experts": {"math": {"source": {"source": "hub:a/c"}, "benchmarks": ["sums"]}},
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ["tables", "Figures", "tasks"])
def test_nor_does_a_family_of_decoders(content, name, read):
    families = {name: DECODERS["families"]["llama"]}
    with pytest.raises(ConfigError, match=f"cannot be called {name}"):
        read(content, decoders={**DECODERS, "families": families})


def twin_tasks(content):
    content["tasks"]["RTE"] = content["tasks"]["rte"]


def twin_experts(content):
    content["families"]["bert"]["experts"]["Rte"] = {"task": "rte"}


def twin_families(content):
    content["families"]["BERT"] = content["families"]["bert"]


def twin_families_of_two_kinds(content):
    families = {"Bert": DECODERS["families"]["llama"]}
    return {**DECODERS, "families": families}


def twin_benchmarks(content):
    benchmarks = {**DECODERS["benchmarks"], "Sums": DECODERS["benchmarks"]["sums"]}
    return {**DECODERS, "benchmarks": benchmarks}


def twin_decoders(content):
    llama = DECODERS["families"]["llama"]
    experts = {**llama["experts"], "MATH": llama["experts"]["math"]}
    return {**DECODERS, "families": {"llama": {**llama, "experts": experts}}}


@pytest.mark.parametrize(
    "spoil",
    [
        twin_tasks, twin_experts, twin_families, twin_families_of_two_kinds, twin_benchmarks,
        twin_decoders,
    ],
)  # fmt: skip
def test_names_that_differ_by_case_alone_are_refused(content, spoil, read):
    decoders = spoil(content)
    with pytest.raises(ConfigError, match="differ by case alone"):
        read(content, decoders=decoders)


@pytest.mark.parametrize(
    "name", ["a+b", "a~b", "a/b", "../a", ".", "..", "", ".hidden", "-a", "a b", "ä", "a\n", "a:b"]
)
@pytest.mark.parametrize("place", ["tasks", "families", "families.bert.experts"])
def test_names_that_are_no_part_of_a_path_are_refused(content, place, name, read):
    here = content
    for key in place.split("."):
        here = here[key]
    here[name] = next(iter(here.values()))
    with pytest.raises(ConfigError, match="use only letters, digits"):
        read(content)


@pytest.mark.parametrize("name", ["mean", "method", "family", "experts", "sparsifier", "selection"])
def test_no_task_or_benchmark_is_called_as_a_column_of_the_tables(content, name, read):
    content["tasks"][name] = content["tasks"]["rte"]
    with pytest.raises(ConfigError, match=f"a task cannot be called {name}"):
        read(content)
    del content["tasks"][name]
    benchmarks = {**DECODERS["benchmarks"], name: DECODERS["benchmarks"]["sums"]}
    with pytest.raises(ConfigError, match=f"a benchmark cannot be called {name}"):
        read(content, decoders={**DECODERS, "benchmarks": benchmarks})


def test_shipped_studies_are_fine():
    for path in sorted((RULES.parents[1] / "config").glob("*.yaml")):
        read_study(path)
