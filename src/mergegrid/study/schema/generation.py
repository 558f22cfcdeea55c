"""Generation: which engine writes answers, and how its next token is chosen."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from mergegrid.settings import Settings

BackendName = Literal["auto", "transformers", "vllm"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Count = Annotated[int, Field(ge=1)]


Temperature = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class BenchmarkSampling(Settings):
    """How answers are generated; unset values are those of the kind of benchmark, as in the
    paper."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"top_k", "min_p"})

    max_tokens: Count | None = None
    """Maximum tokens of an answer."""
    temperature: Temperature = 0.0
    """0 takes the most likely token; higher values vary answers."""
    top_p: Share = 1.0
    """Share of the probability among which a token is drawn: the most likely tokens, as few as have
    that share of what `top_k` and `min_p` leave."""
    top_k: Count | None = None
    """Number of the most likely tokens among which one is drawn; unset: all."""
    min_p: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Tokens that are less likely than this share of the most likely one are not drawn."""
    samples: Count = 1
    """Answers per question."""
    stop: list[str] | None = None
    """Texts that end an answer, and are not part of it."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the draws."""


class Sampling(BenchmarkSampling):
    """How answers are generated, with every value set; the defaults are greedy."""

    max_tokens: Count = 512
    stop: list[str] = []


class ExpertSampling(Settings):
    """How tokens are drawn where an expert answers alone; unset values are the benchmark's."""

    temperature: Temperature | None = None
    """Replaces the benchmark's, unless that is 0."""
    top_p: Share | None = None
    """Replaces the benchmark's."""
    top_k: Count | None = None
    """Replaces the benchmark's."""
    min_p: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Replaces the benchmark's."""


class Generation(Settings):
    """The engine that writes answers."""

    backend: BackendName = "auto"
    """`vllm`, `transformers`, or `auto`: vLLM where it is installed, else transformers."""
    dtype: Precision = "auto"
    """Precision of the engine; `auto` is the checkpoint's own. Only float32 is independent of how
    questions are batched."""
    batch_size: Count = 32
    """Questions that transformers answers at a time; vLLM schedules its own."""
    max_model_len: Count | None = None
    """Longest question and answer in tokens; by default what the model allows."""
    gpus: Count = 1
    """GPUs of one job: vLLM splits every tensor among them."""
    memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a GPU's memory that vLLM takes."""
    one_engine: bool = False
    """Whether all variants of a set of experts pass through one engine, merged in memory, with no
    checkpoint on disk but for tasks of `harness`; by default each variant is one merge and one
    generate job."""

    @model_validator(mode="after")
    def _only_vllm_is_split(self) -> "Generation":
        if self.backend == "transformers" and self.gpus > 1:
            raise ValueError(
                f"gpus: {self.gpus} wants a model split among GPUs, which transformers does not do "
                "here; set backend to vllm, or gpus to 1"
            )
        return self
