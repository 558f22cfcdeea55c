"""Families: a base and its homologous experts, of encoders or of decoders."""

from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import AfterValidator, Field, create_model, model_validator

from mergegrid.checkpoints.sources.source import SourceConfig
from mergegrid.settings import Settings
from mergegrid.study.schema.names import Name, no_twins
from mergegrid.study.schema.published import Published

S = TypeVar("S", bound=Settings)
E = TypeVar("E", bound=Settings)


class Partial(Settings):
    """Values that replace some of other settings."""

    whole: ClassVar[type[Settings]]
    """The settings, some of which are replaced."""

    @classmethod
    def descriptions(cls) -> dict[str, str]:
        """Those of the settings."""
        return cls.whole.descriptions()


def partial(settings: type[Settings]) -> Any:
    """The type of values that replace some of the settings."""
    fields: dict[str, Any] = {}
    for name, field in settings.model_fields.items():
        one: Any = field.annotation
        if field.metadata:
            one = Annotated[(one, *field.metadata)]
        fields[name] = (one | None, None)
    name, doc = f"{settings.__name__}Override", "Values that replace the family's for one expert."
    override = create_model(name, __base__=Partial, __doc__=doc, **fields)
    override.whole = settings
    return override


def replaced(settings: S, override: Settings | None) -> S:
    """Settings with the values of a partial one (see `partial`) on top."""
    values = dict(override) if override else {}
    return settings.model_copy(
        update={name: value for name, value in values.items() if value is not None}
    )


class ModelFamily(Settings, Generic[E, S]):
    """A base and its homologous experts."""

    base: SourceConfig
    """The pre-trained model."""
    experts: Annotated[dict[Name, E], Field(min_length=1), AfterValidator(no_twins)]
    """Experts by name."""
    finetune: S
    """How the experts are fine-tuned."""
    published: Published | None = None
    """What others call these models, to show their numbers beside the study's; unset: no published
    numbers."""

    @model_validator(mode="after")
    def _published_experts_exist(self) -> "ModelFamily[E, S]":
        if self.published:
            self.published.check(list(self.experts))
        return self

    def finetune_of(self, expert: str) -> S:
        """Fine-tuning settings of an expert: the family's, overridden by the expert's."""
        return replaced(self.finetune, self.experts[expert].finetune)  # type: ignore[attr-defined]
