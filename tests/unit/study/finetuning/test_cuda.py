"""Checks of a GPU before fine-tuning, with the answers of torch.cuda replaced."""

import pytest
import torch

from mergegrid.errors import ConfigError
from mergegrid.study.finetuning.cuda import check_memory, prepare_device


@pytest.fixture
def gpu(monkeypatch):
    """Set the free bytes of the GPU, and whether it supports bfloat16."""

    def describe(free, bfloat16=True):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, free))
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bfloat16)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")

    return describe


def test_what_cannot_fit_is_refused_with_the_numbers(gpu):
    model = torch.nn.Linear(1000, 1000, bias=False)
    gpu(18_000_000)
    check_memory(model, True, "cuda")
    gpu(17_999_999)
    with pytest.raises(ConfigError, match=r"fine-tuning 0.00 of 0.00 billion parameters needs 0 G"):
        check_memory(model, True, "cuda")
    # Frozen weights have no gradient and no moments, and float32 no second copy.
    check_memory(model, False, "cuda")
    gpu(6_000_000)
    check_memory(model.requires_grad_(False), True, "cuda")
    gpu(0)
    check_memory(model, True, "cpu")


def test_a_gpu_without_bfloat16_is_named(gpu):
    gpu(1 << 40, bfloat16=False)
    with pytest.raises(ConfigError, match="Tesla T4 does not support bfloat16; set fine"):
        check_memory(torch.nn.Linear(1, 1), True, "cuda")
    check_memory(torch.nn.Linear(1, 1), False, "cuda")


def test_sums_are_in_one_order_on_a_gpu_alone(monkeypatch):
    try:
        prepare_device("cpu")
        assert not torch.are_deterministic_algorithms_enabled()
        prepare_device("cuda:1")
        assert torch.are_deterministic_algorithms_enabled()
        # With warnings alone, attention would still add in any order.
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        monkeypatch.setenv("MERGEGRID_DETERMINISTIC", "warn")
        prepare_device("cuda")
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
