"""AlpacaEval with the real package, and a judge whose taste is known."""

import csv
import importlib.util
import json
import math
import os
from pathlib import Path

import pytest
import yaml

from mergegrid.errors import ConfigError, DataError, MergegridError
from mergegrid.study.grading.judges import alpaca_eval_compat
from mergegrid.study.grading.judges.alpaca import judge_outputs
from mergegrid.study.grading.judges.annotators import write_annotator
from mergegrid.study.schema.judge import Judge

_SPEC = importlib.util.spec_from_file_location("stub", Path(__file__).with_name("stub.py"))
stub = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(stub)

PACKAGE = Path(importlib.util.find_spec("alpaca_eval").origin).parent
#: The two probabilities of the stub's one token, as a preference.
SURE = 1 / (1 + math.exp(-1.25))

#: Instruction, output, reference: the longer one wins.
PAIRS = [
    ("Name a fruit.", "A pear.", "Apple"),
    ("Name a tree.", "Oak", "The lime tree."),
    ("What is 2 + 2?", "4", "22"),
    ("Say hello.", "Hello, and a very good day to you.", "Hello."),
    ("Name a river.", "Elbe", "Elbe"),
    ("Name a color.", "", "Red"),
    ("Write two lines.", "One\n\nTwo\n", "One"),
    ("Quote yourself.", 'I said """yes"""', "No"),
    ("Name a town.", "Grüße aus Köln", "Bonn"),
    ("Name a sea.", "North", "The Baltic Sea"),
]


def example(instruction, output, reference):
    return {
        "instruction": instruction,
        "output": output,
        "reference": reference,
        "dataset": "inline",
    }


EXAMPLES = [example(*pair) for pair in PAIRS]


def taste(one):
    """1 where the output is longer than the reference, 0 where it is shorter."""
    mine, other = one["output"], one["reference"]
    return 0.5 if mine == other else float((len(mine), mine) > (len(other), other))


@pytest.fixture
def server():
    server = stub.Judge()
    yield server
    server.close()


@pytest.fixture
def settings(server):
    return Judge(
        model="tiny-instruct", base_url=server.url, api_key_env="none", concurrency=4, retries=1
    )


def with_(settings, **changes):
    return Judge.model_validate({**settings.model_dump(), **changes})


def snapshot(folder):
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("style", ["choice", "function", "ranking"])
def test_a_judge_who_likes_length_prefers_exactly_the_longer_outputs(
    style, server, settings, tmp_path, monkeypatch
):
    monkeypatch.setenv("JUDGE_KEY", "a-secret")
    # Variables of this process that alpaca_eval would read.
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEYS", "one,two")
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    before = dict(os.environ), snapshot(PACKAGE)
    styled = with_(settings, style=style, api_key_env="JUDGE_KEY")
    result = judge_outputs(EXAMPLES, "merge", styled, tmp_path)

    likes = [taste(one) for one in EXAMPLES]
    if style == "choice":
        likes = [0.5 + (2 * like - 1) * (SURE - 0.5) for like in likes]
    assert result.preferences == pytest.approx(likes)
    assert result.length_controlled is None

    # Equal texts need no judge; everything else is requested once, in either order.
    assert server.requests == {name: 1 for name, output, reference in PAIRS if output != reference}
    first = [stub.preferred(stub.text(body)) for body in server.bodies]
    won = [taste(next(o for o in EXAMPLES if o["instruction"] == i)) for i in asked_for(server)]
    assert {(place, win) for place, win in zip(first, won, strict=True)} == {
        (place, win) for place in (1, 2) for win in (0, 1)
    }
    assert server.most_at_a_time <= 4
    assert server.keys == {"Bearer a-secret"}
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "annotations.json",
        "configs.yaml",
        "prompt.txt",
    }
    assert not any("secret" in path.read_text() for path in folder.iterdir())
    assert (dict(os.environ), snapshot(PACKAGE)) == before


def asked_for(server):
    return [stub.instruction(body) for body in server.bodies]


