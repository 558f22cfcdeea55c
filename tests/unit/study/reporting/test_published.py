"""Published numbers: matched with a study's own names, and beside its scores."""

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


def cells(**wanted):
    found = published_cells(study(), FILE)
    return [each for each in found if all(each[name] == value for name, value in wanted.items())]


def row(**values):
    made = {
        **{"study": "merges", "family": "llama", "experts": "lm+math", "training_seed": 0},
        **{"sparsifier": "dare", "rate": 0.5, "mask_seed": 0, "method": "task_arithmetic"},
        **{"settings": '{"method":{"coefficient":0.5},"sparsifier":{}}', "task": "questions"},
        **{"split": "test", "metric": "accuracy", "primary": True, "stderr": 0.01, "n": 1319},
        **{"selected": True, "selection": "validation", "recipe": "slug", "engine": "e"},
        **{"inputs_digest": "x", "head": "math"},
        **values,
    }
    return {"recipe_digest": json.dumps(made), **made}


def test_a_cell_is_found_under_our_names_for_its_models():
    (cell,) = cells(experts="lm+math", sparsifier="dare", method="task_arithmetic")
    assert cell["models"] == "LM+Math"
    assert (cell["family"], cell["task"]) == ("llama", "questions")
    assert cell["published"] == 0.6626
    assert (cell["rate"], cell["scale"]) == (0.6, 0.5)


def test_every_rate_of_a_curve_is_a_cell_of_its_expert():
    curve = cells(models="WizardMath-13B", sparsifier="dare")
    assert {each["experts"] for each in curve} == {"math"}
    assert len(curve) == 10


def test_benchmarks_of_other_kinds_and_models_without_our_name_are_left_out():
    found = published_cells(study(), FILE)
    assert {each["experts"] for each in found} == {"lm", "math", "lm+math"}
    assert published_cells(study(kind="mbpp"), FILE) != []
    assert all("Code" not in each["models"] for each in found)


def test_a_study_that_names_nothing_needs_no_file():
    assert published_cells(study(names={}), FILE.parent / "nowhere.csv") == []
    assert published_gains(study(), FILE.parent / "nowhere.csv") == []


def test_a_wrong_name_is_said_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"'Maths' is not among the models of .*WizardMath-7B"):
        published_cells(study(names={"math": ["Maths"]}), FILE)


def test_an_expert_that_does_not_exist_is_said():
    with pytest.raises(ValueError, match=r"published.experts has 'code', which is not among"):
        study(names={"code": ["Code"]})


def test_ours_stands_beside_theirs_with_what_differs():
    scores = score_frame([row(value=0.60), row(value=0.64, mask_seed=1)])
    table = published(scores, published_cells(study(), FILE))
    assert len(table) == 1
    found = table.iloc[0]
    assert found["mean"] == pytest.approx(0.62)
    assert found["runs"] == 2
    assert found["difference"] == pytest.approx(0.62 - 0.6626)
    assert found["differs"] == "their rate is 0.6; ours on the 90 % not held out"
    assert found["trust"] == "high"


def test_a_choice_on_the_test_split_and_unknown_settings_are_said():
    scores = score_frame([row(value=0.6, sparsifier="none", rate=0, selection="test")])
    cells = published_cells(study(selection="test"), FILE)
    (found,) = published(scores, cells).itertuples()
    assert found.differs == (
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
def test_single_experts_say_too_on_how_many_of_the_questions_they_are_scored(settings, differs):
    scores = score_frame(
        [row(study="sweep", experts="math", method="average", value=0.6, rate=0.9)]
    )
    (found,) = published(scores, published_cells(study(**settings), FILE)).itertuples()
    assert found.differs == differs


def test_a_point_of_the_sweep_is_compared_at_its_own_rate_only():
    sweep = {"study": "sweep", "experts": "math", "method": "average"}
    scores = score_frame([row(**sweep, value=0.6, rate=0.9), row(**sweep, value=0.5, rate=0.55)])
    (found,) = published(scores, published_cells(study(), FILE)).itertuples()
    assert (found.rate, found.published, found.trust) == ("0.9", 0.641, "figure")


def test_the_coefficient_of_three_models_is_no_fact_as_it_may_be_that_of_an_average():
    known = [
        cell for cell in read_published(FILE)
        if (cell.models, cell.sparsifier, cell.rate) == ("LM+Math+Code", "dare", 0.5)
    ]  # fmt: skip
    assert [(cell.dataset, cell.scale) for cell in known] == [("gsm8k", None), ("math", None)]


def test_average_changes_are_those_of_the_families_that_name_them():
    spec = {"base": SOURCE, "experts": {"a": {}}, "published": {"pairs": "BERT and RoBERTa"}}
    task = {
        "train": SOURCE, "test": SOURCE, "text": ["t"], "label": "l", "metric": "accuracy",
        "labels": ["no", "yes"],
        "validation_fraction": 0.1,
    }  # fmt: skip
    made = Study.model_validate({"tasks": {"a": task}, "families": {"bert": spec}})
    gains = {each["method"]: each["value"] for each in published_gains(made, FILE)}
    assert gains == {
        "average": 0.58, "task_arithmetic": 0.36, "fisher": 0.37, "regmean": -0.03, "ties": 0.84,
    }  # fmt: skip
