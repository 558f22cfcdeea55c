"""What is said of GPUs before an engine is opened on them."""

import pytest
import small_models
from pydantic import ValidationError

from mergegrid.errors import ConfigError
from mergegrid.study.generation import backend
from mergegrid.study.generation.backend import identity
from mergegrid.study.generation.vllm_backend import _memory_explained
from mergegrid.study.schema.generation import Generation


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_models.save(small_models.llama(), tmp_path_factory.mktemp("model"))


@pytest.fixture
def installed(monkeypatch):
    """Say which engines there are."""

    def say(*names):
        monkeypatch.setattr(backend, "find_spec", lambda name: name if name in names else None)

    return say


def test_transformers_is_not_given_two_gpus_to_use_one(model, installed):
    with pytest.raises(ValidationError, match="gpus: 2 wants a model split among GPUs"):
        Generation(backend="transformers", gpus=2)
    installed()
    settings = Generation(gpus=2)
    with pytest.raises(ConfigError, match=r"gpus is 2, and transformers computes on one GPU; inst"):
        identity(settings, model, "cuda", 2)
    # A rehearsal holds two and computes on the CPU.
    assert identity(settings, model, "cpu", 2)["tensor_parallel"] == 1


def test_vllm_is_not_given_a_part_of_a_gpu(model, installed, monkeypatch):
    installed("vllm")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-cccc-0")
    with pytest.raises(ConfigError, match="does not find its way to a part of a GPU"):
        identity(Generation(), model, "cuda", 1)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            ValueError("Free memory on device cuda:0 (10/80 GiB) is less than desired\nSee"),
            "vLLM: Free memory on device cuda:0 (10/80 GiB) is less than desired; free the GPU or",
        ),
        (
            ValueError("To serve at least one request, 16 GiB KV cache is needed, which is larger"),
            "lower generation.max_model_len, or raise generation.gpus",
        ),
    ],
)
def test_too_little_memory_for_vllm_names_the_keys_that_help(error, says):
    with pytest.raises(ConfigError) as raised, _memory_explained():
        raise error
    assert says in str(raised.value)


def test_other_errors_of_vllm_stay_what_they_are():
    with pytest.raises(ValueError, match="an unknown architecture"), _memory_explained():
        raise ValueError("an unknown architecture")
