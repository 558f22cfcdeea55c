"""Verification of inputs: models are digested while they are merged and checked by manifest."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mergegrid.checkpoints.adapters.adapter import Adapter
from mergegrid.checkpoints.adapters.identity import adapter_digests
from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.digests import TensorDigests, checkpoint_digest
from mergegrid.checkpoints.dtypes import Stored
from mergegrid.checkpoints.publish import check_tensors
from mergegrid.engine.chunks import BASE
from mergegrid.errors import CheckpointError


class InputVerifier:
    """Digests of the base's tensors in every model, built up from the chunks that a merge reads.

    Args:
        models: models as they are merged.
        stored: the same models as their folders hold them.
        folders: their folders.
        adapters: the adapters among them; they are digested as they are, not as base plus delta.
    """

    def __init__(
        self,
        models: Mapping[str, Checkpoint],
        stored: Mapping[str, Checkpoint],
        folders: Mapping[str, Path],
        adapters: Mapping[str, Adapter] | None = None,
    ) -> None:
        self._models, self._stored, self._folders = models, stored, folders
        self._adapters = adapters or {}
        self._names = list(models[BASE])
        self._digests = {
            model: TensorDigests({name: checkpoint.infos[name] for name in self._names})
            for model, checkpoint in models.items()
            if model not in self._adapters
        }

    def add(self, model: str, name: str, start: int, stored: Stored) -> None:
        """Add a chunk as stored; it must end with a leaf of the digest, or with the tensor."""
        if model in self._digests:
            self._digests[model].add(name, start, stored)

    def verify(self) -> dict[str, dict[str, str]]:
        """Compare with the manifests of the folders; returns the digests by model and tensor.

        Tensors that the merge did not need are read now. Resized tensors are not compared. For an
        adapter, the digests are of its base, of its files and the version of their reader.

        Raises:
            DamagedError: a published model differs from its manifest.
        """
        verified = {}
        for model, digests in self._digests.items():
            checkpoint = self._models[model]
            digests.complete(checkpoint)
            tensors = digests.tensors()
            stored_names = {name: checkpoint.stored_name(name) for name in self._names}
            unchanged = {
                stored_name: tensors[name]
                for name, stored_name in stored_names.items()
                if self._stored[model].infos.get(stored_name) == checkpoint.infos[name]
            }
            check_tensors(self._folders[model], unchanged)
            verified[model] = tensors
        base = {"base": checkpoint_digest(verified[BASE])}
        adapters = {name: base | adapter_digests(one) for name, one in self._adapters.items()}
        return verified | adapters

    @contextmanager
    def damage_first(self) -> Iterator[None]:
        """When a merge fails, on non-finite values for instance, report damaged inputs instead.

        Raises:
            DamagedError: a published model differs from its manifest.
        """
        try:
            yield
        except CheckpointError:
            self.verify()
            raise
