from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import small_models
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mergegrid.study.generation.merged import Models
from mergegrid.study.schema.grid_study import recipes_for
from mergegrid.study.schema.grids import Similarity, sweep_points
from mergegrid.study.scoring.similarity import (
    COLUMNS,
    decoder_similarity,
    encoder_similarity,
    similarities,
)

MASKS = [0, 1]


def recipes(rates, expert="praise"):
    points = sweep_points(Similarity().sparsifiers, rates, MASKS)
    return recipes_for("tiny", (expert,), 0, points)


class TwoLayers:
    """Token i is the i-th direction of a plane; the second layer rotates the first."""

    def __init__(self):
        self.angle = 0.0
        self.base_model = self

    def __call__(self, input_ids, attention_mask, output_hidden_states):
        assert output_hidden_states
        angles = input_ids * torch.pi / 4
        first = torch.stack([angles.cos(), angles.sin()], dim=-1)
        turned = torch.where(input_ids == 3, 2 * self.angle, self.angle)
        second = torch.stack([(angles + turned).cos(), (angles + turned).sin()], dim=-1)
        return SimpleNamespace(hidden_states=(first, 2 * first, 5 * second))


def test_each_layer_of_a_hand_made_model_has_its_own_cosine():
    model = TwoLayers()
    inputs = [
        {"input_ids": torch.tensor([[1, 2, 3], [2, 0, 0]]), "attention_mask": torch.tensor(MASK)}
        for MASK in ([[1, 1, 1], [1, 0, 0]],)
    ]
    angles = {"none": 0.0, "drop_only": torch.pi / 3}

    def load(recipe):
        model.angle = angles[recipe.sparsifier.kind]

    table = similarities(model, inputs, recipes([0])[:2], load)
    assert list(table["sparsifier"]) == ["none"] * 3 + ["drop_only"] * 3
    assert list(table["layer"]) == [0, 1, 2] * 2
    # Three tokens are turned by 60 degrees, one by 120; two places hold no token.
    assert table["mean"].tolist() == pytest.approx([1, 1, 1, 1, 1, (3 * 0.5 - 0.5) / 4])
    # A number of the last layer is 5 times a cosine or sine.
    angles = torch.tensor([1, 2, 3, 2]) * torch.pi / 4
    turned = angles + torch.tensor([1, 1, 2, 1]) * torch.pi / 3
    moved = [(turned.cos() - angles.cos()).abs(), (turned.sin() - angles.sin()).abs()]
    assert table["change"].tolist() == pytest.approx(
        [0, 0, 0, 0, 0, 5 * float(torch.stack(moved).mean())], abs=1e-6
    )
    assert table["q05"].iloc[-1] == pytest.approx(np.quantile([0.5, 0.5, -0.5, 0.5], 0.05))
    assert set(table["tokens"]) == {4}
    assert set(table["examples"]) == {2}


@pytest.fixture(scope="module")
def of_encoder(base, expert, examples):
    return encoder_similarity(recipes([0, 0.5, 0.9]), base, expert, examples, 10, 16)


def test_the_columns_are_those_documented(of_encoder):
    assert {name: str(kind) for name, kind in of_encoder.dtypes.items()} == COLUMNS
    assert set(of_encoder["layer"]) == {0, 1, 2}
    assert set(of_encoder["examples"]) == {10}


def test_the_unchanged_expert_equals_itself_in_every_layer(of_encoder):
    whole = of_encoder[of_encoder["sparsifier"] == "none"]
    assert len(whole) == 3
    assert whole[["mean", "q05"]].to_numpy() == pytest.approx(1, abs=1e-12)
    others = of_encoder[(of_encoder["sparsifier"] != "none") & (of_encoder["layer"] > 0)]
    assert (others["mean"] < 1 - 1e-6).all()


def test_the_similarity_of_the_base_matches_transformers(of_encoder, base, expert, examples):
    actual = of_encoder[(of_encoder["sparsifier"] == "drop_only") & (of_encoder["rate"] == 1)]
    tokenizer = AutoTokenizer.from_pretrained(expert)
    models = [
        AutoModelForSequenceClassification.from_pretrained(folder).eval()
        for folder in (base, expert)
    ]
    per_layer = [[], [], []]
    for text in examples.loc[examples["split"] == "test", "text_a"].head(10):
        with torch.no_grad():
            left, right = (
                model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
                for model in models
            )
        for layer, pair in enumerate(zip(left.hidden_states, right.hidden_states, strict=True)):
            one, other = (states[0].double().numpy() for states in pair)
            norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
            per_layer[layer].extend((one * other).sum(axis=1) / norms)
    assert actual["mean"].tolist() == pytest.approx(
        [np.mean(layer) for layer in per_layer], abs=1e-5
    )
    assert actual["tokens"].tolist() == [len(cosines) for cosines in per_layer]


def test_the_texts_are_those_of_the_split(of_encoder, base, expert, examples):
    held_out = examples[examples["split"] == "validation"]
    moved = examples.assign(split=examples["split"].replace({"test": "train"}))
    table, same = (
        encoder_similarity(recipes([0, 0.5]), base, expert, frame, 10, 16, split="validation")
        for frame in (examples, moved)
    )
    assert table.equals(same)
    assert set(table["examples"]) == {min(10, len(held_out))}
    assert table["mean"].tolist() != of_encoder["mean"].iloc[: len(table)].tolist()


def test_every_mask_seed_has_its_own_rows(of_encoder):
    seeds = of_encoder[(of_encoder["sparsifier"] == "dare") & (of_encoder["rate"] == 0.9)]
    assert set(seeds["mask_seed"]) == set(MASKS)
    assert seeds.groupby("layer")["mean"].nunique().eq(2).all()


def test_a_decoder_reads_the_first_questions_of_its_benchmark(tmp_path):
    family = small_models.family(tmp_path)
    texts = ["the good film", "a bad book was one", "two three four"]
    questions = pd.DataFrame({"instruction": texts, "prompt": texts})
    models = Models(base=family / "base", experts={"math": family / "math"})
    table = decoder_similarity(recipes([0, 0.5], "math"), models, questions, 2, chat=False)
    assert (table["sparsifier"] == "none").sum() == 3
    whole = table[table["sparsifier"] == "none"]
    assert whole["mean"].to_numpy() == pytest.approx(1, abs=1e-12)
    base = table[table["rate"] == 1]
    assert (base["mean"] < 1 - 1e-6).all()
    assert set(table["examples"]) == {2}
    assert set(table["tokens"]) == {3 + 5}
