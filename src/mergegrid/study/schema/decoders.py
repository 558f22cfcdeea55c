"""Decoders: families of language models with different abilities, and what they are asked."""

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from mergegrid.checkpoints.sources.source import SourceConfig
from mergegrid.checkpoints.vocabulary import VocabularyPolicy
from mergegrid.hashing import canonical_json
from mergegrid.methods.average import Average
from mergegrid.recipes.grid import Grid
from mergegrid.recipes.recipe import Recipe
from mergegrid.settings import Spec
from mergegrid.sparsifiers import AnySparsifier
from mergegrid.sparsifiers.rates import Rate
from mergegrid.study.schema.benchmarks import Benchmark, Generated, with_place
from mergegrid.study.schema.families import partial, replaced
from mergegrid.study.schema.generation import Generation
from mergegrid.study.schema.grids import (
    MergeGrid,
    Seeds,
    Sweep,
    check_fit,
    check_sets,
    distinct,
    expert_sets,
    method_points,
    sparsifier_points,
    sweep_points,
)
from mergegrid.study.schema.lm_eval import Harness
from mergegrid.study.schema.names import Name, check_columns, no_twins
from mergegrid.study.schema.published import Published
from mergegrid.study.schema.similarity import Similarity
from mergegrid.study.schema.tasks import Table


class Lora(Spec):
    """Low-rank adapters, merged into the weights when training ends (arXiv 2106.09685)."""

    rank: Annotated[int, Field(ge=1)] = 16
    """Rank of each adapter."""
    alpha: Annotated[float, Field(gt=0)] = 32
    """Adapters are scaled by alpha over rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout in front of each adapter."""
    targets: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get one."""


class DecoderFinetune(Spec):
    """How a decoder is fine-tuned on instructions: on the answers alone, not on the questions."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-5
    """Highest learning rate of AdamW."""
    epochs: Annotated[int, Field(ge=1)] = 3
    """Passes over the training examples; the weights after the last one are kept."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Examples in one step."""
    accumulation: Annotated[int, Field(ge=1)] = 1
    """Parts in which a step's examples go through the model, one after the other."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the steps in which the learning rate rises; it falls along a cosine afterwards."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of all parameters but biases and norms."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Norm above which gradients are scaled down."""
    max_length: Annotated[int, Field(ge=8)] = 1024
    """Tokens after which a question with its answer is cut."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the products; weights and their changes are kept in float32."""
    gradient_checkpointing: bool = False
    """Whether to compute activations twice rather than keep them."""
    lora: Lora | None = None
    """Trains adapters and merges them; unset trains all parameters."""


class Instructions(Spec):
    """Questions with answers to learn from."""

    records: Table | None = None
    """Where they are: a data set of the hub, or local files."""
    generated: Generated | None = None
    """Makes them up instead."""
    instruction: str = "instruction"
    """Column of the question."""
    input: str | None = None
    """Column with more of the question, put below it where it is not empty."""
    output: str = "output"
    """Column of the answer."""
    prompt: str | None = None
    """Text around each `{instruction}`; by default that of the expert's first benchmark."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share held out to measure the loss after every epoch."""
    count: Annotated[int, Field(ge=2)] | None = None
    """How many to take, after shuffling; all when unset."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the shuffle that splits and samples."""

    @model_validator(mode="after")
    def _one_source(self) -> "Instructions":
        if (self.records is None) == (self.generated is None):
            raise ValueError("instructions are in `records` or are `generated`; give one of both")
        return self

    @field_validator("prompt")
    @classmethod
    def _has_a_place(cls, prompt: str | None) -> str | None:
        return None if prompt is None else with_place(prompt)


DecoderFinetuneOverride: Any = partial(DecoderFinetune)
GenerationOverride: Any = partial(Generation)


class DecoderExpert(Spec):
    """A decoder with one ability: fine-tuned from the base here, or fetched ready."""

    benchmarks: Annotated[list[str], Field(min_length=1), AfterValidator(distinct)]
    """Benchmarks of its ability; a merge is scored on those of all its experts."""
    source: SourceConfig | None = None
    """Ready checkpoint."""
    data: Instructions | None = None
    """What to fine-tune the base on."""
    finetune: DecoderFinetuneOverride | None = None
    """Values that replace the family's."""
    chat: bool | None = None
    """Whether its benchmarks are asked in the model's chat template; by default as the family."""
    trained_by: Literal["sft", "lora", "rl", "continued_pretraining"] | None = None
    """How a ready expert was made, for the tables: deltas of continued pre-training are too large
    for DARE (arXiv 2311.03099, section 4.6)."""

    @model_validator(mode="after")
    def _made_one_way(self) -> "DecoderExpert":
        if (self.source is None) == (self.data is None):
            raise ValueError(
                "an expert is either ready (`source`) or fine-tuned (`data`); give one of both"
            )
        return self


