"""State for resuming an interrupted training, used only by a run with the same inputs."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mergegrid.hashing import canonical_json, file_digest
from mergegrid.study.runtime.transformers_compat import (
    best_checkpoint,
    checkpoint_folder,
    checkpoints,
)

logger = logging.getLogger(__name__)

_DIGESTS = "digests.json"


def state_folder(folder: Path, made_from: dict[str, Any]) -> Path:
    """Return `<folder>.state`, emptied unless it belongs to a run with the same inputs."""
    state = folder.with_name(f"{folder.name}.state")
    request = state / "request.json"
    inputs = canonical_json(made_from)
    if not (request.is_file() and request.read_text() == inputs):
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True)
        request.write_text(inputs)
    return state


class CheckpointDigests(TrainerCallback):
    """Records the digests of the files in every checkpoint that a Trainer has written."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Write the digests once all files of the checkpoint are there."""
        checkpoint = checkpoint_folder(args, state)
        digests = {path.name: file_digest(path) for path in sorted(checkpoint.iterdir())}
        part = checkpoint / f"{_DIGESTS}.part"
        part.write_text(canonical_json(digests), encoding="utf-8")
        part.replace(checkpoint / _DIGESTS)


def last_checkpoint(state: Path) -> str | None:
    """Return the newest intact checkpoint; remove newer ones that are incomplete or damaged."""
    for checkpoint in checkpoints(state):
        if not _is_intact(checkpoint):
            logger.warning("%s is incomplete or damaged; ignoring it", checkpoint.name)
            shutil.rmtree(checkpoint)
            continue
        # The Trainer loads the best epoch at the end, so it cannot resume without it.
        best = best_checkpoint(checkpoint)
        if best and not _is_intact(state / best):
            logger.warning("%s is damaged; training restarts", best)
            shutil.rmtree(checkpoint)
            continue
        logger.info("resuming from %s", checkpoint.name)
        return str(checkpoint)
    return None


def _is_intact(checkpoint: Path) -> bool:
    """Compare a checkpoint with its digests; without digests it may be incomplete."""
    try:
        digests = json.loads((checkpoint / _DIGESTS).read_text())
        return all(file_digest(checkpoint / name) == value for name, value in digests.items())
    except (OSError, ValueError):
        return False
