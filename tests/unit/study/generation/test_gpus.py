"""Errors about GPUs before an engine is opened on them."""

import pytest
import small_models
from pydantic import ValidationError

from mergegrid.errors import ConfigError
from mergegrid.study.generation import engines
from mergegrid.study.generation.engines import engine_identity
from mergegrid.study.generation.vllm_compat import explained_memory_errors
from mergegrid.study.schema.generation import Generation


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_models.save(small_models.llama(), tmp_path_factory.mktemp("model"))


@pytest.fixture
def installed(monkeypatch):
    """Set which engines are installed."""

    def say(*names):
        monkeypatch.setattr(engines, "find_spec", lambda name: name if name in names else None)

    return say


def test_transformers_refuses_a_second_gpu(model, installed):
    with pytest.raises(ValidationError, match="gpus: 2 wants a model split among GPUs"):
        Generation(backend="transformers", gpus=2)
    installed()
    settings = Generation(gpus=2)
    with pytest.raises(ConfigError, match="gpus is 2, but the transformers backend uses one GPU"):
        engine_identity(settings, model, "cuda", 2)
    # A rehearsal holds two GPUs and computes on the CPU.
    assert engine_identity(settings, model, "cpu", 2)["tensor_parallel"] == 1


def test_vllm_refuses_mig_partitions(model, installed, monkeypatch):
    installed("vllm")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-cccc-0")
    with pytest.raises(ConfigError, match="does not support MIG partitions"):
        engine_identity(Generation(), model, "cuda", 1)


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
def test_an_error_about_gpu_memory_lists_the_settings_that_help(error, says):
    with pytest.raises(ConfigError) as raised, explained_memory_errors():
        raise error
    assert says in str(raised.value)


def test_other_errors_of_vllm_are_unchanged():
    with pytest.raises(ValueError, match="an unknown architecture"), explained_memory_errors():
        raise ValueError("an unknown architecture")