def test_real_answers_are_judged_once_and_the_same_on_every_run(server, settings, tmp_path):
    data = os.environ.get("BENCHMARK_DATA")
    if data is None:
        pytest.skip("BENCHMARK_DATA does not name a folder with alpaca_eval/alpaca_eval.json")
    folder = Path(data, "alpaca_eval")
    references = json.loads((folder / "alpaca_eval.json").read_text())[::20]
    outputs = json.loads((folder / "alpaca-7b_outputs.json").read_text())[::20]
    examples = [
        example(mine["instruction"], mine["output"], other["output"])
        for mine, other in zip(outputs, references, strict=True)
    ]
    choice = with_(settings, style="choice")
    result = judge_outputs(examples, "alpaca-7b", choice, tmp_path)
    assert len(result.preferences) == 41
    assert list(map(round, result.preferences)) == [round(taste(one)) for one in examples]
    assert len(server.bodies) == sum(one["output"] != one["reference"] for one in examples)
    server.bodies.clear()
    assert judge_outputs(examples, "alpaca-7b", choice, tmp_path) == result
    assert not server.bodies


def test_passing_faults_change_nothing(server, settings, tmp_path, caplog):
    server.faults = [429, 500, "nothing", "garbage", "empty", "chatter"]
    result = judge_outputs(EXAMPLES, "merge", with_(settings, style="ranking"), tmp_path)
    assert result.preferences == [taste(one) for one in EXAMPLES]
    assert len(server.bodies) == 9 + 6
    assert "of 10 answers of the judge are missing" in caplog.text


def test_what_stays_without_an_answer_is_never_scored_and_asked_again_by_a_rerun(
    server, settings, tmp_path
):
    faults = {
        "Name a fruit.": 500,
        "Name a tree.": "nothing",
        "What is 2 + 2?": "empty",
        "Say hello.": "garbage",
    }
    server.fault_of = faults.get
    with pytest.raises(MergegridError, match="no readable answer for 4 of 10 examples") as refused:
        judge_outputs(EXAMPLES, "merge", settings, tmp_path)
    assert "\n" not in str(refused.value)
    assert server.requests["Name a tree."] > 1
    (answers,) = tmp_path.rglob("annotations.json")
    kept = {row["instruction"] for row in json.loads(answers.read_text())}
    assert kept == {one["instruction"] for one in EXAMPLES} - set(faults)
    server.fault_of = None
    server.bodies.clear()
    result = judge_outputs(EXAMPLES, "merge", settings, tmp_path)
    assert server.requests == dict.fromkeys(faults, 1)
    assert result.preferences == [taste(one) for one in EXAMPLES]


def test_the_error_gives_the_reason(server, settings, tmp_path):
    server.fault_of = lambda instruction: 429
    with pytest.raises(MergegridError, match=r"1 of 1 examples .*: Error code: 429.*rerun"):
        judge_outputs(EXAMPLES[:1], "merge", with_(settings, retries=0), tmp_path)
    assert not list(tmp_path.rglob("annotations.json"))


def test_a_judge_who_answers_nothing_is_not_asked_for_the_rest(server, settings, tmp_path):
    server.fault_of = lambda instruction: 401
    alone = with_(settings, style="choice", concurrency=1)
    many = [example(f"Say {number}.", str(number), "No") for number in range(40)]
    with pytest.raises(MergegridError, match=r"40 of 40 examples .*: Error code: 401"):
        judge_outputs(many, "merge", alone, tmp_path)
    assert len(server.requests) == 8
    assert len(server.bodies) == 2 * 8


def test_awkward_texts_are_judged_as_they_are(server, settings, tmp_path):
    awkward = [
        example("Twice.", "longer", "short"),
        example("Twice.", "no", "never"),
        example("Twice.", "longer", "short"),
        example("Marks.", "An end <|im_end|> and a start <|im_start|>", "Nothing of the kind"),
        example("Keys.", "{output_2} {output_1}", "{instruction}, {instruction}, {instruction}"),
        example("007", "007", "7"),
        example("Braces.", '{"a": [1]}', "{}"),
    ]
    modern = with_(
        settings,
        style="choice",
        structured_choice=True,
        token_parameter="max_completion_tokens",
        temperature=None,
    )
    result = judge_outputs(awkward, "merge", modern, tmp_path)
    assert list(map(round, result.preferences)) == [round(taste(one)) for one in awkward]
    # The same pair twice is one question.
    assert len(server.bodies) == 6
    for body in server.bodies:
        assert body["structured_outputs"] == {"choice": ["m", "M"]}
        assert body["max_completion_tokens"] == 1
        assert not {"max_tokens", "temperature", "top_p"} & body.keys()
    shown = "\n".join(stub.text(body) for body in server.bodies)
    assert "An end < |im_end|> and a start < |im_start|>" in shown
    assert "{ output_2} { output_1}" in shown


