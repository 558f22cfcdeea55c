"""What the jobs of the oracle are asked to do; see `mergegrid.study.schema.encoder_jobs`."""

from collections.abc import Sequence

from mergegrid.hashing import digest
from mergegrid.settings import Spec
from mergegrid.study.schema.encoder_jobs import FinetuneRequest, Target, finetune_request
from mergegrid.study.schema.families import Finetune, replaced
from mergegrid.study.schema.study import Study


class OracleRequest(Spec):
    """One model that learns the tasks of a set of experts together.

    Example:
        >>> request.slug
        'bert/cola+sst2/multitask'
    """

    family: str
    """Base and experts."""
    experts: list[str]
    """Experts whose tasks are learnt."""
    targets: list[Target]
    """The task of each expert."""
    settings: Finetune
    """How it is trained."""
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
        """The part of one expert: its task, learnt with these settings and this seed."""
        target = self.targets[self.experts.index(expert)]
        return FinetuneRequest(target=target, settings=self.settings, seed=self.seed)


def oracle_request(study: Study, family: str, experts: Sequence[str], seed: int) -> OracleRequest:
    """How the oracle of one set of experts is trained."""
    assert study.oracle is not None, "a study without an oracle trains none"
    return OracleRequest(
        family=family,
        experts=list(experts),
        targets=[finetune_request(study, family, each, seed).target for each in experts],
        settings=replaced(study.families[family].finetune, study.oracle.finetune),
        seed=seed,
    )
