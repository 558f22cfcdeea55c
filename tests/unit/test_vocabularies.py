"""Vocabularies, tokenizers and templates of merged models: one test, or some, for each case.

Rows are compared with NumPy by token, through the tokenizers that transformers loads.
"""

import json
import logging

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from small_vocabularies import (
    CHAT,
    EMBEDDINGS,
    HEAD,
    LETTERS,
    MERGES,
    SPECIAL,
    bpe,
    change_json,
    config_of,
    decoder,
    rows_by_token,
    sentencepiece_model,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergegrid import (
    Average,
    Breadcrumbs,
    Dare,
    Magnitude,
    MaskedFinetuned,
    ModelStock,
    NoSparsifier,
    Output,
    Sce,
    Slerp,
    TaskArithmetic,
    Ties,
    merge,
)
from mergegrid.errors import CheckpointError, ConfigError

START, END = "<|im_start|>", "<|im_end|>"


@pytest.fixture
def merged(tmp_path, caplog):
    """`merged(experts, method, **output)`: the folder of a merge, and its notes."""

    def run(experts, method=None, sparsifier=None, base="base", **output):
        caplog.set_level(logging.INFO)
        folder = merge(
            tmp_path / base,
            {name: tmp_path / name for name in experts},
            sparsifier or NoSparsifier(),
            method or TaskArithmetic(coefficient=0.5),
            out=tmp_path / "out",
            output=Output(**output),
            threads=1,
        )
        notes = json.loads((folder / "manifest.json").read_text())["made_from"]["notes"]
        return folder, "\n".join(notes)

    return run


def loads(folder):
    """A merged model that transformers loads without missing anything; its tokenizer fits."""
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert max(tokenizer.get_vocab().values()) < model.get_input_embeddings().weight.shape[0]
    assert model.config.vocab_size == model.get_input_embeddings().weight.shape[0]
    ids = tokenizer("abcdef" + END, return_tensors="pt").input_ids
    assert torch.isfinite(model(ids).logits).all()
    return model, tokenizer


def half_sum(base, experts):
    """base + 0.5 * sum of deltas, of rows."""
    return base + 0.5 * sum(expert - base for expert in experts)


def check_rows(tmp_path, folder, experts):
    """Rows of tokens that all models have are merged by token."""
    for name in (EMBEDDINGS, HEAD):
        out = rows_by_token(folder, name)
        base = rows_by_token(tmp_path / "base", name)
        rows = [rows_by_token(tmp_path / expert, name) for expert in experts]
        common = set(base).intersection(*rows)
        assert len(common) >= len(SPECIAL)
        for token in common:
            wanted = half_sum(base[token], [expert[token] for expert in rows])
            np.testing.assert_allclose(out[token], wanted, atol=1e-6)
    return out


# 1 and 2: equal tokenizers.


def test_equal_tokenizers_are_merged_and_that_of_the_base_comes_along(tmp_path, merged):
    base = decoder(tmp_path / "base", bpe(), rows=16)
    for seed, name in enumerate(["chat", "math"], start=1):
        decoder(tmp_path / name, bpe(), rows=16, seed=seed, base=base)
    folder, notes = merged(["chat", "math"])
    assert notes == ""
    check_rows(tmp_path, folder, ["chat", "math"])
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (folder / name).read_bytes() == (base / name).read_bytes()
    united, _ = merged(["chat", "math"], vocabulary="union")
    assert (united / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    for policy in ("base_rows", "pad", "union"):
        again, _ = merged(["chat", "math"], vocabulary=policy)
        again = load_file(again / "model.safetensors")
        first = load_file(folder / "model.safetensors")
        for name, tensor in first.items():
            np.testing.assert_array_equal(again[name], tensor)


def test_the_config_is_that_of_the_chosen_model_and_the_ends_are_the_tokenizers(tmp_path, merged):
    base = decoder(tmp_path / "base", bpe(), rows=16)
    decoder(tmp_path / "long", bpe(), rows=18, seed=1, base=base)
    change_json(tmp_path / "long" / "config.json", max_position_embeddings=4096, eos_token_id=7)
    keys = ("max_position_embeddings", "eos_token_id", "vocab_size")
    expected = {
        "base": (512, json.loads((base / "config.json").read_text())["eos_token_id"], 16),
        "long": (4096, json.loads((base / "config.json").read_text())["eos_token_id"], 16),
    }
    for name, values in expected.items():
        folder, notes = merged(["long"], config=name, tokenizer="base")
        whose = {"base": "base's value", "long": "value of long"}[name]
        assert f"the merge uses the {whose}" in notes
        config = json.loads((folder / "config.json").read_text())
        assert tuple(config[key] for key in keys) == values
        loads(folder)
    folder, _ = merged(["long"], config="long", tokenizer="long")
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == 7
    with pytest.raises(ConfigError, match=r"output\.config = 'other' is not an expert"):
        merged(["long"], config="other")


def test_rows_beyond_the_tokens_are_padding_and_said_to_be(tmp_path, merged):
    base = decoder(tmp_path / "base", bpe(), rows=18)
    decoder(tmp_path / "chat", bpe(), rows=24, seed=1, base=base)
    folder, notes = merged(["chat"])
    assert (
        "6 rows of lm_head.weight beyond the base's 18 left out: padding only, nothing is" in notes
    )
    model, _ = loads(folder)
    assert model.config.vocab_size == 18
    check_rows(tmp_path, folder, ["chat"])


# 3: one expert adds tokens.


def test_tokens_that_an_expert_added_are_named(tmp_path, merged):
    base = decoder(tmp_path / "base", bpe())
    decoder(tmp_path / "chat", bpe([START, END]), seed=1, base=base)
    folder, notes = merged(["chat"])
    assert f"expert chat: not in the merged tokenizer: {START} (id 15), {END} (id 16)" in notes
    assert "output.vocabulary: union keeps them" in notes
    assert "padding only" not in notes
    model, tokenizer = loads(folder)
    assert model.config.vocab_size == len(tokenizer) == 15
    check_rows(tmp_path, folder, ["chat"])


@pytest.mark.parametrize("output", [{"chat_template": "chat"}, {"tokenizer": "chat"}])
def test_a_lost_token_of_the_template_or_tokenizer_is_an_error(tmp_path, merged, output):
    base = decoder(tmp_path / "base", bpe())
    chat = bpe([START, END], template=CHAT, eos_token=END)
    decoder(tmp_path / "chat", chat, seed=1, base=base)
    with pytest.raises(CheckpointError, match=r"im_end.*set output.vocabulary: union"):
        merged(["chat"], **output)
    assert not (tmp_path / "out").exists()


def test_the_union_has_the_tokens_that_one_expert_added(tmp_path, merged):
    base = decoder(tmp_path / "base", bpe())
    chat = bpe([START, END], template=CHAT, eos_token=END)
    decoder(tmp_path / "chat", chat, seed=1, base=base)
    decoder(tmp_path / "math", bpe(), seed=2, base=base)
    folder, notes = merged(["chat", "math"], vocabulary="union", tokenizer="chat")
    assert f"2 tokens added to the base's vocabulary: {START} (id 15), {END} (id 16)" in notes
    model, tokenizer = loads(folder)
    assert model.config.vocab_size == len(tokenizer) == 17
    check_rows(tmp_path, folder, ["chat", "math"])
    text = f"abcd{START}ef{END}gh"
    assert tokenizer(text).input_ids == chat(text).input_ids
    assert tokenizer.eos_token == END


# 4 and 5: other tokens at an id, and other ids of a token.


@pytest.fixture
def two_at_one_id(tmp_path):
    base = decoder(tmp_path / "base", bpe())
    decoder(tmp_path / "chat", bpe([START, END], template=CHAT), seed=1, base=base)
    decoder(tmp_path / "math", bpe(["<think>"], template="{{ x }}"), seed=2, base=base)


def test_two_tokens_at_one_id_beyond_the_base_are_left_out(tmp_path, merged, two_at_one_id):
    folder, notes = merged(["chat", "math"])
    assert "expert chat: not in the merged tokenizer" in notes
    assert "expert math: not in the merged tokenizer: <think> (id 15)" in notes
    check_rows(tmp_path, folder, ["chat", "math"])


def test_two_tokens_at_one_id_are_not_padded(merged, two_at_one_id):
    message = r"id 15 is <\|im_start\|> in expert chat, <think> in expert math; unrelated rows"
    with pytest.raises(CheckpointError, match=message):
        merged(["chat", "math"], vocabulary="pad")


def test_two_tokens_at_one_id_are_both_in_the_union(tmp_path, merged, two_at_one_id):
    folder, _ = merged(["chat", "math"], vocabulary="union", tokenizer="math")
    _, tokenizer = loads(folder)
    ids = tokenizer.get_vocab()
    assert (ids[START], ids[END], ids["<think>"]) == (15, 16, 17)
    assert tokenizer.chat_template == "{{ x }}"
    assert tokenizer("ab<think>").input_ids[-1] == 17
    check_rows(tmp_path, folder, ["chat", "math"])
    for name in (EMBEDDINGS, HEAD):
        rows = rows_by_token(folder, name)
        for token, expert in ((START, "chat"), (END, "chat"), ("<think>", "math")):
            np.testing.assert_array_equal(
                rows[token], rows_by_token(tmp_path / expert, name)[token]
            )


def test_a_tokenizer_whose_tokens_another_expert_lacks_is_refused(tmp_path, merged):
    base = decoder(tmp_path / "base", bpe(), rows=20)
    decoder(tmp_path / "chat", bpe([START]), rows=20, seed=1, base=base)
    decoder(tmp_path / "math", bpe(["<think>"]), rows=20, seed=2, base=base)
    with pytest.raises(CheckpointError, match="unrelated rows would be merged; set output"):
        merged(["chat", "math"], tokenizer="chat")
    folder, notes = merged(["chat"], tokenizer="chat")
    assert f"only expert chat has {START}: the rows are merged with unused rows" in notes
    loads(folder)


def test_one_token_at_different_ids_is_refused_or_united(tmp_path, merged):
    base = decoder(tmp_path / "base", bpe([START, END]))
    decoder(tmp_path / "chat", bpe([END, START]), seed=1, base=base)
    message = r"token <\|im_end\|> has different ids: 16 in the base, 15 in expert chat"
    for policy in ("base_rows", "pad"):
        with pytest.raises(CheckpointError, match=message):
            merged(["chat"], vocabulary=policy)
    folder, _ = merged(["chat"], vocabulary="union", tokenizer="chat")
    _, tokenizer = loads(folder)
    assert (tokenizer.get_vocab()[START], tokenizer.get_vocab()[END]) == (15, 16)
    rows = check_rows(tmp_path, folder, ["chat"])
    assert len(rows) == 17


# 6: a reserved slot renamed.


@pytest.fixture
def reserved(tmp_path):
    reserved = ["<reserved_0>", "<reserved_1>"]
    base = decoder(tmp_path / "base", bpe(reserved))
    decoder(tmp_path / "math", bpe(reserved), seed=2, base=base)
    for name, token, seed in (("chat", START, 1), ("other", "<tool>", 3)):
        decoder(tmp_path / name, bpe([token, "<reserved_1>"]), seed=seed)
    return tmp_path


def test_a_renamed_slot_needs_the_tokenizer_that_knows_it(reserved, merged):
    with pytest.raises(CheckpointError, match=r"renamed token <reserved_0> \(id 15\) <\|im_start"):
        merged(["chat", "math"])
    folder, _ = merged(["chat", "math"], tokenizer="chat")
    _, tokenizer = loads(folder)
    assert tokenizer.get_vocab()[START] == 15
    weights = [load_file(reserved / n / "model.safetensors") for n in ("base", "chat", "math")]
    out = load_file(folder / "model.safetensors")
    for name in (EMBEDDINGS, HEAD):
        base, *experts = (tensors[name] for tensors in weights)
        np.testing.assert_allclose(out[name], half_sum(base, experts), atol=1e-6)


@pytest.mark.parametrize("giver", ["base", "chat", "math"])
def test_the_union_renames_a_slot(reserved, merged, giver):
    by_id, _ = merged(["chat", "math"], tokenizer="chat")
    wanted = load_file(by_id / "model.safetensors")
    folder, _ = merged(["chat", "math"], vocabulary="union", tokenizer=giver)
    _, tokenizer = loads(folder)
    assert tokenizer.get_vocab()[START] == 15
    assert "<reserved_0>" not in tokenizer.get_vocab()
    for name, tensor in load_file(folder / "model.safetensors").items():
        np.testing.assert_array_equal(tensor, wanted[name])


@pytest.mark.parametrize("policy", ["base_rows", "pad", "union"])
def test_a_slot_renamed_twice_is_refused(reserved, merged, policy):
    message = r"<reserved_0> \(id 15\) of the base was renamed <tool> by expert other and"
    with pytest.raises(CheckpointError, match=message):
        merged(["chat", "other"], vocabulary=policy)


# 7: other vocabularies.


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"letters": "hgfedcba "}, r"8 tokens differ, first 'a' \(id 3 in the base, 10 in the ex"),
        ({"merges": [MERGES[1], MERGES[0], MERGES[2]]}, "tokens differ"),
        ({"merges": [*MERGES, ("g", "h")]}, r"1 tokens differ, first 'gh' \(id none in the base"),
    ],
)
@pytest.mark.parametrize("policy", ["base_rows", "pad", "union"])
def test_another_vocabulary_is_refused(tmp_path, merged, other, says, policy):
    decoder(tmp_path / "base", bpe(), rows=20)
    decoder(tmp_path / "chat", bpe(**other), rows=20, seed=1)
    with pytest.raises(CheckpointError, match=rf"another vocabulary.*{says}.*tokensurgeon"):
        merged(["chat"], vocabulary=policy)


