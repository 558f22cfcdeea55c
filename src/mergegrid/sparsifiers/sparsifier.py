"""What every sparsifier is given, and what it gives back."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.engine.chunks import Run
from mergegrid.engine.masks import threshold
from mergegrid.engine.ops.operations import LARGEST_BITS, Array, Operations
from mergegrid.engine.prepass import Survey
from mergegrid.hashing import canonical_json
from mergegrid.recipes.rates import Rated
from mergegrid.settings import Spec

Answers = Callable[[Hashable, str], Any]
"""The answer to a survey: by its key and a tensor it was about."""


@dataclass(frozen=True)
class ExpertRun:
    """A run of one expert, the rate that holds for it, and what was surveyed."""

    run: Run
    expert: str
    rate: float
    answer: Answers

    @property
    def ops(self) -> Operations:
        """Arithmetic."""
        return self.run.ops

    @property
    def base(self) -> Array:
        """Elements of the base."""
        return self.run.base

    @property
    def weight(self) -> Array:
        """Elements of the expert."""
        return self.run.weight(self.expert)

    @property
    def delta(self) -> Array:
        """Expert minus base."""
        return self.run.delta(self.expert)

    def thinned(self, values: Array, seed: int, factor: float) -> Array:
        """values * factor where the random mask of this rate keeps them, else 0."""
        words = self.run.words(seed, self.expert)
        return self.ops.thin(words, threshold(self.rate), values, factor)


class Sparsified:
    """A run of an expert after the sparsifier: its delta, and the parameters themselves."""

    def __init__(self, delta: Callable[[], Array], weight: Callable[[], Array]) -> None:
        self._make_delta, self._make_weight = delta, weight
        self._delta: Array = None
        self._weight: Array = None

    @property
    def delta(self) -> Array:
        """What is left of expert minus base."""
        if self._delta is None:
            self._delta = self._make_delta()
        return self._delta

    @property
    def weight(self) -> Array:
        """The expert's elements to the bit where all is kept, the base's where nothing is."""
        if self._weight is None:
            self._weight = self._make_weight()
        return self._weight


@dataclass(frozen=True)
class Sparsifier:
    """One entry of the registry."""

    apply: Callable[[Any, ExpertRun], Sparsified]
    """Takes the spec and a run at a rate above 0; at rate 0 a run is `unchanged`."""
    surveys: Callable[[Any, str, Mapping[str, TensorInfo]], Iterable[Survey]] = lambda *_: ()
    """What must be known first: of a spec, an expert and all tensors."""
    at_random: bool = False
    """Whether each delta becomes 0 with a probability that is the rate, whatever its size."""
    rowwise: bool = False
    """Whether runs must hold whole rows."""


def unchanged(spec: Spec, expert: ExpertRun) -> Sparsified:
    """No sparsifier: every delta is kept, and the expert's elements as they are."""
    return Sparsified(lambda: expert.delta, lambda: expert.weight)


def kept(expert: ExpertRun, delta: Array) -> Sparsified:
    """Deltas of which some became 0 and none was rescaled."""
    return Sparsified(lambda: delta, lambda: expert.ops.instead(delta, expert.base, expert.weight))


def rescaled(expert: ExpertRun, delta: Array) -> Sparsified:
    """Deltas of which some became 0 and the others were rescaled."""
    return Sparsified(lambda: delta, lambda: expert.ops.plus(expert.base, delta, 1.0))


def nothing(expert: ExpertRun) -> Array:
    """Deltas that are all dropped."""
    return expert.ops.keep_large(expert.delta, LARGEST_BITS, 0)


def inverse(rate: float) -> float:
    """1/(1-p), the factor that keeps the expected delta; 0 at p=1, where nothing is left."""
    return 0.0 if rate == 1 else 1 / (1 - rate)


def groups(
    spec: Rated, scope: str, expert: str, names: Iterable[str]
) -> Iterable[tuple[float, tuple[str, ...]]]:
    """Tensors that are cut together, with their rate: one by one, or all of one rate."""
    by_rate: dict[float, list[str]] = {}
    for name in names:
        rate = spec.rate_of(expert, name)
        if 0 < rate < 1 and scope == "per_tensor":
            yield rate, (name,)
        elif 0 < rate < 1:
            by_rate.setdefault(rate, []).append(name)
    for rate, group in by_rate.items():
        yield rate, tuple(group)


def elements(infos: Mapping[str, TensorInfo], names: Iterable[str]) -> int:
    """Elements of some tensors."""
    return sum(infos[name].count for name in names)


def key_of(question: str, spec: Spec, expert: str) -> Hashable:
    """Key of a survey that depends on all of a spec."""
    return question, canonical_json(spec.model_dump(mode="json")), expert
