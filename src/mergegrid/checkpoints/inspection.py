"""Looking into a model folder: its tensors, their digests, and whether the manifest agrees."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.digests import checkpoint_digest, digest_tensors
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.publish import MANIFEST, check_published, check_tensors, read_manifest
from mergegrid.errors import CheckpointError, DamagedError


@dataclass(frozen=True)
class Inspection:
    """What a model folder holds."""

    folder: Path
    infos: dict[str, TensorInfo]
    tensors: dict[str, str]
    """Digest of each tensor."""
    verified: bool
    """Whether there is a manifest, and it agrees; without one, nothing says what should be here."""

    @property
    def digest(self) -> str:
        """Digest of all tensors, which does not depend on how they are spread over files."""
        return checkpoint_digest(self.tensors)

    def __str__(self) -> str:
        dtypes = Counter(info.dtype.name for info in self.infos.values())
        count = sum(info.count for info in self.infos.values())
        size = sum(info.bytes for info in self.infos.values())
        lines = [
            f"{name}  {info.dtype.name}  {list(info.shape)}  {self.tensors[name][:16]}"
            for name, info in self.infos.items()
        ]
        summary = ", ".join(f"{number} {name}" for name, number in sorted(dtypes.items()))
        manifest = "agrees" if self.verified else "there is none, so nothing was compared"
        return "\n".join(
            [
                *lines,
                f"{len(self.infos)} tensors ({summary}), {count:,} parameters, {size:,} bytes",
                f"digest: {self.digest}",
                f"manifest: {manifest}",
            ]
        )


def inspect(folder: Path) -> Inspection:
    """Read all of a model folder, and compare it with its manifest where it has one.

    Raises:
        CheckpointError: the folder holds no model, or not what its manifest says.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}; name the folder of a model")
    checkpoint = open_checkpoint(folder)
    tensors = digest_tensors(checkpoint)
    has_manifest = (folder / MANIFEST).is_file()
    if has_manifest:
        _compare(folder, tensors)
    return Inspection(folder, dict(checkpoint.infos), tensors, has_manifest)


def _compare(folder: Path, tensors: dict[str, str]) -> None:
    check_published(folder)
    noted = read_manifest(folder).get("weights", {}).get("tensors", tensors)
    if noted.keys() != tensors.keys():
        name = sorted(noted.keys() ^ tensors.keys())[0]
        raise DamagedError(
            folder, f"{name} in {folder} is not what {MANIFEST} says; make the model again"
        )
    check_tensors(folder, tensors)
