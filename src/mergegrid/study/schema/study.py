"""A study: everything that one configuration file can specify."""

from collections.abc import Mapping
from itertools import chain
from typing import Any, ClassVar

from pydantic import model_validator

from mergegrid.settings import Settings
from mergegrid.study.schema.decoders import DecoderStudy
from mergegrid.study.schema.encoders import EncoderStudy
from mergegrid.study.schema.grids import Count
from mergegrid.study.schema.names import check_folders, no_twins


class Paths(Settings):
    """Output folders, relative to the working directory."""

    results: str = "results"
    """Folder of all results."""
    logs: str = "logs"
    """Folder of logs and of time and memory records."""


class Study(Settings):
    """Root of the configuration."""

    #: Keys of earlier versions and their new places.
    moved_keys: ClassVar[Mapping[str, str]] = {
        name: f"encoders.{name}" for name in EncoderStudy.model_fields
    }

    title: str = "mergegrid study"
    """Title of the report."""
    paths: Paths = Paths()
    """Folders of results and logs."""
    encoders: EncoderStudy | None = None
    """The study of encoders: tasks, families and grid; unset omits it."""
    decoders: DecoderStudy | None = None
    """The study of decoders: benchmarks, families and grid; unset omits it."""
    jobs_per_gpu: Count = 1
    """Jobs on encoders that share one GPU of this machine: small models leave most of a GPU idle.
    On a cluster every job has its own GPUs."""

    @model_validator(mode="after")
    def _some_family_has_a_folder(self) -> "Study":
        if not self.grids:
            raise ValueError("there are no models to study; add `encoders`, `decoders` or both")
        names = list(chain.from_iterable(grid.families for grid in self.grids))
        if twice := sorted(name for name in set(names) if names.count(name) > 1):
            raise ValueError(
                f"{twice[0]} is a family of encoders and a family of decoders; rename one of them"
            )
        families = self.families
        no_twins(families)
        check_folders(families, self.paths.results, self.paths.logs)
        return self

    @property
    def grids(self) -> list[EncoderStudy | DecoderStudy]:
        """The studies of encoders and of decoders, as far as they are configured."""
        return [grid for grid in (self.encoders, self.decoders) if grid]

    @property
    def families(self) -> dict[str, Any]:
        """All families by name."""
        return {name: family for grid in self.grids for name, family in grid.families.items()}

    def grid_of(self, family: str) -> EncoderStudy | DecoderStudy:
        """The study that has a family."""
        return next(grid for grid in self.grids if family in grid.families)
