"""Families: a base and its homologous experts, fine-tuned here or fetched."""

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, create_model, model_validator

from mergegrid.checkpoints.sources.source import SourceConfig
from mergegrid.settings import Spec
from mergegrid.study.schema.names import Name, no_twins
from mergegrid.study.schema.published import Published

S = TypeVar("S", bound=Spec)


class Finetune(Spec):
    """How an encoder is fine-tuned; the defaults are the paper's (arXiv 2311.03099, appendix A)."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Highest learning rate of AdamW."""
    epochs: Annotated[int, Field(ge=1)] = 10
    """Passes over the training examples; the best one on validation is kept."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Examples in one step."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.06
    """Share of the steps in which the learning rate rises; it falls linearly afterwards."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay of all parameters but biases and layer norms."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Norm above which gradients are scaled down."""


def partial(spec: type[Spec]) -> Any:
    """The type of values that replace some of a spec's."""
    fields: dict[str, Any] = {}
    for name, field in spec.model_fields.items():
        one: Any = field.annotation
        if field.metadata:
            one = Annotated[(one, *field.metadata)]
        fields[name] = (one | None, Field(default=None, description=field.description))
    doc = "Values that replace the family's for one expert."
    return create_model(
        f"{spec.__name__}Override",
        __base__=Spec,
        __doc__=doc,
        # Nothing is documented in place here, and looking for it takes long.
        __cls_kwargs__={"use_attribute_docstrings": False},
        **fields,
    )


def replaced(spec: S, override: Spec | None) -> S:
    """A spec with the values of a partial one (see `partial`) on top."""
    own = dict(override) if override else {}
    return spec.model_copy(update={name: each for name, each in own.items() if each is not None})


FinetuneOverride: Any = partial(Finetune)


class Expert(Spec):
    """A model with one ability: fine-tuned from the base here, or fetched ready."""

    task: str | None = None
    """Task it is fine-tuned for and scored on; by default the task of the expert's own name."""
    source: SourceConfig | None = None
    """Ready checkpoint with its task head; unset to fine-tune the base."""
    family: str | None = None
    """Family whose expert of the same name is taken, to measure its deltas from this base, which it
    was not trained from: only to show what comes of it (arXiv 2311.03099, section 4.6)."""
    finetune: FinetuneOverride | None = None
    """Values that replace the family's."""

    @model_validator(mode="after")
    def _made_one_way(self) -> "Expert":
        if self.family and (self.source or self.finetune):
            raise ValueError(
                "an expert of another family is taken as it is; give `family` alone, without "
                "`source` and `finetune`"
            )
        return self


class Family(Spec):
    """A base and its homologous experts."""

    base: SourceConfig
    """The pre-trained model."""
    experts: Annotated[dict[Name, Expert], Field(min_length=1), AfterValidator(no_twins)]
    """Experts by name."""
    finetune: Finetune = Finetune()
    """How the experts are fine-tuned."""
    max_length: Annotated[int, Field(ge=8)] = 128
    """Tokens after which a text is cut, in fine-tuning and scoring."""
    published: Published | None = None
    """What the paper calls these models, so that its numbers stand beside ours; unset: none do."""

    @model_validator(mode="after")
    def _published_experts_exist(self) -> "Family":
        if self.published:
            self.published.check(list(self.experts))
        return self

    def task_of(self, expert: str) -> str:
        """Name of the task of an expert."""
        return self.experts[expert].task or expert

    def finetune_of(self, expert: str) -> Finetune:
        """How an expert is fine-tuned: the family's values with the expert's own on top."""
        return replaced(self.finetune, self.experts[expert].finetune)
