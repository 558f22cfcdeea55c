"""Gram matrices against the recorded inputs of a layer."""

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from mergegrid.study.model_statistics.grams import GramMatrices
from mergegrid.study.tasks.encoding import Batch

QUERY = "bert.encoder.layer.1.attention.self.query.weight"
KEY = "bert.encoder.layer.1.attention.self.key.weight"
OUTPUT = "bert.encoder.layer.0.output.dense.weight"
POOLER = "bert.pooler.dense.weight"


def inputs_of(model, name, batch):
    inputs = []
    layer = model.get_submodule(name.removesuffix(".weight"))
    hook = layer.register_forward_pre_hook(
        lambda _, arguments: inputs.append(arguments[0].detach())
    )
    model(**batch.inputs)
    hook.remove()
    return inputs[0].double()


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("name", [QUERY, KEY, OUTPUT, POOLER])
def test_a_matrix_is_the_mean_over_tokens(make_model, texts, name, padding):
    model = make_model()
    grams = GramMatrices(model, [QUERY, KEY, OUTPUT, POOLER, "bert.pooler.dense.bias"], padding)
    grams.add(texts, torch.empty(0))
    x = inputs_of(model, name, texts)
    mask = texts.inputs["attention_mask"].bool()
    assert not mask.all()
    every = x if name == POOLER else x.flatten(0, 1)
    tokens = every if padding or name == POOLER else x[mask]
    expected = tokens.T @ tokens / len(tokens)
    matrices = grams.tensors(len(texts.rows))
    assert set(matrices) == {QUERY, KEY, OUTPUT, POOLER}
    np.testing.assert_allclose(matrices[name], expected, rtol=1e-5, atol=1e-6)


def test_a_pooler_as_wide_as_texts_are_long_sees_one_token_of_each(make_model, texts):
    model = make_model()
    short = model.config.hidden_size - texts.inputs["attention_mask"].shape[1]
    padded = {name: pad(values, (0, short)) for name, values in texts.inputs.items()}
    batch = Batch(texts.rows, padded)
    grams = GramMatrices(model, [POOLER], False)
    grams.add(batch, torch.empty(0))
    x = inputs_of(model, POOLER, batch)
    assert x.shape == batch.inputs["attention_mask"].shape
    matrices = grams.tensors(len(batch.rows))[POOLER]
    np.testing.assert_allclose(matrices, x.T @ x / len(x), rtol=1e-5, atol=1e-6)


def test_heads_have_no_matrix(make_model, texts):
    model = make_model()
    grams = GramMatrices(
        model, [name for name, _ in model.bert.named_parameters(prefix="bert")], False
    )
    grams.add(texts, torch.empty(0))
    assert "classifier.weight" not in grams.tensors(1)
    assert len(grams.tensors(1)) == 2 * 6 + 1
