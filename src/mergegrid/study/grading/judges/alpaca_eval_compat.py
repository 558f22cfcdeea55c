"""Everything that depends on internals of alpaca_eval 0.6.6.

Its documented interface writes leaderboards, keeps failed answers as answers and reads its settings
from the environment. This module uses, and `test_alpaca_eval_compat.py` checks:

- the annotators that are packaged as `evaluators_configs/<name>/configs.yaml`;
- the environment variables that it reads when it is imported;
- `PairwiseAnnotator`: `df_annotations` and `load_` for answers on disk, `save`, and `annotators`,
  whose `fn_completions` sends the requests;
- `metrics.glm_winrate`, which downloads the data of length control by `hf_hub_download`.

alpaca_eval is imported only inside the functions that need it, in a process of its own.
"""

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from mergegrid.extras import require

VERSION = "0.6.6"
LENGTH_FILE = "df_gamed.csv"
"""The file of AlpacaEval's data set that length control is fitted to."""
MARKS = ("<|im_start|>", "<|im_end|>", "{instruction}", "{output_1}", "{output_2}")
"""Strings that alpaca_eval builds prompts from; inside a text they would break the prompt."""

# Variables of alpaca_eval and of the OpenAI client that would override the settings of the study.
_OVERRIDING = (
    "OPENAI_API_BASE",
    "OPENAI_API_KEYS",
    "OPENAI_BASE_URL",
    "OPENAI_MAX_CONCURRENCY",
    "OPENAI_ORGANIZATION_IDS",
)
_FAILED: dict[str, list[Any]] = {
    "completions": [""],
    "completions_all": [{}],
    "price_per_example": [0.0],
    "time_per_example": [0.0],
}

Row = dict[str, Any]
"""A judged example of alpaca_eval; its `preference` is 1 for the reference, 2 for the output."""


def package_folder() -> Path:
    """Return the folder of alpaca_eval without importing it.

    Raises:
        MissingLibraryError: alpaca_eval is not installed.
    """
    require("alpaca_eval")
    spec = importlib.util.find_spec("alpaca_eval")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def packaged_annotator(name: str) -> tuple[dict[str, Any], bytes]:
    """Return the configuration and the prompt of an annotator that alpaca_eval ships."""
    folder = package_folder() / "evaluators_configs"
    text = (folder / name / "configs.yaml").read_text(encoding="utf-8")
    annotator = yaml.safe_load(text)[name]
    return annotator, (folder / annotator.pop("prompt_template")).read_bytes()


def environment(url: str, timeout: float, key: str, clients: Path) -> dict[str, str]:
    """Return the environment of a process that runs alpaca_eval.

    Args:
        url: Base URL of the judge.
        timeout: Seconds to wait for one answer.
        key: API key.
        clients: File to write the client's settings to.
    """
    client = {"base_url": url, "timeout": timeout}
    clients.write_text(yaml.safe_dump({"default": [client]}), encoding="utf-8")
    return {
        **{name: value for name, value in os.environ.items() if name not in _OVERRIDING},
        "OPENAI_API_KEY": key,
        "OPENAI_CLIENT_CONFIG_PATH": str(clients),
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        # alpaca_eval looks up the user's name, which a container may lack.
        "LOGNAME": os.environ.get("LOGNAME", "mergegrid"),
    }


class Annotator:
    """A judge of alpaca_eval and its answers on disk."""

    def __init__(
        self, folder: Path, answers: Path, concurrency: int, on_failure: Callable[[str], None]
    ) -> None:
        """Load the judge and its answers.

        Args:
            folder: The annotator, as `annotators.write_annotator` writes it.
            answers: File of its answers; it need not exist.
            concurrency: Number of requests in parallel.
            on_failure: Called with the reason of every failed request.
        """
        import pandas as pd

        _provide_pkg_resources()
        from alpaca_eval.annotators import PairwiseAnnotator

        self._annotator = PairwiseAnnotator(
            annotators_config=folder.resolve(),
            # Otherwise failures are stored as answers and never requested again.
            is_store_missing_annotations=False,
            caching_path=None,
        )
        self._annotator.df_annotations = pd.DataFrame(
            columns=[*self._annotator.all_keys, self._annotator.annotation_key]
        )
        self._annotator.load_(answers)
        for single in self._annotator.annotators.values():
            single.fn_completions = _one_by_one(single.fn_completions, concurrency, on_failure)

    def annotate(self, examples: Sequence[Mapping[str, str]], generator: str) -> list[Row]:
        """Compare outputs with references, requesting only the answers that are missing."""
        rows: list[Row] = self._annotator.annotate_head2head(
            outputs_1=[_output(example, "reference", "reference") for example in examples],
            outputs_2=[_output(example, "output", generator) for example in examples],
            # Otherwise two examples with one instruction would become four.
            is_ordered=True,
            chunksize=len(examples),
        )
        return rows

    def save(self, path: Path) -> bool:
        """Write all answers to a file; return False, writing nothing, if there are none."""
        if self._annotator.df_annotations.empty:
            return False
        self._annotator.save(path)
        return True


def preference(row: Row) -> float | None:
    """Return 0 if the judge prefers the reference, 1 if it prefers the output, None if neither."""
    value = row.get("preference")
    return float(value) - 1 if value is not None and 1 <= value <= 2 else None


def length_controlled_win_rate(rows: Sequence[Row], length_file: Path) -> tuple[float, float]:
    """Return the length-controlled win rate and its standard error, as shares of 1."""
    from alpaca_eval.metrics import glm_winrate

    glm_winrate.hf_hub_download = lambda **_: str(length_file)
    metrics = glm_winrate.get_length_controlled_winrate(rows, save_weights_dir=None)
    rate, error = metrics["length_controlled_winrate"], metrics["lc_standard_error"]
    return float(rate) / 100, float(error) / 100


def _output(example: Mapping[str, str], key: str, generator: str) -> dict[str, str]:
    return {
        "instruction": example["instruction"],
        "output": example[key],
        "generator": generator,
        "dataset": example["dataset"],
    }


def _one_by_one(
    complete: Callable[..., dict[str, list[Any]]],
    concurrency: int,
    on_failure: Callable[[str], None],
) -> Callable[..., dict[str, list[Any]]]:
    """Send prompts in separate calls, so that one that fails does not discard the others."""
    import openai

    failures = (
        openai.OpenAIError,
        # Raised wherever alpaca_eval first looks at a body that is not a completion.
        *(ValueError, TypeError, AttributeError, LookupError, AssertionError),
    )

    def complete_all(prompts: Sequence[str], **settings: Any) -> dict[str, list[Any]]:
        def complete_one(prompt: str) -> dict[str, list[Any]]:
            try:
                return complete([prompt], num_procs=1, **settings)
            except failures as error:
                on_failure(f"{type(error).__name__}: {error}")
                return _FAILED

        with ThreadPoolExecutor(concurrency) as pool:
            answers = list(pool.map(complete_one, prompts))
        return {name: [answer[name][0] for answer in answers] for name in answers[0]}

    return complete_all


def _provide_pkg_resources() -> None:
    """Replace pkg_resources, which alpaca_eval reads versions from and setuptools has dropped."""
    name = "pkg_resources"
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        module = ModuleType(name)
        module.__dict__["get_distribution"] = importlib.metadata.distribution
        sys.modules[name] = module
