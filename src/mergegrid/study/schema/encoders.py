"""Encoders: families of classifiers, the tasks they are scored on, and the grid over them."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from mergegrid.checkpoints.sources.source import SourceConfig
from mergegrid.engine.values import TensorRule
from mergegrid.recipes.grid import Grid
from mergegrid.settings import Settings
from mergegrid.sparsifiers import AnySparsifier
from mergegrid.study.schema.families import ModelFamily, partial
from mergegrid.study.schema.finetuning import Finetune
from mergegrid.study.schema.grid_study import FetchedSource, GridStudy
from mergegrid.study.schema.grids import (
    ExpertSets,
    MergeGrid,
    RandomSets,
    check_fit,
    distinct,
    distinct_sets,
    expert_sets,
)
from mergegrid.study.schema.names import Name, check_columns, no_twins
from mergegrid.study.schema.racing import Racing
from mergegrid.study.schema.sampling import Sampled
from mergegrid.study.schema.splits import Aim
from mergegrid.study.schema.tasks import Target, Task


def patterns(texts: list[str]) -> list[str]:
    """Return the patterns of tensors unchanged.

    Raises:
        ValueError: one is neither a group of tensors nor a pattern over their names.
    """
    for text in texts:
        try:
            TensorRule(tensors=text)
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    return texts


FinetuneOverride: Any = partial(Finetune)


class Expert(Settings):
    """A model with one ability: fine-tuned from the base here, or fetched ready."""

    task: str | None = None
    """Task it is fine-tuned for and scored on; by default the task with the expert's name."""
    source: SourceConfig | None = None
    """Fine-tuned checkpoint with its task head; unset to fine-tune the base."""
    family: str | None = None
    """Family whose expert of the same name is used with this base, which it was not trained from:
    only to demonstrate the effect (arXiv 2311.03099, section 4.6)."""
    finetune: FinetuneOverride | None = None
    """Values that replace the family's."""

    @model_validator(mode="after")
    def _has_one_origin(self) -> "Expert":
        if self.family and (self.source or self.finetune):
            raise ValueError(
                "an expert of another family is used unchanged; give `family` alone, without "
                "`source` and `finetune`"
            )
        return self


class Family(ModelFamily[Expert, Finetune]):
    """An encoder and its homologous experts."""

    finetune: Finetune = Finetune()
    """Fine-tuning settings of the experts."""
    max_length: Annotated[int, Field(ge=8)] = 128
    """Tokens after which a text is truncated, in fine-tuning and scoring."""
    unmerged: Annotated[list[str], AfterValidator(distinct), AfterValidator(patterns)] = []
    """Tensors, as `norms`, `layers 0-3` or patterns such as `*.bias`, that a score takes from the
    task's own expert, like its head, and not from the merge; several published experiments are so.
    There is then no one merged model, so nothing can be exported."""

    def task_of(self, expert: str) -> str:
        """Name of the task of an expert."""
        return self.experts[expert].task or expert


class Merges(MergeGrid):
    """Experts merged with each other, with and without a sparsifier.

    Lists of values of a method are searched: the best on the selection split is kept, then the best
    rate of each sparsifier with that setting.
    """

    aim: Aim = "mean"
    """Objective of the selection in a set: `mean` selects one setting by the mean over all tasks;
    `each` selects one for every task and scores it on that task alone, so that each expert of a
    pair is the target once (arXiv 2311.03099, section 4.3)."""
    racing: Racing | None = None
    """Evaluate most candidates on parts of the validation split only; unset evaluates all of them
    on the whole split. `mergegrid racing` measures what it costs."""
    sampled: list[Sampled] = []
    """Candidates drawn from ranges by a sampler, beside the grid of methods and sparsifiers. They
    are compared on the whole validation split; those of an entry with each other."""

    scored_by_expert: ClassVar[bool] = True

    @field_validator("sparsifiers", "methods")
    @classmethod
    def _one_grid_per_kind(cls, grids: list[Grid]) -> list[Grid]:
        distinct([grid.kind for grid in grids])  # type: ignore[attr-defined]
        return grids

    @model_validator(mode="after")
    def _no_kind_is_searched_twice(self) -> "Merges":
        kinds = [sampled.kinds for sampled in self.sampled]
        grid = [(m.kind, s.kind) for m in self.methods for s in self.sparsifiers]
        for method, sparsifier in kinds:
            if (method, sparsifier) in grid or kinds.count((method, sparsifier)) > 1:
                raise ValueError(
                    f"sampled draws {method} with {sparsifier}, which is searched twice; list a "
                    "method with a sparsifier once, in `sampled` or in `methods` and `sparsifiers`"
                )
        return self

    @property
    def is_empty(self) -> bool:
        """Whether there is no candidate."""
        return super().is_empty and not self.sampled


class Oracle(Settings):
    """Multi-task learning: a model trained on all tasks of a set of experts together.

    It learns from every task's examples at once, which no merge does, so tables show it as an upper
    reference for merges. It is trained with each of the study's training seeds.
    """

    sets: Annotated[ExpertSets, Field(min_length=1), AfterValidator(distinct_sets)] = ["pairs"]
    """Sets of experts whose tasks are learned together: every pair, all experts of a family, lists
    of names, or sets drawn at random. Tables and figures show the oracles of sets that are also
    merged. Until it is scored, an oracle takes the disk space of one base per expert."""
    finetune: FinetuneOverride | None = None
    """Values that replace the family's; an epoch is one pass over the longest of the tasks, and a
    step takes a batch of each."""