def test_other_merges_of_equal_tokens_are_refused(tmp_path, merged):
    base = decoder(tmp_path / "base", bpe())
    chat = decoder(tmp_path / "chat", bpe(), seed=1, base=base)
    content = config_of(chat, "tokenizer.json")
    content["model"]["merges"].reverse()
    (chat / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="its tokens are equal, but not its merges"):
        merged(["chat"])


def test_merges_in_the_old_notation_are_the_same(tmp_path, merged):
    base = decoder(tmp_path / "base", bpe())
    chat = decoder(tmp_path / "chat", bpe(), seed=1, base=base)
    content = config_of(chat, "tokenizer.json")
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    (chat / "tokenizer.json").write_text(json.dumps(content))
    assert merged(["chat"])[1] == ""


# 8 to 10: whose tokenizer, template and ends.


def chats(tmp_path, added=(), templates=(CHAT, CHAT), rows=None, base_template=None, **named):
    base = decoder(tmp_path / "base", bpe(added, template=base_template), rows=rows)
    for seed, (name, template) in enumerate(zip(["chat", "math"], templates, strict=True), 1):
        stops = [bpe(added).eos_token_id, *(len(bpe()) + i for i in range(2) if added)]
        tokenizer = bpe(added, template=template, **named)
        decoder(tmp_path / name, tokenizer, rows, seed, base, stops=stops)
    return base


