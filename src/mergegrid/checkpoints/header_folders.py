"""Checks of models on the hub by their headers, before their weights are downloaded."""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mergegrid.checkpoints.family import open_family
from mergegrid.checkpoints.sources.models import Models
from mergegrid.errors import CheckpointError, ConfigError, HeadersOnlyError, MergegridError

if TYPE_CHECKING:
    from mergegrid.checkpoints.sources.hub import HubFiles


def check_family(models: Models, base_is: Sequence[str] = ()) -> None:
    """Check that experts are homologous with their base before weights are downloaded.

    Args:
        models: the base, named "", and experts.
        base_is: further names of the base, for adapters.

    Raises:
        CheckpointError: see `open_family`.
        SourceError: the hub cannot be reached or denies access.
    """
    missing = models.missing
    if missing and not any(files.pickled for files in missing.values()):
        with header_folders(models.folders, missing) as folders, suppress(HeadersOnlyError):
            experts = {name: path for name, path in folders.items() if name}
            open_family(folders[""], experts, base_is=base_is)


@contextmanager
def header_folders(
    folders: Mapping[str, Path], missing: "Mapping[str, HubFiles]"
) -> Iterator[dict[str, Path]]:
    """Folders with the headers and without the data of the models that are to be downloaded.

    Errors that name such a folder name the model instead.

    Args:
        folders: folders of all models by name.
        missing: those that are to be downloaded.

    Raises:
        SourceError: the hub cannot be reached or denies access.
    """
    from mergegrid.checkpoints.sources.hub import cache_folder
    from mergegrid.checkpoints.sources.hub_headers import headers_folder

    with tempfile.TemporaryDirectory(prefix="mergegrid-") as directory:
        twins = dict(folders)
        for number, (name, files) in enumerate(missing.items()):
            # As in the cache, so that the folder tells which model it is.
            inside = files.path.relative_to(cache_folder())
            twins[name] = Path(directory).resolve() / str(number) / inside
            headers_folder(files, twins[name])
        # What is logged while folders are opened is logged again after the download.
        opening = logging.getLogger("mergegrid.checkpoints")
        level = opening.level
        opening.setLevel(logging.WARNING)
        try:
            yield twins
        except MergegridError as error:
            text = readable(str(error), twins, missing)
            if text == str(error) or isinstance(error, HeadersOnlyError):
                raise
            kind = ConfigError if isinstance(error, ConfigError) else CheckpointError
            raise kind(text) from error
        finally:
            opening.setLevel(level)


def readable(text: str, twins: Mapping[str, Path], missing: "Mapping[str, HubFiles]") -> str:
    """A text with models in place of the folders of their headers."""
    for name, files in missing.items():
        text = text.replace(str(twins[name]), str(files))
    return text