class DecoderFamily(Spec):
    """A base and its homologous experts."""

    base: SourceConfig
    """The pre-trained model: a folder, or a GGUF file, which is dequantised."""
    experts: Annotated[dict[Name, DecoderExpert], Field(min_length=1), AfterValidator(no_twins)]
    """Experts by name."""
    finetune: DecoderFinetune = DecoderFinetune()
    """How the experts are fine-tuned."""
    generation: GenerationOverride | None = None
    """Values that replace the study's engine settings, such as more GPUs for a larger model."""
    chat: bool = False
    """Whether questions are asked in the model's chat template rather than in the raw prompt."""
    dtype: Literal["base", "float32", "bfloat16", "float16"] = "base"
    """What parameters of merged models are rounded to."""
    vocabulary: VocabularyPolicy = "base_rows"
    """What happens to embedding rows beyond the base's."""
    other_base: bool = False
    """Merges experts that are not homologous with this base, as long as shapes agree: only to show
    what comes of it (arXiv 2311.03099, section 4.6)."""
    published: Published | None = None
    """What the paper calls these models, so that its numbers stand beside ours; unset: none do."""

    @model_validator(mode="after")
    def _published_experts_exist(self) -> "DecoderFamily":
        if self.published:
            self.published.check(list(self.experts))
        return self

    def finetune_of(self, expert: str) -> DecoderFinetune:
        """How an expert is fine-tuned: the family's values with the expert's own on top."""
        return replaced(self.finetune, self.experts[expert].finetune)

    def chat_of(self, expert: str) -> bool:
        """Whether the benchmarks of an expert are asked in the chat template."""
        own = self.experts[expert].chat
        return self.chat if own is None else own

    def owners(self, experts: tuple[str, ...]) -> dict[str, str]:
        """The benchmarks of some experts, and the first expert that has each."""
        found: dict[str, str] = {}
        for expert in experts:
            for benchmark in self.experts[expert].benchmarks:
                found.setdefault(benchmark, expert)
        return found


