import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.publish import publish, published_digest, read_manifest
from mergegrid.errors import CheckpointError


def assert_equal(checkpoint, tensors):
    assert set(checkpoint) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(checkpoint[name], tensor.float().numpy())


@pytest.fixture
def tensors():
    return {"b.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2).bfloat16()}


@pytest.fixture
def folder(tmp_path, tensors):
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def test_a_checkpoint_is_a_mapping_in_sorted_order(folder, tensors):
    checkpoint = open_checkpoint(folder)
    assert list(checkpoint) == ["a.bias", "b.weight"]
    assert len(checkpoint) == 2
    assert_equal(checkpoint, tensors)
    assert checkpoint.infos["b.weight"].shape == (2, 3)
    assert checkpoint.infos["a.bias"].dtype.name == "bfloat16"


def test_shards_read_like_a_single_file(tmp_path, tensors):
    names = {}
    for number, (name, tensor) in enumerate(tensors.items()):
        names[name] = f"model-{number}.safetensors"
        save_file({name: tensor}, tmp_path / names[name])
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(f'{{"weight_map": {str(names).replace(chr(39), chr(34))}}}')
    checkpoint = open_checkpoint(tmp_path)
    assert_equal(checkpoint, tensors)


def test_in_memory_tensors_are_float32_and_not_copied(folder, tensors):
    checkpoint = InMemory(open_checkpoint(folder))
    assert all(tensor.dtype == np.float32 for tensor in checkpoint.values())
    assert all(info.dtype.name == "float32" for info in checkpoint.infos.values())
    assert_equal(checkpoint, tensors)
    assert np.shares_memory(InMemory(checkpoint)["a.bias"], checkpoint["a.bias"])


def test_a_run_of_a_tensor_is_read_as_it_is_stored(folder):
    room = np.empty(2, np.float32)
    for checkpoint in (open_checkpoint(folder), InMemory(open_checkpoint(folder))):
        assert checkpoint.read("b.weight", 3, 5, room).tolist() == [3.0, 4.0]
    bits = open_checkpoint(folder).read("a.bias", 0, 1, np.empty(1, np.uint16))
    assert bits.tolist() == [0x3F80]


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors, no pytorch_model"):
        open_checkpoint(tmp_path)


def test_a_cut_file_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        CheckpointError, match=r"is damaged or truncated: its header .* download or rebuild"
    ):
        open_checkpoint(folder)


def test_a_published_folder_has_its_manifest(tmp_path):
    with publish(tmp_path / "model", {"recipe": 1}) as draft:
        (draft / "config.json").write_text("{}")
    manifest = read_manifest(tmp_path / "model")
    assert list(manifest["files"]) == ["config.json"]
    assert manifest["made_from"] == {"recipe": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_write_leaves_nothing(tmp_path):
    def fail():
        with publish(tmp_path / "model", {}) as draft:
            (draft / "config.json").write_text("{}")
            raise OSError("disk full")

    with pytest.raises(
        CheckpointError, match="model cannot be written: disk full; free some space"
    ):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_manifest_is_not_a_model(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no manifest\.json, so it is incomplete"):
        read_manifest(tmp_path)


def test_a_published_folder_that_lost_a_file_is_refused(tmp_path):
    with publish(tmp_path / "model", {}) as draft:
        (draft / "config.json").write_text("{}")
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks config\.json; rebuild it"):
        published_digest(tmp_path / "model")
