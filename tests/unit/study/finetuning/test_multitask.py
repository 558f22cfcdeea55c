import json

import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification, RobertaConfig, RobertaModel

from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.publish import published_digest, read_manifest
from mergegrid.study.encoders.importing import import_base
from mergegrid.study.encoders.oracle import score_oracle
from mergegrid.study.finetuning import multitask
from mergegrid.study.finetuning.multitask import STATE, finetune_together
from mergegrid.study.schema.encoder_jobs import OracleRequest
from mergegrid.study.schema.tasks import Target
from mergegrid.study.scoring.scores import COLUMNS

EXPERTS = ["praise", "rating", "kind"]
HEADS = {"praise": 2, "rating": 1, "kind": 3}


class KilledError(Exception):
    """Stands for a process killed during training."""


@pytest.fixture(scope="module")
def tables(examples):
    """Praise or blame, how much of it, and one of three kinds; the tasks differ in length."""
    text = examples["text_a"].str
    sad = text.contains("sad") | text.contains("awful")
    kinds = examples.assign(label=(examples["label"] == 0) * 1 + sad * 1)
    ratings = examples.assign(label=examples["label"] * 2.0 - sad)
    short = pd.concat([ratings[ratings["split"] == "train"][:72], ratings[192:]])
    return {"praise": examples, "rating": short, "kind": kinds}


@pytest.fixture(scope="module")
def request_for_all():
    kinds = {"praise": ("accuracy", [0, 1]), "rating": ("pearson", []), "kind": ("accuracy", "abc")}
    targets = [
        Target(task=name, metric=metric, classes=list(classes), max_length=16)
        for name, (metric, classes) in kinds.items()
    ]
    settings = {"learning_rate": 1e-2, "epochs": 3, "batch_size": 8}
    return OracleRequest(family="tiny", experts=EXPERTS, targets=targets, settings=settings, seed=0)


@pytest.fixture(scope="module")
def oracle(base, tables, request_for_all, tmp_path_factory):
    folder = tmp_path_factory.mktemp("oracle") / "seed~0"
    finetune_together(base, request_for_all, list(tables.values()), folder)
    return folder


def weights(folder):
    return {name: (folder / name / "model.safetensors").read_bytes() for name in EXPERTS}


def test_an_oracle_is_a_published_folder_with_a_published_classifier_for_each_expert(oracle):
    assert {path.name for path in oracle.iterdir()} == {*EXPERTS, "manifest.json", "training.json"}
    assert not oracle.with_name("seed~0.state").exists()
    for name in EXPERTS:
        files = {path.name for path in (oracle / name).iterdir()}
        assert files == {*read_manifest(oracle / name)["files"], "manifest.json"}
        assert {"config.json", "model.safetensors", "tokenizer.json", "training.json"} <= files
    assert f"{EXPERTS[0]}/model.safetensors" in read_manifest(oracle)["files"]


def test_all_share_one_body_and_each_has_the_head_of_its_task(oracle, base):
    opened = {name: open_checkpoint(oracle / name) for name in EXPERTS}
    for name, checkpoint in opened.items():
        head = {"classifier.weight", "classifier.bias"}
        assert set(checkpoint) - set(open_checkpoint(base)) == head
        assert checkpoint["classifier.weight"].shape == (HEADS[name], 32)
        for tensor in open_checkpoint(base):
            assert (checkpoint[tensor] == opened["praise"][tensor]).all()
        model = AutoModelForSequenceClassification.from_pretrained(oracle / name)
        assert model.num_labels == HEADS[name]
    pooler = "bert.pooler.dense.weight"
    assert (opened["praise"][pooler] != open_checkpoint(base)[pooler]).any()


def test_every_task_is_learnt_well_above_an_untrained_model(
    oracle, base, tables, request_for_all, tmp_path
):
    settings = request_for_all.settings.model_copy(update={"learning_rate": 1e-9, "epochs": 1})
    idle = request_for_all.model_copy(update={"settings": settings})
    finetune_together(base, idle, list(tables.values()), tmp_path / "idle")
    trained, untrained = (
        score_oracle(request_for_all, folder, tables).query("split == 'test'")["value"]
        for folder in (oracle, tmp_path / "idle")
    )
    assert (trained > 0.7).all()
    assert (trained > untrained + 0.2).all()


