"""lm-evaluation-harness: which of its tasks decoders are scored on, and where it is installed."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from mergegrid.errors import ConfigError
from mergegrid.hashing import file_digest
from mergegrid.settings import Settings
from mergegrid.study.schema.generation import Generation, Precision
from mergegrid.study.schema.grids import distinct

# Tasks are handed over joined by commas, and a word with a dash in front is an option.
TaskName = Annotated[str, Field(pattern=r"^[^\s,-][^\s,]*$")]
Count = Annotated[int, Field(ge=1)]


class HarnessTask(Settings):
    """Settings of one task, where they differ from those of all."""

    few_shot: Annotated[int, Field(ge=0)] | None = None
    """Solved examples in front of each question; unset: as `harness` has it."""
    limit: Count | None = None
    """Questions of the task; unset: as `harness` has it."""


class Harness(Settings):
    """Tasks of lm-evaluation-harness, which runs in a separate environment."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"per_task"})

    tasks: Annotated[list[TaskName], Field(min_length=1), AfterValidator(distinct)]
    """Its names of tasks and of groups of tasks, such as `arc_easy` or `mmlu`."""
    python: Annotated[str, Field(min_length=1)] = "python"
    """The Python of the environment that has lm-eval: a path, or a name to be found on PATH."""
    few_shot: Annotated[int, Field(ge=0)] | None = None
    """Solved examples in front of each question; unset: as the task has it."""
    limit: Count | None = None
    """Questions of each task, to try things out; unset: all."""
    per_task: dict[TaskName, HarnessTask] = {}
    """Settings of single tasks or groups in `tasks`. lm-eval runs, and loads the model, once for
    all tasks with equal settings."""
    batch_size: Count | Literal["auto"] | None = None
    """Questions that go through the model at a time; `auto` lets lm-eval find what fits. Unset: 8
    with `hf`, `auto` with `vllm`, which then schedules its own."""
    include_path: Annotated[str, Field(min_length=1)] | None = None
    """Folder with your own task files, relative to the working directory."""
    model: Literal["hf", "vllm"] = "hf"
    """What runs the model: transformers or vLLM, in that environment."""
    dtype: Precision = "auto"
    """Precision of the model; `auto` is the checkpoint's own."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """Seed of draws and of the choice of solved examples; unset: that of lm-eval, with which
    published scores were made."""
    chat: bool = False
    """Whether questions are put in the model's chat template."""

    @model_validator(mode="after")
    def _per_task_is_about_tasks(self) -> "Harness":
        for name in self.per_task:
            if name not in self.tasks:
                raise ValueError(
                    f"per_task has {name!r}, which is not in tasks ({', '.join(self.tasks)}); add "
                    "it there, or name one of these"
                )
        return self

    def runs(self) -> "list[Harness]":
        """The settings of each run of lm-eval, in the order of the tasks."""
        groups: dict[tuple[int | None, int | None], list[str]] = {}
        for name in self.tasks:
            task = self.per_task.get(name, HarnessTask())
            few_shot = self.few_shot if task.few_shot is None else task.few_shot
            limit = self.limit if task.limit is None else task.limit
            groups.setdefault((few_shot, limit), []).append(name)
        return [
            self.model_copy(
                update={"tasks": names, "few_shot": few_shot, "limit": limit, "per_task": {}}
            )
            for (few_shot, limit), names in groups.items()
        ]


class OnGpus(Settings):
    """How a model lies on GPUs, as the family's `generation` has it."""

    gpus: Count = 1
    """GPUs that it is split among."""
    memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the memory of each that vLLM takes."""
    max_model_len: Count | None = None
    """Longest question and answer in tokens, for vLLM; by default what the model allows."""

    @classmethod
    def of(cls, generation: Generation, model: Literal["hf", "vllm"]) -> "OnGpus":
        """As the models of a family lie on GPUs when they answer, as far as it matters here."""
        if model == "hf":
            return cls(gpus=generation.gpus)
        return cls(
            gpus=generation.gpus,
            memory_fraction=generation.memory_fraction,
            max_model_len=generation.max_model_len,
        )


def custom_tasks(settings: Harness) -> dict[str, str]:
    """SHA-256 of your own task files by name: their scores depend on them.

    Raises:
        ConfigError: `include_path` is not a folder.
    """
    if settings.include_path is None:
        return {}
    folder = Path(settings.include_path)
    if not folder.is_dir():
        raise ConfigError(
            f"harness.include_path = {settings.include_path!r}: {folder.resolve()} is not a "
            "folder; correct the path (it is relative to the working directory)"
        )
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name.as_posix(): file_digest(path)
        for name, path in files.items()
        # Python leaves compiled files there when lm-eval loads functions of a task.
        if not any(part.startswith(".") or part == "__pycache__" for part in name.parts)
    }
