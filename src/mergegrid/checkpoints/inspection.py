"""Inspecting a model folder: its tensors, their digests, and a comparison with the manifest."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mergegrid.checkpoints.adapters.adapter import is_adapter, open_adapter_file
from mergegrid.checkpoints.adapters.config import read_adapter_config
from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.digests import checkpoint_digest, digest_tensors
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.layers import reading_order
from mergegrid.checkpoints.publish import MANIFEST, check_published, check_tensors, read_manifest
from mergegrid.errors import CheckpointError, DamagedError


@dataclass(frozen=True)
class Inspection:
    """The contents of a model folder."""

    folder: Path
    infos: dict[str, TensorInfo]
    tensors: dict[str, str]
    """Digest of each tensor."""
    verified: bool
    """Whether there is a manifest, which then matches."""
    adapter: str = ""
    """A line about the adapter that the folder holds; empty for a whole model."""

    @property
    def digest(self) -> str:
        """Digest of all tensors, independent of their distribution over files."""
        return checkpoint_digest(self.tensors)

    def __str__(self) -> str:
        dtypes = Counter(info.dtype.name for info in self.infos.values())
        count = sum(info.count for info in self.infos.values())
        size = sum(info.bytes for info in self.infos.values())
        lines = [
            f"{name}  {info.dtype.name}  {list(info.shape)}  {self.tensors[name][:16]}"
            for name, info in sorted(self.infos.items(), key=lambda item: reading_order(item[0]))
        ]
        summary = ", ".join(f"{number} {name}" for name, number in sorted(dtypes.items()))
        return "\n".join(
            [
                *lines,
                *([self.adapter] if self.adapter else []),
                f"{len(self.infos)} tensors ({summary}), {count:,} parameters, {size:,} bytes",
                f"digest: {self.digest}",
                f"manifest: {'matches' if self.verified else 'none, so nothing was compared'}",
            ]
        )


def inspect(folder: Path) -> Inspection:
    """Read the folder of a model or a LoRA adapter, and compare it with its manifest if it has one.

    Raises:
        CheckpointError: the folder has no model, or differs from its manifest; or its adapter is of
            a kind that cannot be merged.
    """
    if not folder.is_dir():
        raise CheckpointError(f"folder {folder} does not exist; specify a model folder")
    adapter = _adapter(folder) if is_adapter(folder) else ""
    checkpoint = open_adapter_file(folder) if adapter else open_checkpoint(folder)
    tensors = digest_tensors(checkpoint)
    has_manifest = (folder / MANIFEST).is_file()
    if has_manifest:
        check_published(folder)
        published = read_manifest(folder).get("weights", {}).get("tensors", tensors)
        if unmatched := sorted(published.keys() ^ tensors.keys()):
            raise DamagedError(
                folder, f"{unmatched[0]} in {folder} does not match {MANIFEST}; rebuild the model"
            )
        check_tensors(folder, tensors)
    return Inspection(folder, dict(checkpoint.infos), tensors, has_manifest, adapter)


def _adapter(folder: Path) -> str:
    config = read_adapter_config(folder)
    base = f"base {config.base_name}" if config.base_name else "a base that it does not name"
    kind = "DoRA" if config.use_dora else "LoRA"
    return (
        f"a {kind} adapter of rank {config.values['r']} for {base}; merge it as an expert, or "
        f"measure it with `mergegrid deltas BASE {folder}`"
    )
