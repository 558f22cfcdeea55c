"""AlpacaEval: how often a judge prefers a model's outputs to reference outputs.

Judged by the package alpaca_eval (Li et al. 2023) with any model behind an OpenAI-compatible API.
The judge of the paper (arXiv 2311.03099), gpt-3.5-turbo-16k-0613, was retired in September 2024:
its numbers cannot be reproduced, and win rates of different judges are not comparable. The
references are those of the records: text_davinci_003 for AlpacaEval 1, which the paper reports.
"""

import csv
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from mergegrid.checkpoints.sources.fetch import fetch, locate
from mergegrid.errors import ConfigError, DataError, MergegridError
from mergegrid.progress import progress
from mergegrid.study.grading.judges import run_alpaca_eval
from mergegrid.study.grading.judges.alpaca_eval_compat import (
    LENGTH_FILE,
    MARKS,
    VERSION,
    environment,
)
from mergegrid.study.grading.judges.annotators import write_annotator
from mergegrid.study.runtime.parent_death import dies_with_parent
from mergegrid.study.schema.judge import Judge

KEYS = ("instruction", "output", "reference", "dataset")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preferences:
    """The preferences of a judge."""

    preferences: list[float]
    """Per example, in order: 1 if the output is better, 0 if the reference is, 0.5 if equal."""
    length_controlled: tuple[float, float] | None
    """Win rate that the outputs would have if they were as long as the references, and its
    standard error; with length control only."""


def judge_outputs(
    examples: Sequence[Mapping[str, str]], generator: str, settings: Judge, folder: Path
) -> Preferences:
    """Let a judge compare the outputs of a model with reference outputs.

    Answers are kept in `folder`, and only missing ones are requested. Two processes must not use
    the same folder at a time.

    Args:
        examples: At least one; texts by the keys `instruction`, `output`, `reference`, `dataset`.
        generator: Name of the model.
        settings: The judge.
        folder: Folder of the judges' answers.

    Raises:
        ConfigError: The API key or the package alpaca_eval is missing.
        DataError: Length control is not possible with these examples or files.
        MergegridError: The judge did not answer for every example; nothing is scored.
    """
    key = _api_key(settings)
    length_file = _length_file(settings, len(examples))
    request = {
        "annotator": str(write_annotator(settings, folder)),
        "generator": generator,
        "examples": [{key: _without_marks(row[key]) for key in KEYS} for row in examples],
        "concurrency": settings.concurrency,
        "retries": settings.retries,
        "length_file": None if length_file is None else str(length_file.resolve()),
    }
    with TemporaryDirectory(prefix="mergegrid-judge-") as name:
        work = Path(name)
        variables = environment(settings.url, settings.timeout, key, work / "clients.yaml")
        result = _run(request, work, variables, f"judging {generator}")
    if "failed" in result:
        raise MergegridError(
            f"{settings.model} at {settings.url} gave no readable answer for {result['failed']} of "
            f"{len(examples)} examples ({result['reason'].rstrip('.')}), so nothing was scored; "
            f"check the judge and rerun: the other answers are kept in {folder}"
        )
    preferences = result["preferences"]
    if len(preferences) != len(examples) or None in preferences:
        raise MergegridError(
            f"alpaca_eval returned {len(preferences)} preferences ({preferences.count(None)} of "
            f"them empty) for {len(examples)} examples; mergegrid is tested with version {VERSION}"
        )
    controlled = result.get("length_controlled")
    return Preferences(preferences, None if controlled is None else tuple(controlled))


def _without_marks(text: str) -> str:
    """Insert a space into the strings that alpaca_eval builds prompts from."""
    for mark in MARKS:
        text = text.replace(mark, f"{mark[0]} {mark[1:]}")
    return text


def _api_key(settings: Judge) -> str:
    if settings.api_key_env == "none":
        return "none"
    key = os.environ.get(settings.api_key_env)
    if not key:
        raise ConfigError(
            f"the environment variable {settings.api_key_env}, which holds the key for "
            f"{settings.url}, is not set; export it, or set `api_key_env: none` for a server that "
            "needs no key"
        )
    return key


def _length_file(settings: Judge, count: int) -> Path | None:
    if settings.length_files is None:
        return None
    path = locate(fetch(settings.length_files, "dataset"), settings.length_files)
    file = path / LENGTH_FILE if path.is_dir() else path
    if not file.is_file():
        raise DataError(
            f"{path} has no {LENGTH_FILE}, which length control needs; "
            "download it from the data set tatsu-lab/alpaca_eval"
        )
    with file.open(encoding="utf-8", newline="") as lines:
        indices = {row.get("index") for row in csv.DictReader(lines)}
    if len(indices) != count:
        raise DataError(
            f"{file} is fitted to {len(indices)} instructions, but {count} are judged; judge all "
            "instructions, in the order of AlpacaEval, or remove length_controlled"
        )
    return file


def _run(
    request: dict[str, Any], work: Path, variables: dict[str, str], title: str
) -> dict[str, Any]:
    """Run a request in a process of alpaca_eval, with a progress bar, and return the result."""
    request_file, result_file = work / "request.json", work / "result.json"
    request_file.write_text(json.dumps(request), encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "-m", run_alpaca_eval.__name__]
    errors = work / "errors.txt"
    with (
        errors.open("w") as file,
        subprocess.Popen(
            dies_with_parent([*command, str(request_file), str(result_file)]),
            env=variables,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for _ in progress(_judged(process.stdout), title, len(request["examples"])):
                pass
        except BaseException:
            process.kill()
            raise
    if not result_file.is_file():
        last = errors.read_text(errors="replace").strip().splitlines()[-1:]
        raise MergegridError(
            f"alpaca_eval exited with code {process.returncode}; its last line was {last}. Rerun; "
            f"if that fails too, compare its version with {VERSION}, which mergegrid is tested with"
        )
    result: dict[str, Any] = json.loads(result_file.read_text(encoding="utf-8"))
    return result


def _judged(lines: IO[str]) -> Iterator[None]:
    """Yield once per judged example and pass messages on to the log."""
    for line in lines:
        event = json.loads(line)
        if "message" in event:
            logger.log(event["level"], event["message"])
        yield from [None] * event.get("judged", 0)
