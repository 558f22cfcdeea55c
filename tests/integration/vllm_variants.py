"""Answers of variants of a family by vLLM: through one engine, and each by a new one.

    python vllm_variants.py ORDER.json

Gives JSON in the last line. Runs in any environment that has vLLM and what mergegrid imports.
"""

import json
import logging
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pandas as pd

from mergegrid.recipes.recipe import Recipe
from mergegrid.study.generation import vllm_compat
from mergegrid.study.generation.answering import AnswerJob, Answers, answer
from mergegrid.study.generation.backend import GenerationError
from mergegrid.study.generation.merged import Models
from mergegrid.study.generation.variants import answer_variants
from mergegrid.study.generation.vllm_backend import VllmBackend
from mergegrid.study.generation.vllm_environment import import_vllm
from mergegrid.study.schema.decoder_jobs import Ask
from mergegrid.study.schema.generation import Generation

SETTINGS = Generation(backend="vllm", dtype="float32")


class Seconds:
    """Wall and processor time of parts of a run."""

    def __init__(self):
        self.found = {}

    def __call__(self, what, function):
        wall, used = time.monotonic(), time.process_time()
        result = function()
        self.found[what] = [
            round(time.monotonic() - wall, 2),
            round(time.process_time() - used, 2),
        ]
        return result


def main(order: Path) -> None:
    asked = json.loads(order.read_text())
    models = Models.model_validate(asked["models"])
    recipes = [Recipe.model_validate(each) for each in asked["recipes"]]
    asks = [Ask.model_validate(asked["ask"])]
    questions = {asks[0].benchmark: pd.DataFrame(asked["questions"]).astype("string")}
    seconds = Seconds()
    seconds("import vllm", lambda: __import__("vllm"))
    timed(seconds)
    refusals = refused_at_first(recipes[0])
    job = AnswerJob(asks, questions, SETTINGS, order.with_name("one_engine.jsonl"))
    one = answer_variants(models, recipes, lambda recipe: recipe.digest, job)
    job = AnswerJob(asks, questions, SETTINGS, order.with_name("new_engines.jsonl"))
    new = {
        recipe.digest: seconds(
            f"new engine and answers {number}",
            lambda recipe=recipe, folder=folder: answer(Path(folder), recipe.digest, job),
        )
        for number, (recipe, folder) in enumerate(zip(recipes, asked["folders"], strict=True))
    }
    result = {
        "hashes": hashes(*asked["folders"][:2]),
        "one": {name: table.to_dict("list") for name, table in one.items()},
        "new": {name: table.to_dict("list") for name, table in new.items()},
        "refused": refusals,
        "seconds": seconds.found,
    }
    sys.stdout.write(json.dumps(result) + "\n")


def hashes(first: str, second: str) -> list[list[str]]:
    """What vLLM finds compiled models by, of three configurations: of itself, and as mended."""
    config = import_vllm("vllm.config").ModelConfig

    def found():
        models = [config(model=first), config(model=second), config(model=first, dtype="float16")]
        return [model.compute_hash() for model in models]

    mended = config.compute_hash
    assert mended.__wrapped__, "an engine was opened before"
    shared = found()
    try:
        config.compute_hash = mended.__wrapped__
        return [found(), shared]
    finally:
        config.compute_hash = mended


def timed(seconds: Seconds) -> None:
    """Take the time of each part of a sweep."""
    numbers = iter(range(99))
    load, generate, start = VllmBackend.load, Answers.generate, VllmBackend.__init__

    def timed_load(self, variant):
        return seconds(f"merge and load {next(numbers)}", lambda: load(self, variant))

    def timed_generate(*words):
        return seconds(f"answers {len(seconds.found)}", lambda: generate(*words))

    def timed_start(self, *words):
        return seconds(f"start {len(seconds.found)}", lambda: start(self, *words))

    VllmBackend.load, Answers.generate, VllmBackend.__init__ = (
        timed_load,
        timed_generate,
        timed_start,
    )


def refused_at_first(recipe: Recipe) -> list[str]:
    """Have the next engine refuse a variant before it loads any; errors appear in the list."""
    messages: list[str] = []
    start = VllmBackend.__init__

    def start_and_refuse(self, *words):
        VllmBackend.__init__ = start
        start(self, *words)
        messages.extend(refused(self, recipe))

    VllmBackend.__init__ = start_and_refuse
    return messages


def refused(backend: VllmBackend, recipe: Recipe) -> list[str]:
    """Errors when the output matrix is not tied again, from each check on its own."""
    messages = []
    checks = {
        "layers_without_tensors": lambda: nullcontext([]),
        "check_output_matrix": lambda *_: None,
    }
    originals = {name: getattr(vllm_compat, name) for name in (*checks, "tie_output_matrix")}
    vllm_compat.tie_output_matrix = lambda model: set()
    # The third error is that of the probe.
    for active in (*checks, None):
        for name, disabled in checks.items():
            setattr(vllm_compat, name, originals[name] if name == active else disabled)
        try:
            backend.load(recipe.model_dump_json())
            messages.append("accepted")
        except GenerationError as error:
            messages.append(str(error))
    for name, original in originals.items():
        setattr(vllm_compat, name, original)
    return messages


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.basicConfig(level=logging.INFO)
    main(Path(sys.argv[1]))
