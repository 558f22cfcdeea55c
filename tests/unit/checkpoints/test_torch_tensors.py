import numpy as np
import pytest
import torch

from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.checkpoints.torch_tensors import OnDevice, load_into
from mergegrid.errors import CheckpointError

TENSORS = {"body.bias": np.zeros(2), "body.weight": np.arange(4.0).reshape(2, 2)}


@pytest.fixture
def model():
    return torch.nn.ModuleDict({"body": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 1)})


@pytest.mark.parametrize("kind", [InMemory, lambda tensors: OnDevice(tensors, "cpu")])
def test_loading_replaces_what_the_checkpoint_holds_and_nothing_else(model, kind):
    head = model["head"].weight.clone()
    load_into(model, kind(TENSORS))
    assert model["body"].weight.tolist() == [[0, 1], [2, 3]]
    assert model["body"].bias.tolist() == [0, 0]
    assert torch.equal(model["head"].weight, head)


def test_loading_into_another_architecture_is_refused():
    with pytest.raises(CheckpointError, match=r"Linear has no body\.bias \(2 unknown tensors"):
        load_into(torch.nn.Linear(2, 2), InMemory(TENSORS))


def test_a_checkpoint_on_a_device_gives_slices_of_its_tensors():
    checkpoint = OnDevice(InMemory(TENSORS), "cpu")
    assert list(checkpoint) == ["body.bias", "body.weight"]
    tensor = checkpoint["body.weight"]
    assert (tensor.dtype, tensor.shape) == (torch.float32, (2, 2))
    assert checkpoint.infos["body.weight"].shape == (2, 2)
    part = checkpoint.read("body.weight", 1, 3, np.empty(0, np.float32))
    assert part.tolist() == [1, 2]
    assert part.data_ptr() == tensor.data_ptr() + tensor.element_size()
