"""Jobs on decoders: the parts of a study that each depends on, and nothing else."""

from typing import Any, ClassVar, Literal, TypeVar

from mergegrid.recipes.output import Output
from mergegrid.recipes.recipe import Recipe, base_only
from mergegrid.settings import Settings
from mergegrid.study.schema.benchmarks import Benchmark
from mergegrid.study.schema.decoders import DecoderStudy
from mergegrid.study.schema.encoder_jobs import Statistic, needed_statistics
from mergegrid.study.schema.families import replaced
from mergegrid.study.schema.finetuning import DecoderFinetune
from mergegrid.study.schema.generation import BenchmarkSampling, ExpertSampling, Sampling
from mergegrid.study.schema.grids import unique
from mergegrid.study.schema.instructions import Calibration, Instructions
from mergegrid.study.schema.judge import Judge
from mergegrid.study.schema.splits import Split

Fetched = TypeVar("Fetched", Benchmark, Instructions, Calibration)


class DecoderFinetuneRequest(Settings):
    """One expert, fine-tuned on instructions."""

    data: Instructions
    """What it learns from."""
    settings: DecoderFinetune
    """How it is fine-tuned."""
    prompt: str
    """Text around each `{instruction}`."""
    chat: bool
    """Whether instructions are put in the model's chat template instead."""
    seed: int
    """Seed of the order of the examples, of dropout and of adapters."""


class StatisticsRequest(Settings):
    """Model statistics of one expert."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"base_is"})

    statistics: list[Statistic]
    """The files."""
    prompt: str
    """Text around each `{instruction}`."""
    chat: bool
    """Whether instructions are put in the model's chat template instead."""
    max_length: int
    """Tokens after which a text is cut."""
    homologous: bool = True
    """Whether the expert must have the configuration of the base, not only its shapes."""
    base_is: tuple[str, ...] = ()
    """What adapters call the base."""


class Ask(Settings):
    """One benchmark, asked of one model."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"chat_prompt"})

    benchmark: str
    """Its name."""
    chat: bool
    """Whether questions are put in the model's chat template rather than in the raw prompt."""
    chat_prompt: str = "{instruction}"
    """Text around each `{instruction}` in the chat template."""
    sampling: Sampling
    """How answers are written."""


class QuestionSplit(Settings):
    """The questions whose texts are read: all of a benchmark, or those of one split."""

    benchmark: str
    """Its name."""
    split: Split | None = None
    """The split; unset: all questions."""
    validation_fraction: float
    """Fraction of the questions in the validation split."""


class ScoreRequest(Settings):
    """One benchmark, scored for every variant of one set of experts."""

    name: str
    """Name of the benchmark."""
    benchmark: Benchmark
    """How its answers are scored."""
    owner: str
    """The expert whose ability it measures."""
    recipes: list[Recipe]
    """The variants, in the order of their files of answers."""
    validation_fraction: float
    """Share of the questions that scores are not of; 0 where nothing is chosen by them."""
    selection: Literal["validation", "test", "none"]
    """Split on which variants are compared."""
    unsafe_execution: bool
    """Whether programs may run without a sandbox."""


