import pytest
import torch
from safetensors.torch import save_file

from mergegrid.checkpoints.checkpoint import (
    InMemory,
    SafetensorsCheckpoint,
    check_homologous,
    load_into,
)
from mergegrid.checkpoints.publish import publish, published_digest, read_manifest
from mergegrid.errors import CheckpointError


@pytest.fixture
def tensors():
    return {"b.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2).bfloat16()}


@pytest.fixture
def folder(tmp_path, tensors):
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def test_a_checkpoint_is_a_mapping_in_sorted_order(folder, tensors):
    checkpoint = SafetensorsCheckpoint(folder)
    assert list(checkpoint) == ["a.bias", "b.weight"]
    assert len(checkpoint) == 2
    assert all(torch.equal(checkpoint[name], tensors[name]) for name in tensors)
    assert checkpoint.shape("b.weight") == (2, 3)


def test_shards_read_like_a_single_file(tmp_path, tensors):
    names = {}
    for number, (name, tensor) in enumerate(tensors.items()):
        names[name] = f"model-{number}.safetensors"
        save_file({name: tensor}, tmp_path / names[name])
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(f'{{"weight_map": {str(names).replace(chr(39), chr(34))}}}')
    checkpoint = SafetensorsCheckpoint(tmp_path)
    assert all(torch.equal(checkpoint[name], tensors[name]) for name in tensors)


def test_in_memory_tensors_are_float32(folder, tensors):
    checkpoint = InMemory(SafetensorsCheckpoint(folder))
    assert all(tensor.dtype == torch.float32 for tensor in checkpoint.values())
    assert torch.equal(checkpoint["a.bias"], tensors["a.bias"].float())


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds neither model\.safetensors nor"):
        SafetensorsCheckpoint(tmp_path)


def test_a_cut_file_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="is damaged or cut: make it again"):
        SafetensorsCheckpoint(folder)


def test_loading_replaces_what_the_checkpoint_holds_and_nothing_else():
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 1)})
    head = model["head"].weight.clone()
    load_into(model, {"body.weight": torch.eye(2), "body.bias": torch.zeros(2)})
    assert torch.equal(model["body"].weight, torch.eye(2))
    assert torch.equal(model["head"].weight, head)


def test_loading_into_another_architecture_is_refused():
    with pytest.raises(CheckpointError, match=r"Linear has no body\.weight"):
        load_into(torch.nn.Linear(2, 2), {"body.weight": torch.eye(2)})


def test_an_expert_without_a_tensor_of_the_base_is_refused(tensors):
    with pytest.raises(CheckpointError, match=r"expert math lacks 1 tensors.*first a\.bias"):
        check_homologous(tensors, {"b.weight": tensors["b.weight"]}, "math")


def test_an_expert_of_another_shape_is_refused(tensors):
    expert = tensors | {"b.weight": torch.zeros(3, 3)}
    with pytest.raises(CheckpointError, match=r"\(2, 3\) in the base and \(3, 3\) in expert math"):
        check_homologous(tensors, expert, "math")


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

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_manifest_is_not_a_model(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no manifest\.json, so it is not complete"):
        read_manifest(tmp_path)


def test_a_published_folder_that_lost_a_file_is_refused(tmp_path):
    with publish(tmp_path / "model", {}) as draft:
        (draft / "config.json").write_text("{}")
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has lost config\.json; make it again"):
        published_digest(tmp_path / "model")
