"""AdamR, compared with its formula written out in NumPy."""

import numpy as np
import pytest
import torch
from torch.nn import Parameter

from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.study.finetuning.adamr import AdamR
from mergegrid.study.finetuning.classifier import finetune
from mergegrid.study.finetuning.training import EpochLog


class KilledError(Exception):
    """Stands for a process killed during training."""


def parameter(*values):
    return Parameter(torch.tensor(values, dtype=torch.float64))


def with_strength(request, strength):
    settings = request.settings.model_copy(update={"towards_base": strength})
    return request.model_copy(update={"settings": settings})


def written_out(start, base, gradients, rate, strength, decay=0.0):
    """AdamR for a list of vectors; those without a base (None) do not decay towards it."""
    values = [value.copy() for value in start]
    first = [np.zeros_like(value) for value in values]
    second = [np.zeros_like(value) for value in values]
    for step, gradient in enumerate(gradients, 1):
        first = [0.9 * m + 0.1 * g for m, g in zip(first, gradient, strict=True)]
        second = [0.999 * v + 0.001 * g**2 for v, g in zip(second, gradient, strict=True)]
        corrected = [v / (1 - 0.999**step) for v in second]
        scale = np.sqrt(np.mean(np.concatenate(corrected)))
        for index, value in enumerate(values):
            if base[index] is not None:
                value -= rate * strength / scale * (value - base[index])
            value *= 1 - rate * decay
            moment = first[index] / (1 - 0.9**step)
            value -= rate * moment / (np.sqrt(corrected[index]) + 1e-8)
    return values


def test_the_first_step_is_the_one_computed_by_hand():
    value = parameter(1.5, 2)
    optimizer = AdamR(
        [value], base={value: torch.tensor([1.0, 2.0])}, towards_base=0.5, lr=0.1, weight_decay=0
    )
    value.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    optimizer.step()
    # s = sqrt(12.5); 1.5 - 0.1 * 0.5 / s * 0.5 - 0.1, and 2 - 0.1.
    assert value.tolist() == pytest.approx([1.392929, 1.9], abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_steps_are_those_of_the_formula_whatever_the_scale_of_the_loss(scale):
    random = np.random.default_rng(0)
    start = [random.normal(size=size) for size in (5, 3)]
    gradients = [[scale * random.normal(size=size) for size in (5, 3)] for _ in range(6)]
    body, head = (parameter(*value) for value in start)
    base = torch.tensor(start[0] + 0.3)
    optimizer = AdamR(
        [{"params": [body]}, {"params": [head]}],
        base={body: base}, towards_base=0.7, lr=0.01, weight_decay=0.1,
    )  # fmt: skip
    for gradient in gradients:
        body.grad, head.grad = map(torch.tensor, gradient)
        optimizer.step()
    expected = written_out(start, [base.numpy(), None], gradients, 0.01, 0.7, 0.1)
    assert np.allclose(body.detach(), expected[0], rtol=1e-10)
    assert np.allclose(head.detach(), expected[1], rtol=1e-10)


def test_with_strength_0_it_is_adamw_to_the_bit():
    start = torch.randn(7, generator=torch.manual_seed(0))
    one, other = Parameter(start.clone()), Parameter(start.clone())
    adamr = AdamR([one], base={one: torch.zeros(7)}, towards_base=0.0, lr=0.1)
    adamw = torch.optim.AdamW([other], lr=0.1)
    for step in range(5):
        one.grad = torch.sin(start * step)
        other.grad = one.grad.clone()
        adamr.step()
        adamw.step()
    assert torch.equal(one, other)


def test_vanishing_gradients_throw_no_parameter_beyond_its_base():
    value = parameter(1.5, -2)
    optimizer = AdamR(
        [value], base={value: torch.ones(2)}, towards_base=1.0, lr=0.1, weight_decay=0
    )
    value.grad = torch.full((2,), 1e-12, dtype=torch.float64)
    optimizer.step()
    assert value.tolist() == pytest.approx([1, 1], abs=1e-4)


def test_deltas_of_an_encoder_are_smaller_and_its_head_is_free(
    base, examples, request_for_praise, expert, tmp_path
):
    finetune(base, with_strength(request_for_praise, 0.05), examples, tmp_path / "near")
    start, far, near = map(open_checkpoint, (base, expert, tmp_path / "near"))

    def size(model):
        return sum(float(np.sum((model[name] - start[name]) ** 2)) for name in start) ** 0.5

    assert 0 < size(near) < 0.7 * size(far)
    assert np.linalg.norm(near["classifier.weight"]) > 0.7 * np.linalg.norm(
        far["classifier.weight"]
    )


def test_an_encoder_killed_after_an_epoch_goes_on_towards_the_same_base(
    base, examples, request_for_praise, tmp_path, monkeypatch
):
    request = with_strength(request_for_praise, 0.05)
    finetune(base, request, examples, tmp_path / "undisturbed")

    def kill(self, args, state, control, **_):
        if round(state.epoch) == 2:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(EpochLog, "on_epoch_begin", kill, raising=False)
        with pytest.raises(KilledError):
            finetune(base, request, examples, tmp_path / "killed")
    finetune(base, request, examples, tmp_path / "killed")
    weights = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("undisturbed", "killed")
    ]
    assert weights[0] == weights[1]