def test_a_template_that_all_experts_share_is_taken_where_the_base_has_none(tmp_path, merged):
    chats(tmp_path, [START, END], eos_token=END)
    folder, notes = merged(["chat", "math"])
    assert "those of expert chat, because the base has no chat template and the experts" in notes
    _, tokenizer = loads(folder)
    assert tokenizer.chat_template == CHAT
    assert tokenizer.eos_token == END
    assert config_of(folder, "generation_config.json")["eos_token_id"] == [2, 15, 16]
    folder, notes = merged(["chat", "math"], tokenizer="base")
    assert notes == ""
    assert AutoTokenizer.from_pretrained(folder).chat_template is None


def test_a_shared_template_whose_tokens_have_no_row_is_left_out(tmp_path, merged):
    base = decoder(tmp_path / "base", bpe())
    decoder(tmp_path / "chat", bpe([START, END], template=CHAT), seed=1, base=base)
    folder, notes = merged(["chat"])
    assert "the chat template that the experts share is left out, because" in notes
    assert AutoTokenizer.from_pretrained(folder).chat_template is None


def test_templates_that_differ_leave_the_base_s(tmp_path, merged):
    chats(tmp_path, templates=("{{ 'a' }}", "{{ 'b' }}"))
    folder, notes = merged(["chat", "math"])
    assert "the chat templates of the experts differ" in notes
    assert "output.tokenizer: NAME decides" in notes
    assert AutoTokenizer.from_pretrained(folder).chat_template is None
    folder, notes = merged(["chat", "math"], tokenizer="math")
    assert AutoTokenizer.from_pretrained(folder).chat_template == "{{ 'b' }}"


