"""Judges: models that compare answers, and how they are called."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mergegrid.checkpoints.sources.source import SourceConfig
from mergegrid.settings import Settings

JudgeStyle = Literal["choice", "function", "ranking"]
Count = Annotated[int, Field(ge=1)]

_TOKENS: dict[JudgeStyle, int] = {"choice": 1, "function": 200, "ranking": 100}
# With fewer, servers that add text around a call truncate it.
_FEWEST_FOR_A_CALL = 200


class Judge(Settings):
    """A model behind an OpenAI-compatible API that compares each answer with a reference answer."""

    style: JudgeStyle = "function"
    """How it answers: `function` calls a function with the name of the better output, as the
    paper's judge did; `choice` writes one token, whose probability grades the preference;
    `ranking` writes both names in order."""
    model: str
    """Name of the model at the server."""
    base_url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """Address of the server, such as `http://127.0.0.1:8000/v1`; by default OpenAI's."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; `none` for a server that asks none."""
    concurrency: Count = 5
    """Number of concurrent requests."""
    max_tokens: Count | None = None
    """Tokens after which an answer is cut; by default 1 for `choice`, 200 for `function` and 100
    for `ranking`. A model that thinks before it answers needs thousands."""
    token_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name under which the server takes that limit; newer OpenAI models want the second."""
    temperature: Annotated[float, Field(ge=0)] | None = 0.0
    """Temperature of the answers; `null` sends none, as newer OpenAI models want it."""
    structured_choice: bool = False
    """For `choice` at a vLLM server: whether the server lets through nothing but the two names."""
    retries: Annotated[int, Field(ge=0)] = 5
    """Number of retries of a request without a readable answer, with growing waits."""
    timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds after which a request without an answer has failed."""
    length_controlled: bool = False
    """Whether to give the length-controlled win rate too; only for all instructions, in order."""
    length_files: SourceConfig | None = None
    """AlpacaEval's `df_gamed.csv`, or a folder with it: what length control is fitted to."""

    @property
    def url(self) -> str:
        """Address of the server."""
        return self.base_url or "https://api.openai.com/v1"

    @property
    def answer_tokens(self) -> int:
        """Tokens after which an answer is cut."""
        return self.max_tokens or _TOKENS[self.style]

    @model_validator(mode="after")
    def _consistent(self) -> "Judge":
        if self.style == "function" and self.answer_tokens < _FEWEST_FOR_A_CALL:
            raise ValueError(
                f"max_tokens {self.max_tokens} cuts function calls off; "
                f"take {_FEWEST_FOR_A_CALL} or more"
            )
        if self.structured_choice and self.style != "choice":
            raise ValueError(
                f"structured_choice does not fit style {self.style}; set it for `choice` only"
            )
        if self.length_controlled != (self.length_files is not None):
            raise ValueError(
                "length_controlled and length_files go together; "
                "name the source of df_gamed.csv, or leave both out"
            )
        return self
