"""One test for each sentence that the numerical contract says about masks."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergegrid.merging import masks
from mergegrid.merging.masks import keep, threshold, words

names = st.text(min_size=1, max_size=20)
seeds = st.integers(0, 2**63 - 1)
rates = st.floats(0, 1)


@given(rate=rates)
def test_threshold_is_the_rounded_share_of_all_words(rate):
    assert threshold(rate) == round((1 - rate) * 4294967296)


@given(seed=seeds, expert=names, tensor=names, rate=rates, count=st.integers(0, 300))
def test_an_element_is_kept_exactly_if_its_word_is_below_the_threshold(
    seed, expert, tensor, rate, count
):
    drawn = words(seed, expert, tensor, 0, count)
    assert torch.equal(keep(seed, expert, tensor, rate, (count,)), drawn < threshold(rate))


@given(seed=seeds, tensor=names, rates=st.lists(rates, min_size=2, max_size=2))
def test_what_survives_a_high_rate_survives_a_lower_one(seed, tensor, rates):
    low, high = sorted(rates)
    kept = [keep(seed, "expert", tensor, rate, (500,)) for rate in (low, high)]
    assert not (kept[1] & ~kept[0]).any()


def test_rate_0_keeps_all_and_rate_1_drops_all():
    assert keep(3, "expert", "tensor", 0.0, (1000,)).all()
    assert not keep(3, "expert", "tensor", 1.0, (1000,)).any()


@given(start=st.integers(0, 40_000_000_000), length=st.integers(1, 70), cut=st.integers(0, 70))
@settings(max_examples=60)
def test_words_do_not_depend_on_where_a_tensor_is_cut(start, length, cut):
    cut = min(cut, length)
    whole = words(1, "expert", "tensor", start, start + length)
    parts = [
        words(1, "expert", "tensor", start, start + cut),
        words(1, "expert", "tensor", start + cut, start + length),
    ]
    assert torch.equal(whole, torch.cat(parts))


def test_words_do_not_depend_on_the_chunk_size(monkeypatch):
    expected = words(0, "expert", "tensor", 0, 10_000)
    for blocks in (1, 7, 64):
        monkeypatch.setattr(masks, "_BLOCKS", blocks)
        assert torch.equal(words(0, "expert", "tensor", 0, 10_000), expected)


def test_words_do_not_depend_on_the_number_of_threads():
    threads = torch.get_num_threads()
    try:
        drawn = []
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            drawn.append(words(0, "expert", "tensor", 0, 400_000))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, drawn[0]) for each in drawn)


def test_words_do_not_depend_on_the_shape():
    flat = keep(0, "expert", "tensor", 0.5, (24,))
    assert torch.equal(keep(0, "expert", "tensor", 0.5, (2, 3, 4)).flatten(), flat)


def test_masks_differ_between_seeds_experts_and_tensors_of_one_shape():
    keys = [(0, "a", "x"), (1, "a", "x"), (0, "b", "x"), (0, "a", "y"), (0, "x", "a")]
    kept = [keep(*key, 0.5, (20_000,)) for key in keys]
    for index, one in enumerate(kept):
        for other in kept[:index]:
            # Independent masks agree on half of the elements: within 5 standard deviations.
            assert abs((one == other).sum().item() - 10_000) < 5 * np.sqrt(20_000) / 2


def test_masks_do_not_depend_on_pythonhashseed():
    program = (
        "from mergegrid.merging.masks import words;"
        "print(words(5, 'expert', 'tensor', 0, 8).tolist())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "1234")
    }
    assert printed == {f"{words(5, 'expert', 'tensor', 0, 8).tolist()}\n"}


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 0.99, 0.999])
def test_the_share_of_kept_elements_is_binomial(rate):
    count = 1_000_000
    kept = int(keep(0, "expert", "tensor", rate, (count,)).sum())
    deviation = np.sqrt(count * rate * (1 - rate))
    assert abs(kept - count * (1 - rate)) < 4 * deviation


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_words_are_the_same_on_a_gpu():
    on_gpu = words(0, "expert", "tensor", 3, 1_000_003, device="cuda").cpu()
    assert torch.equal(on_gpu, words(0, "expert", "tensor", 3, 1_000_003))
