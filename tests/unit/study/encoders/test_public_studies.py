"""The shipped studies of GPT-2 and RoBERTa on tiny models: imported, merged, scored, compared.

Tasks, metrics, methods and published names are those of the configurations; models are random, and
the arithmetic is done once more by hand, with torch.
"""

import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_models
import torch
import yaml
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    RobertaModel,
)

from mergegrid.study.encoders.evaluator import EncoderEvaluator, EvaluatedExpert
from mergegrid.study.encoders.importing import import_base, import_expert
from mergegrid.study.encoders.merges import merges
from mergegrid.study.encoders.store import ScoreStore
from mergegrid.study.encoders.sweep import sweep
from mergegrid.study.reporting.published import published
from mergegrid.study.schema.encoder_jobs import finetune_request, merges_request
from mergegrid.study.schema.published_cells import published_cells
from mergegrid.study.schema.study import Study
from mergegrid.study.tasks.metrics import predictions_of, score

ROOT = Path(__file__).parents[4]
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
SIZES = {"vocab_size": small_models.VOCABULARY, "initializer_range": 0.3, **SPECIAL}


def gpt2():
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **SIZES)
    return GPT2Model(config)


def roberta():
    config = RobertaConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=40,
        **SIZES,
    )
    return RobertaModel(config, add_pooling_layer=False)


@dataclass(frozen=True)
class Shipped:
    """A configuration, its family with published numbers, and a setting that was published."""

    name: str
    family: str
    body: object
    coefficient: float
    own: str
    """End of the names of tensors that are each task's own."""


SHIPPED = [
    Shipped("gpt2_glue7", "gpt2", gpt2, 0.3, "nothing"),
    Shipped("roberta_glue8", "own-biases", roberta, 0.29, ".bias"),
]


@pytest.fixture(params=SHIPPED, ids=lambda shipped: shipped.name)
def shipped(request):
    return request.param


@pytest.fixture
def study(shipped):
    """The shipped study, of one family, with one coefficient of task arithmetic beside averages."""
    path = ROOT / "config" / "public" / f"{shipped.name}.yaml"
    part = yaml.safe_load(path.read_text())["encoders"]
    part["families"] = {shipped.family: part["families"][shipped.family]}
    part["seeds"]["mask"] = [0]
    part["sweep"] = {"sparsifiers": []}
    part["merges"]["sparsifiers"] = [{"kind": "none"}, {"kind": "dare", "rate": 0.5}]
    (arithmetic,) = [one for one in part["merges"]["methods"] if one["kind"] == "task_arithmetic"]
    assert shipped.coefficient in arithmetic["coefficient"]
    part["merges"]["methods"] = [
        {"kind": "average"},
        {"kind": "task_arithmetic", "coefficient": shipped.coefficient},
    ]
    return Study.model_validate({"encoders": part})


def examples_of(task, rows=40):
    """Random words with random answers: predictions, not abilities, are compared."""
    draw = np.random.default_rng(len(task.text))
    texts = [" ".join(draw.choice(small_models.WORDS, size=draw.integers(2, 7)))
             for _ in range(2 * rows)]  # fmt: skip
    labels = draw.integers(0, len(task.classes), rows) if task.classes else draw.random(rows) * 5
    pairs = texts[rows:] if len(task.text) == 2 else [None] * rows
    return pd.DataFrame(
        {"split": ["test"] * rows, "text_a": texts[:rows], "text_b": pairs, "label": labels}
    )


@pytest.fixture
def models(shipped, study, tmp_path):
    """The base and its experts: bodies near the base, heads of their own, as on the hub."""
    torch.manual_seed(0)
    body = shipped.body()
    tokenizer = small_models.tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    source = tmp_path / "hub"
    body.save_pretrained(source / "base")
    tokenizer.save_pretrained(source / "base")
    grid = study.encoders
    for expert in grid.families[shipped.family].experts:
        outputs = max(len(grid.tasks[expert].classes), 1)
        tuned = AutoModelForSequenceClassification.from_pretrained(
            source / "base", num_labels=outputs
        )
        with torch.no_grad():
            for tensor in tuned.parameters():
                tensor += 0.05 * torch.randn_like(tensor)
        tuned.save_pretrained(source / expert)
        tokenizer.save_pretrained(source / expert)
    return source


