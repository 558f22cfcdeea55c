"""Gram matrices against the inputs that a layer really sees."""

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from mergegrid.study.model_statistics.grams import Grams
from mergegrid.study.tasks.encoding import Batch

QUERY = "bert.encoder.layer.1.attention.self.query.weight"
KEY = "bert.encoder.layer.1.attention.self.key.weight"
OUTPUT = "bert.encoder.layer.0.output.dense.weight"
POOLER = "bert.pooler.dense.weight"


def inputs_of(model, name, batch):
    seen = []
    layer = model.get_submodule(name.removesuffix(".weight"))
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    model(**batch.inputs)
    hook.remove()
    return seen[0].double()


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("name", [QUERY, KEY, OUTPUT, POOLER])
def test_a_matrix_is_the_mean_over_tokens(make_model, texts, name, padding):
    model = make_model()
    grams = Grams(model, [QUERY, KEY, OUTPUT, POOLER, "bert.pooler.dense.bias"], padding)
    grams.add(texts, torch.empty(0))
    x = inputs_of(model, name, texts)
    mask = texts.inputs["attention_mask"].bool()
    assert not mask.all()
    every = x if name == POOLER else x.flatten(0, 1)
    tokens = every if padding or name == POOLER else x[mask]
    expected = tokens.T @ tokens / len(tokens)
    found = grams.tensors(len(texts.rows))
    assert set(found) == {QUERY, KEY, OUTPUT, POOLER}
    np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)


def test_a_pooler_as_wide_as_texts_are_long_sees_one_token_of_each(make_model, texts):
    model = make_model()
    short = model.config.hidden_size - texts.inputs["attention_mask"].shape[1]
    padded = {name: pad(each, (0, short)) for name, each in texts.inputs.items()}
    batch = Batch(texts.rows, padded)
    grams = Grams(model, [POOLER], False)
    grams.add(batch, torch.empty(0))
    x = inputs_of(model, POOLER, batch)
    assert x.shape == batch.inputs["attention_mask"].shape
    found = grams.tensors(len(batch.rows))[POOLER]
    np.testing.assert_allclose(found, x.T @ x / len(x), rtol=1e-5, atol=1e-6)


def test_heads_have_no_matrix(make_model, texts):
    model = make_model()
    grams = Grams(model, [name for name, _ in model.bert.named_parameters(prefix="bert")], False)
    grams.add(texts, torch.empty(0))
    assert "classifier.weight" not in grams.tensors(1)
    assert len(grams.tensors(1)) == 2 * 6 + 1
