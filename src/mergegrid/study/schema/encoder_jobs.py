"""Jobs on encoders: the parts of a study that each depends on, and nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from mergegrid.hashing import digest
from mergegrid.methods import AnyMethod
from mergegrid.methods.data_dependent import DataDependentMethod
from mergegrid.settings import Settings
from mergegrid.sparsifiers import AnySparsifier
from mergegrid.sparsifiers.rates import Arithmetic
from mergegrid.study.schema.decoders import DecoderStudy
from mergegrid.study.schema.encoders import EncoderStudy
from mergegrid.study.schema.families import replaced
from mergegrid.study.schema.finetuning import Finetune
from mergegrid.study.schema.racing import Racing
from mergegrid.study.schema.sampling import Sampled
from mergegrid.study.schema.splits import Aim, Split
from mergegrid.study.schema.tasks import Target


class FinetuneRequest(Settings):
    """One expert: fine-tuned with these settings, or imported ready when there are none."""

    target: Target
    """The task it learns."""
    settings: Finetune | None
    """Fine-tuning settings; none for a ready expert."""
    seed: int
    """Seed of head, order of the examples and dropout."""


class OracleRequest(Settings):
    """One model that learns the tasks of a set of experts together.

    Example:
        >>> request.slug
        'bert/cola+sst2/multitask'
    """

    family: str
    """Base and experts."""
    experts: list[str]
    """Experts whose tasks are learned."""
    targets: list[Target]
    """The task of each expert."""
    settings: Finetune
    """Training settings."""
    seed: int
    """Seed of heads, order of the examples and dropout."""

    @property
    def slug(self) -> str:
        """Readable name, distinct for distinct oracles of one study and training seed."""
        return f"{self.family}/{'+'.join(self.experts)}/multitask"

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of the request."""
        return digest(self.model_dump(mode="json"))

    def of_expert(self, expert: str) -> FinetuneRequest:
        """The request for one expert: its task, with these settings and this seed."""
        target = self.targets[self.experts.index(expert)]
        return FinetuneRequest(target=target, settings=self.settings, seed=self.seed)


class Statistic(Settings):
    """One file of model statistics of an expert."""

    kind: Literal["fisher", "regmean"]
    """The method that needs it."""
    arithmetic: Arithmetic
    """How it is computed."""
    examples: int
    """Number of examples behind it."""

    @property
    def file(self) -> str:
        """File name, e.g. `fisher~exact~1024.safetensors`."""
        return f"{self.kind}~{self.arithmetic}~{self.examples}.safetensors"


class MergesRequest(Settings):
    """One set of experts under every method and sparsifier."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"racing", "sampled", "mask_seeds"})

    family: str
    """Base and experts."""
    experts: list[str]
    """Experts to merge."""
    training_seed: int
    """Seed with which they were fine-tuned."""
    targets: list[Target]
    """The task of each expert."""
    methods: list[list[AnyMethod]]
    """Candidates of each method."""
    sparsifiers: list[list[AnySparsifier]]
    """Candidates of each sparsifier."""
    selection: Split
    """Split on which candidates are compared."""
    aim: Aim = "mean"
    """Whether one setting is selected by the mean over the tasks, or one for each task."""
    racing: Racing | None = None
    """How candidates drop out before the whole split; without it none does."""
    sampled: list[Sampled] = []
    """Candidates that samplers draw."""
    mask_seeds: list[int] = []
    """Mask seeds of these candidates."""


def finetune_request(study: EncoderStudy, family: str, expert: str, seed: int) -> FinetuneRequest:
    """How one expert is obtained."""
    config = study.families[family].experts[expert]
    target = study.target(family, expert)
    if config.source is not None:
        names = study.tasks[target.task].label_names
        target = target.model_copy(update={"label_names": names})
    ready = config.source is not None or config.family is not None
    settings = None if ready else study.families[family].finetune_of(expert)
    return FinetuneRequest(target=target, settings=settings, seed=seed)


def oracle_request(
    study: EncoderStudy, family: str, experts: Sequence[str], seed: int
) -> OracleRequest:
    """How the oracle of one set of experts is trained."""
    assert study.oracle is not None, "a study without an oracle trains none"
    return OracleRequest(
        family=family,
        experts=list(experts),
        targets=[finetune_request(study, family, expert, seed).target for expert in experts],
        settings=replaced(study.families[family].finetune, study.oracle.finetune),
        seed=seed,
    )


def merges_request(
    study: EncoderStudy, family: str, experts: Sequence[str], seed: int
) -> MergesRequest:
    """How one set of experts is merged, and on what the candidates are compared."""
    assert study.merges is not None, "a study without merges has no merge jobs"
    return MergesRequest(
        family=family,
        experts=list(experts),
        training_seed=seed,
        targets=[study.scored_target(family, expert) for expert in experts],
        methods=study.merge_methods(),
        sparsifiers=study.merge_sparsifiers(),
        selection=study.selection,
        aim=study.merges.aim,
        racing=study.merges.racing,
        sampled=study.merges.sampled,
        mask_seeds=study.seeds.mask if study.merges.sampled else [],
    )


def needed_statistics(study: EncoderStudy | DecoderStudy | None) -> list[Statistic]:
    """The files of model statistics that the methods of a study need for every expert."""
    grids = study.merge_methods() if study else []
    files = {file for grid in grids for file in map(statistic_of, grid) if file}
    return sorted(files, key=lambda file: (file.kind, file.arithmetic, file.examples))


def statistic_of(method: AnyMethod) -> Statistic | None:
    """The file of model statistics that a method needs for every expert, if any."""
    if not isinstance(method, DataDependentMethod):
        return None
    assert method.examples, "a study sets the number of examples of its methods"
    return Statistic(kind=method.kind, arithmetic=method.arithmetic, examples=method.examples)


def files_of(
    method: AnyMethod, folders: Mapping[str, Path], experts: Sequence[str]
) -> dict[str, Path]:
    """The files of model statistics that a method needs, by expert.

    Args:
        method: the method.
        folders: folder of the statistics of each expert.
        experts: the experts that are merged.
    """
    statistic = statistic_of(method)
    return {name: folders[name] / statistic.file for name in experts} if statistic else {}