def test_a_template_of_the_base_stays(tmp_path, merged):
    chats(tmp_path, templates=("{{ 'a' }}", "{{ 'a' }}"), base_template="{{ 'base' }}")
    folder, notes = merged(["chat", "math"])
    assert "differ from the base's" in notes
    assert AutoTokenizer.from_pretrained(folder).chat_template == "{{ 'base' }}"


def test_who_gives_the_tokenizer_gives_the_ends(tmp_path, merged):
    base = chats(tmp_path, [START, END], eos_token=END, pad_token=START)
    change_json(tmp_path / "math" / "generation_config.json", temperature=0.25)
    folder, _ = merged(["chat", "math"], tokenizer="math")
    config, generation = config_of(folder), config_of(folder, "generation_config.json")
    assert (config["eos_token_id"], config["pad_token_id"]) == (16, 15)
    assert generation["eos_token_id"] == [2, 15, 16]
    assert generation["temperature"] == 0.25
    assert config["hidden_size"] == config_of(base)["hidden_size"]
    folder, _ = merged(["chat", "math"], tokenizer="base")
    assert config_of(folder)["eos_token_id"] == 2
    assert config_of(folder)["pad_token_id"] is None


def test_ends_without_a_generation_config_are_those_of_the_config(tmp_path, merged):
    chats(tmp_path, [START, END], eos_token=END)
    (tmp_path / "chat" / "generation_config.json").unlink()
    folder, _ = merged(["chat", "math"], tokenizer="chat")
    assert config_of(folder, "generation_config.json")["eos_token_id"] == 16
    assert config_of(folder)["eos_token_id"] == 16


