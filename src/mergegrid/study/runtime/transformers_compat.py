"""Everything that mergegrid uses of transformers beyond its documented interface.

`test_transformers_compat.py` checks each of these contracts, so that an upgrade which breaks one
fails there instead of changing a result.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.initialization import no_init_weights as no_init_weights  # Re-exported.
from transformers.trainer_callback import PrinterCallback

GROUP_BY_LENGTH: dict[str, Any] = {"train_sampling_strategy": "group_by_length"}
"""Training arguments that batch examples of similar length."""


def warmup(ratio: float) -> dict[str, Any]:
    """Training arguments that warm up during a share of the steps: a float below 1 is a share."""
    return {"warmup_steps": ratio}


def remove_printer(trainer: Trainer) -> None:
    """Stop a Trainer without a progress bar from printing its logs."""
    trainer.remove_callback(PrinterCallback)


def report_evaluation(trainer: Trainer, metrics: dict[str, float]) -> None:
    """Log metrics of an evaluation and pass them to the callbacks, as `Trainer.evaluate` does."""
    trainer.log(metrics)
    trainer.control = trainer.callback_handler.on_evaluate(
        trainer.args, trainer.state, trainer.control, metrics
    )


@contextmanager
def output_layer_only_at(model: Any, positions: torch.Tensor) -> Iterator[None]:
    """Within the context, a causal LM computes logits [1, selected, vocabulary] at some positions.

    Args:
        model: passes hidden states [batch, tokens, width] once to its output embeddings.
        positions: boolean mask [batch, tokens - 1]; the last token predicts nothing.
    """

    def select(_: torch.nn.Module, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (arguments[0][:, :-1][positions].unsqueeze(0),)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def checkpoint_folder(arguments: TrainingArguments, state: TrainerState) -> Path:
    """The folder that a Trainer has just written its state to."""
    return Path(arguments.output_dir or "") / f"checkpoint-{state.global_step}"


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a Trainer in its output folder, the newest first."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1]))


def best_checkpoint(checkpoint: Path) -> str | None:
    """Name of the checkpoint with the best evaluation so far, read from a later one."""
    best = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")).best_model_checkpoint
    return best and Path(best).name
