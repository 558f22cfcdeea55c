"""Score models on tasks of lm-evaluation-harness, run in its own environment.

Every metric of every task, and of every group of tasks, is one score. It is named as lm-eval names
it: metric, comma, and filter of the answers, such as `acc,none` or `exact_match,strict-match`.
lm-eval decides which questions a task has, for most tasks by a data set of the hub without a pinned
revision; a digest of the questions is part of the digest of the inputs.
"""

import json
import logging
import math
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mergegrid.errors import ConfigError, DataError
from mergegrid.hashing import digest
from mergegrid.recipes.recipe import Recipe
from mergegrid.stages import Libraries, stage_versions, union_of_versions
from mergegrid.study.generation.vllm_environment import VLLM_ON_GPUS, refuse_mig
from mergegrid.study.grading.lm_eval_compat import VERSION, failure
from mergegrid.study.runtime.gpu_devices import hardware_name
from mergegrid.study.runtime.parent_death import dies_with_parent
from mergegrid.study.schema.lm_eval import Harness, OnGpus, custom_tasks
from mergegrid.study.scoring.scores import Measurement, score_row

STAGE_VERSIONS = {"harness": 1}

ONE_GPU = OnGpus()

_FIND_VERSION = "from importlib.metadata import version; print(version('lm_eval'))"
_NOT_METRICS = {"alias", "name", "sample_len", "sample_count", "samples"}
_ENVIRONMENT = {
    # Otherwise a file in the working directory could replace a library of the same name.
    "PYTHONSAFEPATH": "1",
    # vLLM's engine must end with lm-eval; in a process of its own it would keep the GPU.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    **VLLM_ON_GPUS,
}
_ATTEMPT = "run-"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LmEvalScore:
    """One metric of one task."""

    task: str
    metric: str
    """The metric, a comma and the filter, as lm-eval names it."""
    measurement: Measurement


@dataclass(frozen=True)
class LmEvalResult:
    """The scores of one model."""

    version: str
    """Version of lm-eval."""
    engine: str
    """What generated the answers: `lm-eval hf float32 cpu`."""
    tasks: dict[str, str]
    """Versions of the tasks and groups."""
    questions: dict[str, str]
    """By task, a digest of the questions, prompts and right answers."""
    scores: list[LmEvalScore]


def run_lm_eval(
    model: Path, settings: Harness, folder: Path, device: str, on_gpus: OnGpus = ONE_GPU
) -> LmEvalResult:
    """Score a model on tasks of lm-eval.

    Args:
        model: Folder of the model.
        settings: The tasks, and the Python that has lm-eval.
        folder: Folder to write `results.json`, as lm-eval wrote it, and the log `lm_eval.log` to;
            of further runs, for tasks with other settings, `results-2.json` and `lm_eval-2.log`.
        device: `cpu` or `cuda`.
        on_gpus: How the model is distributed over GPUs, if the device is `cuda`.

    Raises:
        ConfigError: lm-eval is not installed there, does not have a task, lacks a package for it,
            or would run programs of the model; or vLLM is given a part of a GPU; or a task is
            scored with two settings.
        SourceError: The data of a task is on the hub, which cannot be reached.
        MergegridError: lm-eval failed, or computed no scores.
    """
    # Raises if the folder of the user's own tasks is missing.
    custom_tasks(settings)
    if settings.model == "vllm" and device != "cpu":
        refuse_mig()
    version = _version(settings.python)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{_ATTEMPT}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for earlier in folder.glob("results*.json"):
        earlier.unlink()
    parts = [
        _run_once(model, part, folder, device, on_gpus, version, f"-{number}" if number > 1 else "")
        for number, part in enumerate(settings.runs(), start=1)
    ]
    names = [name for part in parts for name in part.tasks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"harness.per_task: {twice[0]} is scored with several settings, alone and as a part of "
            "a group; name it or the group in `tasks`, not both"
        )
    return LmEvalResult(
        version=parts[0].version,
        engine=parts[0].engine,
        tasks={name: text for part in parts for name, text in part.tasks.items()},
        questions={name: text for part in parts for name, text in part.questions.items()},
        scores=[score for part in parts for score in part.scores],
    )


def _run_once(
    model: Path,
    settings: Harness,
    folder: Path,
    device: str,
    on_gpus: OnGpus,
    version: str,
    suffix: str,
) -> LmEvalResult:
    """Run lm-eval on tasks that share their settings."""
    log, results = folder / f"lm_eval{suffix}.log", folder / f"results{suffix}.json"
    logger.info("lm-eval %s writes its log to %s", version, log)
    # Each attempt has its own folder, so that results of an older one cannot be mistaken for its.
    with TemporaryDirectory(prefix=_ATTEMPT, dir=folder, ignore_cleanup_errors=True) as name:
        attempt = Path(name)
        command = lm_eval_command(model, settings, attempt / "results.json", device, on_gpus)
        with log.open("wb") as file:
            completed = subprocess.run(
                dies_with_parent(command),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_ENVIRONMENT},
                check=False,
            )
        written = list(attempt.glob("results_*.json"))
        if completed.returncode or not written:
            raise failure(settings, version, completed.returncode, log)
        written[0].replace(results)
    return read_result(results, settings, device)


