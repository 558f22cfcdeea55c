"""Golden numbers of reading what lm-evaluation-harness wrote."""

import json
from pathlib import Path
from typing import Any

from golden.recorded import ARITHMETIC, Numbers
from mergegrid.methods.average import Average
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.dare import Dare
from mergegrid.study.grading.lm_eval import (
    lm_eval_command,
    lm_eval_inputs_digest,
    lm_eval_rows,
    read_result,
)
from mergegrid.study.schema.lm_eval import Harness
from mergegrid.study.scoring.scores import score_frame

_RECIPE = Recipe(
    family="llama", experts=("math", "code"), sparsifier=Dare(rate=0.9, seed=1), method=Average()
)


def harness(folder: Path) -> Any:
    """How lm-eval is started, and the scores in what it wrote for two tasks and a group."""
    values = {"acc,none": 0.75, "acc_stderr,none": 0.25, "sample_len": 4, "alias": "x"}
    written = {
        "results": {
            "words": values | {"acc_norm,none": 0.5, "acc_norm_stderr,none": "N/A"},
            "sums": {"exact_match,strict": 1.0, "exact_match_stderr,strict": 0.0, "sample_len": 9},
            "both": {"acc,none": 0.5, "sample_count": {"acc,none": 3}, "sample_len": 13},
        },
        "versions": {"both": "3.0", "words": 1.0, "sums": 2.0},
        "n-samples": {"words": {"original": 8, "effective": 4}},
        "task_hashes": {"words": "8722c141", "sums": "e46216a6"},
        "lm_eval_version": "0.4.13",
        "config": {"model": "hf", "model_dtype": "torch.float32"},
    }
    path = folder / "results.json"
    path.write_text(json.dumps(written))
    settings = [
        Harness(tasks=["both"]),
        Harness(tasks=["words", "sums"], few_shot=2, limit=4, model="vllm", seed=5, chat=True),
    ]
    commands = [
        lm_eval_command(folder / "model", each, folder / "out.json", "cpu") for each in settings
    ]
    result = read_result(path, settings[0], "cpu")
    inputs = lm_eval_inputs_digest(result, settings[0], "digest of the model")
    table = score_frame(lm_eval_rows(result, _RECIPE, "math", {"torch": ("2.13.0",)}, inputs))
    return {
        "commands": [[word.replace(str(folder), "") for word in command] for command in commands],
        "scores": table.drop(columns="inputs_digest"),
    }


NUMBERS = {"harness": Numbers(harness, ARITHMETIC)}