class Decoders(Spec):
    """The study of decoders."""

    benchmarks: Annotated[dict[Name, Benchmark], Field(min_length=1), AfterValidator(no_twins)]
    """Benchmarks by name."""
    families: Annotated[dict[Name, DecoderFamily], Field(min_length=1)]
    """Families of models by name."""
    generation: Generation = Generation()
    """The engine that writes answers."""
    rates: Annotated[list[Rate], Field(min_length=1), AfterValidator(distinct)] = [
        0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99,
    ]  # fmt: skip
    """Drop rates of the sweep, and of every sparsifier that names none."""
    seeds: Seeds = Seeds(mask=[0])
    """Seeds of fine-tuning and of the masks."""
    sweep: Sweep | None = Sweep()
    """Study of single experts against the drop rate; `null` leaves it out."""
    merges: MergeGrid | None = None
    """Study of merges: every candidate is scored; unset leaves it out."""
    similarity: Similarity | None = None
    """Study of embeddings: how alike they stay when deltas are dropped; unset leaves it out."""
    harness: Harness | None = None
    """Tasks of lm-evaluation-harness that every variant is scored on besides; unset: none."""
    selection: Literal["validation", "test"] = "validation"
    """Split on which settings of a method and rates are chosen, where there are several; `test`
    replays the paper and is labelled so."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of each benchmark's questions to choose on; scores are those of the others."""
    unsafe_execution: bool = False
    """Whether programs that models wrote may run without a sandbox where there is none: they can
    then do whatever you can do. By default they are not run at all."""

    @field_validator("benchmarks")
    @classmethod
    def _none_is_a_column(cls, benchmarks: dict[str, Benchmark]) -> dict[str, Benchmark]:
        check_columns(benchmarks, "benchmark")
        return benchmarks

    @model_validator(mode="after")
    def _names_exist(self) -> "Decoders":
        for name, family in self.families.items():
            if "base" in family.experts:
                raise ValueError(
                    f"families.{name}.experts has one called base, as the base itself is; rename it"
                )
            for expert, spec in family.experts.items():
                for benchmark in spec.benchmarks:
                    if benchmark not in self.benchmarks:
                        raise ValueError(
                            f"families.{name}.experts.{expert} wants benchmark {benchmark!r}, "
                            f"which is not among {', '.join(self.benchmarks)}; "
                            "add it or name one of these"
                        )
        check_sets(
            self.merges.sets if self.merges else [],
            {name: list(family.experts) for name, family in self.families.items()},
        )
        return self

    @model_validator(mode="after")
    def _similarity_fits_its_experts(self) -> "Decoders":
        for family in self.families.values() if self.similarity else ():
            assert self.similarity is not None
            self.similarity.check(self.rates, self.seeds.mask, family.experts)
        return self

    @model_validator(mode="after")
    def _recipes_fit_their_experts(self) -> "Decoders":
        for name, family in self.families.items():
            for expert in family.experts:
                for recipe in self.sweep_recipes(name, expert, 0):
                    check_fit("sweep.sparsifiers", recipe.sparsifier, (expert,))
            for experts in self.expert_sets(name):
                for recipe in self.merge_recipes(name, experts, 0):
                    check_fit("merges.methods", recipe.method, experts)
                    check_fit("merges.sparsifiers", recipe.sparsifier, experts)
        return self

    @model_validator(mode="after")
    def _something_is_scored(self) -> "Decoders":
        grids = self.merges and self.merges.methods and self.merges.sparsifiers
        if self.sweep is None and not (grids and any(map(self.expert_sets, self.families))):
            raise ValueError(
                "there is neither a sweep nor a merge of decoders; leave `sweep` in, or give "
                "`merges` sets of experts, methods and sparsifiers"
            )
        return self

    def generation_of(self, family: str) -> Generation:
        """The engine of a family: the study's values with the family's own on top."""
        return replaced(self.generation, self.families[family].generation)

    @property
    def chooses(self) -> bool:
        """Whether a method behind a kind of sparsifier has several settings to choose among."""
        merges = self.merges or MergeGrid(methods=[], sparsifiers=[])
        methods = {each for grid in merges.methods for each in method_points(grid)}
        points = [each for grid in merges.sparsifiers for each in self._points(grid)]
        settings = {_setting(each): each.kind for each in points}
        # Grids of one kind are compared with each other, and rate 0 is the kind `none`.
        found = Counter([*(each.kind for each in methods), *settings.values()])
        return max(found.values(), default=1) > 1

    @property
    def held_out(self) -> float:
        """Share of each benchmark's questions that scores are not of: those chosen on."""
        return self.validation_fraction if self.chooses and self.selection == "validation" else 0.0

    def _points(self, grid: Grid) -> list[AnySparsifier]:
        return sparsifier_points(grid, self.rates, self.seeds.mask)

    def expert_sets(self, family: str) -> list[tuple[str, ...]]:
        """The sets of experts of a family that are merged, in the order written."""
        sets = self.merges.sets if self.merges else []
        return expert_sets(list(self.families[family].experts), sets)

    def owners(self, recipe: Recipe) -> dict[str, str]:
        """The benchmarks of a recipe's experts, and the expert that each counts for.

        Of several, that is the first as `merges.sets` lists them.
        """
        sets = self.expert_sets(recipe.family)
        written = (each for each in sets if set(each) == set(recipe.experts))
        return self.families[recipe.family].owners(next(written, recipe.experts))

    def sweep_recipes(self, family: str, expert: str, training_seed: int) -> list[Recipe]:
        """The recipes of the sweep of one expert."""
        if self.sweep is None:
            return []
        return [
            Recipe(
                family=family,
                experts=(expert,),
                training_seed=training_seed,
                sparsifier=sparsifier,
                method=Average(),
            )
            for sparsifier in sweep_points(self.sweep.sparsifiers, self.rates, self.seeds.mask)
        ]

    def merge_recipes(
        self, family: str, experts: tuple[str, ...], training_seed: int
    ) -> list[Recipe]:
        """The recipes of one set of experts: every method behind every sparsifier."""
        assert self.merges is not None, "a study without merges has no sets"
        sparsifiers = [point for grid in self.merges.sparsifiers for point in self._points(grid)]
        return [
            Recipe(
                family=family,
                experts=experts,
                training_seed=training_seed,
                sparsifier=sparsifier,
                method=method,
            )
            for grid in self.merges.methods
            for method in method_points(grid)
            for sparsifier in dict.fromkeys(sparsifiers)
        ]


def _setting(sparsifier: AnySparsifier) -> str:
    """A sparsifier but for the seed of its masks."""
    return canonical_json(sparsifier.model_dump(mode="json", exclude={"seed"}))
