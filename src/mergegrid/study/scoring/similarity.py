"""How alike the embeddings of an expert stay under a sparsifier (arXiv 2311.03099, section 4.4).

Of every token, the embedding after each layer is compared with that of the expert as it is, by
their cosine. Layer 0 is what enters the first layer; of most decoders, the last one comes after
the final norm. A row of the table:

    family  expert  training_seed  sparsifier  rate  settings            mask_seed  layer   mean
    minilm  trec    0              dare        0.9   {"sparsifier":{}}   0              6  0.962

The embeddings of the expert are kept as float32 in memory, of all layers and texts at once.
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
from mergegrid.engine.budget import settings_on
from mergegrid.engine.engine import Engine
from mergegrid.hashing import canonical_json
from mergegrid.progress import progress
from mergegrid.recipes.recipe import Recipe
from mergegrid.recipes.sparsifiers import NoSparsifier
from mergegrid.study.encoders.importing import load_classifier
from mergegrid.study.generation.merged import Merger, Models
from mergegrid.study.generation.tokens import Prompts
from mergegrid.study.generation.transformers_backend import empty_model, put
from mergegrid.study.schema.similarity_jobs import (
    DecoderSimilarityRequest,
    EncoderSimilarityRequest,
)
from mergegrid.study.tasks.encoding import batches, encode

STAGE_VERSIONS = {"similarity": 1}

#: Column and type of the table, a row per recipe and layer.
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
    "tokens": "int64",
    "examples": "int64",
}
_MAX_TOKENS = 1024
Inputs = dict[str, torch.Tensor]
"""What a model takes: `input_ids`, `attention_mask` and others, int64 tensors [texts, tokens]."""


def encoder_similarity(
    request: EncoderSimilarityRequest,
    base: Path,
    expert: Path,
    examples: pd.DataFrame,
    device: str = "cpu",
) -> pd.DataFrame:
    """Similarities of one encoder, on the first test examples of its task."""
    (name,) = request.recipes[0].experts
    models = [open_checkpoint(folder) for folder in (base, expert)]
    ours, theirs = (
        InMemory(each) if device == "cpu" else OnDevice(each, device) for each in models
    )
    engine = Engine(ours, {name: theirs}, settings=settings_on(device, threads=1))
    model = cast(torch.nn.Module, load_classifier(expert)).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(expert)
    tested = examples[examples["split"] == "test"].head(request.examples)
    encoded = encode(tokenizer, tested, request.max_length)
    inputs = [batch.inputs for batch in batches(tokenizer, encoded, _MAX_TOKENS, device)]
    return similarities(
        model, inputs, request.recipes, lambda recipe: load_into(model, engine.checkpoint(recipe))
    )


def decoder_similarity(
    request: DecoderSimilarityRequest,
    base: Path,
    expert: Path,
    questions: pd.DataFrame,
    device: str = "cpu",
) -> pd.DataFrame:
    """Similarities of one decoder, on the first questions of its benchmark.

    Weights are rounded as a merged folder would hold them; embeddings are computed in float32.

    Raises:
        CheckpointError: a model is damaged, or is not homologous with the base.
    """
    (name,) = request.recipes[0].experts
    merger = Merger(
        Models(
            base=base, experts={name: expert}, output=request.output, homologous=request.homologous
        )
    )
    with TemporaryDirectory() as temporary:
        shell = Path(temporary)
        merger.write_shell(shell)
        prompts = Prompts(shell)
        # Made where it is used: on the CPU it would take as much memory as on the GPU.
        with torch.device(device):
            model = empty_model(shell, "float32")
    asked = questions.head(request.examples)
    texts = (
        map(prompts.chat, asked["instruction"])
        if request.chat
        else map(prompts.encode, asked["prompt"])
    )
    ids = [torch.tensor([text], device=device) for text in texts]
    inputs = [{"input_ids": each, "attention_mask": torch.ones_like(each)} for each in ids]
    return similarities(
        model, inputs, request.recipes, lambda recipe: put(model, merger.weights(recipe))
    )


def similarities(
    model: Any, inputs: Sequence[Inputs], recipes: Sequence[Recipe], load: Callable[[Recipe], None]
) -> pd.DataFrame:
    """Mean and 5 % quantile, over tokens, of the cosine of each layer's embeddings.

    Args:
        model: a model of transformers; its body is asked, without its head.
        inputs: the texts in batches; padding is left out.
        recipes: what is compared with the first, which is the expert as it is.
        load: puts the weights of a recipe into the model.
    """
    assert isinstance(recipes[0].sparsifier, NoSparsifier), "the first is the expert as it is"
    load(recipes[0])
    expected = [embeddings(model, batch) for batch in inputs]
    examples = sum(len(batch["input_ids"]) for batch in inputs)
    rows = []
    for recipe in progress(recipes, f"similarity of {recipes[0].experts[0]}", len(recipes)):
        load(recipe)
        found = np.concatenate(
            [
                cosines(whole, embeddings(model, batch))
                for whole, batch in zip(expected, inputs, strict=True)
            ],
            axis=1,
        )
        for layer, values in enumerate(found):
            rows.append(
                {
                    **_place(recipe),
                    "layer": layer,
                    "mean": values.mean(),
                    "q05": np.quantile(values, 0.05),
                    "tokens": values.size,
                    "examples": examples,
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def embeddings(model: Any, inputs: Inputs) -> list[torch.Tensor]:
    """The embeddings of each layer, layer 0 first, of all tokens but padding: [tokens, width]."""
    with torch.inference_mode():
        states = model.base_model(**inputs, output_hidden_states=True).hidden_states
    real = inputs["attention_mask"].bool()
    return [state[real].float() for state in states]


def cosines(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> NDArray[np.float64]:
    """Cosine of each token's embeddings in each layer: [layers, tokens]."""
    return np.stack(
        [
            torch.cosine_similarity(one.double(), other.double(), dim=-1).cpu().numpy()
            for one, other in zip(left, right, strict=True)
        ]
    )


def _place(recipe: Recipe) -> dict[str, Any]:
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
