"""What alpaca_eval calls an annotator: a folder that says how a judge is asked.

    function-0f3a90e1c27b5d64/
        configs.yaml        model, limits, and how an answer is read
        prompt.txt          copied from the installed alpaca_eval
        annotations.json    what the judge has answered so far

The digits stand for all that can change an answer, so another judge or prompt is another folder.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from mergegrid.errors import ConfigError
from mergegrid.hashing import digest
from mergegrid.stages import stage_versions
from mergegrid.study.schema.judge import Judge, JudgeStyle

ANSWERS = "annotations.json"

#: The annotators of alpaca_eval that have these styles; the paper's judge is `chatgpt_fn`.
_ORIGINALS: dict[JudgeStyle, str] = {
    "choice": "weighted_alpaca_eval_gpt4_turbo",
    "function": "chatgpt_fn",
    "ranking": "alpaca_eval_gpt4",
}


def write_annotator(settings: Judge, folder: Path) -> Path:
    """Write the annotator of a judge below `folder`; gives the annotator's own folder.

    Prompt, function and reading of answers are those of the installed alpaca_eval.

    Raises:
        ConfigError: alpaca_eval is not installed.
    """
    originals = _package() / "evaluators_configs"
    original = _ORIGINALS[settings.style]
    text = (originals / original / "configs.yaml").read_text(encoding="utf-8")
    annotator = yaml.safe_load(text)[original]
    prompt = (originals / annotator.pop("prompt_template")).read_bytes()
    annotator["completions_kwargs"] |= _request(settings)
    if settings.style == "function":
        _name_outputs(annotator["completions_kwargs"]["tools"][0]["function"])
    identity = {
        # Its keys are numbers too, which JSON has not.
        "annotator": yaml.safe_dump(annotator),
        "prompt": prompt.decode("utf-8"),
        "url": settings.url,
        "versions": stage_versions("grade_alpaca_eval"),
    }
    name = f"{settings.style}-{digest(identity)[:16]}"
    own = folder / name
    own.mkdir(parents=True, exist_ok=True)
    (own / "prompt.txt").write_bytes(prompt)
    content = {name: {"prompt_template": f"{name}/prompt.txt", **annotator}}
    (own / "configs.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return own


def _package() -> Path:
    """Folder of alpaca_eval, found without importing it."""
    spec = find_spec("alpaca_eval")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the judge needs the package alpaca_eval, which is not installed here; "
            "pip install alpaca_eval==0.6.6"
        )
    return Path(spec.origin).parent


def _request(settings: Judge) -> dict[str, Any]:
    """What differs from the original in the body of a request, and in how it is sent."""
    changes: dict[str, Any] = {
        "model_name": settings.model,
        "max_tokens": None,
        settings.token_parameter: settings.answer_tokens,
        "temperature": settings.temperature,
        "top_p": None if settings.temperature is None else 1.0,
        # Models with "instruct" in their names would be sent to an endpoint without messages.
        "requires_chatml": True,
        "price_per_token": 0,
        # Who runs the annotator asks again, so nothing waits here.
        "n_retries": 1,
        "sleep_time": 0,
    }
    if settings.structured_choice:
        changes["extra_body"] = {"structured_outputs": {"choice": ["m", "M"]}}
    return changes


def _name_outputs(function: dict[str, Any]) -> None:
    """Let the function take nothing but the two names, where the server sees to it."""
    properties = function["parameters"]["properties"]
    properties["best_output"]["enum"] = ["Output (a)", "Output (b)"]
