"""What one job is asked to do: the part of a study that it depends on, and nothing else.

Each request travels to its job as one JSON text, so a job runs again exactly when its own request
or its inputs change.
"""

from mergegrid.config.families import Finetune
from mergegrid.config.study import Selection, Study
from mergegrid.config.tasks import Metric, Task
from mergegrid.recipe.methods import Method
from mergegrid.recipe.recipe import Recipe
from mergegrid.recipe.sparsifiers import Sparsifier
from mergegrid.recipe.spec import Spec


class Target(Spec):
    """What a model for a task answers, and how its answers are scored."""

    task: str
    """Name of the task."""
    metric: Metric
    """How predictions are scored."""
    classes: list[int | str]
    """The classes in order; empty for regression."""
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
    methods: list[list[Method]]
    """Candidates of each method."""
    sparsifiers: list[list[Sparsifier]]
    """Candidates of each sparsifier."""
    selection: Selection
    """Split on which candidates are compared."""


def task_request(task: Task) -> Task:
    """A task without the words of its licences, which do not change its examples."""
    tables = {name: getattr(task, name) for name in ("train", "validation", "test")}
    return task.model_copy(
        update={
            name: table.model_copy(update={"licence": None}) if table else None
            for name, table in tables.items()
        }
    )


def finetune_request(study: Study, family: str, expert: str, seed: int) -> FinetuneRequest:
    """How one expert is made."""
    ready = study.families[family].experts[expert].source is not None
    return FinetuneRequest(
        target=_target(study, family, expert),
        settings=None if ready else study.families[family].finetune_of(expert),
        seed=seed,
    )


def sweep_request(study: Study, family: str, expert: str, seed: int) -> SweepRequest:
    """What is scored of one expert alone."""
    return SweepRequest(
        target=_target(study, family, expert), recipes=study.sweep_recipes(family, expert, seed)
    )


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
