"""AlpacaEval: how often a judge prefers a model's answers to reference answers.

Scored by the package alpaca_eval (Li et al. 2023) with any model behind an OpenAI-compatible API.
The judge of the paper (arXiv 2311.03099), gpt-3.5-turbo-16k-0613, was retired in September 2024:
its numbers cannot be reproduced, and win rates of different judges cannot be compared. The
references are those of the records: text_davinci_003 for AlpacaEval 1, which the paper reports.
"""

import csv
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import yaml

from mergegrid.checkpoints.sources.fetch import fetch, locate
from mergegrid.errors import ConfigError, DataError, MergegridError
from mergegrid.progress import progress
from mergegrid.study.grading.judges import run_alpaca_eval
from mergegrid.study.grading.judges.annotators import write_annotator
from mergegrid.study.runtime.parent_death import dies_with_parent
from mergegrid.study.schema.judge import Judge

KEYS = ("instruction", "output", "reference", "dataset")

_GAMED = "df_gamed.csv"
# What alpaca_eval's prompts and requests are made with: inside a text it would tear them apart.
_MARKS = ("<|im_start|>", "<|im_end|>", "{instruction}", "{output_1}", "{output_2}")
# Settings of alpaca_eval, or of the client below it, that would override those of the config.
_FOREIGN = (
    "DATASETS_FORCE_DOWNLOAD",
    "HF_ENDPOINT",
    "OPENAI_API_BASE",
    "OPENAI_API_KEYS",
    "OPENAI_BASE_URL",
    "OPENAI_MAX_CONCURRENCY",
    "OPENAI_ORGANIZATION_IDS",
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What a judge thinks of a model, in shares of 1."""

    win_rate: float
    """Mean preference."""
    stderr: float
    """Its standard error over the examples; NaN for a single one."""
    n: int
    """Examples, every one of them judged."""
    wins: int
    """Examples whose preference is above 1/2."""
    losses: int
    """Examples whose preference is below 1/2."""
    draws: int
    """Examples whose preference is 1/2, such as those where output and reference are equal."""
    length_controlled: float | None
    """Win rate as it would be were the outputs as long as the references; when asked for."""
    lc_stderr: float | None
    """Its standard error."""
    average_length: float
    """Mean length of the outputs in characters."""
    preferences: list[float]
    """For each example, in order: 1 where the output is better, 0 where the reference is."""


def judge(
    examples: Sequence[Mapping[str, str]], generator: str, settings: Judge, folder: Path
) -> Verdict:
    """Have a judge compare the outputs of a model with reference outputs.

    Answers are kept in `folder`, and only those that are missing there are asked for. No two
    processes may use one folder at a time.

    Args:
        examples: Each with `instruction`, `output`, `reference` and `dataset`.
        generator: Name of the model.
        settings: Who judges, and how.
        folder: Where answers are kept.

    Raises:
        ConfigError: the key or the package alpaca_eval is missing.
        DataError: the examples cannot be judged, or not with length control.
        MergegridError: the judge did not answer for every example; nothing is scored.
    """
    _check(examples)
    key = _key(settings)
    gamed = _gamed(settings, len(examples))
    request = {
        "annotator": str(write_annotator(settings, folder)),
        "generator": generator,
        "examples": [{name: _unmarked(each[name]) for name in KEYS} for each in examples],
        "concurrency": settings.concurrency,
        "retries": settings.retries,
        "length_controlled": settings.length_controlled,
    }
    with TemporaryDirectory(prefix="mergegrid-judge-") as workplace:
        environment = _environment(settings, key, gamed, Path(workplace))
        found = _run(request, Path(workplace), environment, f"judging {generator}")
    if "failed" in found:
        raise MergegridError(
            f"{settings.model} at {settings.url} left {found['failed']} of {len(examples)} "
            f"examples without a readable answer ({found['reason'].rstrip('.')}), so nothing is "
            f"scored; see to the judge and run again: the other answers are kept in {folder}"
        )
    return _verdict(found, examples)


def _check(examples: Sequence[Mapping[str, str]]) -> None:
    if not examples:
        raise DataError("there are no examples to judge; give at least one")
    for index, example in enumerate(examples):
        for name in KEYS:
            if not isinstance(example.get(name), str):
                raise DataError(
                    f"{name} of example {index} is {example.get(name)!r}; "
                    f"give each example texts for {', '.join(KEYS)}"
                )


def _unmarked(text: str) -> str:
    for mark in _MARKS:
        text = text.replace(mark, f"{mark[0]} {mark[1:]}")
    return text


def _key(settings: Judge) -> str:
    if settings.api_key_env == "none":
        return "none"
    key = os.environ.get(settings.api_key_env)
    if not key:
        raise ConfigError(
            f"the environment variable {settings.api_key_env} with the key for {settings.url} is "
            "not set; export it, or set `api_key_env: none` for a server that asks for no key"
        )
    return key


def _gamed(settings: Judge, count: int) -> Path | None:
    if settings.length_files is None:
        return None
    path = locate(fetch(settings.length_files, "dataset"), settings.length_files)
    file = path / _GAMED if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{path} has no {_GAMED}; take it from AlpacaEval's data set")
    with file.open(encoding="utf-8", newline="") as lines:
        indices = {row.get("index") for row in csv.DictReader(lines)}
    if len(indices) != count:
        raise DataError(
            f"{file} is fitted to {len(indices)} instructions and {count} are judged; judge all, "
            "in the order of AlpacaEval, or leave length_controlled out"
        )
    return file


def _environment(settings: Judge, key: str, gamed: Path | None, workplace: Path) -> dict[str, str]:
    clients = workplace / "clients.yaml"
    client = {"base_url": settings.url, "timeout": settings.timeout}
    clients.write_text(yaml.safe_dump({"default": [client]}), encoding="utf-8")
    if gamed is not None:
        # As the hub's own client would have left it: it is asked for the file by name.
        commit = "0" * 40
        cache = workplace / "hub" / "datasets--tatsu-lab--alpaca_eval"
        (cache / "refs").mkdir(parents=True)
        (cache / "refs" / "main").write_text(commit)
        (cache / "snapshots" / commit).mkdir(parents=True)
        shutil.copyfile(gamed, cache / "snapshots" / commit / _GAMED)
    return {
        **{name: value for name, value in os.environ.items() if name not in _FOREIGN},
        "OPENAI_API_KEY": key,
        "OPENAI_CLIENT_CONFIG_PATH": str(clients),
        "HF_HUB_CACHE": str(workplace / "hub"),
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        # alpaca_eval asks for the user's name, which a container may lack.
        "LOGNAME": os.environ.get("LOGNAME", "mergegrid"),
    }


def _run(
    request: dict[str, Any], workplace: Path, environment: dict[str, str], what: str
) -> dict[str, Any]:
    """What the process of alpaca_eval finds."""
    asked, answered = workplace / "request.json", workplace / "result.json"
    asked.write_text(json.dumps(request), encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "-m", run_alpaca_eval.__name__]
    errors = workplace / "errors.txt"
    with (
        errors.open("w") as file,
        subprocess.Popen(
            dies_with_parent([*command, str(asked), str(answered)]),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for _ in progress(_judged(process.stdout), what, len(request["examples"])):
                pass
        except BaseException:
            process.kill()
            raise
    if not answered.is_file():
        last = errors.read_text(errors="replace").strip().splitlines()[-1:]
        raise MergegridError(
            f"alpaca_eval ended with code {process.returncode} and said {last}; "
            "run again, and compare its version with 0.6.6 if that does not help"
        )
    found: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8"))
    return found


def _judged(lines: IO[str]) -> Iterator[None]:
    """Something for each example that is judged; passes messages on to the log."""
    for line in lines:
        event = json.loads(line)
        if "message" in event:
            logger.log(event["level"], event["message"])
        yield from [None] * event.get("judged", 0)


def _verdict(found: dict[str, Any], examples: Sequence[Mapping[str, str]]) -> Verdict:
    n = int(found["n_total"])
    if n != len(examples) or len(found["preferences"]) != n:
        raise MergegridError(
            f"alpaca_eval scored {n} of {len(examples)} examples, so its rate is of other examples "
            "than were asked; compare its version with 0.6.6"
        )
    controlled = "length_controlled_winrate" in found
    return Verdict(
        win_rate=found["win_rate"] / 100,
        stderr=found["standard_error"] / 100,
        n=n,
        wins=int(found["n_wins"]),
        losses=int(found["n_wins_base"]),
        draws=int(found["n_draws"]),
        length_controlled=found["length_controlled_winrate"] / 100 if controlled else None,
        lc_stderr=found["lc_standard_error"] / 100 if controlled else None,
        average_length=statistics.fmean(len(each["output"]) for each in examples),
        preferences=found["preferences"],
    )
