"""A tiny Llama with a tokenizer of words, and questions for it."""

import pandas as pd
import pytest
import small_models
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mergegrid.study.schema.decoder_jobs import Ask
from mergegrid.study.schema.generation import Generation, Sampling


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Two layers whose next word depends on all words before it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=small_models.VOCABULARY,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return small_models.save(LlamaForCausalLM(config), folder)


@pytest.fixture
def questions():
    """Return nine prompts of one to nine words."""
    prompts = [" ".join(small_models.WORDS[: count + 1]) for count in range(9)]
    return pd.DataFrame(
        {
            "id": [f"q{count}" for count in range(9)],
            "instruction": prompts,
            "prompt": prompts,
        }
    ).astype("string")


@pytest.fixture
def ask():
    """`ask(max_tokens=8, stop=[...])`: one benchmark with raw prompts."""

    def make(chat=False, **sampling):
        return Ask(benchmark="words", chat=chat, sampling=Sampling(**sampling))

    return make


@pytest.fixture
def answers(model, questions, tmp_path):
    """`answers(ask)`: the answers of the tiny model by transformers in float32."""
    from mergegrid.study.generation.answering import AnswerJob, answer

    def call(*asks, store=tmp_path / "store.jsonl", digest="tiny", **settings):
        settings = Generation(**({"backend": "transformers", "dtype": "float32"} | settings))
        return answer(model, digest, AnswerJob(asks, {"words": questions}, settings, store))

    return call