def test_scores_are_rows_of_the_tidy_table(oracle, tables, request_for_all):
    scores = score_oracle(request_for_all, oracle, tables)
    assert list(scores.columns) == list(COLUMNS)
    assert list(zip(scores["head"], scores["split"], scores["n"], strict=True)) == [
        (name, split, n) for name in EXPERTS for split, n in (("validation", 16), ("test", 24))
    ]
    constant = {
        "study": "oracle", "method": "multitask", "sparsifier": "none", "rate": 0.0,
        "experts": "kind+praise+rating", "selected": True, "selection": "none", "engine": "",
        "recipe": "tiny/praise+rating+kind/multitask", "recipe_digest": request_for_all.digest,
    }  # fmt: skip
    for column, value in constant.items():
        assert (scores[column] == value).all(), column


def test_the_curve_has_every_task_and_the_best_mean_was_kept(oracle, tables, request_for_all):
    curve = json.loads((oracle / "training.json").read_text())["curve"]
    assert [entry["epoch"] for entry in curve] == [1, 2, 3]
    for entry in curve:
        assert entry["validation"] == pytest.approx(sum(entry["tasks"].values()) / 3)
    best = max(curve, key=lambda entry: entry["validation"])
    scores = score_oracle(request_for_all, oracle, tables).query("split == 'validation'")
    assert dict(zip(scores["head"], scores["value"], strict=True)) == pytest.approx(best["tasks"])
    training = json.loads((oracle / "rating" / "training.json").read_text())
    assert [entry["validation"] for entry in training["curve"]] == [
        entry["tasks"]["rating"] for entry in curve
    ]
    assert training["target"]["task"] == "rating"


@pytest.mark.parametrize(("epoch", "towards_base"), [(1, 0.0), (2, 0.0), (2, 0.05)])
def test_a_run_killed_after_an_epoch_goes_on_and_ends_with_the_same_bytes(
    base, tables, request_for_all, oracle, tmp_path, monkeypatch, epoch, towards_base
):
    request, undisturbed = request_for_all, oracle
    if towards_base:
        settings = request.settings.model_copy(update={"towards_base": towards_base})
        request = request.model_copy(update={"settings": settings})
        undisturbed = tmp_path / "undisturbed"
        finetune_together(base, request, list(tables.values()), undisturbed)
        assert weights(undisturbed) != weights(oracle)
    folder = tmp_path / "seed~0"
    kill_after(epoch, base, request, tables, folder, monkeypatch)
    assert not folder.exists()
    finished = []
    with monkeypatch.context() as patch:
        patch.setattr(multitask, "_log_epoch", lambda entry, _: finished.append(entry["epoch"]))
        finetune_together(base, request, list(tables.values()), folder)
    assert finished == list(range(epoch + 1, 4))
    assert weights(folder) == weights(undisturbed)
    assert published_digest(folder) == published_digest(undisturbed)


def test_state_that_was_cut_or_is_of_another_seed_is_not_used(
    base, tables, request_for_all, oracle, tmp_path, monkeypatch
):
    other = request_for_all.model_copy(update={"seed": 1})
    folder = tmp_path / "seed~0"
    kill_after(2, base, other, tables, folder, monkeypatch)
    finetune_together(base, request_for_all, list(tables.values()), folder)
    assert weights(folder) == weights(oracle)
    again = tmp_path / "again"
    kill_after(2, base, request_for_all, tables, again, monkeypatch)
    state = again.with_name("again.state") / STATE
    state.write_bytes(state.read_bytes()[:5000])
    finetune_together(base, request_for_all, list(tables.values()), again)
    assert weights(again) == weights(oracle)


