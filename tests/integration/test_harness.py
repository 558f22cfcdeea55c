"""The real lm-evaluation-harness gives what transformers gives, on tasks and a model made here.

It has an environment of its own, whose Python LM_EVAL_PYTHON names.
"""

import json
import os

import pytest
import small_models
import torch
import yaml

from mergegrid.errors import ConfigError, SourceError
from mergegrid.study.grading.lm_eval import run_lm_eval
from mergegrid.study.grading.lm_eval_compat import VERSION
from mergegrid.study.schema.lm_eval import Harness

pytestmark = pytest.mark.integration

CHOICES = [
    ("the film is", ["good", "bad"]),
    ("a book was", ["bad", "two books w20"]),
    ("one two three", ["four", "w20 w21", "the"]),
    ("is a good film", ["w30", "w31", "w32"]),
    ("two bad", ["book", "film film"]),
]
QUESTIONS = ["the film is", "a book was", "one two three", "w40"]


@pytest.fixture(scope="module")
def python():
    python = os.environ.get("LM_EVAL_PYTHON")
    if python is None:
        pytest.skip(
            "LM_EVAL_PYTHON is not set; set it to a Python that has lm-eval, "
            f"as `pip install torch==2.13.0 'lm-eval[hf]=={VERSION}'` makes one"
        )
    return python


@pytest.fixture(scope="module")
def model():
    model = small_models.llama().float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 5  # As made, it finds all words about as likely.
    return model


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """A folder whose name would be torn apart, were it not quoted."""
    return small_models.save(model, tmp_path_factory.mktemp("models") / "rate~0.9, seed=1")


@torch.no_grad()
def log_likelihood(model, context, choice):
    tokenizer = small_models.tokenizer()
    before, after = (tokenizer(text).input_ids for text in (context, choice))
    log_odds = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
    places = range(len(before) - 1, len(before) + len(after) - 1)
    return sum(float(log_odds[place, token]) for place, token in zip(places, after, strict=True))


@torch.no_grad()
def answer(model, question):
    tokenizer = small_models.tokenizer()
    ids = tokenizer(question, return_tensors="pt").input_ids
    found = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
    return tokenizer.decode(found[0, ids.shape[1] :])


def write_task(folder, name, records, **content):
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "metadata": {"version": 1.0},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task | content))


@pytest.fixture(scope="module")
def tasks(model, tmp_path_factory):
    """Opinions of which the first is right, and right answers of which half are the model's."""
    folder = tmp_path_factory.mktemp("tasks")
    write_task(
        folder,
        "opinions",
        [{"question": text, "choices": choices, "answer": 0} for text, choices in CHOICES],
        output_type="multiple_choice",
        doc_to_choice="{{choices}}",
        metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}],
    )
    answers = [answer(model, text) if index % 2 else "no" for index, text in enumerate(QUESTIONS)]
    assert all(answers)
    write_task(
        folder,
        "words",
        [{"question": text, "answer": each} for text, each in zip(QUESTIONS, answers, strict=True)],
        output_type="generate_until",
        generation_kwargs={"until": ["</s>"], "do_sample": False, "max_gen_toks": 4},
        metric_list=[{"metric": "exact_match"}],
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("harness") / "variant"


@pytest.fixture(scope="module")
def result(python, saved, tasks, folder):
    settings = Harness(
        tasks=["opinions", "words"], python=python, include_path=str(tasks), batch_size=2
    )
    # A file of the user's does not stand in for a library of the same name.
    start = tasks / "start"
    start.mkdir()
    (start / "datasets.py").write_text("raise RuntimeError('the wrong datasets')")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(start)
        return run_lm_eval(saved, settings, folder, "cpu")


def scores(result, task):
    return {each.metric: each.measurement for each in result.scores if each.task == task}


def test_accuracy_is_that_of_the_log_likelihoods_of_transformers(result, model):
    likelihoods = [
        [log_likelihood(model, text, choice) for choice in choices] for text, choices in CHOICES
    ]
    right = [max(each) == each[0] for each in likelihoods]
    assert 0 < sum(right) < len(right)
    per_letter = [
        [value / len(choice) for value, choice in zip(each, choices, strict=True)]
        for each, (_, choices) in zip(likelihoods, CHOICES, strict=True)
    ]
    right_per_letter = [max(each) == each[0] for each in per_letter]
    assert right != right_per_letter

    found = scores(result, "opinions")
    n, share = len(right), sum(right) / len(right)
    assert found["acc,none"].value == share
    assert found["acc,none"].n == len(CHOICES)
    assert found["acc,none"].stderr == pytest.approx(
        (share * (1 - share) / (len(right) - 1)) ** 0.5
    )
    assert found["acc_norm,none"].value == sum(right_per_letter) / n


def test_greedy_answers_are_those_of_transformers(result):
    found = scores(result, "words")
    assert (found["exact_match,none"].value, found["exact_match,none"].n) == (0.5, 4)


def test_the_result_says_what_was_asked_of_what(result):
    assert result.engine == "lm-eval hf float32 cpu"
    assert set(result.questions) == set(result.tasks) == {"opinions", "words"}


def test_the_folder_holds_results_and_log_alone(result, folder):
    assert sorted(path.name for path in folder.iterdir()) == ["lm_eval.log", "results.json"]


def test_a_task_that_lm_eval_does_not_have_is_refused(python, saved, tmp_path):
    with pytest.raises(ConfigError, match="has no task arc_hardest; see"):
        run_lm_eval(saved, Harness(tasks=["arc_hardest"], python=python), tmp_path, "cpu")


def test_a_task_whose_data_cannot_be_reached_says_so(python, saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    with pytest.raises(SourceError, match="allenai/ai2_arc for arc_easy is on the hub"):
        run_lm_eval(saved, Harness(tasks=["arc_easy"], python=python), tmp_path, "cpu")
