"""The estimates of memory, and that the docs show them."""

import re
from pathlib import Path

import small_models

from mergegrid.study.runtime import memory_estimates as hardware
from mergegrid.study.runtime.memory_estimates import Size

DOCS = Path(__file__).parents[4] / "docs" / "gpus.md"


def shown(gigabytes):
    return f"{gigabytes:.0f}" if gigabytes >= 10 else f"{gigabytes:.1f}"


def test_the_table_of_the_docs_is_what_jobs_go_by():
    text = DOCS.read_text()
    table = text[text.index("<!-- begin: memory -->") : text.index("<!-- end: memory -->")]
    rows = re.findall(r"^\| ([\d.]+)B \| (.*) \|$", table, re.MULTILINE)
    assert len(rows) == 7
    for billions, cells in rows:
        count = int(float(billions) * 1e9)
        size = Size(count, 2 * count)
        expected = [
            hardware.finetuning_bytes(count, count, bfloat16=True) / 1e9,
            hardware.finetuning_bytes(count, count // 100, bfloat16=True) / 1e9,
            2 * count / 1e9,
            hardware.finetuning_mb(size, on_gpu=True) / 1000,
            hardware.generation_mb(size, gpus=1, one_engine=False) / 1000,
            hardware.generation_mb(size, gpus=1, one_engine=True) / 1000,
            hardware.generation_mb(size, gpus=2, one_engine=True) / 1000,
        ]
        assert cells.split(" | ") == list(map(shown, expected)), billions


def test_a_size_is_that_of_the_tensors_and_nothing_before_there_is_a_model(tmp_path):
    assert hardware.size_of(tmp_path / "base") == Size(0, 0)
    model = small_models.llama()
    small_models.save(model, tmp_path / "base")
    count = sum(parameter.numel() for parameter in model.parameters())
    largest = max(parameter.numel() for parameter in model.parameters())
    assert hardware.size_of(tmp_path / "base") == Size(count, 2 * count, largest)
    (tmp_path / "base" / "more.safetensors").write_bytes(b"cut")
    assert hardware.size_of(tmp_path / "base") == Size(0, 0)


def test_larger_models_ask_for_more():
    small, large = Size(10**9, 2 * 10**9), Size(7 * 10**9, 14 * 10**9)
    for on_gpu in (True, False):
        for requested in (hardware.finetuning_mb, hardware.similarity_mb):
            assert requested(small, on_gpu) < requested(large, on_gpu)
    assert hardware.statistics_mb(small) < hardware.statistics_mb(large)
    # Loaded in float32, a model of 7 billion parameters takes 28 GB of the host by itself.
    assert hardware.finetuning_mb(large, on_gpu=True) > 28_000
    # The merged model, and the file that both ranks map.
    assert hardware.generation_mb(large, gpus=2, one_engine=True) > 2 * 14_000
