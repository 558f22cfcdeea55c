import json

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from mergegrid.checkpoints.compatibility import check_homologous
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.publish import read_manifest
from mergegrid.study.finetuning.classifier import finetune
from mergegrid.study.finetuning.resuming import CheckpointDigests, last_checkpoint
from mergegrid.study.finetuning.training import EpochLog

FOLDER = {
    "config.json",
    "manifest.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "training.json",
}


class KilledError(Exception):
    """Stands for a process killed during training."""


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_an_expert_is_a_folder_of_exactly_these_files(expert):
    assert {path.name for path in expert.iterdir()} == FOLDER
    assert not expert.with_name(f"{expert.name}.state").exists()
    assert set(read_manifest(expert)["files"]) == FOLDER - {"manifest.json"}


def test_the_validation_curve_is_kept_and_the_task_is_learnt(expert):
    training = json.loads((expert / "training.json").read_text())
    assert [entry["epoch"] for entry in training["curve"]] == [1, 2, 3]
    assert max(entry["validation"] for entry in training["curve"]) == 1.0
    assert training["seed"] == 0


def test_an_expert_has_all_tensors_of_its_base_and_a_head_besides(base, expert):
    tensors = open_checkpoint(base), open_checkpoint(expert)
    check_homologous(*tensors, "praise")
    assert set(tensors[1]) - set(tensors[0]) == {"classifier.weight", "classifier.bias"}


def test_the_same_seed_gives_the_same_bytes(base, examples, request_for_praise, expert, tmp_path):
    finetune(base, request_for_praise, examples, tmp_path / "again")
    assert weights(tmp_path / "again") == weights(expert)


def test_another_seed_gives_another_head_and_other_weights(
    base, examples, request_for_praise, expert, tmp_path
):
    other = request_for_praise.model_copy(update={"seed": 1})
    finetune(base, other, examples, tmp_path / "other")
    first, other = open_checkpoint(expert), open_checkpoint(tmp_path / "other")
    assert all((first[name] != other[name]).any() for name in first if first[name].ndim == 2)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_killed_after_an_epoch_goes_on_and_ends_with_the_same_bytes(
    base, examples, request_for_praise, expert, tmp_path, monkeypatch, epoch
):
    folder = tmp_path / "seed~0"
    with monkeypatch.context() as patch:
        patch.setattr(EpochLog, "on_epoch_begin", kill_at(epoch), raising=False)
        with pytest.raises(KilledError):
            finetune(base, request_for_praise, examples, folder)
    assert not folder.exists()
    epochs = count_epochs(monkeypatch)
    finetune(base, request_for_praise, examples, folder)
    assert epochs == list(range(epoch, 3))
    assert weights(folder) == weights(expert)


def test_a_checkpoint_that_was_cut_is_not_used(
    base, examples, request_for_praise, expert, tmp_path, monkeypatch
):
    folder = tmp_path / "seed~0"
    with monkeypatch.context() as patch:
        patch.setattr(EpochLog, "on_epoch_begin", kill_at(2), raising=False)
        with pytest.raises(KilledError):
            finetune(base, request_for_praise, examples, folder)
    newest = sorted(folder.with_name("seed~0.state").glob("checkpoint-*"))[-1]
    (newest / "trainer_state.json").unlink()
    finetune(base, request_for_praise, examples, folder)
    assert weights(folder) == weights(expert)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt"])
def test_a_checkpoint_of_which_a_bit_changed_is_not_used(
    base, examples, request_for_praise, expert, tmp_path, monkeypatch, caplog, name
):
    folder = tmp_path / "seed~0"
    with monkeypatch.context() as patch:
        patch.setattr(EpochLog, "on_epoch_begin", kill_at(2), raising=False)
        with pytest.raises(KilledError):
            finetune(base, request_for_praise, examples, folder)
    for checkpoint in folder.with_name("seed~0.state").glob("checkpoint-*"):
        data = bytearray((checkpoint / name).read_bytes())
        data[len(data) // 2] ^= 1
        (checkpoint / name).write_bytes(data)
    with caplog.at_level("WARNING"):
        finetune(base, request_for_praise, examples, folder)
    assert "is incomplete or damaged; ignoring it" in caplog.text
    assert weights(folder) == weights(expert)


def test_training_starts_over_where_the_best_epoch_is_damaged(tmp_path):
    state = tmp_path / "seed~0.state"
    for step in (8, 16):
        checkpoint = state / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        best = f"elsewhere/seed~0.state/checkpoint-{8}"
        (checkpoint / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": best}))
        CheckpointDigests().on_save(
            TrainingArguments(state, use_cpu=True), TrainerState(global_step=step), TrainerControl()
        )
    assert last_checkpoint(state) == str(state / "checkpoint-16")
    (state / "checkpoint-8" / "trainer_state.json").write_text('{"best_model_checkpoint": null}')
    assert last_checkpoint(state) is None
    assert not list(state.glob("checkpoint-*"))


def test_a_checkpoint_without_digests_is_not_used(tmp_path):
    checkpoint = tmp_path / "checkpoint-8"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text("{}")
    # What a power cut leaves of weights: their size, and zeros.
    (checkpoint / "model.safetensors").write_bytes(bytes(64))
    torch.save({}, checkpoint / "optimizer.pt")
    assert last_checkpoint(tmp_path) is None


def test_state_of_another_request_is_not_used(
    base, examples, request_for_praise, expert, tmp_path, monkeypatch
):
    folder = tmp_path / "seed~0"
    other = request_for_praise.model_copy(update={"seed": 5})
    with monkeypatch.context() as patch:
        patch.setattr(EpochLog, "on_epoch_begin", kill_at(2), raising=False)
        with pytest.raises(KilledError):
            finetune(base, other, examples, folder)
    finetune(base, request_for_praise, examples, folder)
    assert weights(folder) == weights(expert)


def test_regression_has_one_output_and_learns(base, examples, request_for_praise, tmp_path):
    target = request_for_praise.target.model_copy(update={"metric": "pearson", "classes": []})
    request = request_for_praise.model_copy(update={"target": target})
    ratings = examples.assign(label=examples["label"] * 2.0 + 0.5)
    finetune(base, request, ratings, tmp_path / "regression")
    head = open_checkpoint(tmp_path / "regression")["classifier.weight"]
    assert head.shape == (1, 32)
    training = json.loads((tmp_path / "regression" / "training.json").read_text())
    assert max(entry["validation"] for entry in training["curve"]) > 0.9


def test_sentence_pairs_reach_the_model_as_pairs(base, examples, request_for_praise, tmp_path):
    # The answer stands in the second text alone.
    pairs = examples.assign(text_a="the film", text_b=examples["text_a"])
    finetune(base, request_for_praise, pairs, tmp_path / "pairs")
    training = json.loads((tmp_path / "pairs" / "training.json").read_text())
    assert max(entry["validation"] for entry in training["curve"]) == 1.0


def kill_at(epoch):
    def on_epoch_begin(self, args, state, control, **_):
        if round(state.epoch) == epoch:
            raise KilledError

    return on_epoch_begin


def count_epochs(monkeypatch):
    started = []

    def on_epoch_begin(self, args, state, control, **_):
        started.append(round(state.epoch))

    monkeypatch.setattr(EpochLog, "on_epoch_begin", on_epoch_begin, raising=False)
    return started
