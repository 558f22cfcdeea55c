"""Reading the configuration of a study, and checking the files to which it refers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergegrid.checkpoints.sources.source import PathOrigin, SourceConfig
from mergegrid.errors import ConfigError
from mergegrid.study.schema.lm_eval import custom_tasks
from mergegrid.study.schema.study import Study
from mergegrid.yaml_files import check_content, read_yaml


def read_study(*paths: Path) -> Study:
    """Read and check a study in one configuration file, or in several.

    As with several `--configfile` of Snakemake, a later file adds to an earlier one and replaces
    its values; lists are replaced as a whole.

    Raises:
        ConfigError: a file is missing or is not YAML, or a value is invalid.
    """
    content: dict[str, Any] = {}
    for path in paths:
        _update(content, read_yaml(path))
    return check_study(content, " + ".join(map(str, paths)))


def _update(content: dict[str, Any], later: Mapping[str, Any]) -> None:
    for key, value in later.items():
        known = content.get(key)
        if isinstance(known, dict) and isinstance(value, Mapping):
            _update(known, value)
        else:
            content[key] = value


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
