"""Reading the configuration of a study, and checking the files to which it refers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergegrid.checkpoints.sources.source import PathOrigin, SourceConfig
from mergegrid.errors import ConfigError
from mergegrid.study.schema.lm_eval import custom_tasks
from mergegrid.study.schema.study import Study
from mergegrid.yaml_files import check_content, read_yaml


def read_study(path: Path) -> Study:
    """Read and check a configuration file.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds an invalid value.
    """
    return check_study(read_yaml(path), path)


def check_study(content: Mapping[str, Any], origin: Path | str) -> Study:
    """Check the content of a configuration; errors begin with `origin`."""
    return check_content(Study, content, origin)


def check_paths(study: Study) -> None:
    """Check that the local files and folders to which a study refers exist.

    Raises:
        ConfigError: one does not.
    """
    sources: dict[str, SourceConfig] = {}
    for kind, grid in (("encoders", study.encoders), ("decoders", study.decoders)):
        for source in grid.sources() if grid else ():
            sources[f"{kind}.{source.key}"] = source.config
    if study.decoders:
        for name, benchmark in study.decoders.benchmarks.items():
            if benchmark.judge and benchmark.judge.length_files:
                key = f"decoders.benchmarks.{name}.judge.length_files"
                sources[key] = benchmark.judge.length_files
        if study.decoders.harness:
            custom_tasks(study.decoders.harness)
    for key, config in sources.items():
        origin = config.origin
        if isinstance(origin, PathOrigin) and not Path(origin.path).exists():
            raise ConfigError(
                f"{key}.source = {f'path:{origin.path}'!r}: {Path(origin.path).resolve()} does not "
                "exist; correct the path (it is relative to the working directory)"
            )