def test_another_seed_gives_other_weights(base, tables, request_for_all, oracle, tmp_path):
    other = request_for_all.model_copy(update={"seed": 1})
    finetune_together(base, other, list(tables.values()), tmp_path / "other")
    first, other = weights(oracle), weights(tmp_path / "other")
    assert all(first[name] != other[name] for name in EXPERTS)


def test_an_epoch_is_one_pass_over_the_longest_task_and_shorter_ones_start_over_shuffled(
    base, tables, request_for_all, tmp_path, monkeypatch
):
    batches = {name: [] for name in EXPERTS}
    plain = multitask._Task.loss

    def loss(self, rows):
        batches[self._target.task].append(rows)
        return plain(self, rows)

    monkeypatch.setattr(multitask._Task, "loss", loss)
    settings = request_for_all.settings.model_copy(update={"epochs": 1, "batch_size": 16})
    request = request_for_all.model_copy(update={"settings": settings})
    finetune_together(base, request, list(tables.values()), tmp_path / "one")
    assert {name: len(rows) for name, rows in batches.items()} == dict.fromkeys(EXPERTS, 12)
    assert sorted(row for rows in batches["praise"] for row in rows) == list(range(192))
    # 72 examples are four batches of 16 and one of 8.
    passes = [
        [row for rows in batches["rating"][start : start + 5] for row in rows] for start in (0, 5)
    ]
    assert [sorted(rows) for rows in passes] == [list(range(72))] * 2
    assert passes[0] != passes[1]


def test_a_step_descends_on_the_sum_of_the_mean_losses(base, tables, request_for_all):
    models = multitask._models(base, request_for_all.targets)
    tokenizer = multitask.AutoTokenizer.from_pretrained(base)
    for model, target, table in zip(models, request_for_all.targets, tables.values(), strict=True):
        model.eval()
        task = multitask._Task(model, tokenizer, target, table, "cpu")
        part = table[table["split"] == "train"][:5]
        inputs = tokenizer(part["text_a"].tolist(), return_tensors="pt", padding=True)
        logits, labels = model(**inputs).logits, torch.tensor(part["label"].to_numpy())
        if target.is_regression:
            expected = ((logits[:, 0] - labels) ** 2).mean()
        else:
            expected = -logits.log_softmax(1)[range(5), labels].mean()
        torch.testing.assert_close(task.loss(list(range(5))), expected, check_dtype=False)
    body = models[0].bert.encoder.layer[0].output.dense.weight
    assert all(model.bert.encoder.layer[0].output.dense.weight is body for model in models)


def test_roberta_has_the_two_layers_of_an_experts_head_for_each_task(
    raw_encoder, tables, request_for_all, tmp_path
):
    tokenizer = multitask.AutoTokenizer.from_pretrained(raw_encoder)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=40, type_vocab_size=2, pad_token_id=0,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(tmp_path / "raw")
    tokenizer.save_pretrained(tmp_path / "raw")
    import_base(tmp_path / "raw", tmp_path / "base", {"source": "test"})
    settings = request_for_all.settings.model_copy(update={"epochs": 1})
    request = request_for_all.model_copy(update={"settings": settings})
    finetune_together(tmp_path / "base", request, list(tables.values()), tmp_path / "oracle")
    experts = [open_checkpoint(tmp_path / "oracle" / name) for name in ("praise", "kind")]
    head = set(experts[0]) - set(open_checkpoint(tmp_path / "base"))
    assert head == {
        f"classifier.{layer}.{part}"
        for layer in ("dense", "out_proj")
        for part in ("weight", "bias")
    }
    dense = "classifier.dense.weight"
    assert (experts[0][dense] != experts[1][dense]).any()


def kill_after(epoch, base, request, tables, folder, monkeypatch):
    plain = multitask._save

    def save(path, models, optimizer, schedule, curve, best):
        plain(path, models, optimizer, schedule, curve, best)
        if len(curve) == epoch:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(multitask, "_save", save)
        with pytest.raises(KilledError):
            finetune_together(base, request, list(tables.values()), folder)
