"""The base class of methods that need model statistics: data-dependent information on experts."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.model_statistics import Statistics
from mergegrid.engine.method import Method
from mergegrid.errors import CheckpointError
from mergegrid.sparsifiers.rates import Arithmetic

Examples = Annotated[int, Field(ge=1)]


class DataDependentMethod(Method):
    """A method with model statistics of every expert, which say how they were gathered."""

    needs_statistics: ClassVar[bool] = True

    if TYPE_CHECKING:  # Fields of every subclass, each with its own description.
        examples: int | None
        arithmetic: Arithmetic

    def check_statistics(self, base: Checkpoint, statistics: Mapping[str, Checkpoint]) -> None:
        """Check the metadata of the files and the shapes of their tensors.

        Files without metadata are accepted.

        Raises:
            CheckpointError: a file was gathered for another method or in another way, or lacks a
                tensor or has it in another shape.
        """
        for expert, checkpoint in statistics.items():
            if isinstance(checkpoint, Statistics):
                self._check_metadata(expert, checkpoint)
        self.check_tensors(base, statistics)

    @abstractmethod
    def check_tensors(self, base: Checkpoint, statistics: Mapping[str, Checkpoint]) -> None:
        """Check that every expert has the tensors that the method needs, in the right shapes."""

    def _check_metadata(self, expert: str, statistics: Statistics) -> None:
        required: dict[str, Any] = {"kind": self.kind, "arithmetic": self.arithmetic}
        if self.examples is not None:
            required["examples"] = self.examples
            if "examples" not in statistics.metadata:
                raise CheckpointError(
                    f"{statistics.path} of expert {expert} does not say from how many examples it "
                    f"was gathered, but {self.kind} requires {self.examples}; remove `examples` "
                    "from the method to accept it"
                )
        for key, value in required.items():
            recorded = statistics.metadata.get(key, value)
            if recorded != value:
                raise CheckpointError(
                    f"{statistics.path} of expert {expert} was gathered with {key} {recorded}, but "
                    f"{self.kind} requires {value}; use another file, or set {key} to {recorded}"
                )


def check_shape(expert: str, statistics: Checkpoint, name: str, shape: tuple[int, ...]) -> None:
    """Check that model statistics have a tensor of some shape.

    Raises:
        CheckpointError: they have not.
    """
    if name not in statistics:
        raise CheckpointError(
            f"the model statistics of expert {expert} lack {name}; "
            "gather them again from this expert"
        )
    if statistics.infos[name].shape != shape:
        raise CheckpointError(
            f"{name} has shape {statistics.infos[name].shape} in the model statistics of expert "
            f"{expert}, expected {shape}; gather them again from this expert"
        )
