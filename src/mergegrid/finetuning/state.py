"""State for resuming: what the transformers Trainer left behind, of the same request only."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from mergegrid.provenance import canonical_json

logger = logging.getLogger(__name__)


def state_folder(folder: Path, made_from: dict[str, Any]) -> Path:
    """The folder for resuming; state of another request is of no use and goes."""
    state = folder.with_name(f"{folder.name}.state")
    request = state / "request.json"
    wanted = canonical_json(made_from)
    if not (request.is_file() and request.read_text() == wanted):
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True)
        request.write_text(wanted)
    return state


def last_checkpoint(state: Path) -> str | None:
    """The newest complete checkpoint; one cut while it was written is removed."""
    for checkpoint in sorted(
        state.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1])
    ):
        try:
            # The Trainer writes this file last.
            json.loads((checkpoint / "trainer_state.json").read_text())
            torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
        except (OSError, ValueError, RuntimeError):
            shutil.rmtree(checkpoint)
            continue
        logger.info("going on from %s", checkpoint.name)
        return str(checkpoint)
    return None