class MergePart(Settings):
    """One merged decoder."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"base_is"})

    recipe: Recipe
    """Recipe of the model."""
    output: Output
    """Dtype and vocabulary of the folder."""
    homologous: bool
    """Whether experts must have the configuration of the base, not only its shapes."""
    base_is: tuple[str, ...] = ()
    """What adapters call the base."""


def finetune_request(
    study: DecoderStudy, family: str, expert: str, seed: int
) -> DecoderFinetuneRequest:
    """How one expert is fine-tuned."""
    config = study.families[family].experts[expert]
    assert config.data is not None, "a ready expert is imported, not fine-tuned"
    first = study.benchmarks[config.benchmarks[0]]
    return DecoderFinetuneRequest(
        data=unlicensed(config.data),
        settings=study.families[family].finetune_of(expert),
        prompt=config.data.prompt or first.template,
        chat=study.families[family].chat_of(expert),
        seed=seed,
    )


def statistics_request(study: DecoderStudy, family: str, expert: str) -> StatisticsRequest:
    """How the model statistics of one expert are gathered."""
    settings = study.families[family]
    config = settings.experts[expert]
    texts = config.statistics or config.data
    assert texts is not None, "the study has checked that there are texts"
    return StatisticsRequest(
        statistics=needed_statistics(study),
        prompt=texts.prompt or study.benchmarks[config.benchmarks[0]].template,
        chat=settings.chat_of(expert),
        max_length=settings.finetune_of(expert).max_length,
        homologous=not settings.other_base,
        base_is=settings.names_of_base,
    )


def merge_part(study: DecoderStudy, recipe: Recipe) -> MergePart:
    """How one recipe is merged."""
    family = study.families[recipe.family]
    return MergePart(
        recipe=recipe,
        output=family.output_of(recipe.experts, recipe.sparsifier == base_only()),
        homologous=not family.other_base,
        base_is=family.names_of_base,
    )


def similarity_parts(study: DecoderStudy, family: str, expert: str, seed: int) -> dict[str, Any]:
    """The recipes under which the embeddings of one expert are compared, and on what."""
    assert study.similarity is not None, "a study without similarity compares nothing"
    recipes = study.similarity_recipes(family, expert, seed)
    merge = merge_part(study, recipes[0])
    return {
        "recipes": recipes,
        "examples": study.similarity.examples,
        "split": QuestionSplit(
            benchmark=study.families[family].experts[expert].benchmarks[0],
            split=study.similarity.split,
            validation_fraction=study.held_out,
        ),
        "chat": study.families[family].chat_of(expert),
        "output": merge.output,
        # The merges check the names that adapters give their base.
        "homologous": merge.homologous and not merge.base_is,
    }


def generate_parts(study: DecoderStudy, family: str, recipes: list[Recipe]) -> dict[str, Any]:
    """What is asked of one candidate, or of all candidates of one set of experts.

    `merges` holds the candidates where they pass through one engine.
    """
    generation = study.generation_of(family)
    experts = recipes[0].experts
    alone = study.families[family].experts[experts[0]].sampling if len(experts) == 1 else None
    return {
        "asks": [
            Ask(
                benchmark=name,
                chat=study.families[family].chat_of(owner),
                chat_prompt=study.benchmarks[name].chat_prompt,
                sampling=sampling_alone(study.benchmarks[name].full_sampling, alone),
            )
            for name, owner in study.owners(recipes[0]).items()
        ],
        "generation": generation,
        "merges": [merge_part(study, recipe) for recipe in recipes if generation.one_engine],
    }


def sampling_alone(sampling: Sampling, expert: ExpertSampling | None) -> Sampling:
    """How an expert alone answers a benchmark: greedy benchmarks stay greedy."""
    return replaced(sampling, expert) if sampling.temperature else sampling


def questions_of(benchmark: Benchmark) -> Benchmark:
    """The part of a benchmark that its questions depend on."""
    same = {
        "judge": Judge(model="any") if benchmark.judge else None,
        "sampling": BenchmarkSampling(),
        "pass_at": [1],
        "chat_prompt": "{instruction}",
        "lengths": False,
    }
    return unlicensed(benchmark.model_copy(update=same))


def score_request(
    study: DecoderStudy, family: str, benchmark: str, recipes: list[Recipe]
) -> ScoreRequest:
    """How the answers of all candidates of one set of experts to a benchmark are scored."""
    config = unlicensed(study.benchmarks[benchmark])
    if config.judge and config.judge.length_files:
        files = config.judge.length_files.model_copy(update={"licence": None})
        judge = config.judge.model_copy(update={"length_files": files})
        config = config.model_copy(update={"judge": judge})
    return ScoreRequest(
        name=benchmark,
        benchmark=config,
        owner=study.owners(recipes[0])[benchmark],
        recipes=unique(recipes),
        validation_fraction=study.held_out,
        selection=study.selection if study.chooses and len(recipes[0].experts) > 1 else "none",
        unsafe_execution=study.unsafe_execution,
    )


def unlicensed(config: Fetched) -> Fetched:
    """A copy without the license, which changes no number."""
    if config.records is None:
        return config
    records = config.records.model_copy(update={"licence": None})
    return config.model_copy(update={"records": records})