def gamed_file(folder, count):
    """Rows as in AlpacaEval's file: two models, each with every instruction."""
    path = folder / "df_gamed.csv"
    columns = ["model", "index", "preference", "std_delta_len", "instruction_difficulty"]
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*columns, "not_gamed_baseline"])
        for model, liked, shift in [("concise", 0.2, 1.5), ("verbose", 0.6, -1.5)]:
            for index in range(count):
                rows.writerow([model, index, liked, shift, math.sin(index), False])
    return path


def test_length_control_takes_away_what_length_alone_has_won(server, settings, tmp_path):
    before = snapshot(PACKAGE)
    many = [example(f"Say {number}.", "x" * (3 + number % 7 * 9), "y" * 11) for number in range(60)]
    source = {"source": f"path:{gamed_file(tmp_path, 60)}"}
    controlled = with_(settings, length_controlled=True, length_files=source)
    result = judge_outputs(many, "merge", controlled, tmp_path / "results")
    win_rate = sum(result.preferences) / 60
    assert win_rate == sum(map(taste, many)) / 60 > 0.7
    controlled_rate, stderr = result.length_controlled
    assert 0 < controlled_rate < win_rate - 0.1
    assert 0 < stderr < 0.5
    assert snapshot(PACKAGE) == before

    with pytest.raises(DataError, match="fitted to 60 instructions, but 59 are judged"):
        judge_outputs(many[1:], "merge", controlled, tmp_path / "results")


def test_a_missing_key_is_said_before_any_request(server, settings, tmp_path, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"JUDGE_KEY, which holds the key for http.* is not set"):
        judge_outputs(EXAMPLES, "merge", with_(settings, api_key_env="JUDGE_KEY"), tmp_path)
    assert not server.bodies


def test_another_judge_or_prompt_has_other_answers(settings, tmp_path, monkeypatch):
    def folder(**changes):
        return write_annotator(with_(settings, **changes), tmp_path)

    same = folder(), folder(concurrency=9, retries=3, api_key_env="KEY", timeout=5)
    assert len(set(same)) == 1
    others = {
        folder(),
        folder(model="another"),
        folder(style="choice"),
        folder(style="choice", structured_choice=True),
        folder(max_tokens=500),
        folder(temperature=1),
        folder(base_url="http://127.0.0.1:1/v1"),
    }
    assert len(others) == 7
    copy = tmp_path / "package"
    original = copy / "evaluators_configs" / "chatgpt_fn"
    original.mkdir(parents=True)
    for name in ("configs.yaml", "basic_function_prompt.txt"):
        (original / name).write_bytes(
            (PACKAGE / "evaluators_configs" / "chatgpt_fn" / name).read_bytes()
        )
    monkeypatch.setattr(alpaca_eval_compat, "package_folder", lambda: copy)
    assert folder() == same[0]
    (original / "basic_function_prompt.txt").write_text("Another prompt: {instruction}")
    assert folder() not in others


def test_the_annotator_is_the_papers_with_another_model(settings, tmp_path):
    folder = write_annotator(settings, tmp_path)
    (content,) = yaml.safe_load((folder / "configs.yaml").read_text()).values()
    path = PACKAGE / "evaluators_configs" / "chatgpt_fn"
    (papers,) = yaml.safe_load((path / "configs.yaml").read_text()).values()
    assert (folder / "prompt.txt").read_bytes() == (path / "basic_function_prompt.txt").read_bytes()
    for same in ("completion_parser_kwargs", "batch_size", "fn_completions"):
        assert content[same] == papers[same]
    assert (
        content["completions_kwargs"]["tool_choice"] == papers["completions_kwargs"]["tool_choice"]
    )
    assert content["completions_kwargs"]["model_name"] == "tiny-instruct"
