"""Folders as users have them: two sets of weights, links, file systems without this or that."""

import errno
import fcntl
import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

from mergegrid import fsync
from mergegrid.checkpoints import publish as publishing
from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.model_files import adapt_config
from mergegrid.checkpoints.publish import publish
from mergegrid.checkpoints.sources.fetch import fetch
from mergegrid.checkpoints.sources.hub_files import patterns
from mergegrid.checkpoints.sources.source import SourceConfig
from mergegrid.checkpoints.writer import ShardWriter
from mergegrid.errors import CheckpointError

OLD, NEW = 1.0, 2.0
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def model(value):
    """A GPT-2 whose parameters all have one value."""
    config = GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=2, n_positions=8)
    made = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(value)
    return made


def add(folder, kind, value):
    """Save a model into a folder as one set of weights among others."""
    made = model(value)
    made.config.save_pretrained(folder)
    state = {name: each.contiguous() for name, each in made.transformer.state_dict().items()}
    state = {f"transformer.{name}": each for name, each in state.items()}
    if kind == "consolidated":
        save_file({"tok_embeddings.weight": state["transformer.wte.weight"]}, folder / kind)
        (folder / kind).rename(folder / "consolidated.safetensors")
    elif kind in ("single", "fp16"):
        name = SINGLE if kind == "single" else "model.fp16.safetensors"
        save_file(state, folder / name, metadata={"format": "pt"})
    elif kind == "bin":
        torch.save(state, folder / BIN)
    else:
        stem, index = ("model", INDEX) if kind == "shards" else ("pytorch_model", BIN_INDEX)
        ending = "safetensors" if kind == "shards" else "bin"
        weight_map = {}
        for part, names in enumerate(np.array_split(sorted(state), 2), start=1):
            file = f"{stem}-{part:05d}-of-00002.{ending}"
            some = {str(name): state[str(name)] for name in names}
            weight_map |= dict.fromkeys(some, file)
            if kind == "shards":
                save_file(some, folder / file, metadata={"format": "pt"})
            else:
                torch.save(some, folder / file)
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def value_of(folder):
    """The value that all parameters of a folder have, as we read them."""
    (found,) = {float(each) for tensor in open_checkpoint(folder).values() for each in tensor.flat}
    return found


def value_in_transformers(folder):
    loaded = GPT2LMHeadModel.from_pretrained(folder)
    (found,) = {float(each) for tensor in loaded.parameters() for each in tensor.flatten()}
    return found


# Two sets of weights in one folder.


@pytest.mark.parametrize(
    "kinds",
    [
        ("single", "bin"),
        ("single", "sharded bin"),
        ("shards", "bin"),
        ("shards", "sharded bin"),
        ("single", "fp16"),
        ("shards", "fp16"),
        ("shards", "consolidated"),
        ("bin", "consolidated"),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_of_two_formats_the_one_that_transformers_loads_is_read(tmp_path, kinds, order):
    for kind, value in list(zip(kinds, (NEW, OLD), strict=True))[::order]:
        add(tmp_path, kind, value)
    assert value_of(tmp_path) == value_in_transformers(tmp_path) == NEW


@pytest.mark.parametrize("kinds", [("single", "shards"), ("bin", "sharded bin")])
@pytest.mark.parametrize("order", [1, -1])
def test_a_file_and_shards_of_one_format_are_an_error_that_names_both(tmp_path, kinds, order):
    for kind, value in list(zip(kinds, (NEW, OLD), strict=True))[::order]:
        add(tmp_path, kind, value)
    single, index = (SINGLE, INDEX) if kinds[0] == "single" else (BIN, BIN_INDEX)
    wrong = f"has two sets of weights, {single} and the shards of {index}"
    with pytest.raises(CheckpointError, match=wrong):
        open_checkpoint(tmp_path)


def test_an_index_whose_shards_are_gone_does_not_count(tmp_path, caplog):
    add(tmp_path, "shards", OLD)
    for path in tmp_path.glob("model-*"):
        path.unlink()
    add(tmp_path, "single", NEW)
    assert value_of(tmp_path) == value_in_transformers(tmp_path) == NEW
    assert f"using {SINGLE}; the shards of {INDEX} are missing" in caplog.text


def test_an_index_of_the_one_file_is_checked_against_it(tmp_path):
    add(tmp_path, "single", NEW)
    names = [f"transformer.{name}" for name in model(NEW).transformer.state_dict()]
    index = tmp_path / INDEX
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, SINGLE)}))
    assert value_of(tmp_path) == NEW
    index.write_text(json.dumps({"weight_map": dict.fromkeys([*names, "ghost"], SINGLE)}))
    with pytest.raises(CheckpointError, match=f"lacks ghost, which {INDEX} assigns to it"):
        open_checkpoint(tmp_path)