def lm_eval_command(
    model: Path, settings: Harness, output: Path, device: str, on_gpus: OnGpus = ONE_GPU
) -> list[str]:
    """Return the command that runs lm-eval, which adds the time to the name of the output."""
    arguments: dict[str, Any] = {"pretrained": str(model.resolve()), "dtype": settings.dtype}
    if device != "cpu" and settings.model == "vllm":
        arguments |= {
            "tensor_parallel_size": on_gpus.gpus,
            "gpu_memory_utilization": on_gpus.memory_fraction,
        }
        if on_gpus.max_model_len is not None:
            arguments["max_model_len"] = on_gpus.max_model_len
    elif device != "cpu" and on_gpus.gpus > 1:
        # Layers are distributed over the GPUs, which work one after the other.
        arguments["parallelize"] = True
    command = [settings.python, "-m", "lm_eval", "--model", settings.model]
    # As JSON, because in the plain form a comma in the path would end it.
    command += ["--model_args", json.dumps(arguments), "--tasks", ",".join(settings.tasks)]
    command += ["--batch_size", str(_batch_size(settings))]
    # A file: in a folder, lm-eval creates one whose name is the whole path of the model. Only with
    # the samples does it write a digest of the questions.
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


def read_result(path: Path, settings: Harness, device: str) -> LmEvalResult:
    """Read the results that lm-eval wrote.

    For the task `arc_easy`, without the parts that are not read:

        {"results": {"arc_easy": {"alias": "arc_easy", "acc,none": 0.6, "acc_stderr,none": 0.01}},
         "n-samples": {"arc_easy": {"original": 2376, "effective": 2376}},
         "versions": {"arc_easy": 1.0}, "task_hashes": {"arc_easy": "5c09..."},
         "lm_eval_version": "0.4.13", "config": {"model": "hf", "model_dtype": "torch.float32"}}

    Raises:
        DataError: The file has no scores.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    dtype = str(content["config"].get("model_dtype", settings.dtype)).removeprefix("torch.")
    counts = {task: count["effective"] for task, count in content["n-samples"].items()}
    scores = [
        score
        for task, values in sorted(content["results"].items())
        for score in _scores(task, values, counts)
    ]
    if not scores:
        raise DataError(
            f"{path} has no scores of {', '.join(settings.tasks)}; "
            "choose tasks for which lm-eval computes metrics"
        )
    return LmEvalResult(
        version=content["lm_eval_version"],
        engine=f"lm-eval {settings.model} {dtype} {hardware_name(device)}",
        tasks={task: str(version) for task, version in content["versions"].items()},
        questions=content["task_hashes"],
        scores=scores,
    )


def lm_eval_rows(
    result: LmEvalResult, recipe: Recipe, owner: str, libraries: Libraries, inputs_digest: str
) -> list[dict[str, Any]]:
    """Return one score row per task and metric; none is primary, as lm-eval does not rank them.

    Args:
        result: The scores.
        recipe: The recipe of the model.
        owner: The expert whose ability the tasks measure, or an empty string.
        libraries: Versions of the libraries behind the model.
        inputs_digest: Digest of everything that the values depend on, except the recipe.
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


def lm_eval_inputs_digest(
    result: LmEvalResult, settings: Harness, model: str, on_gpus: OnGpus = ONE_GPU
) -> str:
    """Return a digest of everything that the values depend on, except the recipe.

    Args:
        result: The scores, with the versions of tasks and questions.
        settings: The settings; where lm-eval is installed does not count.
        model: Digest of the model.
        on_gpus: How the model is distributed over GPUs; its `max_model_len` truncates questions.
    """
    counted = settings.model_dump(mode="json", exclude={"python", "include_path"})
    counted["batch_size"] = _batch_size(settings)
    if on_gpus.max_model_len is not None:
        counted["max_model_len"] = on_gpus.max_model_len
    return digest(
        {
            "model": model,
            "settings": counted,
            "own": custom_tasks(settings),
            "engine": result.engine,
            "tasks": result.tasks,
            "questions": result.questions,
            "versions": stage_versions("harness"),
        }
    )


def _batch_size(settings: Harness) -> int | str:
    return settings.batch_size or ("auto" if settings.model == "vllm" else 8)


def _version(python: str) -> str:
    """Return the version of lm-eval in the environment of a Python."""
    try:
        completed = subprocess.run(
            [python, "-c", _FIND_VERSION], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ConfigError(
            f"harness.python = {python!r} cannot be started ({error.strerror}); "
            "set it to the Python of an environment that has lm-eval"
        ) from error
    if completed.returncode:
        raise ConfigError(
            f"harness.python = {python!r}: its environment has no lm-eval; run "
            f"`{python} -m pip install 'lm-eval[hf]=={VERSION}'`, or set it to another Python"
        )
    return completed.stdout.strip()


def _scores(task: str, values: Mapping[str, Any], counts: Mapping[str, int]) -> list[LmEvalScore]:
    scores = []
    for metric, value in values.items():
        name, _, answer_filter = metric.partition(",")
        if metric in _NOT_METRICS or name.endswith("_stderr"):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            logger.warning(
                "%s of %s is left out, because it is %r and not a number", metric, task, value
            )
            continue
        stderr = values.get(f"{name}_stderr,{answer_filter}")
        # For a group: the number of questions in those of its tasks that have the metric.
        count = values.get("sample_count", {}).get(metric, counts.get(task))
        measurement = Measurement(
            value=float(value),
            stderr=float(stderr) if isinstance(stderr, int | float) else math.nan,
            n=int(values["sample_len"] if count is None else count),
        )
        scores.append(LmEvalScore(task, metric, measurement))
    return scores
