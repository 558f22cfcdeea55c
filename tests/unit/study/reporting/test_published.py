"""Published numbers: matched with the names of a study, and compared with its scores."""

import json
from pathlib import Path

import pytest

from mergegrid.errors import ConfigError
from mergegrid.study.reporting.published import published
from mergegrid.study.schema.published import read_published
from mergegrid.study.schema.published_cells import published_cells, published_gains
from mergegrid.study.schema.study import Study
from mergegrid.study.scoring.scores import score_frame

FILE = Path(__file__).parents[4] / "resources" / "published.csv"
NAMES = {"lm": ["LM"], "math": ["Math", "WizardMath-13B"]}
SOURCE = {"source": "hub:a/b"}


def study(names=NAMES, kind="gsm8k", **more):
    experts = {name: {"source": SOURCE, "benchmarks": ["questions"]} for name in ("lm", "math")}
    family = {"base": SOURCE, "experts": experts, "published": {"experts": names}}
    benchmark = {"kind": kind, "records": SOURCE}
    merges = {
        "sets": ["all"],
        "methods": [{"kind": "task_arithmetic"}],
        "sparsifiers": [{"kind": "none"}, {"kind": "dare", "rate": [0.5, 0.7]}],
    }
    decoders = {
        "benchmarks": {"questions": benchmark}, "families": {"llama": family}, "merges": merges,
        **more,
    }  # fmt: skip
    return Study.model_validate({"decoders": decoders})


def cells(**expected):
    actual = published_cells(study(), FILE)
    return [row for row in actual if all(row[name] == value for name, value in expected.items())]


def row(**values):
    built = {
        **{"study": "merges", "family": "llama", "experts": "lm+math", "training_seed": 0},
        **{"sparsifier": "dare", "rate": 0.5, "mask_seed": 0, "method": "task_arithmetic"},
        **{"settings": '{"method":{"coefficient":0.5},"sparsifier":{}}', "task": "questions"},
        **{"split": "test", "metric": "accuracy", "primary": True, "stderr": 0.01, "n": 1319},
        **{"selected": True, "selection": "validation", "recipe": "slug", "engine": "e"},
        **{"inputs_digest": "x", "head": "math"},
        **values,
    }
    return {"recipe_digest": json.dumps(built), **built}


def test_a_cell_has_the_names_of_the_study_for_its_models():
    (cell,) = cells(experts="lm+math", sparsifier="dare", method="task_arithmetic")
    assert cell["models"] == "LM+Math"
    assert (cell["family"], cell["task"]) == ("llama", "questions")
    assert cell["published"] == 0.6626
    assert (cell["rate"], cell["scale"]) == (0.6, 0.5)


def test_every_rate_of_a_curve_is_a_cell_of_its_expert():
    curve = cells(models="WizardMath-13B", sparsifier="dare")
    assert {cell["experts"] for cell in curve} == {"math"}
    assert len(curve) == 10


def test_other_kinds_of_benchmarks_and_unmapped_models_are_excluded():
    actual = published_cells(study(), FILE)
    assert {cell["experts"] for cell in actual} == {"lm", "math", "lm+math"}
    assert published_cells(study(kind="mbpp"), FILE) != []
    assert all("Code" not in cell["models"] for cell in actual)


def test_a_study_without_mapped_models_needs_no_file():
    assert published_cells(study(names={}), FILE.parent / "nowhere.csv") == []
    assert published_gains(study(), FILE.parent / "nowhere.csv") == []


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"'Maths' is not among the models of .*WizardMath-7B"):
        published_cells(study(names={"math": ["Maths"]}), FILE)


def test_an_expert_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match=r"published.experts has 'code', which is not among"):
        study(names={"code": ["Code"]})


def test_both_values_are_shown_with_the_known_differences():
    scores = score_frame([row(value=0.60), row(value=0.64, mask_seed=1)])
    table = published(scores, published_cells(study(), FILE))
    assert len(table) == 1
    actual = table.iloc[0]
    assert actual["mean"] == pytest.approx(0.62)
    assert actual["runs"] == 2
    assert actual["difference"] == pytest.approx(0.62 - 0.6626)
    assert actual["differs"] == "their rate is 0.6; ours on the 90 % not held out"
    assert actual["trust"] == "high"


def test_selection_on_test_and_unpublished_settings_are_listed():
    scores = score_frame([row(value=0.6, sparsifier="none", rate=0, selection="test")])
    cells = published_cells(study(selection="test"), FILE)
    (actual,) = published(scores, cells).itertuples()
    assert actual.differs == (
        "their setting of the method is not published; ours was chosen on the test split"
    )


@pytest.mark.parametrize(
    ("settings", "differs"),
    [
        ({}, "ours on the 90 % not held out"),
        ({"validation_fraction": 0.25}, "ours on the 75 % not held out"),
        ({"selection": "test"}, ""),
        ({"merges": None}, ""),
    ],
)
def test_held_out_questions_are_listed_for_single_experts_too(settings, differs):
    scores = score_frame(
        [row(study="sweep", experts="math", method="average", value=0.6, rate=0.9)]
    )
    (actual,) = published(scores, published_cells(study(**settings), FILE)).itertuples()
    assert actual.differs == differs


