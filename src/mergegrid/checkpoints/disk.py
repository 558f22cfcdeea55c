"""Free space on disks, checked before work that fills them."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from mergegrid.errors import ConfigError


def check_free_space(outputs: Mapping[Path, int], downloads: Mapping[Path, int]) -> None:
    """Check that disks have room for what is going to be written.

    File systems that do not state their size are not checked.

    Args:
        outputs: bytes by folder, which need not exist.
        downloads: the same for downloads; a folder may be in both.

    Raises:
        ConfigError: a disk is too small; the message states what is needed there and what is free.
    """
    needs: dict[int, list[tuple[Path, int]]] = {}
    for folder, size in [*downloads.items(), *outputs.items()]:
        if size:
            needs.setdefault(_existing(folder).stat().st_dev, []).append((folder, size))
    for parts in needs.values():
        folder = _existing(parts[0][0])
        disk, needed = shutil.disk_usage(folder), sum(size for _, size in parts)
        if disk.total and needed > disk.free:
            listed = ", ".join(f"{_amount(size)} in {path}" for path, size in parts)
            ways = ["free some space"]
            if any(path in outputs for path, _ in parts):
                ways.append("choose another output path")
            if any(path in downloads for path, _ in parts):
                ways.append("set HF_HOME to a folder on another disk")
            raise ConfigError(
                f"the disk of {folder} has {_amount(disk.free)} free, but {_amount(needed)} are "
                f"needed: {listed}; {', or '.join(ways)}"
            )


def _existing(folder: Path) -> Path:
    """The folder, or the closest one above it that exists."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _amount(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size / 1e3:,.1f} KB"
