"""Any task of lm-evaluation-harness as a score: run in its own environment, read from its JSON.

Each metric of each task, and of each group of tasks, is one score under the name that lm-eval gives
it: the metric, a comma, and the filter of the answers, such as `acc,none` or
`exact_match,strict-match`. Which questions a task has is decided by lm-eval and, for most tasks, by
a data set of the hub without a pinned revision; what was asked goes into the digest of the inputs.
"""

import json
import logging
import math
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mergegrid.errors import ConfigError, DataError, MergegridError, SourceError
from mergegrid.hashing import digest
from mergegrid.recipes.recipe import Recipe
from mergegrid.stages import Libraries, stage_versions, union_of_versions
from mergegrid.study.generation.vllm_environment import VLLM_ON_GPUS, refuse_mig
from mergegrid.study.runtime.gpu_devices import hardware_name
from mergegrid.study.runtime.parent_death import dies_with_parent
from mergegrid.study.schema.lm_eval import Harness, OnGpus, own_tasks
from mergegrid.study.scoring.scores import Measurement, score_row

STAGE_VERSIONS = {"harness": 1}

NO_SPLIT = OnGpus()
"""One GPU."""
#: Version that is tested.
LM_EVAL = "0.4.13"

_FIND_VERSION = "from importlib.metadata import version; print(version('lm_eval'))"
_NOT_METRICS = {"alias", "name", "sample_len", "sample_count", "samples"}
_ERROR = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt|IsEnabled)\b")
_UNKNOWN = re.compile(r"Tasks not found: (.+)")
_UNREACHED = re.compile(
    r"(?:reach|Module) '([^']+)' (?:on|doesn't exist on) the (?:Hugging Face )?Hub"
)
_OFFLINE = ("OfflineModeIsEnabled", "LocalEntryNotFoundError", "HF_HUB_OFFLINE")
_UNSAFE = re.compile(r"Attempted to run task: (\S+) which is marked as unsafe")
# The metric that runs programs: it is asked for, or asks for leave.
_RUNS_CODE = ("Module 'code_eval'", "HF_ALLOW_CODE_EVAL")
_TAIL = 30
_ENVIRONMENT = {
    # Else a file where the run starts could stand in for a library of the same name.
    "PYTHONSAFEPATH": "1",
    # vLLM's engine in the process of lm-eval ends with it; one of its own would keep the GPU.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    **VLLM_ON_GPUS,
}
_ATTEMPT = "run-"
_MISSING = ("ModuleNotFoundError", "ImportError")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HarnessScore:
    """One metric of one task."""

    task: str
    metric: str
    """With the filter behind a comma, as lm-eval names it."""
    measurement: Measurement


@dataclass(frozen=True)
class HarnessResult:
    """What lm-eval found for one model."""

    version: str
    """Version of lm-eval."""
    engine: str
    """What gave the answers: `lm-eval hf float32 cpu`."""
    tasks: dict[str, str]
    """Versions of the tasks and groups."""
    questions: dict[str, str]
    """Digest of the questions, prompts and right answers of each task."""
    scores: list[HarnessScore]


def run_harness(
    model: Path, settings: Harness, folder: Path, device: str, on_gpus: OnGpus = NO_SPLIT
) -> HarnessResult:
    """Score a model on tasks of lm-eval.

    Args:
        model: folder of the model.
        settings: the tasks, and where lm-eval is.
        folder: gets `results.json` as lm-eval wrote it, and its log, `lm_eval.log`.
        device: `cpu` or `cuda`.
        on_gpus: how the model lies on GPUs, where the device is one.

    Raises:
        ConfigError: lm-eval is not installed there, knows no such task, needs another package for
            it, or would run programs of the model; or vLLM is given a part of a GPU.
        SourceError: the data of a task is on the hub, which cannot be reached.
        MergegridError: lm-eval failed, or found no scores.
    """
    own_tasks(settings)
    if settings.model == "vllm" and device != "cpu":
        refuse_mig()
    version = _version(settings.python)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_ATTEMPT}*"):
        shutil.rmtree(left, ignore_errors=True)
    log, results = folder / "lm_eval.log", folder / "results.json"
    results.unlink(missing_ok=True)
    logger.info("lm-eval %s writes its log to %s", version, log)
    # A place of its own for each attempt: nothing that an older one writes can be taken for ours.
    with TemporaryDirectory(prefix=_ATTEMPT, dir=folder, ignore_cleanup_errors=True) as name:
        place = Path(name)
        with log.open("wb") as file:
            done = subprocess.run(
                dies_with_parent(
                    harness_command(model, settings, place / "results.json", device, on_gpus)
                ),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_ENVIRONMENT},
                check=False,
            )
        written = list(place.glob("results_*.json"))
        if done.returncode or not written:
            raise _failure(settings, version, done.returncode, log)
        written[0].replace(results)
    return read_result(results, settings, device)


