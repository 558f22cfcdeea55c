"""Decoders: families of language models with different abilities, their benchmarks and grid."""

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from mergegrid.checkpoints.sources.source import SourceConfig
from mergegrid.checkpoints.vocabulary import VocabularyPolicy
from mergegrid.hashing import canonical_json
from mergegrid.recipes.output import Output
from mergegrid.recipes.recipe import Recipe
from mergegrid.settings import Settings
from mergegrid.sparsifiers import AnySparsifier
from mergegrid.study.schema.benchmarks import Benchmark, Generated, with_place
from mergegrid.study.schema.families import ModelFamily, partial, replaced
from mergegrid.study.schema.generation import Generation
from mergegrid.study.schema.grid_study import FetchedSource, GridStudy, recipes_for
from mergegrid.study.schema.grids import Seeds, distinct
from mergegrid.study.schema.lm_eval import Harness
from mergegrid.study.schema.names import Name, check_columns, no_twins
from mergegrid.study.schema.tasks import Table


class Lora(Settings):
    """Low-rank adapters, merged into the weights when training ends (arXiv 2106.09685)."""

    rank: Annotated[int, Field(ge=1)] = 16
    """Rank of each adapter."""
    alpha: Annotated[float, Field(gt=0)] = 32
    """Adapters are scaled by alpha over rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before each adapter."""
    targets: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] = "all-linear"
    """Names of the layers with an adapter."""


class DecoderFinetune(Settings):
    """Fine-tuning settings of a decoder, which is trained on answers, not on questions."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"towards_base"})

    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-5
    """Peak learning rate of AdamW."""
    epochs: Annotated[int, Field(ge=1)] = 3
    """Passes over the training examples; the weights after the last epoch are kept."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Examples per step."""
    accumulation: Annotated[int, Field(ge=1)] = 1
    """Number of parts in which the examples of a step pass through the model."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Fraction of the steps in which the learning rate rises; afterwards it falls along a
    cosine."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of all parameters except biases and norms."""
    towards_base: Annotated[float, Field(ge=0)] = 0.0
    """Strength λ of AdamR's decay towards the base (arXiv 2410.09344), for smaller deltas, of which
    more can be dropped; 0: none. `weight_decay`, towards 0, comes in addition."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Norm to which larger gradients are clipped."""
    max_length: Annotated[int, Field(ge=8)] = 1024
    """Tokens after which a question with its answer is truncated."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of matrix products; weights and optimizer states are float32."""
    gradient_checkpointing: bool = False
    """Whether to recompute activations instead of keeping them."""
    lora: Lora | None = None
    """Trains adapters and merges them; unset trains all parameters."""


class Instructions(Settings):
    """Questions with answers to train on."""

    records: Table | None = None
    """Data set on the hub, or local files."""
    generated: Generated | None = None
    """Generates them instead."""
    instruction: str = "instruction"
    """Column of the question."""
    input: str | None = None
    """Column with an additional input, appended to the question where it is not empty."""
    output: str = "output"
    """Column of the answer."""
    prompt: str | None = None
    """Text around each `{instruction}`; by default that of the expert's first benchmark."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction held out to measure the loss after every epoch."""
    count: Annotated[int, Field(ge=2)] | None = None
    """Number of examples to use, after shuffling; unset: all."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the shuffle that splits and samples."""

    @model_validator(mode="after")
    def _one_source(self) -> "Instructions":
        if (self.records is None) == (self.generated is None):
            raise ValueError(
                "instructions need `records` or `generated`; give exactly one of the two"
            )
        return self

    @field_validator("prompt")
    @classmethod
    def _has_a_place(cls, prompt: str | None) -> str | None:
        return None if prompt is None else with_place(prompt)


DecoderFinetuneOverride: Any = partial(DecoderFinetune)
GenerationOverride: Any = partial(Generation)