def test_stale_shards_that_the_index_does_not_name_do_not_count(tmp_path):
    add(tmp_path, "shards", NEW)
    save_file({"transformer.old": torch.zeros(2)}, tmp_path / "model-00003-of-00003.safetensors")
    assert value_of(tmp_path) == value_in_transformers(tmp_path) == NEW
    assert "transformer.old" not in open_checkpoint(tmp_path)


def test_tensors_that_no_index_names_are_read_as_transformers_does(tmp_path):
    add(tmp_path, "shards", NEW)
    path = tmp_path / INDEX
    index = json.loads(path.read_text())
    del index["weight_map"]["transformer.wte.weight"]
    path.write_text(json.dumps(index))
    assert value_of(tmp_path) == value_in_transformers(tmp_path) == NEW
    assert "transformer.wte.weight" in open_checkpoint(tmp_path)


def test_a_tensor_in_two_shards_is_an_error_that_names_both(tmp_path):
    add(tmp_path, "shards", NEW)
    path = tmp_path / "model-00001-of-00002.safetensors"
    save_file({"transformer.wte.weight": torch.zeros(16, 8)}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"(is in both .* and )|(lacks )"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        ([SINGLE, INDEX, "model-00001-of-00001.safetensors", BIN], [SINGLE]),
        (
            [INDEX, "model-00001-of-00001.safetensors", "consolidated.safetensors", BIN],
            [INDEX, "model-00001-of-00001.safetensors"],
        ),
        ([BIN, BIN_INDEX, "pytorch_model-00001-of-00001.bin"], [BIN]),
        (["model.fp16.safetensors", SINGLE], [SINGLE]),
    ],
)
def test_one_set_of_weights_is_downloaded_the_one_that_transformers_loads(files, chosen):
    assert patterns(["config.json", *files], "model", None) == sorted(["config.json", *chosen])