def harness_command(
    model: Path, settings: Harness, output: Path, device: str, on_gpus: OnGpus = NO_SPLIT
) -> list[str]:
    """The words that start lm-eval; it puts the time into the name of the output."""
    # As JSON, for in the plain form a comma in the path would end it.
    arguments: dict[str, Any] = {"pretrained": str(model.resolve()), "dtype": settings.dtype}
    if device != "cpu" and settings.model == "vllm":
        arguments |= {
            "tensor_parallel_size": on_gpus.gpus,
            "gpu_memory_utilization": on_gpus.memory_fraction,
        }
        if on_gpus.max_model_len is not None:
            arguments["max_model_len"] = on_gpus.max_model_len
    elif device != "cpu" and on_gpus.gpus > 1:
        # Layer by layer over the GPUs, one after the other at work.
        arguments["parallelize"] = True
    command = [settings.python, "-m", "lm_eval", "--model", settings.model]
    command += ["--model_args", json.dumps(arguments), "--tasks", ",".join(settings.tasks)]
    command += ["--batch_size", str(_batch_size(settings))]
    # The path of a file: in a folder, lm-eval makes one whose name is the whole path of the model.
    # Only with the samples does it say by a digest what was asked.
    command += ["--output_path", str(output.resolve()), "--log_samples"]
    if settings.model == "hf":
        command += ["--device", device]
    if settings.few_shot is not None:
        command += ["--num_fewshot", str(settings.few_shot)]
    if settings.limit is not None:
        command += ["--limit", str(settings.limit)]
    if settings.seed is not None:
        command += ["--seed", str(settings.seed)]
    if settings.include_path is not None:
        command += ["--include_path", str(Path(settings.include_path).resolve())]
    if settings.chat:
        command += ["--apply_chat_template"]
    return command


