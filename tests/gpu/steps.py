"""Steps of the first run on a GPU: their register, and what each is given and gives."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Machine:
    """Where the steps chunk."""

    device: str
    """`cuda`, or `cpu` for a rehearsal."""
    work: Path
    """Scratch folder; each step gets a folder in it, which is removed afterwards."""

    @property
    def real(self) -> bool:
        """Whether this is no rehearsal."""
        return self.device == "cuda"

    def size(self, real: T, tiny: T) -> T:
        """A size on a GPU, or the one of a rehearsal."""
        return real if self.real else tiny


@dataclass(frozen=True)
class Row:
    """What a step found."""

    found: str
    expected: str
    ok: bool
    """Whether every claim holds; figures that are estimates are not judged."""


class SkippedError(Exception):
    """The step cannot run on this machine; the text is its status."""


Function = Callable[[Machine, Path], Row]


@dataclass(frozen=True)
class Step:
    """A step of the table."""

    name: str
    function: Function
    needs_gpu: bool
    """Whether it means nothing in a rehearsal."""
    limit: int
    """Seconds after which it counts as hung."""

    @property
    def claim(self) -> str:
        """What it proves, in one line."""
        return (self.function.__doc__ or "").splitlines()[0]


#: In the order in which they chunk.
STEPS: dict[str, Step] = {}


def step(name: str, needs_gpu: bool = False, limit: int = 240) -> Callable[[Function], Function]:
    """Register a function as a step; its docstring opens with what it proves."""

    def register(function: Function) -> Function:
        STEPS[name] = Step(name, function, needs_gpu, limit)
        return function

    return register
