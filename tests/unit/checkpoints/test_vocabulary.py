import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from mergegrid.checkpoints import vocabulary
from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.checkpoints.compatibility import check_homologous
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.vocabulary import VocabularySettings, align, is_vocabulary
from mergegrid.errors import CheckpointError

EMBEDDINGS = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
NORM = "model.norm.weight"


def model(rows, seed=0):
    random = np.random.default_rng(seed)
    return InMemory(
        {
            EMBEDDINGS: random.normal(size=(rows, 3)),
            HEAD: random.normal(size=(rows, 3)),
            NORM: random.normal(size=3),
        }
    )


def resized_as_the_paper_does(embeddings, rows):
    """New rows as in smart_tokenizer_and_embedding_resize: the mean of the old ones."""
    old = torch.from_numpy(embeddings)
    return torch.cat([old, old.mean(dim=0, keepdim=True).expand(rows - len(old), -1)]).numpy()


def test_models_of_equal_size_stay_as_they_are():
    base, math = model(4), model(4)
    for policy in ("base_rows", "pad"):
        aligned = align(base, {"math": math}, VocabularySettings(policy))
        assert aligned.base is base
        assert aligned.experts == {"math": math}
        assert aligned.rows is None
        assert aligned.notes == []


def test_rows_beyond_the_base_s_are_left_out_by_default():
    base, math, code = model(4), model(6, seed=1), model(4, seed=2)
    aligned = align(base, {"math": math, "code": code})
    assert aligned.base is base
    assert aligned.experts["code"] is code
    assert aligned.rows is None
    for name in (EMBEDDINGS, HEAD):
        np.testing.assert_array_equal(aligned.experts["math"][name], math[name][:4])
    np.testing.assert_array_equal(aligned.experts["math"][NORM], math[NORM])
    check_homologous(aligned.base, aligned.experts["math"], "math")


def test_the_report_names_every_tensor_that_is_cut_or_padded():
    models = {"math": model(5), "code": model(6)}
    assert align(model(4), models).notes == [
        "expert math: 1 row of lm_head.weight beyond the base's 4 left out",
        "expert math: 1 row of model.embed_tokens.weight beyond the base's 4 left out",
        "expert code: 2 rows of lm_head.weight beyond the base's 4 left out",
        "expert code: 2 rows of model.embed_tokens.weight beyond the base's 4 left out",
    ]
    padded = align(model(4), models, VocabularySettings("pad")).notes
    assert padded[0] == "base: 2 rows of lm_head.weight added, each the mean of the existing 4"
    assert (
        padded[2] == "expert math: 1 row of lm_head.weight added, each the mean of the existing 5"
    )
    assert len(padded) == 4


def test_an_expert_with_fewer_rows_is_refused_unless_padded():
    with pytest.raises(CheckpointError, match="has 3 rows in expert math and 4 in the base"):
        align(model(4), {"math": model(3)})
    aligned = align(model(4), {"math": model(3)}, VocabularySettings("pad"))
    assert aligned.experts["math"].infos[EMBEDDINGS].shape == (4, 3)
    assert aligned.rows is None


def test_padding_brings_all_to_the_largest_with_the_mean_of_their_own_rows():
    models = {"math": model(5, seed=1), "code": model(7, seed=2)}
    aligned = align(model(4), models, VocabularySettings("pad"))
    assert aligned.rows == 7
    assert aligned.experts["code"] is models["code"]
    for before, after in ((model(4), aligned.base), (models["math"], aligned.experts["math"])):
        for name in (EMBEDDINGS, HEAD):
            expected = resized_as_the_paper_does(before[name], 7)
            np.testing.assert_allclose(after[name], expected, rtol=1e-6)
            np.testing.assert_array_equal(after[name][: len(before[name])], before[name])
        np.testing.assert_array_equal(after[NORM], before[NORM])


