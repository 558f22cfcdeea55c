"""A model split among two processes on the CPU, as vLLM splits it among GPUs.

    python vllm_split.py ORDER.json

Gives JSON in the last line: the answers of each variant, how often was merged, and what the ranks
were given. Runs in any environment that has vLLM and what mergegrid imports.
"""

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numba  # noqa: F401

from mergegrid.recipes.recipe import Recipe
from mergegrid.study.generation import vllm_backend, vllm_compat
from mergegrid.study.generation.backend import GenerationError, GenerationRequest
from mergegrid.study.generation.merged import Merger, Models
from mergegrid.study.schema.generation import Generation, Sampling

ENGINE = {"backend": "vllm", "dtype": "float32", "device": "cpu", "tensor_parallel": 2}
SETTINGS = Generation(backend="vllm", dtype="float32")


def main(order: Path) -> None:
    asked = json.loads(order.read_text())
    merged, files = [], []
    weights, save = Merger.weights, vllm_backend.save_file

    def noted_weights(self, recipe):
        merged.append(recipe.slug)
        return weights(self, recipe)

    def noted_save(tensors, path):
        save(tensors, path)
        files.append([str(path.parent.parent), path.stat().st_size])

    Merger.weights, vllm_backend.save_file = noted_weights, noted_save
    merger = Merger(Models.model_validate(asked["models"]))
    requests = [
        GenerationRequest(tuple(ids), Sampling(max_tokens=asked["tokens"]))
        for ids in asked["questions"]
    ]
    with TemporaryDirectory() as folder:
        shell = Path(folder)
        merger.write_shell(shell)
        backend = vllm_backend.VllmBackend(ENGINE, SETTINGS, shell, 64, merger)
        answers = {}
        for recipe in asked["recipes"]:
            backend.load(json.dumps(recipe))
            found = dict(backend.generate(requests))
            digest = Recipe.model_validate(recipe).digest
            answers[digest] = [found[index][0].text for index in range(len(requests))]
        # What a rank says reaches the user.
        vllm_backend.save_file = lambda tensors, path: save(
            {name: each for name, each in tensors.items() if "q_proj" in name}, path
        )
        try:
            backend.load(json.dumps(asked["recipes"][0]))
            refused = "accepted"
        except GenerationError as error:
            refused = str(error)
        backend.close()
    result = {"answers": answers, "merged": merged, "files": files, "refused": refused}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__mp_main__":
    # In a process spawned by vLLM, which then searches all modules; see `UNREADABLE`.
    sys.modules.pop(vllm_compat.UNREADABLE)

if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(Path(sys.argv[1]))
