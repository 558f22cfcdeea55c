"""Golden numbers of what runs models: training, statistics, scores, similarity and generation."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from golden import inputs
from golden.recorded import TORCH, Numbers
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.location import read_json
from mergegrid.checkpoints.model_statistics import open_statistics
from mergegrid.recipes.output import Output
from mergegrid.study.decoders.importing import import_decoder
from mergegrid.study.encoders.task_scorer import TaskScorer
from mergegrid.study.finetuning import classifier, decoder, multitask
from mergegrid.study.generation.answering import AnswerJob, answer
from mergegrid.study.generation.merged import Models
from mergegrid.study.model_statistics.calibration import TokenSequence
from mergegrid.study.model_statistics.decoder_statistics import gather_files, open_decoder
from mergegrid.study.model_statistics.gather import gather
from mergegrid.study.schema.decoder_jobs import Ask, DecoderFinetuneRequest
from mergegrid.study.schema.encoder_jobs import (
    FinetuneRequest,
    OracleRequest,
    Statistic,
)
from mergegrid.study.schema.generation import Generation, Sampling
from mergegrid.study.schema.grid_study import recipes_for
from mergegrid.study.schema.grids import Similarity, sweep_points
from mergegrid.study.schema.tasks import CLASSIFICATION_METRICS, REGRESSION_METRICS, Target
from mergegrid.study.scoring.similarity import decoder_similarity, encoder_similarity
from mergegrid.study.tasks.metrics import METRICS, score, standard_error

_SETTINGS = {"learning_rate": 1e-3, "epochs": 3, "batch_size": 8, "warmup_ratio": 0.2}
_QUESTIONS = pd.DataFrame(
    {
        "id": [f"q{index}" for index in range(5)],
        "instruction": ["the good film is", "one", "two three four", "was bad a", "book is the"],
        "prompt": ["the good film", "one two three", "a", "book was bad", "four is the one two"],
    }
).astype("string")


def finetune_encoder(folder: Path) -> Any:
    """An expert of classes and one of numbers, a few steps each; one more with AdamR."""
    base, found = inputs.encoder(folder), {}
    for target in (inputs.PRAISE, inputs.RATING):
        examples = inputs.of_task(target, inputs.examples())
        request = FinetuneRequest(target=target, settings=_SETTINGS, seed=3)
        classifier.finetune(base, request, examples, folder / target.task)
        found[target.task] = _trained(folder / target.task)
    settings = {**_SETTINGS, "towards_base": 0.05}
    request = FinetuneRequest(target=inputs.PRAISE, settings=settings, seed=3)
    classifier.finetune(base, request, inputs.examples(), folder / "near")
    return {**found, "towards the base": _trained(folder / "near")}


def finetune_multitask(folder: Path) -> Any:
    """Three tasks together, one of them with fewer examples."""
    base = inputs.encoder(folder)
    targets = [inputs.PRAISE, inputs.RATING, inputs.KIND]
    tables = [
        inputs.of_task(target, inputs.examples(count))
        for target, count in zip(targets, (24, 10, 24), strict=True)
    ]
    names = [target.task for target in targets]
    request = OracleRequest(
        family="tiny", experts=names, targets=targets, settings=_SETTINGS, seed=3
    )
    multitask.finetune_together(base, request, tables, folder / "oracle")
    found = {name: _trained(folder / "oracle" / name) for name in names}
    return {**found, "curve": read_json(folder / "oracle" / "training.json")["curve"]}


def finetune_decoder(folder: Path) -> Any:
    """All parameters in two parts of a step, adapters, and AdamR."""
    import_decoder(inputs.llama(folder / "raw"), folder / "base", {"source": "test"})
    words = inputs.WORDS[:6]
    rows = [
        (
            "train" if index < 20 else "validation",
            f"the {words[index % 6]} film",
            "one two"[: 3 + index % 5],
        )
        for index in range(26)
    ]
    examples = pd.DataFrame(rows, columns=["split", "instruction", "output"])
    found = {}
    for name, changes in {
        "all parameters": {"accumulation": 2, "weight_decay": 0.1},
        "adapters": {"lora": {"rank": 2, "targets": ["q_proj", "down_proj"]}},
        "towards the base": {"towards_base": 0.05},
    }.items():
        request = DecoderFinetuneRequest.model_validate(
            {
                "data": {"generated": {"generator": "instructions", "count": 2}},
                "settings": {**_SETTINGS, "epochs": 2, **changes},
                "prompt": "was {instruction} is",
                "chat": False,
                "seed": 3,
            }
        )
        decoder.finetune_decoder(folder / "base", request, examples, folder / name)
        found[name] = _trained(folder / name)
    return found


def statistics(folder: Path) -> Any:
    """Fisher information and Gram matrices of two experts, from two numbers of examples."""
    base, examples, found = inputs.encoder(folder), inputs.examples(40), {}
    for target in (inputs.KIND, inputs.RATING):
        expert = inputs.classifier(folder, base, target, 1)
        wanted = [
            Statistic(kind=kind, arithmetic=how, examples=count)
            for kind in ("fisher", "regmean")
            for how in ("exact", "reference")
            for count in (16, 24)
        ]
        place = folder / f"statistics of {target.task}"
        gather(base, expert, target, wanted, inputs.of_task(target, examples), place)
        found[target.task] = {
            each.file: inputs.summary(open_statistics(place / each.file)) for each in wanted
        }
    return found


def decoder_statistics(folder: Path) -> Any:
    """Fisher information and Gram matrices of two decoders, from two numbers of examples."""
    generator, found = np.random.default_rng(3), {}
    texts = [
        TokenSequence(
            generator.integers(3, 40, 8 + row).tolist(), [row % 2 == 0] * 3 + [True] * (5 + row)
        )
        for row in range(6)
    ]
    for name, tied in (("untied", False), ("tied", True)):
        model = inputs.llama(folder / name, unit=2**-6, tie_word_embeddings=tied)
        files = {
            folder / f"{name}~{kind}~{count}.safetensors": Statistic(
                kind=kind, arithmetic="exact", examples=count
            )
            for kind in ("fisher", "regmean")
            for count in (4, 6)
        }
        gather_files(open_decoder(model), texts, files)
        found[name] = {path.stem: inputs.summary(open_statistics(path)) for path in files}
    return found


def evaluate_encoder(folder: Path) -> Any:
    """Every metric of given predictions, and of what models answer on both splits."""
    base, found = inputs.encoder(folder), {}
    # Of equal texts the last bits would decide which comes first in an order.
    examples = inputs.examples(test=40).drop_duplicates(["split", "text_a"], ignore_index=True)
    index = np.arange(40)
    classes, answers = index % 2, (index % 3 == 0) * 1
    numbers, guesses = index * 7 % 11 / 4, index * 5 % 13 / 8
    for metric in METRICS:
        pair = (classes, answers) if metric in CLASSIFICATION_METRICS else (numbers, guesses)
        found[metric] = [score(metric, *pair), standard_error(metric, *pair)]
    metrics = [(inputs.PRAISE, CLASSIFICATION_METRICS), (inputs.RATING, REGRESSION_METRICS)]
    for target, kinds in [*metrics, (inputs.KIND, ("accuracy", "matthews"))]:
        expert = inputs.classifier(folder, base, target, 1)
        tensors = open_checkpoint(expert)
        body = {name: tensors[name] for name in open_checkpoint(base)}
        for metric in kinds:
            asked = Target(**{**target.model_dump(), "metric": metric})
            scorer = TaskScorer(expert, asked, inputs.of_task(target, examples), "cpu")
            for split in ("validation", "test"):
                measured = scorer.measure(body, split)
                found[f"{target.task} {metric} {split}"] = {
                    "value": measured.value,
                    "stderr": measured.stderr,
                    "n": measured.n,
                    "predictions": measured.predictions,
                }
    return found


def similarity(folder: Path) -> Any:
    """Embeddings of an encoder and a decoder, with raw prompts and in the chat template."""
    base = inputs.encoder(folder)
    expert = inputs.classifier(folder, base, inputs.KIND, 1)
    examples = inputs.of_task(inputs.KIND, inputs.examples())
    points = sweep_points(Similarity().sparsifiers, [0.5, 0.9], [0, 1])
    recipes = recipes_for("tiny", ("kind",), 0, points)
    found = {"encoder": encoder_similarity(recipes, base, expert, examples, 10, 16)}
    one, other = inputs.llama(folder / "one"), inputs.llama(folder / "other", 2)
    models = Models(base=one, experts={"kind": other}, output=Output(dtype="bfloat16"))
    for chat in (False, True):
        found[f"decoder, {chat=}"] = decoder_similarity(recipes, models, _QUESTIONS, 4, chat)
    return {name: table.drop(columns="family") for name, table in found.items()}


def generate(folder: Path) -> Any:
    """Answers of transformers: greedy, cut at a text, drawn, and in the chat template."""
    model, found = inputs.llama(folder / "model"), {}
    for name, (chat, sampling) in {
        "greedy": (False, {"max_tokens": 12}),
        "chat": (True, {"max_tokens": 12}),
        "stop": (False, {"max_tokens": 24, "stop": ["w40", "book"]}),
        "drawn": (False, {"max_tokens": 12, "temperature": 1.0, "samples": 2, "seed": 5}),
        "of a part": (False, {"max_tokens": 12, "temperature": 0.7, "top_p": 0.8}),
    }.items():
        ask = Ask(benchmark="words", chat=chat, sampling=Sampling(**sampling))
        settings = Generation(backend="transformers", dtype="float32", batch_size=3)
        store = folder / f"{name}.jsonl"
        table = answer(model, "tiny", AnswerJob([ask], {"words": _QUESTIONS}, settings, store))
        columns = ["id", "sample", "prompt_digest", "output", "finish", "tokens"]
        found[name] = {"engine": table["engine"][0], "answers": table[columns]}
    return found


def _trained(folder: Path) -> dict[str, Any]:
    return {
        "tensors": inputs.of_folder(folder),
        "curve": read_json(folder / "training.json")["curve"],
    }


NUMBERS = {
    "finetune_encoder": Numbers(finetune_encoder, TORCH),
    "finetune_multitask": Numbers(finetune_multitask, TORCH),
    "finetune_decoder": Numbers(finetune_decoder, TORCH),
    "statistics": Numbers(statistics, TORCH),
    "decoder_statistics": Numbers(decoder_statistics, TORCH),
    "evaluate_encoder": Numbers(evaluate_encoder, TORCH),
    "similarity": Numbers(similarity, TORCH),
    "generate": Numbers(generate, TORCH),
}