@given(start=st.integers(0, 27), length=st.integers(0, 27))
def test_a_run_of_elements_reads_like_the_whole(start, length):
    for policy in ("base_rows", "pad"):
        aligned = align(model(4), {"math": model(5), "code": model(9)}, VocabularySettings(policy))
        for checkpoint in (aligned.base, *aligned.experts.values()):
            whole = checkpoint[EMBEDDINGS].reshape(-1)
            stop = min(start + length, whole.size)
            room = np.full(max(stop - start, 0), np.nan, np.float32)
            if stop >= start:
                run = checkpoint.read(EMBEDDINGS, start, stop, room)
                np.testing.assert_array_equal(run, whole[start:stop])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_new_rows_are_stored_in_the_model_s_own_type(tmp_path, dtype):
    torch.manual_seed(0)
    stored = torch.randn(9, 5).to(dtype)
    save_file({EMBEDDINGS: stored}, tmp_path / "model.safetensors")
    larger = InMemory({EMBEDDINGS: np.ones((11, 5))})
    aligned = align(open_checkpoint(tmp_path), {"math": larger}, VocabularySettings("pad"))
    assert aligned.base.infos[EMBEDDINGS].dtype.name == str(dtype).removeprefix("torch.")
    mean = stored.double().mean(0).float().to(dtype).float().numpy()
    np.testing.assert_array_equal(aligned.base[EMBEDDINGS][9:], [mean, mean])


def test_the_mean_does_not_depend_on_how_much_is_read_at_once(monkeypatch):
    larger = {"math": model(60)}
    whole = align(model(50), larger, VocabularySettings("pad")).base[EMBEDDINGS]
    for at_once in (1, 7, 100):
        monkeypatch.setattr(vocabulary, "_CHUNK", at_once)
        in_parts = align(model(50), larger, VocabularySettings("pad")).base[EMBEDDINGS]
        np.testing.assert_allclose(in_parts, whole, rtol=1e-6)


def test_padding_loses_nothing_to_large_counts_of_rows():
    base = InMemory({EMBEDDINGS: np.full((200_000, 1), 0.1, np.float32)})
    aligned = align(
        base, {"math": InMemory({EMBEDDINGS: np.ones((200_001, 1))})}, VocabularySettings("pad")
    )
    assert aligned.base[EMBEDDINGS][-1] == np.float32(0.1)


def test_biases_of_the_output_have_a_row_per_token_too():
    base, math = InMemory({"lm_head.bias": [1.0, 3.0]}), InMemory({"lm_head.bias": [1.0, 2.0, 3.0]})
    np.testing.assert_array_equal(align(base, {"m": math}).experts["m"]["lm_head.bias"], [1, 2])
    padded = align(base, {"m": math}, VocabularySettings("pad"))
    np.testing.assert_array_equal(padded.base["lm_head.bias"], [1, 3, 2])


@pytest.mark.parametrize(
    ("name", "base", "expert"),
    [
        (EMBEDDINGS, (4, 3), (5, 2)),
        ("model.norm.weight", (4,), (5,)),
        ("a.up_proj.weight", (4, 3), (5, 3)),
    ],
)
def test_what_differs_otherwise_is_left_to_be_refused(name, base, expert):
    base, expert = InMemory({name: np.ones(base)}), InMemory({name: np.ones(expert)})
    aligned = align(base, {"math": expert})
    assert aligned.experts == {"math": expert}
    with pytest.raises(CheckpointError, match="only models of equal shapes"):
        check_homologous(aligned.base, aligned.experts["math"], "math")


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "wte.weight",
        "transformer.wte.weight",
        "shared.weight",
        "bert.embeddings.word_embeddings.weight",
        "cls.predictions.bias",
        "lm_head.decoder.weight",
        "gpt_neox.embed_in.weight",
        "embed_out.weight",
    ],
)
def test_tensors_with_a_row_per_token_are_known(name):
    assert is_vocabulary(name)


@pytest.mark.parametrize("name", ["model.norm.weight", "wpe.weight", "lm_head.dense.weight", "wte"])
def test_others_are_not(name):
    assert not is_vocabulary(name)