@pytest.mark.parametrize("kind", ["single", "shards", "bin", "sharded bin"])
@pytest.mark.parametrize("adapter", ["adapter_model.safetensors", "adapter_model.bin", None])
def test_weights_beside_an_adapter_are_an_error_that_names_both(tmp_path, kind, adapter):
    add(tmp_path, kind, NEW)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    if adapter:
        (tmp_path / adapter).write_bytes(b"")
    file = BIN if "bin" in kind else SINGLE
    with pytest.raises(CheckpointError, match=rf"{file}.* an adapter \(adapter_config\.json\)"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (True, r"an adapter .*, not a whole model; .* PEFT"),
        (False, r"an adapter but no adapter_config\.json; download it again"),
    ],
)
def test_an_adapter_alone_is_an_error_that_says_so(tmp_path, file, config, message):
    (tmp_path / file).write_bytes(b"")
    if config:
        (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


# Links.


@pytest.mark.parametrize("below", ["", "sub", "sub/deeper"])
@pytest.mark.parametrize("absolute", [False, True])
def test_models_of_a_hub_cache_are_read_wherever_they_lie_in_it(tmp_path, below, absolute):
    repository = tmp_path / "models--org--name"
    folder = repository / "snapshots" / "0123abc" / below
    folder.mkdir(parents=True)
    (repository / "blobs").mkdir()
    add(tmp_path, "shards", NEW)
    for path in [*tmp_path.glob("*.safetensors"), *tmp_path.glob("*.json")]:
        blob = repository / "blobs" / f"{len(path.name)}-{path.stem}"
        path.rename(blob)
        (folder / path.name).symlink_to(blob if absolute else os.path.relpath(blob, folder))
    assert value_of(folder) == NEW


def test_a_users_own_links_are_followed(tmp_path):
    place, disk = tmp_path / "model", tmp_path / "large disk"
    place.mkdir()
    disk.mkdir()
    add(disk, "single", NEW)
    for path in list(disk.iterdir()):
        (place / path.name).symlink_to(path)
    assert value_of(place) == NEW
    linked = fetch(SourceConfig(source=f"path:{place}"), "model", tmp_path / "cache")
    copied = fetch(SourceConfig(source=f"path:{disk}"), "model", tmp_path / "cache")
    assert linked.files == copied.files


@pytest.mark.parametrize("file", ["../other.safetensors", "/etc/hostname", "a/../../other"])
def test_an_index_does_not_lead_out_of_its_folder(tmp_path, file):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": torch.ones(2)}, tmp_path / "other.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": file}}))
    with pytest.raises(CheckpointError, match="points out of its folder"):
        open_checkpoint(folder)


def test_a_link_to_nothing_is_a_missing_file(tmp_path):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"w": "a.safetensors"}}))
    (tmp_path / "a.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"a\.safetensors is missing"):
        open_checkpoint(tmp_path)


# Configs.


@pytest.mark.parametrize("key", ["dtype", "torch_dtype", None])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", None])
def test_configs_say_their_dtype_to_every_version_of_transformers(tmp_path, key, dtype):
    before = {"text_config": {"vocab_size": 5}, "vision_config": {"depth": 2}}
    for part in (before, before["text_config"]):
        if key:
            part[key] = "float16"
    path = tmp_path / "config.json"
    path.write_text(json.dumps(before))
    adapt_config(tmp_path, dtype, None)
    after = json.loads(path.read_text())
    expected = dtype or ("float16" if key else None)
    assert (after.get("dtype"), after.get("torch_dtype")) == (expected, expected)
    inner = after["text_config"]
    expected = expected if key else None
    assert (inner.get("dtype"), inner.get("torch_dtype")) == (expected, expected)
    assert after["vision_config"] == {"depth": 2}


# File systems.

INFOS = {"w": TensorInfo((1 << 20,), DTYPES["float32"])}


def test_room_is_set_aside_without_writing(tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        fsync.allocate(file.fileno(), 1 << 22)
    assert path.stat().st_size == 1 << 22
    assert path.read_bytes() == bytes(1 << 22)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_where_no_room_can_be_set_aside_files_are_sparse(tmp_path, monkeypatch, number):
    """On NFS before 4.2, where the C library's way writes into every block."""

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fsync, "_fallocate", refuse)
    monkeypatch.setattr(os, "posix_fallocate", None)
    writer = ShardWriter(tmp_path, INFOS, 1 << 40)
    writer.open()
    status = (tmp_path / SINGLE).stat()
    assert status.st_size > 1 << 22
    assert status.st_blocks * 512 < 1 << 16
    writer.write("w", 0, np.ones(1 << 20, np.float32))
    writer.close()
    assert value_of(tmp_path) == 1.0


def test_without_room_set_aside_a_full_disk_is_found_at_once(monkeypatch, small_disk):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fsync, "_fallocate", refuse)
    disk = small_disk(1024)
    writer = ShardWriter(disk, INFOS, 1 << 40)
    with pytest.raises(CheckpointError, match="cannot be written"):
        writer.open()
    writer.close()


def test_a_clone_is_a_file_of_its_own_or_none(tmp_path):
    (tmp_path / "a").write_bytes(b"weights")
    if fsync.clone(tmp_path / "a", tmp_path / "b"):
        assert not (tmp_path / "a").samefile(tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == b"weights"
    else:
        assert not (tmp_path / "b").exists()


def test_the_lock_of_a_folder_is_on_a_file_that_nfs_can_lock(tmp_path, monkeypatch):
    """NFS refuses an exclusive lock on what is not open for writing, and so on any folder."""
    real = fcntl.flock

    def of_nfs(descriptor, operation):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(descriptor, operation)

    monkeypatch.setattr(publishing.fcntl, "flock", of_nfs)
    with publish(tmp_path / "out", {}) as draft:
        (draft / "text").write_text("mine")
        with pytest.raises(CheckpointError, match="is being written by another process"):
            publish(tmp_path / "out", {}).__enter__()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_file_system_without_locks_is_an_error_that_says_so(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(publishing.fcntl, "flock", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be locked: .*No locks available"):
        publish(tmp_path / "out", {}).__enter__()


def test_new_parents_go_with_what_failed_in_them(tmp_path):
    with pytest.raises(ValueError, match="broken"), publish(tmp_path / "a/b/out", {}):
        raise ValueError("broken")
    assert list(tmp_path.iterdir()) == []
    with publish(tmp_path / "a/b/out", {}) as draft:
        (draft / "text").write_text("mine")
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["out"]
    shutil.rmtree(tmp_path / "a")
