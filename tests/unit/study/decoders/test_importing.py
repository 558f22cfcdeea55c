"""Importing decoders, from every kind of weights that they are published as."""

import json
import os

import adapters
import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import llama, save, tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergegrid import merge
from mergegrid.checkpoints.digests import digest_tensors
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.inspection import inspect
from mergegrid.checkpoints.publish import read_manifest
from mergegrid.errors import CheckpointError
from mergegrid.study.decoders.importing import import_decoder

COMPANIONS = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "manifest.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def names(folder):
    return {path.name for path in folder.iterdir()}


def logits(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.arange(20)[None]).logits


def sharded_bin(model, folder):
    """Weights in two `.bin` files with an index."""
    save(model, folder, "bin")
    (folder / "pytorch_model.bin").unlink()
    state = model.state_dict()
    weight_map = {name: f"pytorch_model-{1 + i % 2}.bin" for i, name in enumerate(sorted(state))}
    for file in set(weight_map.values()):
        torch.save({n: t for n, t in state.items() if weight_map[n] == file}, folder / file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def gguf_model(path, weights=None):
    """A Llama of one layer with float32 tensors, few tokens and a chat template."""
    width, vocabulary = 32, 300
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(48)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(_tokens(vocabulary))
    writer.add_token_types([3, 3, 3, *[1] * (vocabulary - 3)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{{ messages[0]['content'] }}!")
    shapes = {
        "token_embd": (vocabulary, width),
        "output_norm": (width,),
        "output": (vocabulary, width),
        "blk.0.attn_norm": (width,),
        "blk.0.ffn_norm": (width,),
        **{f"blk.0.attn_{part}": (width, width) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (48, width),
        "blk.0.ffn_up": (48, width),
        "blk.0.ffn_down": (width, 48),
    }
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        if weights is not None:
            weights[name] = values
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tokens(count):
    known = ["<unk>", "<s>", "</s>", "a", "b", "ab"]
    return [*known, *(f"t{number}" for number in range(len(known), count))]


def make(kind, folder):
    folder.mkdir()
    if kind == "gguf":
        gguf_model(folder / "model.gguf")
    elif kind == "sharded bin":
        sharded_bin(llama(), folder)
    elif kind == "sharded safetensors":
        save(llama(), folder, max_shard_size="50KB")
    else:
        save(llama(), folder, kind)
    return folder


@pytest.mark.parametrize(
    "kind", ["safetensors", "sharded safetensors", "bin", "sharded bin", "gguf"]
)
def test_an_import_is_verified_and_the_same_on_every_run(kind, tmp_path):
    source = make(kind, tmp_path / "source")
    for name in ("once", "twice"):
        import_decoder(source, tmp_path / name, {"source": "test"})
    assert inspect(tmp_path / "once").verified
    assert names(tmp_path / "once") == names(tmp_path / "twice")
    for name in names(tmp_path / "once"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


@pytest.mark.parametrize("kind", ["safetensors", "sharded safetensors", "bin", "sharded bin"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_imported_model_is_the_model(kind, tied, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    model = llama(tied)
    if kind == "sharded bin":
        sharded_bin(model, source)
    else:
        options = {"max_shard_size": "50KB"} if "sharded" in kind else {}
        save(model, source, kind.split()[-1], **options)
    import_decoder(source, tmp_path / "base", {"source": "test"})
    assert torch.equal(logits(tmp_path / "base"), logits(source))
    assert ("lm_head.weight" in open_checkpoint(tmp_path / "base")) is not tied
    assert read_manifest(tmp_path / "base")["made_from"] == {"source": "test"}


def test_safetensors_take_no_room_twice(tmp_path):
    source = make("sharded safetensors", tmp_path / "source")
    import_decoder(source, tmp_path / "base", {})
    shards = {path.name for path in source.glob("*.safetensors")}
    assert len(shards) > 1
    assert names(tmp_path / "base") == COMPANIONS | shards | {"model.safetensors.index.json"}
    for name in shards:
        assert (tmp_path / "base" / name).samefile(source / name)
    digests = digest_tensors(open_checkpoint(source))
    assert read_manifest(tmp_path / "base")["weights"]["tensors"] == digests


def test_without_links_safetensors_are_copied(tmp_path, monkeypatch):
    source = make("safetensors", tmp_path / "source")

    def no_links(*_):
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    import_decoder(source, tmp_path / "base", {})
    ours, theirs = tmp_path / "base" / "model.safetensors", source / "model.safetensors"
    assert not ours.samefile(theirs)
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_pickle_with_code_is_not_run(tmp_path):
    source = make("bin", tmp_path / "source")

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"weight": Evil()}, source / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="contains code"):
        import_decoder(source, tmp_path / "base", {})
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_values_that_are_not_finite_are_refused(kind, tmp_path):
    model = llama()
    with torch.no_grad():
        model.model.norm.weight[3] = float("inf")
    save(model, tmp_path / "source", kind)
    with pytest.raises(
        CheckpointError, match=r"model\.norm\.weight of .*source contains non-finite values"
    ):
        import_decoder(tmp_path / "source", tmp_path / "base", {})
    assert not (tmp_path / "base").exists()


def test_the_tokenizer_can_be_that_of_another_model(tmp_path):
    source = make("safetensors", tmp_path / "source")
    (source / "special_tokens_map.json").write_text('{"bos_token": "</s>"}')
    other = tmp_path / "other"
    tokenizer(["<extra>"]).save_pretrained(other)
    import_decoder(source, tmp_path / "base", {}, tokenizer=other)
    assert names(tmp_path / "base") == COMPANIONS | {"model.safetensors"}
    assert "<extra>" in AutoTokenizer.from_pretrained(tmp_path / "base").get_vocab()


def test_gguf_becomes_float32_with_its_tokenizer_and_chat_template(tmp_path):
    weights = {}
    gguf_model(tmp_path / "model.gguf", weights)
    import_decoder(tmp_path / "model.gguf", tmp_path / "base", {})
    assert names(tmp_path / "base") == COMPANIONS | {"model.safetensors"}
    assert "quantization_config" not in json.loads((tmp_path / "base/config.json").read_text())
    checkpoint = open_checkpoint(tmp_path / "base")
    assert {info.dtype.name for info in checkpoint.infos.values()} == {"float32"}
    expected = weights["token_embd"]
    assert np.array_equal(checkpoint["model.embed_tokens.weight"], expected)
    told = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert told.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi!"
    assert logits(tmp_path / "base").isfinite().all()


def test_of_several_gguf_files_one_must_be_named(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"contains 2 GGUF files.* specify one of a.gguf, b.gguf"
    ):
        import_decoder(tmp_path, tmp_path / "base", {})


def test_a_cut_gguf_file_is_refused(tmp_path):
    gguf_model(tmp_path / "whole.gguf")
    (tmp_path / "model.gguf").write_bytes((tmp_path / "whole.gguf").read_bytes()[:3000])
    with pytest.raises(CheckpointError, match=r"model\.gguf cannot be dequantized"):
        import_decoder(tmp_path / "model.gguf", tmp_path / "base", {})
    assert not (tmp_path / "base").exists()


def test_what_holds_no_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        import_decoder(tmp_path, tmp_path / "base", {})


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_an_adapter_stays_one(tmp_path, ending):
    source, folder = tmp_path / "source", tmp_path / "published"
    base = adapters.llama()
    base.save_pretrained(tmp_path / "base")
    adapters.adapt(base, {"target_modules": ["q_proj"]}).save_pretrained(source)
    tokenizer().save_pretrained(source)
    file = source / "adapter_model.safetensors"
    if ending == "bin":
        torch.save(load_file(file), source / "adapter_model.bin")
        file.unlink()
    import_decoder(source, folder, {"source": "path:source"})
    tokens = {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
    assert names(folder) == {
        *("adapter_config.json", f"adapter_model.{ending}", "manifest.json"),
        *tokens,
    }
    assert inspect(folder).verified
    one, other = (merge(tmp_path / "base", {"math": path}) for path in (source, folder))
    assert all(np.array_equal(one[name], other[name]) for name in other)


def test_an_adapter_with_values_that_are_not_finite_is_not_imported(tmp_path):
    adapted = adapters.adapt(adapters.llama(), {"target_modules": ["q_proj"]})
    adapted.save_pretrained(tmp_path / "source")
    file = tmp_path / "source" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[min(tensors)][0, 0] = np.nan
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match="non-finite"):
        import_decoder(tmp_path / "source", tmp_path / "published", {})
    assert not (tmp_path / "published").exists()
