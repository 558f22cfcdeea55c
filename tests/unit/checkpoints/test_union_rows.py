"""Rows of the union against NumPy, token by token, for any order of ids and any mix of dtypes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergegrid.checkpoints.checkpoint import Checkpoint, InMemory, TensorInfo
from mergegrid.checkpoints.dtypes import DTYPES, encode
from mergegrid.checkpoints.row_mapping import KeptRows
from mergegrid.checkpoints.token_alignment import renamed_slots
from mergegrid.checkpoints.tokenizers import Tokenizer
from mergegrid.checkpoints.vocabulary import VocabularySettings, align
from mergegrid.errors import CheckpointError

NAME, NORM, WIDTH, CORE = "model.embed_tokens.weight", "model.norm.weight", 3, 4
ADDED = ["<p>", "<q>", "<r>", "<s>"]


def tokenizer(added):
    """Four words, and added tokens from id 4 on."""
    words = {f"w{number}": number for number in range(CORE)}
    entries = {token: {"id": CORE + number} for number, token in enumerate(added)}
    return Tokenizer(Path("x"), "tokenizer.json", words, entries, {}, {})


class Half(Checkpoint):
    """A checkpoint rounded to a dtype."""

    def __init__(self, tensors, dtype):
        self.flat = {}
        for name, tensor in tensors.items():
            self.flat[name] = np.empty(tensor.size, DTYPES[dtype].numpy)
            encode(tensor.reshape(-1), DTYPES[dtype], self.flat[name])
        super().__init__({n: TensorInfo(t.shape, DTYPES[dtype]) for n, t in tensors.items()})

    def read(self, name, start, stop, buffer):
        return self.flat[name][start:stop]


def model(added, padding, seed, dtype="float32"):
    random = np.random.default_rng(seed)
    shape = (CORE + len(added) + padding, WIDTH)
    tensors = {
        NAME: random.standard_normal(shape).astype(np.float32),
        NORM: random.standard_normal(WIDTH).astype(np.float32),
    }
    return Half(tensors, dtype)


def rows(checkpoint, added):
    """Rows by token."""
    tokens = [f"w{number}" for number in range(CORE)] + list(added)
    return dict(zip(tokens, checkpoint[NAME], strict=False))


orders = st.lists(st.sampled_from(ADDED), unique=True, max_size=4)
models = st.tuples(orders, st.integers(0, 3), st.sampled_from(["float32", "bfloat16", "float16"]))


@settings(max_examples=60, deadline=None)
@given(models, models, models)
def test_rows_are_those_of_their_tokens(base, one, two):
    added = {"": base[0], "one": one[0], "two": two[0]}
    opened = {
        name: model(*given[:2], seed, given[2])
        for seed, (name, given) in enumerate(zip(added, (base, one, two), strict=True))
    }
    tokenizers = {name: tokenizer(tokens) for name, tokens in added.items()}
    experts = {name: opened[name] for name in ("one", "two")}
    union = VocabularySettings("union")
    try:
        renamed_slots(tokenizers)
    except CheckpointError:
        with pytest.raises(CheckpointError, match="so one row has two meanings"):
            align(opened[""], experts, union, tokenizers)
        return
    aligned = align(opened[""], experts, union, tokenizers)
    by_token = {name: rows(opened[name], tokens) for name, tokens in added.items()}
    old = {slot.new: slot.old for slot in aligned.slots}
    found = {"": aligned.base, **aligned.experts}
    matrices = {name: checkpoint[NAME] for name, checkpoint in found.items()}
    count = max(len(opened[""][NAME]), max(aligned.ids.values()) + 1)
    for matrix in matrices.values():
        assert matrix.shape == (count, WIDTH)
    for token, number in aligned.ids.items():
        have = {}
        for name in found:
            row = by_token[name].get(token, by_token[name].get(old.get(token)))
            if row is not None:
                have[name] = row
        wanted = have.get("")
        if wanted is None:
            wanted = np.mean(list(have.values()), axis=0, dtype=np.float64).astype(np.float32)
            wanted = Half({NAME: wanted}, base[2])[NAME]
        np.testing.assert_array_equal(matrices[""][number], wanted)
        for name in ("one", "two"):
            np.testing.assert_array_equal(matrices[name][number], have.get(name, wanted))
    kept = {row for run in aligned.kept for row in range(run.start, run.stop)}
    owners = {token: [name for name in found if token in by_token[name]] for token in aligned.ids}
    alone = {aligned.ids[token] for token, names in owners.items() if len(names) == 1}
    assert {row for row in alone if row not in {slot.row for slot in aligned.slots}} <= kept


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30))
def test_a_range_of_elements_reads_like_the_whole(start, length):
    opened = model(["<p>"], 0, 0), model(["<q>", "<r>", "<p>"], 1, 1)
    tokenizers = {"": tokenizer(["<p>"]), "one": tokenizer(["<q>", "<r>", "<p>"])}
    aligned = align(opened[0], {"one": opened[1]}, VocabularySettings("union"), tokenizers)
    for checkpoint in (aligned.base, aligned.experts["one"]):
        whole = checkpoint[NAME].reshape(-1)
        stop = min(start + length, whole.size)
        if start < stop:
            part = checkpoint.read(NAME, start, stop, np.empty(stop - start, np.float32))
            np.testing.assert_array_equal(part, whole[start:stop])
        np.testing.assert_array_equal(checkpoint[NORM], checkpoint[NORM])


class Sink:
    """Keeps what is written."""

    def __init__(self, count):
        self.infos = {NAME: TensorInfo((count // WIDTH, WIDTH), DTYPES["float32"])}
        self.values = np.full(count, np.nan, np.float32)

    def write(self, name, start, stored):
        self.values[start : start + stored.size] = stored


@pytest.mark.parametrize("step", [1, 2, 5, 18])
def test_kept_rows_are_restored_in_chunks_of_any_length(step):
    opened = model([], 0, 0), model(["<p>", "<q>"], 0, 1)
    tokenizers = {"": tokenizer([]), "one": tokenizer(["<p>", "<q>"])}
    aligned = align(opened[0], {"one": opened[1]}, VocabularySettings("union"), tokenizers)
    sink = Sink(6 * WIDTH)
    keeping = KeptRows(sink, aligned.kept, [NAME])
    merged = np.zeros(6 * WIDTH, np.float32)
    for start in range(0, merged.size, step):
        keeping.write(NAME, start, merged[start : start + step])
    np.testing.assert_array_equal(sink.values[: 4 * WIDTH], 0)
    np.testing.assert_array_equal(sink.values[4 * WIDTH :], opened[1][NAME][4:].reshape(-1))
    assert not merged.any()


def test_equal_models_stay_as_they_are():
    opened = model(["<p>"], 2, 0), model(["<p>"], 2, 1)
    tokenizers = {"": tokenizer(["<p>"]), "one": tokenizer(["<p>"])}
    aligned = align(opened[0], {"one": opened[1]}, VocabularySettings("union"), tokenizers)
    assert aligned.base is opened[0]
    assert aligned.experts["one"] is opened[1]
    assert (aligned.rows, list(aligned.kept), aligned.notes) == (None, [], [])


def test_rows_of_one_tensor_only_cannot_be_united():
    base = InMemory({NAME: np.ones((4, 2)), "lm_head.weight": np.ones((5, 2))})
    with pytest.raises(CheckpointError, match="has embeddings of 4, 5 rows"):
        align(base, {}, VocabularySettings("union"), {"": tokenizer([])})