class DecoderExpert(Settings):
    """A decoder with one ability: fine-tuned from the base here, or fetched ready."""

    benchmarks: Annotated[list[str], Field(min_length=1), AfterValidator(distinct)]
    """Benchmarks of its ability; a merge is scored on the benchmarks of all its experts."""
    source: SourceConfig | None = None
    """Fine-tuned checkpoint, or LoRA adapter of the base; unset to fine-tune the base on `data`."""
    data: Instructions | None = None
    """Training data to fine-tune the base on."""
    finetune: DecoderFinetuneOverride | None = None
    """Values that replace the family's."""
    chat: bool | None = None
    """Whether its benchmarks use the model's chat template; by default as the family."""
    trained_by: Literal["sft", "lora", "rl", "continued_pretraining"] | None = None
    """Training method of a ready expert, for the tables: deltas of continued pre-training are too
    large for DARE (arXiv 2311.03099, section 4.6)."""

    @model_validator(mode="after")
    def _has_one_origin(self) -> "DecoderExpert":
        if (self.source is None) == (self.data is None):
            raise ValueError(
                "an expert is either ready (`source`) or fine-tuned (`data`); give exactly one of "
                "the two"
            )
        return self


class DecoderFamily(ModelFamily[DecoderExpert, DecoderFinetune]):
    """A decoder and its homologous experts."""

    base: SourceConfig
    """The pre-trained model: a folder, or a GGUF file, which is dequantized."""
    finetune: DecoderFinetune = DecoderFinetune()
    """Fine-tuning settings of the experts."""
    generation: GenerationOverride | None = None
    """Values that replace the study's engine settings, such as more GPUs for a larger model."""
    chat: bool = False
    """Whether questions are put into the model's chat template instead of the raw prompt."""
    dtype: Literal["base", "float32", "bfloat16", "float16"] = "base"
    """Dtype of merged models."""
    vocabulary: VocabularyPolicy = "base_rows"
    """What happens to embedding rows beyond the base's."""
    base_is: str | list[str] = []
    """What adapters call the base, as in `meta-llama/Llama-2-7b-hf`, if they name it otherwise than
    its source does; a list if they differ."""
    other_base: bool = False
    """Merges experts that are not homologous with this base, as long as shapes agree: only to
    demonstrate the effect (arXiv 2311.03099, section 4.6)."""

    @model_validator(mode="after")
    def _adapters_have_no_base(self) -> "DecoderFamily":
        for name in self.experts:
            settings = self.finetune_of(name)
            if settings.lora and settings.towards_base:
                raise ValueError(
                    f"experts.{name} is fine-tuned with `lora` and towards_base = "
                    f"{settings.towards_base:g}, but adapters have no values in the base; unset "
                    "one of the two"
                )
        return self

    @field_validator("experts")
    @classmethod
    def _none_is_the_base(cls, experts: dict[str, DecoderExpert]) -> dict[str, DecoderExpert]:
        if "base" in experts:
            raise ValueError("an expert is called base, like the base itself; rename it")
        return experts

    @property
    def output(self) -> Output:
        """Dtype and vocabulary of merged models."""
        return Output(dtype=self.dtype, vocabulary=self.vocabulary, tokenizer="base")

    @property
    def names_of_base(self) -> tuple[str, ...]:
        """What adapters call the base, besides its own names."""
        return (self.base_is,) if isinstance(self.base_is, str) else tuple(self.base_is)

    def chat_of(self, expert: str) -> bool:
        """Whether the benchmarks of an expert use the chat template."""
        chat = self.experts[expert].chat
        return self.chat if chat is None else chat

    def owners(self, experts: tuple[str, ...]) -> dict[str, str]:
        """The benchmarks of some experts, and the first expert that has each."""
        owners: dict[str, str] = {}
        for expert in experts:
            for benchmark in self.experts[expert].benchmarks:
                owners.setdefault(benchmark, expert)
        return owners