def read_result(path: Path, settings: Harness, device: str) -> HarnessResult:
    """Read what lm-eval wrote.

    For a model that was asked `arc_easy`, without what is not read here:

        {"results": {"arc_easy": {"alias": "arc_easy", "acc,none": 0.6, "acc_stderr,none": 0.01}},
         "n-samples": {"arc_easy": {"original": 2376, "effective": 2376}},
         "versions": {"arc_easy": 1.0}, "task_hashes": {"arc_easy": "5c09..."},
         "lm_eval_version": "0.4.13", "config": {"model": "hf", "model_dtype": "torch.float32"}}

    Raises:
        DataError: there are no scores in it.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    version = found["lm_eval_version"]
    dtype = str(found["config"].get("model_dtype", settings.dtype)).removeprefix("torch.")
    counts = {task: count["effective"] for task, count in found["n-samples"].items()}
    scores = [
        score
        for task, values in sorted(found["results"].items())
        for score in _scores(task, values, counts)
    ]
    if not scores:
        raise DataError(
            f"{path} has no scores of {', '.join(settings.tasks)}; "
            "name tasks that lm-eval computes metrics for"
        )
    return HarnessResult(
        version=version,
        engine=f"lm-eval {settings.model} {dtype} {hardware_name(device)}",
        tasks={task: str(each) for task, each in found["versions"].items()},
        questions=found["task_hashes"],
        scores=scores,
    )


def rows(
    result: HarnessResult, recipe: Recipe, owner: str, libraries: Libraries, inputs_digest: str
) -> list[dict[str, Any]]:
    """One row of scores per task and metric; none is primary, for lm-eval does not rank its own.

    Args:
        result: what lm-eval found.
        recipe: what the model was merged from.
        owner: the expert whose ability the tasks measure, or nothing.
        libraries: versions of the libraries behind the model.
        inputs_digest: digest over all that the values depend on but the recipe.
    """
    libraries = union_of_versions([libraries, {"lm-eval": [result.version]}])
    return [
        score_row(
            "sweep" if len(recipe.experts) == 1 else "merges",
            recipe,
            owner,
            score.task,
            score.metric,
            "test",
            replace(score.measurement, libraries=libraries),
            selected=False,
            selection="none",
            inputs_digest=inputs_digest,
            primary=False,
            engine=result.engine,
        )
        for score in result.scores
    ]


def harness_inputs(
    result: HarnessResult, settings: Harness, model: str, on_gpus: OnGpus = NO_SPLIT
) -> str:
    """Digest over all that the values depend on but the recipe.

    Args:
        result: what lm-eval found, and with which tasks and questions.
        settings: how it was asked; where it is installed does not count.
        model: digest of the model.
        on_gpus: how the model lay on GPUs; longer questions were cut.
    """
    asked = settings.model_dump(mode="json", exclude={"python", "include_path"})
    asked["batch_size"] = _batch_size(settings)
    if on_gpus.max_model_len is not None:
        asked["max_model_len"] = on_gpus.max_model_len
    return digest(
        {
            "model": model,
            "settings": asked,
            "own": own_tasks(settings),
            "engine": result.engine,
            "tasks": result.tasks,
            "questions": result.questions,
            "versions": stage_versions("harness"),
        }
    )


def _batch_size(settings: Harness) -> int | str:
    return settings.batch_size or ("auto" if settings.model == "vllm" else 8)


def _version(python: str) -> str:
    """Version of lm-eval in the environment of a Python."""
    try:
        done = subprocess.run(
            [python, "-c", _FIND_VERSION], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ConfigError(
            f"harness.python = {python!r} cannot be started ({error.strerror}); "
            "name the Python of an environment that has lm-eval"
        ) from error
    if done.returncode:
        raise ConfigError(
            f"harness.python = {python!r}: its environment has no lm-eval; "
            f"run `{python} -m pip install 'lm-eval[hf]=={LM_EVAL}'`, or name another Python"
        )
    return done.stdout.strip()


def _scores(task: str, values: Mapping[str, Any], counts: Mapping[str, int]) -> list[HarnessScore]:
    scores = []
    for metric, value in values.items():
        name, _, kept = metric.partition(",")
        if metric in _NOT_METRICS or name.endswith("_stderr"):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            logger.warning("%s of %s is left out: it is no number", metric, task)
            continue
        stderr = values.get(f"{name}_stderr,{kept}")
        # For a group: the questions of those of its tasks that have the metric.
        count = values.get("sample_count", {}).get(metric, counts.get(task))
        measurement = Measurement(
            value=float(value),
            stderr=float(stderr) if isinstance(stderr, int | float) else math.nan,
            n=int(values["sample_len"] if count is None else count),
        )
        scores.append(HarnessScore(task, metric, measurement))
    return scores


def _failure(settings: Harness, version: str, code: int, log: Path) -> MergegridError:
    """What went wrong, in one line, from the end of a log."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    last = (errors or lines or ["nothing"])[-1]
    tasks = ", ".join(settings.tasks)
    if unknown := _UNKNOWN.search(last):
        return ConfigError(
            f"harness.tasks: lm-eval {version} has no task {unknown[1]}; see "
            f"`{settings.python} -m lm_eval ls tasks`, or name the folder of your own tasks in "
            "harness.include_path"
        )
    unsafe = _UNSAFE.search(last)
    if unsafe or any(sign in line for sign in _RUNS_CODE for line in lines[-_TAIL:]):
        return ConfigError(
            f"harness.tasks: {unsafe[1] if unsafe else tasks} would run programs that models "
            "wrote, without a sandbox; take a benchmark of kind humaneval or mbpp instead"
        )
    unreached = _UNREACHED.search(last)
    if unreached or any(sign in last for sign in _OFFLINE):
        what = (unreached and unreached[1]) or "data"
        return SourceError(
            f"harness.tasks: {what} for {tasks} is on the hub, which cannot be reached; run once "
            "with network and without HF_HUB_OFFLINE, or take tasks whose data is here "
            f"(lm-eval's log is {log})"
        )
    if last.startswith(_MISSING):
        return ConfigError(
            f"harness.python = {settings.python!r}: its environment lacks a package for {tasks} "
            f"on {settings.model} ({last}); install it there"
        )
    return MergegridError(
        f"lm-eval {version} ended with code {code} and said {last!r}; "
        f"see its log, {log}, mend that and run again"
    )
