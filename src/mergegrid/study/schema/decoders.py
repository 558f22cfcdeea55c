"""Decoders: families of language models with different abilities, their benchmarks and grid."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from mergegrid.checkpoints.sources.source import SourceConfig
from mergegrid.checkpoints.vocabulary import VocabularyPolicy
from mergegrid.hashing import canonical_json
from mergegrid.methods.data_dependent import DataDependentMethod
from mergegrid.recipes.output import Output
from mergegrid.recipes.recipe import Recipe
from mergegrid.settings import Settings
from mergegrid.sparsifiers import AnySparsifier
from mergegrid.study.schema.benchmarks import Benchmark
from mergegrid.study.schema.families import ModelFamily, partial, replaced
from mergegrid.study.schema.finetuning import DecoderFinetune
from mergegrid.study.schema.generation import ExpertSampling, Generation
from mergegrid.study.schema.grid_study import FetchedSource, GridStudy, recipes_for
from mergegrid.study.schema.grids import Seeds, distinct
from mergegrid.study.schema.instructions import Calibration, Instructions
from mergegrid.study.schema.lm_eval import Harness
from mergegrid.study.schema.names import Name, check_columns, no_twins

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
    statistics: Calibration | None = None
    """Texts that model statistics for `fisher` and `regmean` are gathered from; by default the
    training data. A ready expert needs it for these methods. Texts are cut after
    `finetune.max_length` tokens."""
    finetune: DecoderFinetuneOverride | None = None
    """Values that replace the family's."""
    chat: bool | None = None
    """Whether its benchmarks use the model's chat template; by default as the family."""
    sampling: ExpertSampling | None = None
    """How tokens are drawn where this expert answers alone, not merged, at any drop rate; unset: as
    the benchmark has it."""
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

    def check_statistics(self, key: str, method: DataDependentMethod) -> None:
        """Check that there are texts, and enough, for the statistics that a method needs.

        Raises:
            ValueError: there are not; the message calls the expert `key`.
        """
        texts = self.statistics or self.data
        if texts is None:
            raise ValueError(
                f"merges.methods: {method.kind} needs model statistics of every expert, but {key} "
                "is ready and has no texts to gather them from; give it `statistics`, or choose "
                "another method"
            )
        count = texts.most_examples
        if count is not None and method.examples and method.examples > count:
            raise ValueError(
                f"merges.methods: {method.kind} needs {method.examples} examples, but {key} has "
                f"at most {count} to gather statistics from; set `examples` of the method to "
                f"{count} or less, or give more"
            )


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
    files_of: Name | None = None
    """Expert whose config (and with it the number of positions), tokenizer and chat template its
    merges have; the base and every expert alone then have their own. Unset: all have the base's."""
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

    @model_validator(mode="after")
    def _files_are_of_an_expert(self) -> "DecoderFamily":
        if self.files_of is not None and self.files_of not in self.experts:
            raise ValueError(
                f"files_of = {self.files_of!r} is not among the experts "
                f"({', '.join(self.experts)}); name one of these"
            )
        return self

    def output_of(self, experts: Sequence[str], without_deltas: bool = False) -> Output:
        """Dtype, vocabulary, config and tokenizer of a merge of experts, or of one alone."""
        giver = "base"
        if self.files_of and not without_deltas:
            chosen = experts[0] if len(experts) == 1 else self.files_of
            giver = chosen if chosen in experts else "base"
        return Output(dtype=self.dtype, vocabulary=self.vocabulary, tokenizer=giver, config=giver)

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

    @model_validator(mode="after")
    def _files_differ_between_variants(self) -> "DecoderStudy":
        for name, family in self.families.items():
            if family.files_of and (self.generation_of(name).one_engine or self.similarity):
                key = "similarity" if self.similarity else "generation.one_engine"
                raise ValueError(
                    f"families.{name}.files_of gives variants different configs, but {key} takes "
                    f"one for all; remove {key}, or files_of"
                )
        return self

    @field_validator("benchmarks")
    @classmethod
    def _none_is_a_column(cls, benchmarks: dict[str, Benchmark]) -> dict[str, Benchmark]:
        check_columns(benchmarks, "benchmark")
        return benchmarks

    @model_validator(mode="after")
    def _statistics_can_be_gathered(self) -> "DecoderStudy":
        for method in self._with_statistics():
            if method.arithmetic == "reference":
                raise ValueError(
                    f"merges.methods: {method.kind} has arithmetic reference, and the reference "
                    "code has none for decoders; remove `arithmetic`"
                )
            for name, family in self.families.items():
                if method.kind == "fisher" and family.vocabulary != "base_rows":
                    raise ValueError(
                        f"families.{name}.vocabulary is {family.vocabulary}, but fisher merges the "
                        "rows of the base; set it to base_rows, or choose another method"
                    )
                for expert in dict.fromkeys(chain(*self.expert_sets(name))):
                    key = f"families.{name}.experts.{expert}"
                    family.experts[expert].check_statistics(key, method)
        return self

    def _with_statistics(self) -> list[DataDependentMethod]:
        methods = (method for candidates in self.merge_methods() for method in candidates)
        return [method for method in methods if isinstance(method, DataDependentMethod)]

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
        for name, family in self.families.items() if self._with_statistics() else ():
            for expert, config in family.experts.items():
                if config.statistics and config.statistics.records:
                    key = f"families.{name}.experts.{expert}.statistics.records"
                    record = f"statistics~{name}~{expert}"
                    yield FetchedSource(record, "dataset", key, config.statistics.records)

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
        """Fraction of each benchmark's questions that is used for choices, not for scores."""
        selects = self.chooses and self.selection == "validation"
        measures = self.similarity is not None and self.similarity.split == "validation"
        return self.validation_fraction if selects or measures else 0.0

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
