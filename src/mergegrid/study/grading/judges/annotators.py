"""Write what alpaca_eval calls an annotator: the folder that configures a judge.

    function-0f3a90e1c27b5d64/
        configs.yaml        model, limits, and how an answer is parsed
        prompt.txt          copied from the installed alpaca_eval
        annotations.json    the judge's answers so far

The digits are a digest of everything that can change an answer, so another judge or prompt gets
another folder.
"""

from pathlib import Path
from typing import Any

import yaml

from mergegrid.hashing import digest
from mergegrid.stages import stage_versions
from mergegrid.study.grading.judges.alpaca_eval_compat import packaged_annotator
from mergegrid.study.schema.judge import Judge, JudgeStyle

ANSWERS = "annotations.json"

#: The annotators of alpaca_eval that have these styles; the paper's judge is `chatgpt_fn`.
_ORIGINALS: dict[JudgeStyle, str] = {
    "choice": "weighted_alpaca_eval_gpt4_turbo",
    "function": "chatgpt_fn",
    "ranking": "alpaca_eval_gpt4",
}


def write_annotator(settings: Judge, folder: Path) -> Path:
    """Write the annotator of a judge into a subfolder of `folder` and return it.

    Prompt, function schema and parsing of answers are those of the installed alpaca_eval.

    Raises:
        ConfigError: alpaca_eval is not installed.
    """
    annotator, prompt = packaged_annotator(_ORIGINALS[settings.style])
    annotator["completions_kwargs"] |= _request_changes(settings)
    if settings.style == "function":
        # Servers that enforce the schema then allow nothing but the two names.
        function = annotator["completions_kwargs"]["tools"][0]["function"]
        function["parameters"]["properties"]["best_output"]["enum"] = ["Output (a)", "Output (b)"]
    identity = {
        # As YAML, because some keys are numbers, which JSON does not have.
        "annotator": yaml.safe_dump(annotator),
        "prompt": prompt.decode("utf-8"),
        "url": settings.url,
        "versions": stage_versions("grade_alpaca_eval"),
    }
    name = f"{settings.style}-{digest(identity)[:16]}"
    subfolder = folder / name
    subfolder.mkdir(parents=True, exist_ok=True)
    (subfolder / "prompt.txt").write_bytes(prompt)
    content = {name: {"prompt_template": f"{name}/prompt.txt", **annotator}}
    text = yaml.safe_dump(content, sort_keys=False)
    (subfolder / "configs.yaml").write_text(text, encoding="utf-8")
    return subfolder


def _request_changes(settings: Judge) -> dict[str, Any]:
    """Return the changes to the original's requests."""
    changes: dict[str, Any] = {
        "model_name": settings.model,
        "max_tokens": None,
        settings.token_parameter: settings.answer_tokens,
        "temperature": settings.temperature,
        "top_p": None if settings.temperature is None else 1.0,
        # Models with "instruct" in their names would be sent to an endpoint without messages.
        "requires_chatml": True,
        "price_per_token": 0,
        # `run_alpaca_eval` retries, so alpaca_eval does not.
        "n_retries": 1,
        "sleep_time": 0,
    }
    if settings.structured_choice:
        changes["extra_body"] = {"structured_outputs": {"choice": ["m", "M"]}}
    return changes