def test_ids_move_with_their_rows(tmp_path, merged):
    base = decoder(tmp_path / "base", bpe())
    decoder(tmp_path / "chat", bpe(["<a>", "<b>"]), seed=1, base=base)
    last = bpe([START, END], template=CHAT, eos_token=END, pad_token=START)
    decoder(tmp_path / "last", last, seed=2, base=base, stops=[2, 16])
    change_json(
        tmp_path / "last" / "generation_config.json",
        bad_words_ids=[[15], [3, 16]],
        suppress_tokens=[15],
        sequence_bias=[[[16], -1.0]],
    )
    folder, _ = merged(["chat", "last"], vocabulary="union", tokenizer="last")
    _, tokenizer = loads(folder)
    assert (tokenizer.get_vocab()[START], tokenizer.get_vocab()[END]) == (17, 18)
    assert tokenizer.eos_token_id == 18
    assert config_of(folder)["eos_token_id"] == 18
    assert config_of(folder)["pad_token_id"] == 17
    generation = config_of(folder, "generation_config.json")
    assert generation["eos_token_id"] == [2, 18]
    assert generation["bad_words_ids"] == [[17], [3, 18]]
    assert generation["suppress_tokens"] == [17]
    assert generation["sequence_bias"] == [[[18], -1.0]]


