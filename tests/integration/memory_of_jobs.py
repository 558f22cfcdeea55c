"""One kind of work on a decoder, and the most memory that this process took for it, in bytes.

python memory_of_jobs.py WORK FOLDER
"""

import re
import sys
from pathlib import Path

import pandas as pd
import torch

from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.dare import Dare
from mergegrid.study.finetuning.decoder import finetune_decoder
from mergegrid.study.generation.answering import AnswerJob
from mergegrid.study.generation.merged import Models
from mergegrid.study.generation.variants import answer_variants
from mergegrid.study.schema.decoder_jobs import Ask, DecoderFinetuneRequest
from mergegrid.study.schema.finetuning import DecoderFinetune
from mergegrid.study.schema.generation import Generation, Sampling
from mergegrid.study.schema.instructions import Instructions
from mergegrid.study.scoring.similarity import decoder_similarity

SENTENCES = ["the film is good", "a book was bad", "one two three four"] * 4
RECIPES = [
    Recipe(family="tiny", experts=("math",)),
    Recipe(family="tiny", experts=("math",), sparsifier=Dare(rate=0.9, seed=1)),
]


def finetune(folder: Path) -> None:
    rows = {
        "split": ["train"] * 8 + ["validation"] * 4,
        "instruction": SENTENCES,
        "output": SENTENCES,
    }
    request = DecoderFinetuneRequest(
        data=Instructions(generated={"generator": "instructions", "count": 1, "seed": 0}),
        settings=DecoderFinetune(epochs=1, batch_size=2, max_length=32),
        prompt="{instruction}",
        chat=False,
        seed=0,
    )
    finetune_decoder(folder / "base", request, pd.DataFrame(rows), folder / "expert")


def generate(folder: Path) -> None:
    questions = pd.DataFrame({"id": ["0"], "instruction": ["a film"], "prompt": ["a film"]})
    answer_variants(
        Models(base=folder / "base", experts={"math": folder / "math"}),
        RECIPES,
        lambda recipe: recipe.digest,
        AnswerJob(
            [Ask(benchmark="words", chat=False, sampling=Sampling(max_tokens=2))],
            {"words": questions.astype("string")},
            Generation(backend="transformers"),
            folder / "store.jsonl",
        ),
    )


def similarity(folder: Path) -> None:
    models = Models(base=folder / "base", experts={"math": folder / "math"})
    questions = pd.DataFrame({"instruction": SENTENCES[:2], "prompt": SENTENCES[:2]})
    decoder_similarity(RECIPES, models, questions, 2, chat=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    globals()[sys.argv[1]](Path(sys.argv[2]))
    # What getrusage says would be that of the parent, where that took more.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    sys.stdout.write(f"{int(peak[1]) * 1024}\n")