class EncoderStudy(GridStudy[Family]):
    """The study of encoders: tasks, families, and the grid over them."""

    evaluated_on = ("tasks", "task")

    tasks: Annotated[dict[Name, Task], Field(min_length=1), AfterValidator(no_twins)]
    """Tasks by name."""
    merges: Merges | None = Merges()
    """Study of merges; `null` omits it."""
    oracle: Oracle | None = None
    """Models trained on several tasks at once, as a reference for merges; unset omits them."""

    @field_validator("tasks")
    @classmethod
    def _no_task_is_a_column(cls, tasks: dict[str, Task]) -> dict[str, Task]:
        check_columns(tasks, "task")
        return tasks

    @model_validator(mode="after")
    def _borrowed_experts_exist(self) -> "EncoderStudy":
        for name, family in self.families.items():
            for expert, config in family.experts.items():
                if config.family is None:
                    continue
                key = f"families.{name}.experts.{expert}"
                owner = self.families.get(config.family)
                lent = owner.experts.get(expert) if owner else None
                if owner is None or lent is None or lent.family:
                    raise ValueError(
                        f"{key}.family = {config.family!r} neither fine-tunes nor fetches an "
                        f"expert {expert}; choose a family that does"
                    )
                tasks = family.task_of(expert), owner.task_of(expert)
                if tasks[0] != tasks[1]:
                    raise ValueError(
                        f"{key} has task {tasks[0]!r}, and {tasks[1]!r} in family {config.family}; "
                        "give both the same task"
                    )
        return self

    @model_validator(mode="after")
    def _sampled_recipes_fit_their_experts(self) -> "EncoderStudy":
        ends = [
            sampled.point(end, self.seeds.mask)
            for sampled in (self.merges.sampled if self.merges else ())
            for end in sampled.ends()
        ]
        for name in self.families:
            for experts in self.expert_sets(name):
                for method, sparsifiers in ends:
                    check_fit("merges.sampled", [method, *sparsifiers], experts)
        return self

    @model_validator(mode="after")
    def _models_with_unmerged_tensors_are_not_exported(self) -> "EncoderStudy":
        for name, family in self.families.items():
            if family.unmerged and self.export:
                raise ValueError(
                    f"families.{name}.unmerged takes tensors from each task's expert, so no single "
                    "model has these scores; remove `export`, or `unmerged`"
                )
        return self

    @model_validator(mode="after")
    def _races_are_on_validation(self) -> "EncoderStudy":
        if self.merges and self.merges.racing and self.selection == "test":
            raise ValueError(
                "merges.racing needs selection: validation, and selection is test; remove one of "
                "the two"
            )
        return self

    @model_validator(mode="after")
    def _the_oracle_has_tasks(self) -> "EncoderStudy":
        groups = [list(family.experts) for family in self.families.values()]
        for names in self.oracle.sets if self.oracle else ():
            if not any(expert_sets(group, [names]) for group in groups):
                size = names.size if isinstance(names, RandomSets) else "two"
                missing = ", ".join(names) if isinstance(names, list) else f"{size} experts"
                raise ValueError(
                    f"oracle.sets asks for {missing}, which no family of `families` has together; "
                    "list experts of one family, or remove `oracle`"
                )
        return self

    def evaluations_of(self, family: str, expert: str) -> list[str]:
        """The task of an expert."""
        return [self.families[family].task_of(expert)]

    def target(self, family: str, expert: str) -> Target:
        """What an expert learns."""
        name = self.families[family].task_of(expert)
        return self.tasks[name].target(name, self.families[family].max_length)

    def scored_target(self, family: str, expert: str) -> Target:
        """What recipes are scored on under the head of an expert, with the tensors it adds."""
        target = self.target(family, expert)
        return target.model_copy(update={"unmerged": self.families[family].unmerged})

    def source_of(self, family: str, expert: str) -> SourceConfig | None:
        """Source of a ready expert, which may be another family's; None for a fine-tuned expert."""
        owner = self.families[family].experts[expert].family or family
        return self.families[owner].experts[expert].source

    def sources(self) -> Iterator[FetchedSource]:
        """All tables of tasks and all models to fetch."""
        for name, task in self.tasks.items():
            for split, table in task.tables.items():
                key = f"tasks.{name}.{split}"
                yield FetchedSource(f"task~{name}~{split}", "dataset", key, table)
        yield from super().sources()

    def merge_sparsifiers(self) -> list[list[AnySparsifier]]:
        """The candidates of each sparsifier, at the rates where it changes something."""
        candidates = []
        for grid in self.merges.sparsifiers if self.merges else ():
            kind = grid.kind
            points = [point for point in self.sparsifier_candidates(grid) if point.kind == kind]
            if not points:
                raise ValueError(
                    f"merges.sparsifiers: {kind} has no rate between 0 and 1, so it changes "
                    "nothing; give it one"
                )
            candidates.append(points)
        return candidates

    def oracle_sets(self, family: str) -> list[tuple[str, ...]]:
        """The sets of experts of a family whose tasks are learned together, in the order written.

        A set that is also merged lists its experts in the order of the merge.
        """
        experts = list(self.families[family].experts)
        sets = expert_sets(experts, self.oracle.sets) if self.oracle else []
        merged = {frozenset(names): names for names in self.expert_sets(family)}
        return [merged.get(frozenset(names), names) for names in sets]