@pytest.mark.parametrize("layout", ["files", "list"])
def test_all_named_templates_come_along(tmp_path, merged, layout):
    chats(tmp_path, [START, END])
    chat = tmp_path / "chat"
    named = {"default": "{{ 1 }}", "tool_use": "{{ 2 }}", "rag": "{{ 3 }}"}
    tokenizer = AutoTokenizer.from_pretrained(chat)
    tokenizer.chat_template = named
    (chat / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(chat, save_jinja_files=layout == "files")
    for output in ({"tokenizer": "chat"}, {"tokenizer": "base", "chat_template": "chat"}):
        folder, _ = merged(["chat", "math"], **output)
        assert AutoTokenizer.from_pretrained(folder).chat_template == named
    folder, _ = merged(["chat", "math"], tokenizer="chat", chat_template="math")
    assert AutoTokenizer.from_pretrained(folder).chat_template == CHAT
    folder, _ = merged(["chat", "math"], tokenizer="chat", chat_template="{{ 'text' }}")
    assert AutoTokenizer.from_pretrained(folder).chat_template == "{{ 'text' }}"


# 11 and 12: rows of the union.

METHODS = [
    Average(weights={"chat": 0.3, "math": 0.7}),
    TaskArithmetic(coefficient=0.3),
    Ties(trim=0.5, coefficient=2.0),
    Slerp(weights={"chat": 0.3, "math": 0.7}),
    ModelStock(),
    Sce(select=0.5),
]
SPARSIFIERS = [
    NoSparsifier(),
    Dare(rate=0.5, seed=1),
    Magnitude(rate=0.5),
    MaskedFinetuned(rate=0.5, seed=1),
    Breadcrumbs(rate=0.5, largest=0.1),
]


@pytest.mark.parametrize("sparsifier", SPARSIFIERS, ids=lambda each: each.kind)
@pytest.mark.parametrize("method", METHODS, ids=lambda each: each.kind)
def test_the_row_of_the_only_owner_is_untouched(tmp_path, two_at_one_id, method, sparsifier):
    tensors = merge(
        tmp_path / "base",
        {name: tmp_path / name for name in ("chat", "math")},
        sparsifier,
        method,
        output=Output(vocabulary="union"),
        threads=1,
    )
    for name in (EMBEDDINGS, HEAD):
        chat, math = (load_file(tmp_path / n / "model.safetensors")[name] for n in ("chat", "math"))
        np.testing.assert_array_equal(tensors[name][15:17], chat[15:17])
        np.testing.assert_array_equal(tensors[name][17], math[15])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_row_of_the_only_owner_is_rounded_once(tmp_path, merged, two_at_one_id, dtype):
    folder, _ = merged(["chat", "math"], Average(), vocabulary="union", dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    rows = model.get_input_embeddings().weight
    own = load_file(tmp_path / "chat" / "model.safetensors")[EMBEDDINGS][15:17]
    assert torch.equal(rows[15:17], torch.from_numpy(own).to(getattr(torch, dtype)))


def test_a_token_of_several_experts_starts_at_their_mean(tmp_path, merged):
    base = decoder(tmp_path / "base", bpe())
    decoder(tmp_path / "chat", bpe([START, "<a>"]), seed=1, base=base)
    decoder(tmp_path / "code", bpe(["<b>", START]), seed=2, base=base)
    decoder(tmp_path / "math", bpe(), seed=3, base=base)
    names = ["chat", "code", "math"]
    folder, _ = merged(names, vocabulary="union")
    loads(folder)
    for name in (EMBEDDINGS, HEAD):
        rows = {expert: rows_by_token(tmp_path / expert, name) for expert in names}
        mean = (rows["chat"][START] + rows["code"][START]) / 2
        wanted = half_sum(mean, [rows["chat"][START], rows["code"][START], mean])
        np.testing.assert_allclose(rows_by_token(folder, name)[START], wanted, atol=1e-6)
    folder, _ = merged(names, Average(), vocabulary="union")
    wanted = (rows["chat"][START] + rows["code"][START]) / 2
    np.testing.assert_allclose(rows_by_token(folder, HEAD)[START], wanted, atol=1e-6)


# 13: tied embeddings.


@pytest.mark.parametrize("policy", ["base_rows", "union"])
def test_tied_embeddings_are_one_matrix(tmp_path, merged, policy):
    base = decoder(tmp_path / "base", bpe(), tied=True)
    decoder(tmp_path / "chat", bpe([START]), seed=1, base=base, tied=True)
    folder, _ = merged(["chat"], vocabulary=policy)
    assert HEAD not in load_file(folder / "model.safetensors")
    model, tokenizer = loads(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert len(tokenizer) == len(model.lm_head.weight) == (15 if policy == "base_rows" else 16)


# 14: adapters with added rows.


def adapter(folder, base, tokenizer):
    """A LoRA adapter, made by PEFT, with a token and so rows of embeddings more than its base."""
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    tuned = get_peft_model(model, config)
    tuned.save_pretrained(folder, save_embedding_layers=True)
    tokenizer.save_pretrained(folder)
    return tuned.merge_and_unload()


def test_an_adapter_with_added_rows_is_as_an_expert_with_added_tokens(tmp_path, merged):
    base = decoder(tmp_path / "base", bpe())
    whole = adapter(tmp_path / "chat", base, bpe([START]))
    folder, notes = merged(["chat"])
    assert f"expert chat: not in the merged tokenizer: {START} (id 15)" in notes
    assert len(loads(folder)[1]) == 15
    folder, _ = merged(["chat"], TaskArithmetic(), vocabulary="union", tokenizer="chat")
    model, tokenizer = loads(folder)
    assert tokenizer.get_vocab()[START] == 15
    out, wanted = model.state_dict(), whole.state_dict()
    for name in (EMBEDDINGS, HEAD):
        assert torch.equal(out[name][15], wanted[name][15])
    for name, tensor in wanted.items():
        torch.testing.assert_close(out[name], tensor, rtol=0, atol=1e-6)


# 15: sentencepiece only.


def only_sentencepiece(folder, pieces):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(pieces))


def test_pieces_of_a_sentencepiece_model_are_compared(tmp_path, merged):
    pieces = [*SPECIAL, *LETTERS, "ab", "cd", "ef"]
    decoder(tmp_path / "chat", bpe(), 18, 1, decoder(tmp_path / "base", bpe(), 18))
    only_sentencepiece(tmp_path / "chat", pieces)
    _, notes = merged(["chat"])
    assert notes == ""
    models = [load_file(tmp_path / n / "model.safetensors") for n in ("base", "chat", "out")]
    base, chat, out = (tensors[EMBEDDINGS] for tensors in models)
    np.testing.assert_allclose(out, half_sum(base, [chat]), atol=1e-6)
    with pytest.raises(CheckpointError, match=r"has tokenizer\.model but no tokenizer\.json"):
        merged(["chat"], vocabulary="union")
    only = [*SPECIAL, *reversed(LETTERS), "ab", "cd", "ef"]
    (tmp_path / "chat" / "tokenizer.model").write_bytes(sentencepiece_model(only))
    with pytest.raises(CheckpointError, match="expert chat has another vocabulary"):
        merged(["chat"])


@pytest.mark.parametrize("policy", ["base_rows", "pad"])
def test_rows_without_a_tokenizer_are_said_to_be_taken_by_index(tmp_path, merged, policy):
    base = decoder(tmp_path / "base", bpe())
    chat = decoder(tmp_path / "chat", bpe([START]), seed=1, base=base)
    for path in chat.glob("tokenizer*"):
        path.unlink()
    _, notes = merged(["chat"], vocabulary=policy)
    assert "expert chat has other rows than the base and no tokenizer that can be read" in notes
    with pytest.raises(CheckpointError, match="has another number of rows than the base, and no"):
        merged(["chat"], vocabulary="union")


# 16: what stands around a text.


def test_another_bos_is_noted(tmp_path, merged):
    base = decoder(tmp_path / "base", bpe())
    chat = decoder(tmp_path / "chat", bpe(), seed=1, base=base)
    change_json(base / "tokenizer_config.json", add_bos_token=True)
    change_json(chat / "tokenizer_config.json", add_bos_token=False)
    _, notes = merged(["chat"])
    assert "puts other tokens around a text, such as a second BOS or none" in notes


# What the merged model does.


@pytest.mark.parametrize("policy", ["base_rows", "union"])
def test_a_chat_merge_stops_where_its_expert_does(tmp_path, merged, policy):
    base = decoder(tmp_path / "base", bpe([START]), spread=1.0)
    decoder(tmp_path / "chat", bpe([START]), seed=1, base=base, spread=1.0)
    folder, _ = merged(["chat"], vocabulary=policy)
    prompt = AutoTokenizer.from_pretrained(folder)("abcd", return_tensors="pt")
    endless = (
        AutoModelForCausalLM.from_pretrained(folder)
        .generate(**prompt, max_new_tokens=12, do_sample=False, eos_token_id=-1)[
            0, prompt.input_ids.shape[1] :
        ]
        .tolist()
    )
    stop = next(token for token in endless if token != endless[0])
    chat = bpe([START], template=CHAT.replace(END, ""), eos_token=bpe().decode([stop]))
    decoder(tmp_path / "chat", chat, seed=1, base=base, spread=1.0, stops=[2, stop])
    for giver, length in (("base", 12), ("chat", endless.index(stop) + 1)):
        folder, _ = merged(["chat"], vocabulary=policy, tokenizer=giver)
        model = AutoModelForCausalLM.from_pretrained(folder)
        answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0]
        answer = answer[prompt.input_ids.shape[1] :].tolist()
        assert answer == endless[:length]
    assert (
        AutoTokenizer.from_pretrained(folder).apply_chat_template(
            [{"content": "ab"}], tokenize=False
        )
        == f"{START}ab"
    )


def test_published_models_with_moved_rows_agree_with_their_manifests(tmp_path, merged):
    base = decoder(tmp_path / "base", bpe([START, END]))
    decoder(tmp_path / "one", bpe([END, START]), seed=1, base=base)
    moved, _ = merged(["one"], vocabulary="union", tokenizer="one")
    moved.rename(tmp_path / "chat")
    decoder(tmp_path / "base2", bpe([END, START]), seed=2, base=base)
    folder, _ = merged(["chat"], vocabulary="union", base="base2")
    assert loads(folder)[1].get_vocab()[END] == 15
    weights = tmp_path / "chat" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-4:] = b"\x00\x00\x80\x3f"
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"does not match manifest\.json"):
        merged(["chat"], vocabulary="union", base="base2")


