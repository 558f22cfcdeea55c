"""The process in which alpaca_eval runs, and nothing else: `python -m` this, a request, a result.

alpaca_eval reads the environment when it is imported and changes the logging of its process, so
each evaluation has a process of its own. A request:

    {"annotator": "results/judge/function-0f3a90e1c27b5d64", "generator": "merge",
     "examples": [{"instruction": "...", "output": "...", "reference": "...", "dataset": "..."}],
     "concurrency": 5, "retries": 5, "length_controlled": false}

A result is what alpaca_eval's metric says, and `preferences`: 0 where the reference is better, 1
where the output is. Or, when answers are missing after all retries: `failed`, how many, and
`reason`, the first. Standard output has one JSON line for each event: `judged`, how many, or
`level` and `message`.
"""

import importlib.metadata
import importlib.util
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from mergegrid.fsync import sync_tree
from mergegrid.study.grading.judges.annotators import ANSWERS

_LONGEST_WAIT = 60.0
# Answers are saved in bunches, and each bunch waits for its slowest.
_BUNCH = 8
_REFERENCE = "reference"

Complete = Callable[..., dict[str, list[Any]]]

logger = logging.getLogger(__name__)


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Ask the judge for every example, ask again for what got no answer, and score."""
    reasons = _Reasons()
    # Before the import: alpaca_eval takes the logging of its process for its own where it is free.
    logging.getLogger().addHandler(_Teller())
    logging.getLogger().addHandler(reasons)
    _stand_in_for_pkg_resources()
    job = _Job(request, reasons)
    missing = list(range(len(job.examples)))
    for attempt in range(request["retries"] + 1):
        if attempt:
            wait = min(2.0 ** (attempt - 1), _LONGEST_WAIT)
            logger.warning(
                "%d of %d answers of the judge are missing (%s); asking again in %.0f s",
                *(len(missing), len(job.examples), reasons.first, wait),
            )
            time.sleep(wait)
        reasons.first = ""
        missing = job.ask(missing)
        if not missing:
            return job.score()
    return {"failed": len(missing), "reason": reasons.first}


class _Job:
    """The examples of a request, and the answers that are on disk."""

    def __init__(self, request: dict[str, Any], reasons: "_Reasons") -> None:
        self.examples: list[dict[str, str]] = request["examples"]
        self._request = request
        self._reasons = reasons
        self._folder = Path(request["annotator"])
        self._answers = self._folder / ANSWERS

    def ask(self, wanted: Sequence[int]) -> list[int]:
        """Ask for some examples, by index, and save the answers; gives those without one."""
        annotator = self._annotator()
        size = _BUNCH * self._request["concurrency"]
        missing: list[int] = []
        for start in range(0, len(wanted), size):
            bunch = wanted[start : start + size]
            rows = self._annotate(annotator, bunch)
            self._save(annotator)
            lost = [index for index, row in zip(bunch, rows, strict=True) if _unanswered(row)]
            _tell({"judged": len(bunch) - len(lost)})
            missing.extend(lost)
            if len(lost) == size:
                # The judge is down, or cannot do what it is asked: no use paying for the rest.
                return [*missing, *wanted[start + size :]]
        return missing

    def score(self) -> dict[str, Any]:
        """The metric of alpaca_eval over the answers as they are on disk.

        Not as they came: the file holds ten decimals, and a rerun has nothing else.
        """
        from alpaca_eval import metrics

        rows = self._annotate(self._annotator(), range(len(self.examples)))
        if self._request["length_controlled"]:
            found = metrics.get_length_controlled_winrate(rows, save_weights_dir=None)
        else:
            found = metrics.get_winrate(rows)
        values: dict[str, Any] = {name: float(value) for name, value in found.items()}
        return {**values, "preferences": [float(row["preference"]) - 1 for row in rows]}

    def _annotator(self) -> Any:
        import pandas as pd
        from alpaca_eval.annotators import PairwiseAnnotator

        annotator = PairwiseAnnotator(
            annotators_config=self._folder.resolve(),
            # Without this, failures are answers, and are never asked for again.
            is_store_missing_annotations=False,
            caching_path=None,
        )
        annotator.df_annotations = pd.DataFrame(
            columns=[*annotator.all_keys, annotator.annotation_key]
        )
        annotator.load_(self._answers)
        for single in annotator.annotators.values():
            single.fn_completions = self._one_by_one(single.fn_completions)
        return annotator

    def _annotate(self, annotator: Any, indices: Sequence[int]) -> list[dict[str, Any]]:
        examples = [self.examples[index] for index in indices]
        rows: list[dict[str, Any]] = annotator.annotate_head2head(
            outputs_1=[_answer(each, "reference", _REFERENCE) for each in examples],
            outputs_2=[_answer(each, "output", self._request["generator"]) for each in examples],
            # Else two examples with one instruction would become four.
            is_ordered=True,
            chunksize=len(examples),
        )
        return rows

    def _save(self, annotator: Any) -> None:
        if annotator.df_annotations.empty:
            return
        # Beside, then renamed: whoever is interrupted here keeps the answers of before.
        part = self._answers.with_suffix(".part")
        annotator.save(part)
        sync_tree(part)
        part.replace(self._answers)

    def _one_by_one(self, complete: Complete) -> Complete:
        """Ask each question for itself, so that one that fails takes no other with it."""
        import openai

        failures = (
            openai.OpenAIError,
            # What a body that is no completion does wherever alpaca_eval first looks at it.
            *(ValueError, TypeError, AttributeError, LookupError, AssertionError),
        )

        def completions(prompts: Sequence[str], **settings: Any) -> dict[str, list[Any]]:
            def ask(prompt: str) -> dict[str, list[Any]]:
                try:
                    return complete([prompt], num_procs=1, **settings)
                except failures as error:
                    self._reasons.note(f"{type(error).__name__}: {error}")
                    return {
                        "completions": [""],
                        "completions_all": [{}],
                        "price_per_example": [0.0],
                        "time_per_example": [0.0],
                    }

            with ThreadPoolExecutor(self._request["concurrency"]) as pool:
                answers = list(pool.map(ask, prompts))
            return {name: [answer[name][0] for answer in answers] for name in answers[0]}

        return completions


class _Reasons(logging.Handler):
    """Keeps the first of the complaints with which alpaca_eval drops an answer."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != logger.name:
            error = record.exc_info[1] if record.exc_info else None
            self.note(f"{record.getMessage()} {error or ''}")

    def note(self, reason: str) -> None:
        self.first = self.first or " ".join(reason.split())[:300]


class _Teller(logging.Handler):
    """Tells the process that waits: our own words as they are, those of libraries as details."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelno if record.name == logger.name else logging.DEBUG
        _tell({"level": level, "message": record.getMessage()})


def _tell(event: dict[str, Any]) -> None:
    os.write(1, (json.dumps(event) + "\n").encode())


def _unanswered(row: dict[str, Any]) -> bool:
    preference = row.get("preference")
    return preference is None or not 1 <= preference <= 2


def _answer(example: dict[str, str], key: str, generator: str) -> dict[str, str]:
    return {
        "instruction": example["instruction"],
        "output": example[key],
        "generator": generator,
        "dataset": example["dataset"],
    }


def _stand_in_for_pkg_resources() -> None:
    # alpaca_eval asks it for versions, and setuptools no longer has it.
    if importlib.util.find_spec("pkg_resources") is None:
        module = ModuleType("pkg_resources")
        module.__dict__["get_distribution"] = importlib.metadata.distribution
        sys.modules["pkg_resources"] = module


def main(request: Path, result: Path) -> None:
    """Read a request, do it, and write its result."""
    # Standard output is for events alone.
    sys.stdout = sys.stderr
    found = run(json.loads(request.read_text(encoding="utf-8")))
    result.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
