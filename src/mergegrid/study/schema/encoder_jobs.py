"""What one job is asked to do: the part of a study that it depends on, and nothing else.

Each request travels to its job as one JSON text, so a job runs again exactly when its own request
or its inputs change.
"""

from typing import Literal

from mergegrid.methods import AnyMethod
from mergegrid.methods.data_dependent import DataDependentMethod
from mergegrid.recipes.recipe import Recipe
from mergegrid.settings import Spec
from mergegrid.sparsifiers import AnySparsifier
from mergegrid.sparsifiers.rates import Arithmetic
from mergegrid.study.schema.families import Finetune
from mergegrid.study.schema.study import Aim, Selection, Study
from mergegrid.study.schema.tasks import Label, Metric, Task


class Target(Spec):
    """What a model for a task answers, and how its answers are scored."""

    omitted_when_default = frozenset({"label_names"})

    task: str
    """Name of the task."""
    metric: Metric
    """How predictions are scored."""
    classes: list[Label]
    """The classes in order; empty for regression."""
    label_names: list[str] | None = None
    """What a ready expert calls the classes, where it does not call them by their labels."""
    max_length: int
    """Tokens after which a text is cut."""

    @property
    def is_regression(self) -> bool:
        """Whether the answer is a number rather than a class."""
        return not self.classes


class FinetuneRequest(Spec):
    """One expert: fine-tuned with these settings, or imported ready when there are none."""

    target: Target
    """The task it learns."""
    settings: Finetune | None
    """How it is fine-tuned; none for a ready expert."""
    seed: int
    """Seed of head, order of the examples and dropout."""


class SweepRequest(Spec):
    """One expert under every sparsifier of the sweep."""

    target: Target
    """The task it is scored on."""
    recipes: list[Recipe]
    """What is scored."""


class Statistic(Spec):
    """One file of statistics of an expert."""

    kind: Literal["fisher", "regmean"]
    """The method that needs it."""
    arithmetic: Arithmetic
    """How it is gathered."""
    examples: int
    """From how many examples."""

    @property
    def file(self) -> str:
        """Its name, e.g. `fisher~exact~1024.safetensors`."""
        return f"{self.kind}~{self.arithmetic}~{self.examples}.safetensors"


class StatisticsRequest(Spec):
    """What is gathered of one expert."""

    target: Target
    """The task whose training examples it is shown."""
    statistics: list[Statistic]
    """The files to write."""


class MergesRequest(Spec):
    """One set of experts under every method and sparsifier."""

    family: str
    """Base and experts."""
    experts: list[str]
    """Experts to merge."""
    training_seed: int
    """Seed with which they were fine-tuned."""
    targets: list[Target]
    """The task of each expert."""
    methods: list[list[AnyMethod]]
    """Candidates of each method."""
    sparsifiers: list[list[AnySparsifier]]
    """Candidates of each sparsifier."""
    selection: Selection
    """Split on which candidates are compared."""
    aim: Aim = "mean"
    """Whether a setting is chosen by the mean over the tasks, or one for each of them."""


def task_request(task: Task) -> Task:
    """A task without licences and names of labels, which do not change its examples."""
    tables = {name: getattr(task, name) for name in ("train", "validation", "test")}
    return task.model_copy(
        update={
            name: table.model_copy(update={"licence": None}) if table else None
            for name, table in tables.items()
        }
        | {"label_names": None}
    )


def finetune_request(study: Study, family: str, expert: str, seed: int) -> FinetuneRequest:
    """How one expert is made."""
    spec = study.families[family].experts[expert]
    ready = spec.source is not None or spec.family is not None
    target = _target(study, family, expert)
    if spec.source is not None:
        names = study.tasks[study.families[family].task_of(expert)].label_names
        target = target.model_copy(update={"label_names": names})
    return FinetuneRequest(
        target=target,
        settings=None if ready else study.families[family].finetune_of(expert),
        seed=seed,
    )


def sweep_request(study: Study, family: str, expert: str, seed: int) -> SweepRequest:
    """What is scored of one expert alone."""
    return SweepRequest(
        target=_target(study, family, expert), recipes=study.sweep_recipes(family, expert, seed)
    )


def statistics_request(study: Study, family: str, expert: str) -> StatisticsRequest:
    """What is gathered of one expert for all methods of the study."""
    return StatisticsRequest(
        target=_target(study, family, expert), statistics=asked_statistics(study)
    )


def asked_statistics(study: Study) -> list[Statistic]:
    """The files of statistics that the methods of a study need of every expert they merge."""
    grids = study.merges.methods if study.merges else []
    methods = [each for grid in grids for each in study.method_candidates(grid)]
    found = {each for each in map(statistic_of, methods) if each}
    return sorted(found, key=lambda each: (each.kind, each.arithmetic, each.examples))


def statistic_of(method: AnyMethod) -> Statistic | None:
    """The file of statistics that a method of a study needs of every expert, if it needs one."""
    if not isinstance(method, DataDependentMethod):
        return None
    assert method.examples, "methods of a study say from how many examples"
    return Statistic(kind=method.kind, arithmetic=method.arithmetic, examples=method.examples)


def merges_request(study: Study, family: str, experts: list[str], seed: int) -> MergesRequest:
    """What is scored of one set of experts."""
    assert study.merges is not None, "a study without merges has no merge jobs"
    return MergesRequest(
        family=family,
        experts=experts,
        training_seed=seed,
        targets=[_target(study, family, expert) for expert in experts],
        methods=[study.method_candidates(grid) for grid in study.merges.methods],
        sparsifiers=[study.merge_sparsifiers(grid) for grid in study.merges.sparsifiers],
        selection=study.selection,
        aim=study.merges.aim,
    )


def _target(study: Study, family: str, expert: str) -> Target:
    name = study.families[family].task_of(expert)
    task = study.tasks[name]
    return Target(
        task=name,
        metric=task.metric,
        classes=task.classes,
        max_length=study.families[family].max_length,
    )
