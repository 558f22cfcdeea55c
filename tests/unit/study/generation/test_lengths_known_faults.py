"""The limit on a question with its answer, and the errors about it."""

import json
from pathlib import Path

import pandas as pd
import pytest
import small_models

from mergegrid.errors import ConfigError, DataError
from mergegrid.study.generation.answering import AnswerJob, tokenize
from mergegrid.study.generation.backend import read_model_config
from mergegrid.study.generation.tokens import PromptTokenizer
from mergegrid.study.schema.decoder_jobs import Ask
from mergegrid.study.schema.generation import Generation, Sampling


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    """`prompts(config, model_max_length=64)`: a tokenizer with this limit and this config.

    Configs hold only what limits depend on, which is too little for transformers to load.
    """
    apart = tmp_path / "config"
    apart.mkdir()
    monkeypatch.setattr(
        "mergegrid.study.generation.tokens.read_model_config", lambda _: read_model_config(apart)
    )

    def make(config, **special):
        tokenizer = small_models.tokenizer()
        for name, value in special.items():
            setattr(tokenizer, name, value)
        tokenizer.save_pretrained(tmp_path)
        (apart / "config.json").write_text(json.dumps(config))
        return PromptTokenizer(tmp_path)

    return make


def scaled(kind, factor, positions=64, **more):
    return {"max_position_embeddings": positions} | {
        "rope_scaling": {"rope_type": kind, "factor": factor} | more
    }


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"n_positions": 64}, 64),
        ({"max_position_embeddings": 64, "rope_scaling": None}, 64),
        ({"max_position_embeddings": 64, "rope_parameters": {"rope_type": "default"}}, 64),
        (scaled("linear", 2.0), 128),
        (scaled("dynamic", 4.0), 256),
        # Qwen 2.5 with YaRN: the positions of training, and what scaling is from.
        (scaled("yarn", 4.0, original_max_position_embeddings=64), 256),
        (scaled("yarn", 4.0), 256),
        # DeepSeek and gpt-oss: the positions that scaling gives.
        (scaled("yarn", 40, 2560, original_max_position_embeddings=64), 2560),
        (scaled("yarn", 32.0, 2048, original_max_position_embeddings=64), 2048),
        # Llama 3.1 and Phi 3.
        (scaled("llama3", 8.0, 1024, original_max_position_embeddings=64), 1024),
        (scaled("longrope", None, 2048, original_max_position_embeddings=64), 2048),
        (scaled("su", None, 2048), 2048),
        (scaled("mrope", None), 64),
        # Before transformers 4.43 the key was `type`.
        ({"max_position_embeddings": 64, "rope_scaling": {"type": "yarn", "factor": 2.0}}, 128),
        ({"max_position_embeddings": 64, "rope_scaling": {"type": "linear", "factor": 3}}, 192),
        # Gemma 3, before transformers 5 and since.
        (scaled("linear", 8.0) | {"model_type": "gemma3_text"}, 64),
        (
            {
                "max_position_embeddings": 64,
                "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}},
            },
            64,
        ),
        ({"text_config": scaled("yarn", 2.0, original_max_position_embeddings=64)}, 128),
    ],
)
def test_scaling_of_rotary_embeddings_raises_the_limit(prompts, config, longest):
    actual = prompts(config)
    assert actual.max_length(None) == longest
    assert actual.max_length(longest) == longest
    with pytest.raises(ConfigError, match=f"supports {longest} tokens"):
        actual.max_length(longest + 1)


def refused(prompts, max_model_len):
    """Return the error about a question of 40 tokens."""
    text = " ".join(["film"] * 40)
    questions = pd.DataFrame({"id": ["7"], "instruction": [text], "prompt": [text]})
    ask = Ask(benchmark="words", chat=False, sampling=Sampling())
    settings = Generation(max_model_len=max_model_len)
    job = AnswerJob([ask], {"words": questions}, settings, Path("store.jsonl"))
    with pytest.raises((DataError, ConfigError)) as error:
        tokenize(prompts, job)
    return str(error.value)


def test_advice_does_not_lead_in_a_circle(prompts):
    """The advice raises the limit that is too low, not another one."""
    actual = prompts({"max_position_embeddings": 64}, model_max_length=32)
    first = refused(actual, None)
    assert (
        "question 7 of words has 40 tokens, but the limit for a question with its answer is 32"
        in first
    )
    assert "raise model_max_length from 32 in the tokenizer_config.json" in first
    assert "generation.max_model_len" not in first
    second = refused(actual, 48)
    assert "generation.max_model_len is 48, but" in second
    assert "raise model_max_length from 32 in the tokenizer_config.json" in second
    assert "its config.json allows 64" in second
    raised = prompts({"max_position_embeddings": 64}, model_max_length=64)
    assert raised.max_length(48) == 48


def test_advice_is_to_raise_the_configured_limit_if_the_model_allows_it(prompts):
    actual = prompts({"max_position_embeddings": 64})
    message = refused(actual, 24)
    assert "raise generation.max_model_len; " in message
    assert " supports 64, or leave the question out" in message


def test_advice_for_a_model_with_a_short_limit_is_another_model(prompts):
    message = refused(prompts({"max_position_embeddings": 32}), None)
    assert "use a model that supports more than the 32 tokens of its config" in message
    assert "generation.max_model_len" not in message
