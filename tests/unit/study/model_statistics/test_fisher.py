"""Fisher information against its definition: one example and one class at a time, in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from mergegrid.study.model_statistics.example_gradients import (
    ExampleGradients,
    UnsupportedModelError,
)
from mergegrid.study.model_statistics.fisher import ExactFisher, directions


def body(model):
    return [name for name, _ in model.named_parameters() if name.startswith("bert.")]


def by_definition(model, names, batch, regression):
    """mean_x sum_c p_c (d log p_c / d theta)^2, or mean_x (d f / d theta)^2."""
    model = model.double()
    parameters = [model.get_parameter(name) for name in names]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    for row in range(len(batch.rows)):
        count = int(batch.inputs["attention_mask"][row].sum())
        inputs = {key: values[row : row + 1, :count] for key, values in batch.inputs.items()}
        logits = model(**inputs).logits[0]
        outcomes = logits if regression else logits.log_softmax(-1)
        weights = torch.ones(1) if regression else outcomes.detach().exp()
        for outcome, weight in zip(outcomes, weights, strict=True):
            gradients = torch.autograd.grad(outcome, parameters, retain_graph=True)
            for total, gradient in zip(sums, gradients, strict=True):
                total += weight * gradient**2
    return {name: s / len(batch.rows) for name, s in zip(names, sums, strict=True)}


@pytest.mark.parametrize("classes", [1, 2, 3, 5])
@pytest.mark.parametrize("layerwise", [True, False])
def test_information_is_the_expected_squared_gradient(make_model, texts, classes, layerwise):
    model, regression = make_model(classes), classes == 1
    names = body(model)
    fisher = ExactFisher(model, names, regression)
    assert fisher._gradients is not None
    if not layerwise:
        fisher._use_single_examples()
    fisher.add(texts, torch.empty(0))
    computed = fisher.tensors(len(texts.rows))
    assert (fisher._gradients is not None) == layerwise
    model.requires_grad_()
    for name, expected in by_definition(model, names, texts, regression).items():
        # The bias of keys has no influence: its information is rounding.
        np.testing.assert_allclose(computed[name], expected, rtol=2e-4, atol=1e-9, err_msg=name)


def test_padding_tokens_have_no_information(make_model, texts):
    model = make_model()
    fisher = ExactFisher(model, body(model), False)
    fisher.add(texts, torch.empty(0))
    words = fisher.tensors(len(texts.rows))["bert.embeddings.word_embeddings.weight"]
    tokens = set(texts.inputs["input_ids"].unique().tolist()) - {0}
    assert {row for row in range(17) if words[row].any()} == tokens


def test_directions_multiply_to_the_covariance_of_the_classes():
    rows = [[0.0, 3.0, -2.0, 1.0], [40.0, 0.0, -40.0, 1.0], [0.0, -900.0, 0.0, 5.0]]
    logits = torch.tensor(rows)
    columns = torch.stack(directions(logits.double(), regression=False), dim=-1)
    p = logits.double().softmax(-1)
    covariance = torch.diag_embed(p) - p.unsqueeze(1) * p.unsqueeze(2)
    assert columns.shape == (3, 4, 3)
    torch.testing.assert_close(columns @ columns.mT, covariance, rtol=1e-9, atol=1e-15)


def test_parameters_outside_of_supported_layers_are_refused():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(UnsupportedModelError):
        ExampleGradients(Scaled(), ["scale"])
