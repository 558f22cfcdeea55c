"""What a merge reads of its models: digested in the same pass and compared with manifests."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.digests import TensorDigests
from mergegrid.checkpoints.dtypes import Stored
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.publish import check_tensors
from mergegrid.engine.chunks import BASE
from mergegrid.errors import CheckpointError


class Seen:
    """The digests of models, of the tensors of the base, filled in by runs that a merge reads."""

    def __init__(self, models: Mapping[str, Checkpoint]) -> None:
        self._models = models
        self._names = list(models[BASE])
        self._digests = {
            model: TensorDigests({name: checkpoint.infos[name] for name in self._names})
            for model, checkpoint in models.items()
        }

    def add(self, model: str, name: str, start: int, stored: Stored) -> None:
        """Take a run of elements as stored; it ends with a leaf, or with the tensor."""
        self._digests[model].add(name, start, stored)

    def compare(self, folders: Mapping[str, Path]) -> dict[str, dict[str, str]]:
        """Digests of the tensors of each model, which agree with the manifest of its folder.

        What the merge had no use for is read now. Tensors that were resized are not compared.

        Raises:
            DamagedError: a published model is not what its manifest says.
        """
        found = {}
        for model, digests in self._digests.items():
            digests.complete(self._models[model])
            found[model] = digests.tensors()
            stored, ours = open_checkpoint(folders[model]).infos, self._models[model]
            names = {name: ours.stored_name(name) for name in self._names}
            as_stored = [name for name in names if stored.get(names[name]) == ours.infos[name]]
            check_tensors(folders[model], {names[name]: found[model][name] for name in as_stored})
        return found

    @contextmanager
    def damage_first(self, folders: Mapping[str, Path]) -> Iterator[None]:
        """Where a merge fails, because of values that are not finite, say, look for damage first.

        Raises:
            DamagedError: that is why.
        """
        try:
            yield
        except CheckpointError:
            self.compare(folders)
            raise
