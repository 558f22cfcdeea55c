"""Reading the configuration of a study, and checking what it names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergegrid.checkpoints.sources.source import PathOrigin, SourceConfig
from mergegrid.errors import ConfigError
from mergegrid.study.schema.decoders import Decoders
from mergegrid.study.schema.lm_eval import own_tasks
from mergegrid.study.schema.study import Study
from mergegrid.yaml_files import check_content, read_yaml


def read_study(path: Path) -> Study:
    """Read and check a configuration file.

    Raises:
        ConfigError: the file is missing, is not YAML, or asks for something that cannot be done.
    """
    return check_study(read_yaml(path), path)


def check_study(content: Mapping[str, Any], origin: Path | str) -> Study:
    """Check the content of a configuration; `origin` says in errors where it comes from."""
    return check_content(Study, content, origin)


def check_paths(study: Study) -> None:
    """Check that the local files and folders which a study names are there.

    Raises:
        ConfigError: one is not.
    """
    named: dict[str, SourceConfig | None] = {}
    for name, task in study.tasks.items():
        for split in ("train", "validation", "test"):
            named[f"tasks.{name}.{split}"] = getattr(task, split)
    for name, family in study.families.items():
        named[f"families.{name}.base"] = family.base
        for expert, spec in family.experts.items():
            named[f"families.{name}.experts.{expert}"] = spec.source
    if study.decoders:
        named |= _of_decoders(study.decoders)
        if study.decoders.harness:
            own_tasks(study.decoders.harness)
    for key, config in named.items():
        origin = config.origin if config else None
        if isinstance(origin, PathOrigin) and not Path(origin.path).exists():
            raise ConfigError(
                f"{key}.source = {f'path:{origin.path}'!r}: there is no "
                f"{Path(origin.path).resolve()}; "
                "correct the path (it is relative to where the run starts)"
            )


def _of_decoders(study: Decoders) -> dict[str, SourceConfig | None]:
    named: dict[str, SourceConfig | None] = {
        f"decoders.benchmarks.{name}.records": benchmark.records
        for name, benchmark in study.benchmarks.items()
    }
    for name, benchmark in study.benchmarks.items():
        files = benchmark.judge.length_files if benchmark.judge else None
        named[f"decoders.benchmarks.{name}.judge.length_files"] = files
    for name, family in study.families.items():
        key = f"decoders.families.{name}"
        named[f"{key}.base"] = family.base
        for expert, spec in family.experts.items():
            named[f"{key}.experts.{expert}"] = spec.source
            named[f"{key}.experts.{expert}.data.records"] = spec.data.records if spec.data else None
    return named
