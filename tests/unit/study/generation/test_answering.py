import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
from transformers import AutoTokenizer

from mergegrid.errors import DataError
from mergegrid.hashing import digest
from mergegrid.study.generation.answering import AnswerJob, tokenize
from mergegrid.study.generation.tokens import PromptTokenizer
from mergegrid.study.generation.transformers_backend import TransformersBackend
from mergegrid.study.schema.decoder_jobs import Ask
from mergegrid.study.schema.generation import Generation, Sampling

COLUMNS = ["benchmark", "id", "sample", "prompt_digest", "output", "finish", "tokens"]
COLUMNS += ["engine", "libraries"]


@pytest.fixture
def newly(tmp_path):
    """`newly(call)`: the number of answers that a call adds to the store."""

    def count():
        path = tmp_path / "store.jsonl"
        return len(path.read_bytes().splitlines()) if path.is_file() else 0

    def call(function, *words, **settings):
        before = count()
        function(*words, **settings)
        return count() - before

    return call


def test_answers_are_in_question_order_with_all_identifying_columns(answers, ask, model, questions):
    table = answers(ask(max_tokens=8))
    assert list(table) == COLUMNS
    assert list(table["id"]) == list(questions["id"])
    ids = AutoTokenizer.from_pretrained(model)(questions["prompt"][3]).input_ids
    assert table["prompt_digest"][3] == digest(ids)
    engine = json.loads(table["engine"][0])
    assert (engine["backend"], engine["dtype"], engine["device"]) == (
        "transformers",
        "float32",
        "cpu",
    )
    assert json.loads(table["libraries"][0])["transformers"] == [version("transformers")]
    assert set(table["tokens"]) <= set(range(1, 9))


def test_a_chat_prompt_is_put_around_an_instruction_in_the_template(folder_with_template):
    prompts = PromptTokenizer(folder_with_template)
    questions = pd.DataFrame({"id": ["q"], "instruction": ["the film"], "prompt": ["raw"]})
    asked = {}
    for chat in (True, False):
        asks = Ask(
            benchmark="words", chat=chat, chat_prompt="{instruction} the end", sampling=Sampling()
        )
        job = AnswerJob([asks], {"words": questions}, Generation(), Path("store.jsonl"))
        (question,) = tokenize(prompts, job)
        asked[chat] = question.request.ids
    assert asked == {True: prompts.chat("the film the end"), False: prompts.encode("raw")}


@pytest.fixture
def folder_with_template(model, tmp_path):
    """The tiny model with a chat template."""
    folder = tmp_path / "chat"
    shutil.copytree(model, folder)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %} film"
    tokenizer.save_pretrained(folder)
    return folder


def test_samples_of_a_question_follow_each_other(answers, ask):
    table = answers(ask(max_tokens=8, temperature=1.0, samples=3))
    assert list(table["sample"]) == [0, 1, 2] * 9
    assert table["output"].nunique() > 9


def test_a_rerun_after_a_kill_generates_only_missing_answers(answers, ask, tmp_path):
    whole = answers(ask(max_tokens=8))
    path = tmp_path / "store.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5])[:-3])
    assert answers(ask(max_tokens=8)).equals(whole)
    assert len(path.read_bytes().splitlines()) == 4 + 5


def test_answers_before_a_failure_are_kept(answers, ask, tmp_path, monkeypatch):
    completion, calls = TransformersBackend._generate_batch, []

    def fails_at_last(self, rows, sampling):
        calls.append(rows)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return completion(self, rows, sampling)

    monkeypatch.setattr(TransformersBackend, "_generate_batch", fails_at_last)
    with pytest.raises(KeyboardInterrupt):
        answers(ask(max_tokens=8), batch_size=2)
    assert len((tmp_path / "store.jsonl").read_text().splitlines()) == 4


def test_no_engine_is_opened_if_nothing_is_missing(answers, ask, monkeypatch):
    first = answers(ask(max_tokens=8))
    monkeypatch.delattr(TransformersBackend, "generate")
    assert answers(ask(max_tokens=8)).equals(first)


def test_an_engine_reuses_only_its_own_answers(answers, ask, newly):
    assert newly(answers, ask()) == 9
    assert newly(answers, ask(), batch_size=2) == 0
    assert newly(answers, ask(), dtype="bfloat16") == 9
    assert newly(answers, ask(), dtype="bfloat16", batch_size=2) == 9
    assert newly(answers, ask(), digest="another") == 9


def test_a_question_without_room_for_an_answer_is_an_error(answers, ask):
    with pytest.raises(DataError, match=r"q7 of words has 8 tokens, but the limit .* is 8"):
        answers(ask(), max_model_len=8)


def test_answers_end_at_the_limit_of_the_model(answers, ask):
    table = answers(ask(max_tokens=50), max_model_len=12)
    cut = table[table["finish"] == "length"]
    assert len(cut)
    lengths = table.index + 1
    assert (cut["tokens"] == 12 - lengths[cut.index]).all()
