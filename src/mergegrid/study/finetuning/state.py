"""State for resuming: what the transformers Trainer left behind, of the same request only."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mergegrid.hashing import canonical_json, file_digest

logger = logging.getLogger(__name__)

_STATE, _SEAL = "trainer_state.json", "digests.json"


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


class Seal(TrainerCallback):
    """Notes the digests of every checkpoint that a Trainer has written."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Note them, when all of its files are there."""
        checkpoint = Path(args.output_dir or "") / f"checkpoint-{state.global_step}"
        digests = {path.name: file_digest(path) for path in sorted(checkpoint.iterdir())}
        part = checkpoint / f"{_SEAL}.part"
        part.write_text(canonical_json(digests), encoding="utf-8")
        part.replace(checkpoint / _SEAL)


def last_checkpoint(state: Path) -> str | None:
    """The newest complete checkpoint; those that were cut, or are damaged since, are removed."""
    for checkpoint in sorted(
        state.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1])
    ):
        if not _whole(checkpoint):
            logger.warning("%s is damaged or was cut, and is of no use", checkpoint.name)
            shutil.rmtree(checkpoint)
            continue
        # The best epoch is loaded at the end, so without it there is no going on.
        best = json.loads((checkpoint / _STATE).read_text()).get("best_model_checkpoint")
        if best and not _whole(state / Path(best).name):
            logger.warning("%s is damaged, so training starts over", Path(best).name)
            shutil.rmtree(checkpoint)
            continue
        logger.info("going on from %s", checkpoint.name)
        return str(checkpoint)
    return None


def _whole(checkpoint: Path) -> bool:
    """Whether a checkpoint is as it was sealed; what has no seal may have lost bytes."""
    try:
        digests = json.loads((checkpoint / _SEAL).read_text())
        return all(file_digest(checkpoint / name) == each for name, each in digests.items())
    except (OSError, ValueError):
        return False
