"""The base of everything that can be asked for: frozen, typed, no unknown keys."""

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A frozen value whose unknown keys are errors and whose fields are documented in place."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
    )
