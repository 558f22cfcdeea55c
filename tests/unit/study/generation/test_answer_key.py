"""A stored answer is reused only for the same model, prompt, sampling, engine and stage version."""

import pytest

from mergegrid.study.generation.answering import answer_key
from mergegrid.study.generation.backend import GenerationRequest
from mergegrid.study.schema.generation import Sampling

REQUEST = GenerationRequest((1, 2, 3), Sampling())
ENGINE = {"backend": "transformers", "dtype": "float32"}


@pytest.mark.parametrize(
    "other",
    [
        ("another", REQUEST, ENGINE),
        ("model", GenerationRequest((1, 2), Sampling()), ENGINE),
        ("model", GenerationRequest((1, 2, 3), Sampling(max_tokens=2)), ENGINE),
        ("model", GenerationRequest((1, 2, 3), Sampling(seed=1)), ENGINE),
        ("model", REQUEST, ENGINE | {"dtype": "bfloat16"}),
        ("model", REQUEST, ENGINE | {"backend": "vllm"}),
    ],
)
def test_the_key_depends_on_model_prompt_sampling_and_engine(other):
    assert answer_key(*other) != answer_key("model", REQUEST, ENGINE)


def test_the_key_depends_on_the_stage_version(raise_version):
    key = answer_key("model", REQUEST, ENGINE)
    raise_version("generate")
    assert answer_key("model", REQUEST, ENGINE) != key
