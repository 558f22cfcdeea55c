import pytest

from mergegrid.study.generation.backend import Completion, GenerationRequest
from mergegrid.study.generation.store import AnswerStore, StoredAnswer
from mergegrid.study.schema.generation import Sampling

REQUEST = GenerationRequest((1, 2, 3), Sampling())
LIBRARIES = {"torch": ["2.13.0"]}
ENGINE = {"backend": "transformers", "dtype": "float32"}
ANSWERS = [Completion("18", "stop", 3), Completion("ein\nWort ☕", "length", 8)]


def test_answers_are_found_again(tmp_path):
    AnswerStore(tmp_path / "store.jsonl").add("model", REQUEST, ENGINE, ANSWERS, LIBRARIES)
    actual = AnswerStore(tmp_path / "store.jsonl").get("model", REQUEST, ENGINE)
    assert actual == StoredAnswer(ANSWERS, LIBRARIES)


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
def test_answers_of_another_model_prompt_sampling_or_engine_are_not_used(tmp_path, other):
    store = AnswerStore(tmp_path / "store.jsonl")
    store.add("model", REQUEST, ENGINE, ANSWERS, LIBRARIES)
    assert store.get(*other) is None


def test_answers_of_another_stage_version_are_not_used(tmp_path, raise_version):
    store = AnswerStore(tmp_path / "store.jsonl")
    store.add("model", REQUEST, ENGINE, ANSWERS, LIBRARIES)
    raise_version("generate")
    assert store.get("model", REQUEST, ENGINE) is None
