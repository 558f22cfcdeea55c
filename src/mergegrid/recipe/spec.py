"""The base of everything that can be asked for: frozen, typed, no unknown keys."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from mergegrid.provenance import canonical_json


class Spec(BaseModel):
    """A frozen value whose unknown keys are errors and whose fields are documented in place."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
    )

    #: Fields that appear in texts, digests and names only where they are not the default.
    refinements: ClassVar[frozenset[str]] = frozenset()

    def __hash__(self) -> int:
        # Not that of the fields: some are mappings.
        return hash(canonical_json(self.model_dump(mode="json")))

    @model_serializer(mode="wrap")
    def _without_unused_refinements(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        for name in self.refinements:
            if name in values and getattr(self, name) == fields[name].default:
                del values[name]
        return values