# Sources of single tokens, and the number of rows.


def test_tokens_get_the_rows_that_the_settings_name(tmp_path, merged, two_at_one_id):
    tokens = {
        START: {"source": "math", "token": "<think>", "force": True},
        END: {"source": "chat"},
        "<new>": {"source": "zero"},
        "<copy>": {"source": "base", "token_id": 5},
    }
    folder, notes = merged(["chat", "math"], vocabulary="union", tokens=tokens)
    assert "the row of <new> comes from zero" in notes
    loads(folder)
    for name in (EMBEDDINGS, HEAD):
        rows = rows_by_token(folder, name)
        chat, math = (rows_by_token(tmp_path / expert, name) for expert in ("chat", "math"))
        np.testing.assert_array_equal(rows[START], math["<think>"])
        np.testing.assert_array_equal(rows[END], chat[END])
        np.testing.assert_array_equal(rows["<new>"], np.zeros(16))
        np.testing.assert_array_equal(rows["<copy>"], rows_by_token(tmp_path / "base", name)["c"])


@pytest.mark.parametrize("policy", ["base_rows", "pad", "union"])
def test_the_number_of_rows_is_rounded_up(tmp_path, merged, policy):
    base = decoder(tmp_path / "base", bpe())
    decoder(tmp_path / "chat", bpe([START, END]), seed=1, base=base)
    folder, notes = merged(["chat"], vocabulary=policy, pad_to_multiple_of=8, tokenizer="base")
    rows = 16 if policy == "base_rows" else 24
    assert f"embeddings are padded to {rows} rows, a multiple of 8" in notes
    model, _ = loads(folder)
    assert model.config.vocab_size == rows
    check_rows(tmp_path, folder, ["chat"])