def test_a_sweep_is_compared_at_the_same_rate_only():
    sweep = {"study": "sweep", "experts": "math", "method": "average"}
    scores = score_frame([row(**sweep, value=0.6, rate=0.9), row(**sweep, value=0.5, rate=0.55)])
    (actual,) = published(scores, published_cells(study(), FILE)).itertuples()
    assert (actual.rate, actual.published, actual.trust) == ("0.9", 0.641, "figure")


def test_the_coefficient_of_three_models_is_no_fact_as_it_may_be_that_of_an_average():
    known = [
        cell for cell in read_published(FILE)
        if (cell.models, cell.sparsifier, cell.rate) == ("LM+Math+Code", "dare", 0.5)
    ]  # fmt: skip
    assert [(cell.dataset, cell.scale) for cell in known] == [("gsm8k", None), ("math", None)]


def test_average_changes_are_those_of_mapped_families():
    spec = {"base": SOURCE, "experts": {"a": {}}, "published": {"pairs": "BERT and RoBERTa"}}
    task = {
        "train": SOURCE, "test": SOURCE, "text": ["t"], "label": "l", "metric": "accuracy",
        "labels": ["no", "yes"],
        "validation_fraction": 0.1,
    }  # fmt: skip
    built = Study.model_validate({"encoders": {"tasks": {"a": task}, "families": {"bert": spec}}})
    gains = {gain["method"]: gain["value"] for gain in published_gains(built, FILE)}
    assert gains == {
        "average": 0.58, "task_arithmetic": 0.36, "fisher": 0.37, "regmean": -0.03, "ties": 0.84,
    }  # fmt: skip


def encoders(metric="accuracy"):
    """Four of FusionBench's tasks would be another merge, so all seven are here."""
    names = ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2"]
    task = {"train": SOURCE, "test": SOURCE, "text": ["t"], "labels": [0, 1], "metric": metric}
    merges = {
        "sets": ["all"],
        "methods": [{"kind": "task_arithmetic", "coefficient": [0.3, 0.5]}],
        "sparsifiers": [{"kind": "none"}],
    }
    family = {
        "base": SOURCE,
        "experts": {name: {"source": SOURCE} for name in names},
        "published": {
            "base": "gpt2 base",
            "experts": {name: [f"gpt2_{name}"] for name in names},
        },
    }
    part = {
        "tasks": dict.fromkeys(names, task),
        "families": {"gpt2": family},
        "merges": merges,
        "selection": "test",
    }
    return Study.model_validate({"encoders": part})


def encoder_row(**values):
    experts = "cola+mnli+mrpc+qnli+qqp+rte+sst2"
    named = {"family": "gpt2", "experts": experts, "task": "cola", "head": "cola", "engine": ""}
    plain = {"sparsifier": "none", "rate": 0.0, "mask_seed": None, "selection": "test"}
    return row(**{**named, **plain, **values})


def test_merges_of_encoders_stand_beside_the_same_coefficient():
    scores = score_frame(
        [
            encoder_row(
                value=value,
                selected=coefficient == 0.5,
                settings=json.dumps({"method": {"coefficient": coefficient}, "sparsifier": {}}),
            )
            for coefficient, value in ((0.3, 0.6), (0.5, 0.7))
        ]
    )
    table = published(scores, published_cells(encoders(), FILE)).set_index("published")
    # The curve has ten coefficients: two are measured here, beside the others stands the selected.
    assert len(table) == 10
    curve = {cell["scale"]: cell["published"] for cell in cells_of_curve()}
    for coefficient, mean in ((0.3, 0.6), (0.5, 0.7)):
        line = table.loc[[curve[coefficient]]].query("differs == ''")
        assert line["mean"].tolist() == [mean]
    assert (table["differs"] != "").sum() == 8


def cells_of_curve():
    return [
        cell
        for cell in published_cells(encoders(), FILE)
        if (cell["method"], cell["task"]) == ("task_arithmetic", "cola")
    ]


def test_a_base_is_an_expert_without_deltas():
    alone = {"study": "sweep", "experts": "cola", "method": "average"}
    base = {"sparsifier": "drop_only", "rate": 1.0, "mask_seed": 0}
    scores = score_frame(
        [encoder_row(**alone, value=0.75), encoder_row(**alone, **base, value=0.3)]
    )
    table = published(scores, published_cells(encoders(), FILE)).set_index("models")
    assert table["mean"].to_dict() == {"gpt2 base": 0.3, "gpt2_cola": 0.75}
    assert table["published"].to_dict() == {"gpt2 base": 0.3087, "gpt2_cola": 0.768}


def test_tasks_with_another_metric_are_not_compared():
    assert published_cells(encoders("matthews"), FILE) == []


WRITTEN = (
    "table,models,method,sparsifier,rate,scale,rescale,dataset,metric,unit,value,source,trust\n"
)
LINES = (
    "single,none,,,,gsm8k,accuracy,percent,50.0",
    "single,none,,,,gsm8k,tokens,tokens,120",
    "single,none,,,,gsm8k,pass@4,percent,70.0",
    "single,none,,,,mmlu,accuracy,percent,40.0",
    "dpo (trained),none,,,,gsm8k,accuracy,percent,51.0",
)