class DecoderStudy(GridStudy[DecoderFamily]):
    """The study of decoders: benchmarks, families, and the grid over them."""

    evaluated_on = ("benchmarks", "benchmark")

    benchmarks: Annotated[dict[Name, Benchmark], Field(min_length=1), AfterValidator(no_twins)]
    """Benchmarks by name."""
    seeds: Seeds = Seeds(mask=[0])
    """Seeds of fine-tuning and of the masks."""
    generation: Generation = Generation()
    """The engine that generates answers."""
    harness: Harness | None = None
    """Tasks of lm-evaluation-harness on which every candidate is also scored; unset: none."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction of each benchmark's questions held out for selection; scores use the others."""
    unsafe_execution: bool = False
    """Whether programs written by models may run without a sandbox where none is available: they
    can then do everything that you can do. By default they are not run at all."""

    @field_validator("benchmarks")
    @classmethod
    def _none_is_a_column(cls, benchmarks: dict[str, Benchmark]) -> dict[str, Benchmark]:
        check_columns(benchmarks, "benchmark")
        return benchmarks

    def evaluations_of(self, family: str, expert: str) -> list[str]:
        """The benchmarks of an expert."""
        return self.families[family].experts[expert].benchmarks

    def sources(self) -> Iterator[FetchedSource]:
        """All questions, models and instructions to fetch."""
        for name, benchmark in self.benchmarks.items():
            if benchmark.records:
                key = f"benchmarks.{name}.records"
                yield FetchedSource(f"benchmark~{name}", "dataset", key, benchmark.records)
        yield from super().sources()

    def expert_source(self, family: str, expert: str) -> FetchedSource | None:
        """What is fetched for an expert, if anything: the ready model, or its instructions."""
        data = self.families[family].experts[expert].data
        if data is None or data.records is None:
            return super().expert_source(family, expert)
        key = f"families.{family}.experts.{expert}.data.records"
        return FetchedSource(f"data~{family}~{expert}", "dataset", key, data.records)

    def generation_of(self, family: str) -> Generation:
        """The engine of a family: the study's, overridden by the family's."""
        return replaced(self.generation, self.families[family].generation)

    @property
    def chooses(self) -> bool:
        """Whether a method after a kind of sparsifier has several settings to choose among."""
        methods = {method for candidates in self.merge_methods() for method in candidates}
        settings = {
            _setting(point): point.kind
            for candidates in self.merge_sparsifiers()
            for point in candidates
        }
        # Grids of one kind are compared with each other, and rate 0 is the kind `none`.
        kinds = Counter([*(method.kind for method in methods), *settings.values()])
        return max(kinds.values(), default=1) > 1

    @property
    def held_out(self) -> float:
        """Fraction of each benchmark's questions that is used for selection, not for scores."""
        return self.validation_fraction if self.chooses and self.selection == "validation" else 0.0

    def owners(self, recipe: Recipe) -> dict[str, str]:
        """The benchmarks of a recipe's experts, and the expert that each counts for.

        Of several, that is the first in the order of `merges.sets`.
        """
        sets = self.expert_sets(recipe.family)
        written = (experts for experts in sets if set(experts) == set(recipe.experts))
        return self.families[recipe.family].owners(next(written, recipe.experts))

    def merge_recipes(
        self, family: str, experts: tuple[str, ...], training_seed: int
    ) -> list[Recipe]:
        """The recipes of one set of experts: every method behind every sparsifier."""
        sparsifiers = [one for candidates in self.merge_sparsifiers() for one in candidates]
        return [
            recipe
            for candidates in self.merge_methods()
            for method in candidates
            for recipe in recipes_for(family, experts, training_seed, sparsifiers, method)
        ]


def _setting(sparsifier: AnySparsifier) -> str:
    """A sparsifier without the seed of its masks."""
    return canonical_json(sparsifier.model_dump(mode="json", exclude={"seed"}))
