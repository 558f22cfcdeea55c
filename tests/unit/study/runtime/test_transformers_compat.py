"""The contracts of transformers that `transformers_compat` relies on."""

import pytest
import torch
from small_models import llama
from transformers import (
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from mergegrid.study.runtime import transformers_compat as compat

#: Examples of alternating length.
EXAMPLES = [{"input_ids": [3] * length, "labels": [3] * length} for length in [4, 12] * 256]


def collate(rows):
    width = max(len(row["input_ids"]) for row in rows)
    return {
        key: torch.tensor([row[key] + [0] * (width - len(row[key])) for row in rows])
        for key in ("input_ids", "labels")
    }


@pytest.fixture
def trainer(tmp_path):
    def make(callbacks=(), **arguments):
        arguments = TrainingArguments(
            **{"output_dir": str(tmp_path), "use_cpu": True, "disable_tqdm": True, "report_to": []}
            | {"dataloader_pin_memory": False, "max_steps": 2, "save_strategy": "no"}
            | arguments
        )
        return Trainer(
            model=llama(),
            args=arguments,
            train_dataset=EXAMPLES,
            eval_dataset=EXAMPLES,
            data_collator=collate,
            callbacks=list(callbacks),
        )

    return make


def test_a_float_below_1_is_a_share_of_the_steps(tmp_path):
    for ratio, steps in ((0.0, 0), (0.06, 6), (0.5, 50)):
        arguments = TrainingArguments(output_dir=str(tmp_path), **compat.warmup(ratio))
        assert arguments.get_warmup_steps(100) == steps


def test_batches_are_grouped_by_length(trainer):
    grouped = trainer(**compat.GROUP_BY_LENGTH, per_device_train_batch_size=8)
    padded = [batch["input_ids"].eq(0).sum().item() for batch in grouped.get_train_dataloader()]
    # Without grouping, nearly all batches would have both lengths.
    assert len(padded) == 64
    assert sum(count > 0 for count in padded) < 10


def test_nothing_is_printed_without_the_printer(trainer, capsys):
    noisy, quiet = (trainer(logging_strategy="steps", logging_steps=1) for _ in range(2))
    noisy.train()
    assert "loss" in capsys.readouterr().out
    compat.remove_printer(quiet)
    quiet.train()
    assert capsys.readouterr().out == ""


def test_an_evaluation_is_logged_and_passed_to_callbacks(trainer):
    reported = []

    class Listener(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics=None, **_):
            reported.append(metrics["eval_loss"])

    made = trainer([Listener()])
    compat.report_evaluation(made, {"eval_loss": 0.5})
    assert reported == [0.5]
    assert made.state.log_history[-1]["eval_loss"] == 0.5
    assert isinstance(made.control, TrainerControl)


def test_the_output_layer_sees_the_selected_states_alone():
    model = llama().eval()
    ids = torch.arange(12).view(2, 6) % 7
    positions = torch.zeros(2, 5, dtype=torch.bool)
    positions[0, 1], positions[1, 4] = True, True
    whole = model(input_ids=ids).logits
    with compat.output_layer_only_at(model, positions):
        selected = model(input_ids=ids).logits
    torch.testing.assert_close(selected, whole[:, :-1][positions].unsqueeze(0))
    assert model(input_ids=ids).logits.shape == whole.shape


def test_weights_are_not_initialized_within_the_context(monkeypatch):
    config = llama().config
    initialized = []
    monkeypatch.setattr(
        LlamaForCausalLM, "_init_weights", lambda self, module: initialized.append(module)
    )
    with compat.no_init_weights():
        LlamaForCausalLM(config)
    assert not initialized
    LlamaForCausalLM(config)
    assert initialized


def test_checkpoints_are_where_and_what_a_trainer_writes(trainer, tmp_path):
    class Recorder(TrainerCallback):
        folders = []

        def on_save(self, args, state, control, **_):
            self.folders.append(compat.checkpoint_folder(args, state))

    every_step = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps"}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss"}
    trainer([Recorder()], **every_step, **best, eval_steps=1).train()
    assert compat.checkpoints(tmp_path) == Recorder.folders[::-1]
    assert compat.best_checkpoint(Recorder.folders[-1]) in {path.name for path in Recorder.folders}
    state = TrainerState()
    state.save_to_json(str(Recorder.folders[0] / "trainer_state.json"))
    assert compat.best_checkpoint(Recorder.folders[0]) is None


def test_checkpoints_are_ordered_by_their_number(tmp_path):
    for step in (9, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert [path.name for path in compat.checkpoints(tmp_path)] == [
        "checkpoint-100", "checkpoint-10", "checkpoint-9",
    ]  # fmt: skip