@pytest.fixture
def file(tmp_path):
    """Numbers of one model, and of averages of two."""
    lines = [f"first,LM,{line},a paper,high\n" for line in LINES]
    for weight, value in ((0.3, 61.0), (0.5, 62.0)):
        average = f"average,none,,{weight},,gsm8k,accuracy,percent,{value}"
        lines += [f"{table},LM+Math,{average},a paper,high\n" for table in ("first", "second")]
    path = tmp_path / "published.csv"
    path.write_text(WRITTEN + "".join(lines))
    return path


def with_family(spec, benchmark=(), **more):
    """The study above, with other settings of its family and its benchmark."""
    content = study(**more).model_dump(exclude_unset=True)
    decoders = content["decoders"]
    decoders["families"]["llama"]["published"] = spec
    decoders["benchmarks"]["questions"].update(benchmark)
    return Study.model_validate(content)


def found(built, file, *names):
    return [tuple(cell[name] for name in names) for cell in published_cells(built, file)]


def test_only_the_same_metric_is_compared(file):
    lm = {"experts": {"lm": ["LM"]}}
    metrics = ("task", "metric", "compared", "published")
    assert found(with_family(lm), file, *metrics) == [("questions", "accuracy", "accuracy", 0.5)]
    lengths = with_family(lm, {"lengths": True})
    assert ("questions", "tokens", "tokens", 120) in found(lengths, file, *metrics)
    harness = with_family(lm, harness={"tasks": ["mmlu"]})
    assert ("mmlu", "accuracy", "acc,none", 0.4) in found(harness, file, *metrics)


def test_a_benchmark_with_the_name_of_a_published_one_is_not_another_of_its_kind(file):
    benchmarks = {"mmlu": {"kind": "gsm8k", "records": SOURCE}}
    experts = {name: {"source": SOURCE, "benchmarks": ["mmlu"]} for name in ("lm", "math")}
    family = {"base": SOURCE, "experts": experts, "published": {"experts": {"lm": ["LM"]}}}
    part = {"benchmarks": benchmarks, "families": {"llama": family}}
    built = Study.model_validate({"decoders": part})
    assert found(built, file, "task", "published") == [("mmlu", 0.4)]


def test_numbers_come_from_the_tables_that_a_family_names(file):
    both = {"experts": {"lm": ["LM"], "math": ["Math"]}}
    merged = {cell[0] for cell in found(with_family(both), file, "table")}
    assert merged == {"first", "second"}
    only = with_family({**both, "tables": ["second"]})
    assert found(only, file, "table", "merged") == [("second", True)] * 2
    with pytest.raises(ConfigError, match=r"tables: 'third' is not among the tables .*first, sec"):
        published_cells(with_family({**both, "tables": ["third"]}), file)


def test_an_average_stands_beside_the_same_weight_of_the_last_model(file):
    both = {"experts": {"lm": ["LM"], "math": ["Math"]}, "tables": ["second"]}
    built = with_family(both, selection="test")
    same = {"sparsifier": "none", "rate": 0, "method": "average", "selection": "test"}
    settings = {"lm": 1.4, "math": 0.6}
    scores = score_frame(
        [
            row(**same, value=0.58, settings='{"method":{},"sparsifier":{}}', selected=False),
            row(
                **same,
                value=0.60,
                settings=json.dumps({"method": {"weights": settings}, "sparsifier": {}}),
            ),
        ]
    )
    table = published(scores, published_cells(built, file)).set_index("published")
    assert table["mean"].to_dict() == {0.61: 0.60, 0.62: 0.58}
    assert (table["differs"] == "").all()


def test_the_checkpoint_of_a_published_merge_is_compared_as_it_is(file):
    merge = {"models": "LM+Math", "method": "average"}
    with pytest.raises(ValueError, match=r"published.merges has 'code', which is not among"):
        with_family({"merges": {"code": merge}})
    built = with_family({"merges": {"lm": merge}, "differs": {"questions": "asked otherwise"}})
    scores = score_frame([row(study="sweep", experts="lm", method="average", value=0.6,
                              sparsifier="none", rate=0)])  # fmt: skip
    table = published(scores, published_cells(built, file))
    # Both weights that are published, in both tables.
    assert table["models"].tolist() == ["LM+Math"] * 4
    assert set(table["differs"]) == {"asked otherwise; ours on the 90 % not held out"}


def test_scores_of_the_harness_are_compared_though_nothing_selects_them(file):
    built = with_family({"experts": {"lm": ["LM"]}}, harness={"tasks": ["mmlu"]})
    scores = score_frame(
        [
            row(study="sweep", experts="lm", method="average", task="mmlu", metric="acc,none",
                sparsifier="none", rate=0, primary=False, selected=False, value=0.41),
        ]
    )  # fmt: skip
    (actual,) = published(scores, published_cells(built, file)).itertuples()
    assert (actual.mean, actual.published, actual.differs) == (0.41, 0.4, "")
