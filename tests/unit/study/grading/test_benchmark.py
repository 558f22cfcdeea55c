"""A benchmark scored: splits by name, values by hand, a record per answer."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from mergegrid.errors import DataError
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.study.grading import graders
from mergegrid.study.grading.benchmark import mean_of, score_benchmark
from mergegrid.study.grading.graders.grader import Grades
from mergegrid.study.schema.benchmarks import Benchmark
from mergegrid.study.schema.decoder_jobs import ScoreRequest
from mergegrid.study.scoring.scores import COLUMNS

ENGINE = {"backend": "transformers", "dtype": "float32", "device": "cpu"}
LIBRARIES = {"torch": ["2.13.0"]}


def recipes(count, experts=("math", "code")):
    return [
        Recipe(family="llama", experts=experts, sparsifier=Dare(rate=0.5, seed=seed))
        for seed in range(count)
    ]


def request(count=1, fraction=0.0, selection="none", **changes):
    values = {
        "name": "words",
        "benchmark": Benchmark(kind="instructions", records={"source": "path:x"}),
        "owner": "code",
        "recipes": recipes(count),
        "validation_fraction": fraction,
        "selection": selection,
        "unsafe_execution": False,
    }
    return ScoreRequest(**(values | changes))


def questions(names):
    rows = [
        {
            "id": name,
            "instruction": f"Write {name}.",
            "prompt": f"Q: Write {name}.",
            "reference": json.dumps({"output": name}),
        }
        for name in names
    ]
    return pd.DataFrame(rows).astype("string")


def answers(texts, engine=ENGINE, benchmark="words", libraries=LIBRARIES):
    """The answers of one model, by question; of several samples where they are lists."""
    rows = [
        {
            "benchmark": benchmark,
            "id": name,
            "sample": sample,
            "prompt_digest": f"digest of {name}",
            "output": text,
            "finish": "stop",
            "tokens": 1,
            "engine": json.dumps(engine, sort_keys=True),
            "libraries": json.dumps(libraries),
        }
        for name, samples in texts.items()
        for sample, text in enumerate([samples] if isinstance(samples, str) else samples)
    ]
    return pd.DataFrame(rows)


def score(folder, names, frames, **changes):
    return score_benchmark(request(len(frames), **changes), questions(names), frames, folder)


NAMES = [f"q{number}" for number in range(40)]


def test_the_value_is_the_mean_over_questions_with_its_standard_error(tmp_path):
    texts = {"a": "a", "b": "b", "c": "c", "d": "wrong"}
    scores, records = score(tmp_path, texts, [answers(texts)])
    assert list(scores.columns) == list(COLUMNS)
    row = scores.iloc[0]
    assert len(scores) == 1
    assert row["value"] == 0.75
    assert row["stderr"] == pytest.approx(np.std([1, 1, 1, 0], ddof=1) / 2)
    assert (row["n"], row["split"], row["metric"], row["primary"]) == (4, "test", "accuracy", True)
    assert (row["task"], row["head"], row["experts"]) == ("words", "code", "code+math")
    assert (row["study"], row["selection"], row["selected"]) == ("merges", "none", False)
    assert len(records) == 4


def test_one_question_has_no_standard_error():
    mean = mean_of(np.array([1.0]))
    assert (mean.value, mean.n, math.isnan(mean.stderr)) == (1.0, 1, True)


def test_single_experts_are_rows_of_the_sweep(tmp_path):
    alone = [Recipe(family="llama", experts=("code",), sparsifier=NoSparsifier())]
    scores, _ = score(tmp_path, ["a"], [answers({"a": "a"})], recipes=alone)
    assert scores["study"].tolist() == ["sweep"]
    assert np.isnan(scores["stderr"][0])


def test_a_question_counts_once_however_many_samples_it_has(tmp_path):
    frame = answers({"a": ["a", "x", "x", "x"], "b": ["b", "b", "b", "b"]})
    scores, records = score(tmp_path, ["a", "b"], [frame])
    assert (scores["value"][0], scores["n"][0]) == ((0.25 + 1) / 2, 2)
    assert records["sample"].tolist() == [0, 1, 2, 3] * 2
    assert records["verdict"].tolist() == ["right", *["wrong"] * 3, *["right"] * 4]


def test_lengths_are_metrics_where_a_benchmark_asks_for_them(tmp_path):
    frame = answers({"a": ["a", "<think>b</think> a"], "b": ["b", "b"]})
    frame["tokens"], frame["finish"] = [1, 9, 2, 4], ["stop", "length", "stop", "stop"]
    benchmark = Benchmark(kind="instructions", records={"source": "path:x"}, lengths=True)
    scores, records = score(tmp_path, ["b", "a"], [frame], benchmark=benchmark)
    values = scores.set_index("metric")["value"].to_dict()
    assert values == {"accuracy": 0.75, "tokens": 4.0, "cut": 0.25, "think_ratio": 0.25}
    assert scores.set_index("metric")["primary"].to_dict()["accuracy"]
    assert scores["primary"].sum() == 1
    assert records["value"].tolist() == [1.0, 1.0, 0.5, 0.5]
    plain, _ = score(tmp_path, ["b", "a"], [frame])
    assert plain["metric"].tolist() == ["accuracy"]


def test_records_have_the_split_and_the_value_of_their_question(tmp_path):
    texts = {name: [name, name if index % 2 else "x"] for index, name in enumerate(NAMES)}
    frames = [answers(texts)]
    scores, records = score(tmp_path, NAMES, frames, fraction=0.4, selection="validation")
    assert records["value"].tolist() == [value for _ in range(20) for value in (0.5, 0.5, 1, 1)]
    questions = records.drop_duplicates("id").groupby("split")["value"]
    expected = scores.set_index("split")
    assert questions.mean().to_dict() == pytest.approx(expected["value"].to_dict())
    assert questions.size().to_dict() == expected["n"].to_dict()


def split_of(folder, names, fraction, name="words"):
    """The split of each question: one variant answers it right, and no other one."""
    frames = [
        answers({question: question if question == right else "" for question in names})
        for right in names
    ]
    frames = [frame.assign(benchmark=name) for frame in frames]
    scores, _ = score(folder, names, frames, fraction=fraction, selection="validation", name=name)
    hits = scores[scores["value"] > 0]
    assert len(hits) == len(names)
    return dict(zip(names, hits["split"], strict=True))


def test_the_split_of_a_question_is_decided_by_its_name_alone(tmp_path):
    whole = split_of(tmp_path, NAMES, 0.4)
    assert set(whole.values()) == {"validation", "test"}
    some = NAMES[30:] + NAMES[5:10]
    assert split_of(tmp_path, some, 0.4) == {name: whole[name] for name in some}
    # More held out leaves what was held out there; another benchmark has a split of its own.
    held_out = {name for name, split in whole.items() if split == "validation"}
    more = {name for name, split in split_of(tmp_path, NAMES, 0.7).items() if split != "test"}
    assert held_out < more
    assert split_of(tmp_path, NAMES, 0.4, name="other") != whole


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_the_share_held_out_is_near_the_fraction(tmp_path, fraction):
    names = [str(number) for number in range(1500)]
    frames = [answers(dict.fromkeys(names, ""))]
    scores, _ = score(tmp_path, names, frames, fraction=fraction, selection="validation")
    held_out = scores.set_index("split")["n"]
    # Three standard deviations of a fair draw.
    spread = 3 * math.sqrt(fraction * (1 - fraction) / 1500)
    assert held_out["validation"] / 1500 == pytest.approx(fraction, abs=spread)
    assert held_out.sum() == 1500


def test_where_nothing_is_chosen_all_are_test_questions(tmp_path):
    scores, _ = score(tmp_path, NAMES, [answers(dict.fromkeys(NAMES, ""))])
    assert (scores["split"].tolist(), scores["n"].tolist()) == (["test"], [40])


@pytest.mark.parametrize(("fraction", "split"), [(1e-6, "validation"), (1 - 1e-6, "test")])
def test_a_split_without_questions_is_refused(tmp_path, fraction, split):
    frames = [answers(dict.fromkeys(NAMES, ""))]
    with pytest.raises(DataError, match=f"none of the 40 questions of words is in the {split} spl"):
        score(tmp_path, NAMES, frames, fraction=fraction, selection="validation")


def test_single_experts_need_no_question_to_choose_on(tmp_path):
    frames = [answers(dict.fromkeys(NAMES, ""))]
    scores, _ = score(tmp_path, NAMES, frames, fraction=1e-6, selection="none")
    assert scores["n"].tolist() == [40]


def test_a_question_without_an_answer_is_an_error(tmp_path):
    with pytest.raises(DataError, match="2 questions of words have no answer, the first is b; gen"):
        score(tmp_path, ["a", "b", "c"], [answers({"a": "a"})])
    elsewhere = answers({"a": "a"}, benchmark="other")
    with pytest.raises(DataError, match="1 questions of words have no answer, the first is a"):
        score(tmp_path, ["a"], [elsewhere])


def test_answers_to_other_benchmarks_and_questions_are_left_out(tmp_path):
    mixed = pd.concat([answers({"a": "no"}, benchmark="other"), answers({"x": "x", "a": "a"})])
    scores, records = score(tmp_path, ["a"], [mixed])
    assert (scores["value"][0], scores["n"][0]) == (1.0, 1)
    assert records[["id", "output", "verdict"]].to_numpy().tolist() == [["a", "a", "right"]]


def test_a_record_is_that_of_its_answer_in_whatever_order_they_come(tmp_path):
    texts = {"a": ["a", "1"], "b": ["2", "b"], "c": ["c", "c"]}
    shuffled = answers(texts).sort_values("sample", ascending=False, kind="stable")
    _, records = score(tmp_path, list(texts), [shuffled.iloc[::-1], answers(texts)])
    assert len(records) == 2 * 6
    right = records["output"] == records["id"]
    assert (records["verdict"] == right.map({True: "right", False: "wrong"})).all()
    assert (records["extracted"] == records["output"]).all()
    assert records["id"].tolist() == ["a", "a", "b", "b", "c", "c"] * 2
    assert records["recipe_digest"].tolist() == [r.digest for r in recipes(2) for _ in range(6)]
    assert records["recipe"].tolist() == [r.slug for r in recipes(2) for _ in range(6)]
    assert set(records["prompt_digest"]) == {"digest of a", "digest of b", "digest of c"}


def test_the_engine_is_named_and_so_are_two_of_them(tmp_path):
    other = ENGINE | {"backend": "vllm"}
    batched = ENGINE | {"batch_size": 4}
    two = pd.concat([answers({"a": "a"}), answers({"b": "b"}, other)])
    same = pd.concat([answers({"a": "a"}), answers({"b": "b"}, batched)])
    scores, _ = score(tmp_path, ["a", "b"], [answers({"a": "", "b": ""}), two, same])
    assert scores["engine"].tolist() == [
        "transformers float32 cpu",
        "transformers float32 cpu + vllm float32 cpu",
        "transformers float32 cpu",
    ]


def test_libraries_behind_answers_and_verdicts_are_recorded_and_no_part_of_the_inputs(tmp_path):
    newer = answers({"b": "b"}, libraries={"torch": ["2.14.0"]})
    mixed = pd.concat([answers({"a": "a"}), newer])
    scores, _ = score(tmp_path, ["a", "b"], [answers({"a": "a", "b": "b"}), mixed])
    old, both = scores.to_dict("records")
    assert json.loads(old["libraries"])["torch"] == ["2.13.0"]
    assert json.loads(both["libraries"])["torch"] == ["2.13.0", "2.14.0"]
    assert json.loads(old["libraries"])["python"]
    assert old["inputs_digest"] == both["inputs_digest"]


def test_the_digest_of_inputs_is_that_of_questions_answers_benchmark_and_version(
    tmp_path, raise_version
):
    def digest(asked=("a", "b"), first="a", others=0, **changes):
        frames = [answers({"a": first, "b": "b"})] * (1 + others)
        scores, _ = score(tmp_path, asked, frames, **changes)
        return scores["inputs_digest"][0]

    longer = Benchmark(kind="instructions", records={"source": "path:x"}, prompt="{instruction}")
    assert digest() == digest() == digest(others=2)
    differing = {digest(), digest(["a"]), digest(first="x"), digest(benchmark=longer)}
    raise_version("grade_instructions")
    assert len(differing | {digest()}) == 5


def test_all_metrics_are_rows_and_the_first_is_the_one_to_compare(tmp_path):
    sums = Benchmark(kind="gsm8k", records={"source": "path:x"})
    asked = pd.DataFrame(
        [{"id": "0", "instruction": "2 + 3?", "reference": json.dumps({"answer": "#### 5"})}]
    )
    frames = [answers({"0": "#### 5"})]
    scores, _ = score_benchmark(request(benchmark=sums), asked, frames, tmp_path)
    assert dict(zip(scores["metric"], scores["value"], strict=True)) == {
        "accuracy": 1,
        "accuracy_paper_rule": 0,
        "unparsed": 0,
        "unparsed_paper_rule": 1,
    }
    assert scores["primary"].tolist() == [True, False, False, False]


def test_metrics_of_all_questions_together_are_given_where_none_is_held_out(tmp_path, monkeypatch):
    def grade(context, name, asked, texts):
        values = pd.DataFrame({"accuracy": [1.0] * len(asked)})
        records = pd.DataFrame({"verdict": ["right"] * len(asked)})
        return Grades(records, values, {"length": (3.5, float("nan"))})

    monkeypatch.setitem(graders.GRADERS, "instructions", grade)
    frames = [answers(dict.fromkeys(NAMES, ""))]
    whole, _ = score(tmp_path, NAMES, frames)
    row = whole[whole["metric"] == "length"].iloc[0]
    assert (row["value"], row["n"], row["primary"]) == (3.5, 40, False)
    assert np.isnan(row["stderr"])
    split, _ = score(tmp_path, NAMES, frames, fraction=0.4, selection="validation")
    assert set(split["metric"]) == {"accuracy"}


def test_verdicts_are_kept_by_the_version_of_their_grader(tmp_path, raise_version):
    def journals():
        score(tmp_path, ["a"], [answers({"a": "a"})])
        return {path.name for path in tmp_path.iterdir()}

    first = journals()
    raise_version("grade_math")
    assert journals() == first
    raise_version("grade_instructions")
    assert len(journals()) == 2
