"""The oracle of a study: one model that learns several tasks at once."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from mergegrid.settings import Spec
from mergegrid.study.schema.families import FinetuneOverride
from mergegrid.study.schema.grids import distinct, expert_sets


class Oracle(Spec):
    """Multi-task learning: a model trained on all tasks of a set of experts together.

    It sees every task's examples at once, which a merge never does, so tables show it as what a
    merge could hope for. It is trained with each of the study's training seeds.
    """

    sets: Annotated[
        list[Literal["pairs", "all"] | Annotated[list[str], Field(min_length=2)]],
        Field(min_length=1),
    ] = ["pairs"]
    """Whose tasks are learnt together: those of every pair of experts, of all of a family, or of
    lists of names. Tables and figures show the oracles of sets that are merged too. Until its
    scores are there, each holds a model of the base's size for each of its experts."""
    finetune: FinetuneOverride | None = None
    """Values that replace the family's; an epoch is one pass over the longest of the tasks, and a
    step takes a batch of each."""

    @field_validator("sets")
    @classmethod
    def _sets_of_distinct_experts(cls, sets: list[Any]) -> list[Any]:
        for each in sets:
            if isinstance(each, list):
                distinct(each)
        distinct([each if isinstance(each, str) else sorted(each) for each in sets])
        return sets

    def sets_of(self, experts: Sequence[str]) -> list[tuple[str, ...]]:
        """The sets among the experts of a family, in the order written."""
        return expert_sets(experts, self.sets)

    def check(self, families: Mapping[str, Sequence[str]]) -> None:
        """Check that every set is found among the experts of a family.

        Raises:
            ValueError: one is in no family.
        """
        for names in self.sets:
            if names == "pairs" or names == "all":
                found = any(len(experts) > 1 for experts in families.values())
                missing = "two experts"
            else:
                found = any(set(names) <= set(experts) for experts in families.values())
                missing = ", ".join(names)
            if not found:
                raise ValueError(
                    f"oracle.sets asks for {missing}, which no family of `families` has together; "
                    "name experts of one family, or leave `oracle` out"
                )
