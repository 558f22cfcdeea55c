"""Tokenizers in all files that hold them are one tokenizer."""

import json

import pytest

from mergegrid.checkpoints.token_alignment import check_vocabularies
from mergegrid.checkpoints.tokenizers import read_tokenizer, read_tokenizers
from mergegrid.errors import CheckpointError

WORDS = {"<s>": 0, "a": 1, "b": 2, "ab": 3}
END = {"id": 4, "content": "<end>", "special": True}


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def fast(folder, merges=("a b",), **changes):
    model = {"type": "BPE", "vocab": WORDS, "merges": list(merges)}
    start = {"id": 0, "content": "<s>", "special": True}
    content = {"model": model, "added_tokens": [start, END], "normalizer": None}
    return write(folder, tokenizer__json=content | changes)


def slow(folder, merges="#version: 0.2\na b\n"):
    entry = {key: value for key, value in END.items() if key != "id"}
    return write(
        folder,
        vocab__json=WORDS,
        merges__txt=merges,
        tokenizer_config__json={"added_tokens_decoder": {"4": entry}, "eos_token": "<end>"},
    )


def lists(folder):
    return write(folder, vocab__txt="<s>\na\nb\nab\n", added_tokens__json={"<end>": 4})


@pytest.mark.parametrize("layout", [fast, slow, lists])
def test_ids_are_read_from_every_layout(tmp_path, layout):
    tokenizer = read_tokenizer(layout(tmp_path / "model"))
    assert dict(tokenizer.ids) == WORDS | {"<end>": 4}
    assert tokenizer.tokens[4] == "<end>"
    assert len(tokenizer) == 5
    assert tokenizer.added["<end>"]["id"] == 4


def test_layouts_are_compared_by_what_both_hold(tmp_path):
    base = read_tokenizer(fast(tmp_path / "base"))
    others = {
        "slow": read_tokenizer(slow(tmp_path / "s")),
        "l": read_tokenizer(lists(tmp_path / "l")),
    }
    assert check_vocabularies({"": base, **others}) == []
    other = read_tokenizer(slow(tmp_path / "other", merges="#version: 0.2\nb a\n"))
    with pytest.raises(CheckpointError, match="its tokens are equal, but not its merges"):
        check_vocabularies({"": base, "other": other})


def test_scores_of_a_unigram_model_are_compared(tmp_path):
    pieces = [[word, -float(number)] for word, number in WORDS.items()]
    changed = [*pieces[:-1], ["ab", -7.0]]
    base, other = (
        read_tokenizer(fast(tmp_path / str(n), model={"type": "Unigram", "vocab": vocabulary}))
        for n, vocabulary in enumerate([pieces, changed])
    )
    assert dict(base.vocabulary) == WORDS
    with pytest.raises(CheckpointError, match="its tokens are equal, but not its scores"):
        check_vocabularies({"": base, "other": other})
    note = "expert other has another vocabulary than the base"
    assert note in check_vocabularies({"": base, "other": other}, homologous=False)[0]


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer", "post_processor"])
def test_other_parts_are_noted(tmp_path, part):
    base = read_tokenizer(fast(tmp_path / "base"))
    other = read_tokenizer(fast(tmp_path / "other", **{part: {"type": "X"}}))
    (note,) = check_vocabularies({"": base, "other": other})
    assert note.startswith("expert other: its tokenizer ")
    assert note.endswith(f"than the base's ({part})")


def test_ends_are_read_in_both_notations(tmp_path):
    config = {"eos_token": {"content": "<end>", "lstrip": False}, "bos_token": "<s>"}
    write(tmp_path, tokenizer_config__json=config)
    assert read_tokenizer(fast(tmp_path)).named == {"eos_token": "<end>", "bos_token": "<s>"}


def test_a_folder_without_a_tokenizer_has_none(tmp_path):
    assert read_tokenizer(write(tmp_path, tekken__json="{}")) is None


def test_equal_files_are_one_tokenizer_in_folders_of_their_own(tmp_path):
    folders = {"": fast(tmp_path / "base"), "math": fast(tmp_path / "math")}
    folders["code"] = fast(tmp_path / "code", added_tokens=[END | {"content": "<stop>"}])
    tokenizers = read_tokenizers(folders)
    assert {name: tokenizer.folder for name, tokenizer in tokenizers.items()} == folders
    assert tokenizers["math"].ids is tokenizers[""].ids
    assert tokenizers["code"].ids == read_tokenizer(folders["code"]).ids
    assert "<stop>" in tokenizers["code"].ids