@cache
def load(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder).eval()


def body_of(model):
    return getattr(model, model.base_model_prefix)


def by_hand(shipped, models, experts, expert, examples, metric, factor):
    """The metric of base + factor * sum of deltas in the model of one expert."""
    states = {name: body_of(load(models / name)).state_dict() for name in experts}
    merged = {
        name: tensor + factor * sum(state[name] - tensor for state in states.values())
        for name, tensor in body_of(load(models / "base")).state_dict().items()
        if tensor.is_floating_point() and not name.endswith(shipped.own)
    }
    tuned = copy.deepcopy(load(models / expert))
    body_of(tuned).load_state_dict(merged, strict=False)
    tokenizer = AutoTokenizer.from_pretrained(models / expert)
    logits = []
    for first, second in zip(examples["text_a"], examples["text_b"], strict=True):
        inputs = tokenizer(first, second, return_tensors="pt")
        with torch.inference_mode():
            logits.append(tuned(**inputs).logits.numpy()[0])
    predictions = predictions_of(np.array(logits), metric)
    return score(metric, examples["label"].to_numpy(), predictions)


@pytest.mark.slow
def test_a_shipped_study_puts_its_arithmetic_beside_the_published_numbers(
    shipped, study, models, tmp_path
):
    grid, family = study.encoders, shipped.family
    experts = list(grid.families[family].experts)
    folders = tmp_path / "results"
    import_base(models / "base", folders / "base", {"source": "test"})
    evaluated = {}
    for expert in experts:
        request = finetune_request(grid, family, expert, 0)
        import_expert(
            models / expert, folders / "base", request, folders / expert, {"source": "test"}
        )
        examples = examples_of(grid.tasks[expert])
        target = grid.scored_target(family, expert)
        evaluated[expert] = EvaluatedExpert(folders / expert, target, examples)

    scores = []
    for expert, one in evaluated.items():
        alone = EncoderEvaluator(folders / "base", {expert: one}, ScoreStore(tmp_path / expert))
        scores.append(sweep(one.target, grid.sweep_recipes(family, expert, 0), alone)[0])
    together = EncoderEvaluator(folders / "base", evaluated, ScoreStore(tmp_path / "merges"))
    scores.append(merges(merges_request(grid, family, experts, 0), together)[0])

    cells = published_cells(study, ROOT / "resources" / "published.csv")
    table = published(pd.concat(scores, ignore_index=True), cells)
    table["metric"] = table["metric"].astype(str)
    # Every expert alone, under the name that it was published with.
    singles = table[
        table["sparsifier"].eq("none") & ~table["models"].str.contains("+", regex=False)
    ]
    assert sorted(singles["task"]) == sorted(experts)
    same = table[table["method"].eq("task_arithmetic") & table["sparsifier"].eq("none")]
    same = same[same["differs"] == ""].drop_duplicates("task").set_index("task")
    assert sorted(same.index) == sorted(experts)
    factor = shipped.coefficient
    for expert in experts:
        examples, metric = evaluated[expert].examples, grid.tasks[expert].metric
        expected = by_hand(shipped, models, experts, expert, examples, metric, factor)
        assert same.loc[expert, "mean"] == pytest.approx(expected, abs=1e-4), expert
        alone = by_hand(shipped, models, [expert], expert, examples, metric, 1.0)
        value = singles.set_index("task").loc[expert, "mean"]
        assert value == pytest.approx(alone, abs=1e-4), expert
    assert same["published"].between(0, 1).all()
    assert same["source"].str.contains("fusion_bench|WUDI-Merging|Twin-Merging").all()
