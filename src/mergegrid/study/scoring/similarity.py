"""Similarity of embeddings before and after sparsification (arXiv 2311.03099, section 4.4).

For every token and layer, the embedding of the sparsified expert is compared with that of the
unchanged expert by cosine. Layer 0 is the input of the first layer; in most decoders, the last
layer comes after the final norm. A row of the table:

    family  expert  training_seed  sparsifier  rate  settings            mask_seed  layer   mean
    minilm  trec    0              dare        0.9   {"sparsifier":{}}   0              6  0.962

The change of the embeddings, by which DAREx-q chooses its factor without labels (arXiv 2410.09344,
section 4.1), is measured on the same tokens. The paper does so for encoders; for decoders, it takes
the change of the largest logits instead.

The embeddings of the unchanged expert are kept in memory in float32, for all layers and texts.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.torch_tensors import OnDevice, load_into
from mergegrid.engine.budget import options_for
from mergegrid.engine.engine import Engine
from mergegrid.hashing import canonical_json
from mergegrid.progress import progress
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.study.encoders.importing import load_classifier
from mergegrid.study.generation.merged import Merger, Models
from mergegrid.study.generation.tokens import PromptTokenizer
from mergegrid.study.generation.transformers_backend import empty_model, replace_weights
from mergegrid.study.schema.splits import Split
from mergegrid.study.tasks.encoding import batches, encode

STAGE_VERSIONS = {"similarity": 2}

#: Column and type of the table, which has a row per recipe and layer.
COLUMNS = {
    "family": "string",
    "expert": "string",
    "training_seed": "int64",
    "sparsifier": "string",
    "rate": "float64",
    "settings": "string",
    "mask_seed": "Int64",
    "layer": "int64",
    "mean": "float64",
    "q05": "float64",
    "change": "float64",
    "tokens": "int64",
    "examples": "int64",
}
_MAX_TOKENS = 1024
Inputs = dict[str, torch.Tensor]
"""Inputs of a model: `input_ids`, `attention_mask` and others, int64 tensors [texts, tokens]."""


def encoder_similarity(
    recipes: Sequence[Recipe],
    base: Path,
    expert: Path,
    examples: pd.DataFrame,
    count: int,
    max_length: int,
    device: str = "cpu",
    split: Split = "test",
) -> pd.DataFrame:
    """Compare the embeddings of one encoder on the first examples of a split of its task.

    Args:
        recipes: the unchanged expert first, which all are compared with.
        base: folder of the base.
        expert: folder of the expert.
        examples: prepared examples of its task.
        count: maximum number of examples to read.
        max_length: tokens after which a text is truncated.
        device: `cpu` or `cuda`.
        split: the split to read.
    """
    (name,) = recipes[0].experts
    checkpoints = [open_checkpoint(folder) for folder in (base, expert)]
    base_model, expert_model = (
        InMemory(checkpoint) if device == "cpu" else OnDevice(checkpoint, device)
        for checkpoint in checkpoints
    )
    engine = Engine(base_model, {name: expert_model}, options=options_for(device, threads=1))
    model = cast(torch.nn.Module, load_classifier(expert)).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(expert)
    read = examples[examples["split"] == split].head(count)
    encoded = encode(tokenizer, read, max_length)
    inputs = [batch.inputs for batch in batches(tokenizer, encoded, _MAX_TOKENS, device)]
    return similarities(
        model, inputs, recipes, lambda recipe: load_into(model, engine.checkpoint(recipe))
    )


def decoder_similarity(
    recipes: Sequence[Recipe],
    models: Models,
    questions: pd.DataFrame,
    count: int,
    chat: bool,
    device: str = "cpu",
) -> pd.DataFrame:
    """Compare the embeddings of one decoder on the first questions of its benchmark.

    Weights are rounded as a merged folder would hold them; embeddings are computed in float32.

    Args:
        recipes: the unchanged expert first, which all are compared with.
        models: the base and the expert.
        questions: prepared questions of the expert's first benchmark.
        count: maximum number of questions to read.
        chat: whether questions are put into the chat template instead of the raw prompt.
        device: `cpu` or `cuda`.

    Raises:
        CheckpointError: a model is damaged, or is not homologous with the base.
    """
    merger = Merger(models)
    with TemporaryDirectory() as temporary:
        shell = Path(temporary)
        merger.write_shell(shell)
        prompts = PromptTokenizer(shell)
        # Built on the device, so that the CPU needs no memory for it.
        with torch.device(device):
            model = empty_model(shell, "float32")
    first = questions.head(count)
    texts = (
        map(prompts.chat, first["instruction"]) if chat else map(prompts.encode, first["prompt"])
    )
    ids = [torch.tensor([text], device=device) for text in texts]
    inputs = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]

    def load(recipe: Recipe) -> None:
        replace_weights(model, merger.weights(recipe))

    return similarities(model, inputs, recipes, load)


def similarities(
    model: Any, inputs: Sequence[Inputs], recipes: Sequence[Recipe], load: Callable[[Recipe], None]
) -> pd.DataFrame:
    """Compare each layer's embeddings: mean and 5 % quantile, over tokens, of the cosine, and the
    mean absolute change of a number of an embedding.

    Args:
        model: a transformers model; its head is not used.
        inputs: batches of texts; padding is ignored.
        recipes: the recipes to compare with the first, which is the unchanged expert.
        load: loads the weights of a recipe into the model.
    """
    assert isinstance(recipes[0].sparsifier, NoSparsifier), "the first is the unchanged expert"
    load(recipes[0])
    expected = [embeddings(model, batch) for batch in inputs]
    examples = sum(len(batch["input_ids"]) for batch in inputs)
    rows = []
    for recipe in progress(recipes, f"similarity of {recipes[0].experts[0]}", len(recipes)):
        load(recipe)
        compared = [
            (unchanged, embeddings(model, batch))
            for unchanged, batch in zip(expected, inputs, strict=True)
        ]
        by_layer = np.concatenate([cosines(*pair) for pair in compared], axis=1)
        changed = np.concatenate([changes(*pair) for pair in compared], axis=1)
        for layer, values in enumerate(by_layer):
            rows.append(
                {
                    **_recipe_columns(recipe),
                    "layer": layer,
                    "mean": values.mean(),
                    "q05": np.quantile(values, 0.05),
                    "change": changed[layer].mean(),
                    "tokens": values.size,
                    "examples": examples,
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def embeddings(model: Any, inputs: Inputs) -> list[torch.Tensor]:
    """Return each layer's embeddings of all tokens except padding, [tokens, width]."""
    with torch.inference_mode():
        states = model.base_model(**inputs, output_hidden_states=True).hidden_states
    real = inputs["attention_mask"].bool()
    return [state[real].float() for state in states]


def cosines(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> NDArray[np.float64]:
    """Return the cosine between two models' embeddings, [layers, tokens]."""
    return np.stack(
        [
            torch.cosine_similarity(one.double(), other.double(), dim=-1).cpu().numpy()
            for one, other in zip(left, right, strict=True)
        ]
    )


def changes(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> NDArray[np.float64]:
    """Return the mean absolute difference of two models' embeddings, [layers, tokens]."""
    return np.stack(
        [
            (one.double() - other.double()).abs().mean(dim=-1).cpu().numpy()
            for one, other in zip(left, right, strict=True)
        ]
    )


def _recipe_columns(recipe: Recipe) -> dict[str, Any]:
    sparsifier = recipe.sparsifier.model_dump(mode="json")
    return {
        "family": recipe.family,
        "expert": recipe.experts[0],
        "training_seed": recipe.training_seed,
        "sparsifier": sparsifier.pop("kind"),
        "rate": sparsifier.pop("rate", 0.0),
        "mask_seed": sparsifier.pop("seed", None),
        "settings": canonical_json({"sparsifier": sparsifier}),
    }
