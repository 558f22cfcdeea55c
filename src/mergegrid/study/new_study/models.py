"""The models of a new study, checked by their headers before anything is downloaded."""

from collections.abc import Mapping
from dataclasses import dataclass

from mergegrid.checkpoints.chat_templates import read_templates
from mergegrid.checkpoints.header_folders import check_family, header_folders
from mergegrid.checkpoints.sources.models import Models, hub_origin, locate_models, model_label
from mergegrid.checkpoints.tokenizers import read_tokenizer
from mergegrid.errors import ConfigError
from mergegrid.merging import MergeJob
from mergegrid.preflight import before_download
from mergegrid.recipes.output import Output
from mergegrid.recipes.recipe import Recipe
from mergegrid.study.runtime.memory_estimates import Size, size_of


@dataclass(frozen=True)
class CheckedModels:
    """A base and experts that fit together."""

    sources: Mapping[str, str]
    """As a study names them, `path:...` or `hub:...`, by expert; "" is the base."""
    label: str
    """Last name of the base, such as `Olmo-3-1025-7B`."""
    size: Size
    """Size of the base; zero where only its weights would tell."""
    downloads: Mapping[str, int]
    """Bytes to download, by model."""
    notes: list[str]
    """What else was found, as a merge would say it."""
    has_chat_template: bool
    """Whether the base has a chat template."""


def check_models(base: str, experts: Mapping[str, str]) -> CheckedModels:
    """Check that experts are homologous with their base, by headers and configs.

    Raises:
        MergegridError: a model is missing, damaged or cannot be merged with the others.
    """
    models = locate_models({"": base, **experts})
    for name, folder in models.folders.items():
        if name not in models.hub and not folder.is_dir():
            raise ConfigError(
                f"{_option(name)}: there is no folder {folder.resolve()}, and a model on the hub "
                "is written org/name; correct it"
            )
    check_family(models)
    notes, downloads = _opened(models, experts)
    with header_folders(models.folders, models.missing) as folders:
        size = size_of(folders[""])
        templates = read_templates(folders[""])
        if read_tokenizer(folders[""]) is None:
            raise ConfigError(
                f"--base {base} has no tokenizer, without which it answers no question; download "
                "the whole model, or name another"
            )
    texts = {"": base, **experts}
    sources = {name: _source(text, models, name) for name, text in texts.items()}
    return CheckedModels(sources, model_label(base), size, downloads, notes, bool(templates))


def _opened(models: Models, experts: Mapping[str, str]) -> tuple[list[str], dict[str, int]]:
    """Notes and downloads of a merge of all experts, which is planned and not run."""
    recipe = Recipe(family="base", experts=tuple(experts))
    output = Output(vocabulary="base_rows", tokenizer="base")
    job = MergeJob(models.base, models.experts, output=output, hub=models.hub)
    if models.missing:
        checked = before_download(job, recipe=recipe)
        sizes = {model: sum(files.values()) for model, files in checked.downloads.items()}
        return checked.notes, sizes
    return job.open().notes, {}


def _source(text: str, models: Models, name: str) -> str:
    if name not in models.hub:
        return f"path:{models.folders[name].resolve()}"
    origin = hub_origin(text)
    assert origin is not None, "only models on the hub have an origin there"
    return str(origin)


def _option(name: str) -> str:
    return f"--expert {name}" if name else "--base"
