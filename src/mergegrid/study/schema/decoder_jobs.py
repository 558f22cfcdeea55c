"""What one job of the decoder study is asked to do, as one JSON text (see `requests`)."""

from typing import Literal, TypeVar

from mergegrid.recipes.output import Output
from mergegrid.recipes.recipe import Recipe
from mergegrid.settings import Spec
from mergegrid.study.schema.benchmarks import Benchmark, BenchmarkSampling
from mergegrid.study.schema.decoders import DecoderFinetune, Decoders, Instructions
from mergegrid.study.schema.generation import Generation, Sampling
from mergegrid.study.schema.grids import unique
from mergegrid.study.schema.judge import Judge
from mergegrid.study.schema.prompts import ASKING

Asked = TypeVar("Asked", Benchmark, Instructions)


class DecoderFinetuneRequest(Spec):
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


class MergeRequest(Spec):
    """One merged decoder."""

    recipe: Recipe
    """What is merged how."""
    output: Output
    """The folder that is written."""
    homologous: bool
    """Whether experts must have the configuration of the base, or only its shapes."""


class Ask(Spec):
    """One benchmark, asked of one model."""

    benchmark: str
    """Its name."""
    chat: bool
    """Whether questions are put in the model's chat template rather than in the raw prompt."""
    sampling: Sampling
    """How answers are written."""


class GenerateRequest(Spec):
    """All that one model, or all variants of one set of experts, are asked."""

    asks: list[Ask]
    """The benchmarks that share a load of the model."""
    generation: Generation
    """The engine."""
    merges: list[MergeRequest] = []
    """The variants that pass through one engine; none where the model is on disk."""


class QuestionsRequest(Spec):
    """The questions of one benchmark."""

    benchmark: Benchmark
    """Where they come from, and how they are asked."""


class ScoreRequest(Spec):
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
    """Share of the questions on which variants are compared; 0 where there is nothing to choose."""
    selection: Literal["validation", "test", "none"]
    """Split on which variants are compared."""
    unsafe_execution: bool
    """Whether programs may run without a sandbox."""


def finetune_request(
    study: Decoders, family: str, expert: str, seed: int
) -> DecoderFinetuneRequest:
    """How one expert is made."""
    spec = study.families[family].experts[expert]
    assert spec.data is not None, "a ready expert is imported, not fine-tuned"
    first = study.benchmarks[spec.benchmarks[0]]
    return DecoderFinetuneRequest(
        data=unlicensed(spec.data),
        settings=study.families[family].finetune_of(expert),
        prompt=spec.data.prompt or template(first),
        chat=study.families[family].chat_of(expert),
        seed=seed,
    )


def merge_request(study: Decoders, recipe: Recipe) -> MergeRequest:
    """How one recipe is merged."""
    family = study.families[recipe.family]
    return MergeRequest(
        recipe=recipe,
        output=Output(dtype=family.dtype, vocabulary=family.vocabulary),
        homologous=not family.other_base,
    )


def generate_request(study: Decoders, family: str, recipes: list[Recipe]) -> GenerateRequest:
    """What is asked of the variants of one set of experts, or of one of them."""
    spec = study.families[family]
    owners = study.owners(recipes[0])
    return GenerateRequest(
        asks=[
            Ask(benchmark=name, chat=spec.chat_of(owner), sampling=sampling(study.benchmarks[name]))
            for name, owner in owners.items()
        ],
        generation=study.generation_of(family),
        merges=[merge_request(study, recipe) for recipe in recipes]
        if study.generation_of(family).one_engine
        else [],
    )


def questions_request(study: Decoders, benchmark: str) -> QuestionsRequest:
    """Where the questions of a benchmark come from."""
    spec = study.benchmarks[benchmark]
    # Another judge asks no other questions, nor do more or longer answers.
    same = {
        "judge": Judge(model="any") if spec.judge else None,
        "sampling": BenchmarkSampling(),
        "pass_at": [1],
    }
    return QuestionsRequest(benchmark=unlicensed(spec.model_copy(update=same)))


def score_request(
    study: Decoders, family: str, benchmark: str, recipes: list[Recipe]
) -> ScoreRequest:
    """How the answers of all variants of one set of experts to a benchmark are scored."""
    spec = unlicensed(study.benchmarks[benchmark])
    return ScoreRequest(
        name=benchmark,
        benchmark=spec.model_copy(update={"judge": spec.judge and _unlicensed_judge(spec.judge)}),
        owner=study.owners(recipes[0])[benchmark],
        recipes=unique(recipes),
        validation_fraction=study.held_out,
        selection=study.selection if study.chooses and len(recipes[0].experts) > 1 else "none",
        unsafe_execution=study.unsafe_execution,
    )


def template(benchmark: Benchmark) -> str:
    """Text around each `{instruction}` of a benchmark."""
    return benchmark.prompt or ASKING[benchmark.kind].prompt


def sampling(benchmark: Benchmark) -> Sampling:
    """How answers to a benchmark are written."""
    own, usual = benchmark.sampling, ASKING[benchmark.kind]
    return Sampling(
        max_tokens=own.max_tokens or usual.max_tokens,
        temperature=own.temperature,
        top_p=own.top_p,
        samples=own.samples,
        stop=list(usual.stop) if own.stop is None else own.stop,
        seed=own.seed,
    )


def unlicensed(spec: Asked) -> Asked:
    """The same without the words of a licence, which change nothing."""
    if spec.records is None:
        return spec
    return spec.model_copy(update={"records": spec.records.model_copy(update={"licence": None})})


def _unlicensed_judge(judge: Judge) -> Judge:
    if judge.length_files is None:
        return judge
    files = judge.length_files.model_copy(update={"licence": None})
    return judge.model_copy(update={"length_files": files})
