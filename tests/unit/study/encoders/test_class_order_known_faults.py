"""Ready classifiers whose classes are in another order than the labels of the task."""

import json
import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from mergegrid.errors import CheckpointError
from mergegrid.study.encoders.class_order import class_names, outputs_of
from mergegrid.study.encoders.importing import TRAINING, import_base, import_expert
from mergegrid.study.schema.encoder_jobs import FinetuneRequest
from mergegrid.study.schema.tasks import Target

SMALL = {
    "vocab_size": 17,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "pad_token_id": 0,
}
#: Heads by the names of their tensors: classifier; .dense and .out_proj; pre_classifier; a pooler;
#: score; logits_proj; head and classifier.
HEADS = {
    "bert": lambda **c: BertForSequenceClassification(BertConfig(**SMALL, **c)),
    "roberta": lambda **c: RobertaForSequenceClassification(RobertaConfig(**SMALL, **c)),
    "electra": lambda **c: ElectraForSequenceClassification(ElectraConfig(**SMALL, **c)),
    "deberta": lambda **c: DebertaV2ForSequenceClassification(DebertaV2Config(**SMALL, **c)),
    "distilbert": lambda **c: DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=17, dim=32, n_layers=1, n_heads=2, hidden_dim=64, **c)
    ),
    "modernbert": lambda **c: ModernBertForSequenceClassification(ModernBertConfig(**SMALL, **c)),
    "gpt2": lambda **c: GPT2ForSequenceClassification(
        GPT2Config(vocab_size=17, n_embd=32, n_layer=1, n_head=2, pad_token_id=0, **c)
    ),
    "xlnet": lambda **c: XLNetForSequenceClassification(
        XLNetConfig(vocab_size=17, d_model=32, n_layer=1, n_head=2, d_inner=64, **c)
    ),
}
NLI = ["entailment", "neutral", "contradiction"]
MNLI = ["contradiction", "neutral", "entailment"]


def request(labels, **changes):
    target = Target(task="t", metric="accuracy", classes=labels, max_length=16, **changes)
    return FinetuneRequest(target=target, settings=None, seed=0)


def published(model, raw_encoder, folder, **config):
    """Save a model with values of its config; None removes a key."""
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(raw_encoder).save_pretrained(folder)
    path = folder / "config.json"
    values = json.loads(path.read_text()) | config
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return folder


def logits(model):
    ids = torch.arange(1, 13).view(2, 6)
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def numbered(names):
    return {str(index): name for index, name in enumerate(names)}


def imported(raw, tmp_path, requested):
    """Import a classifier as an expert of the model in it."""
    body = AutoModelForSequenceClassification.from_pretrained(raw).base_model
    body.save_pretrained(tmp_path / "body")
    AutoTokenizer.from_pretrained(raw).save_pretrained(tmp_path / "body")
    import_base(tmp_path / "body", tmp_path / "base", {})
    import_expert(raw, tmp_path / "base", requested, tmp_path / "expert", {})
    return AutoModelForSequenceClassification.from_pretrained(tmp_path / "expert")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("count", [3, 32])  # 32 units in other layers of the head, too.
def test_classes_are_put_in_the_order_of_the_task(head, count, raw_encoder, tmp_path, caplog):
    torch.manual_seed(0)
    labels = [f"class {index}" for index in range(count)]
    turned = labels[1:] + labels[:1]
    model = HEADS[head](num_labels=count)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    config = {"id2label": numbered(turned), "label2id": None}
    raw = published(model, raw_encoder, tmp_path / "raw", **config)
    # A base is imported as a classifier of two classes.
    base = published(HEADS[head](num_labels=2), raw_encoder, tmp_path / "raw base")
    import_base(base, tmp_path / "base", {})
    with caplog.at_level(logging.INFO):
        import_expert(raw, tmp_path / "base", request(labels), tmp_path / "expert", {})
    expert = AutoModelForSequenceClassification.from_pretrained(tmp_path / "expert")
    expected = logits(model)[:, [turned.index(label) for label in labels]]
    torch.testing.assert_close(logits(expert), expected, rtol=0, atol=1e-5)
    assert expert.config.id2label == dict(enumerate(labels))
    assert expert.config.label2id == {label: index for index, label in enumerate(labels)}
    assert f"reordered to {labels[0]}, {labels[1]}" in caplog.text


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (MNLI, NLI, [2, 1, 0]),
        (NLI, NLI, [0, 1, 2]),
        (["CONTRADICTION", "NEUTRAL", "ENTAILMENT"], NLI, [2, 1, 0]),
        (["Not_Entailment", "Entailment"], ["entailment", "not entailment"], [1, 0]),
        (["not-entailment", " entailment "], ["entailment", "not_entailment"], [1, 0]),
        (["1", "0"], [0, 1], [1, 0]),
        (["False", "True"], [True, False], [1, 0]),
        (["true", "false"], [False, True], [1, 0]),
        (["a", "A"], ["A", "a"], [1, 0]),
        # Positions, and nothing else.
        (["LABEL_0", "LABEL_1"], ["pos", "neg"], None),
        (["label_0", "label_1"], ["pos", "neg"], None),
        (["0", "1"], ["pos", "neg"], None),
        (["0", "1"], [0, 1], [0, 1]),
        (["LABEL_1", "LABEL_0"], ["LABEL_0", "LABEL_1"], [1, 0]),
    ],
)
def test_names_are_matched_where_they_can_be(names, labels, expected):
    assert outputs_of(names, labels, "model") == expected


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["negative", "positive"], ["neg", "pos"]),
        (MNLI, [0, 1, 2]),
        (MNLI, ["entailment", "neutral", "unknown"]),
        (["LABEL_1", "LABEL_0"], ["pos", "neg"]),
        (["A", "a"], ["a", "b"]),
        (["a", "a"], ["a", "b"]),
        (["1", "2"], [0, 1]),
    ],
)
def test_names_that_are_not_the_tasks_are_refused(names, labels):
    with pytest.raises(
        CheckpointError, match=f"model answers with .* {', '.join(names)}, which do not"
    ):
        outputs_of(names, labels, "model")


@given(st.permutations(range(6)), st.lists(st.text(min_size=1), min_size=6, max_size=6))
def test_any_order_of_names_is_undone(order, words):
    labels = [f"{word}{index}" for index, word in enumerate(words)]
    if len({label.strip() for label in labels}) < 6:
        return
    outputs = outputs_of([labels[at] for at in order], labels, "model")
    assert [order[at] for at in outputs] == list(range(6))


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"id2label": numbered(MNLI)}, MNLI),
        ({"id2label": {"2": "c", "0": "a", "1": "b"}}, ["a", "b", "c"]),
        ({"label2id": {"c": 2, "a": 0, "b": "1"}}, ["a", "b", "c"]),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"x": 1, "y": 0}}, ["y", "x"]),
        ({"id2label": {"0": "y", "1": "x"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}, ["y", "x"]),
        ({"id2label": None}, None),
        ({"id2label": {}}, None),
        ({"num_labels": 3}, None),
    ],
)
def test_names_come_from_either_part_of_the_config(tmp_path, config, names):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert class_names(tmp_path) == names


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"id2label": {"1": "a", "2": "b"}}, "id2label .* does not number the classes from 0"),
        ({"id2label": ["a", "b"]}, "id2label .* does not number the classes from 0"),
        ({"id2label": {"first": "a"}}, "id2label .* does not number the classes from 0"),
        ({"label2id": {"a": 1}}, "label2id .* does not number the classes from 0"),
        (
            {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}},
            r"contradicts itself: id2label names the classes \['a', 'b'\], label2id \['b', 'a'\]",
        ),
    ],
)
def test_a_config_that_is_unclear_about_its_classes_is_refused(tmp_path, config, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        class_names(tmp_path)


def test_unknown_names_are_said_and_noted(raw_encoder, tmp_path, caplog):
    model = HEADS["bert"](num_labels=3)
    raw = published(model, raw_encoder, tmp_path / "raw")
    with caplog.at_level(logging.WARNING):
        expert = imported(raw, tmp_path, request(NLI))
    torch.testing.assert_close(logits(expert), logits(model), rtol=0, atol=1e-6)
    assert "does not name its classes; they are assumed to be in the order of" in caplog.text
    (note,) = json.loads((tmp_path / "expert" / TRAINING).read_text())["notes"]
    assert "order of the task: entailment, neutral, contradiction" in note
    assert str(tmp_path) not in note


def test_the_task_can_say_how_a_checkpoint_names_its_labels(raw_encoder, tmp_path):
    torch.manual_seed(0)
    model = HEADS["roberta"](num_labels=3)
    raw = published(model, raw_encoder, tmp_path / "raw", id2label=numbered(MNLI), label2id=None)
    with pytest.raises(CheckpointError, match=r"list the names of its classes.*`label_names`"):
        imported(raw, tmp_path, request([0, 1, 2]))
    expert = imported(raw, tmp_path / "again", request([0, 1, 2], label_names=NLI))
    torch.testing.assert_close(logits(expert), logits(model)[:, [2, 1, 0]], rtol=0, atol=1e-6)
    assert expert.config.id2label == {0: "0", 1: "1", 2: "2"}


def test_an_imported_expert_can_be_imported_again(raw_encoder, tmp_path):
    model = HEADS["bert"](num_labels=3)
    raw = published(model, raw_encoder, tmp_path / "raw", id2label=numbered(MNLI), label2id=None)
    first = imported(raw, tmp_path, request(NLI))
    second = imported(tmp_path / "expert", tmp_path / "again", request(NLI))
    torch.testing.assert_close(logits(first), logits(second), rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [{"id2label": {"0": "score"}}, {}])
def test_heads_of_regressions_have_no_order(raw_encoder, tmp_path, config, caplog):
    model = HEADS["bert"](num_labels=1)
    raw = published(model, raw_encoder, tmp_path / "raw", **config)
    target = Target(task="t", metric="pearson", classes=[], max_length=16)
    expert = imported(raw, tmp_path, FinetuneRequest(target=target, settings=None, seed=0))
    torch.testing.assert_close(logits(expert), logits(model), rtol=0, atol=1e-6)
    assert "order" not in caplog.text


@pytest.mark.parametrize("part", ["id2label", "label2id"])
def test_another_number_of_classes_is_refused(raw_encoder, tmp_path, part):
    model = HEADS["bert"](num_labels=3)
    names = numbered(MNLI) if part == "id2label" else {name: at for at, name in enumerate(MNLI)}
    config = {"id2label": None, "label2id": None} | {part: names}
    raw = published(model, raw_encoder, tmp_path / "raw", **config)
    with pytest.raises(CheckpointError, match="answers with 3 labels, but the task has 2"):
        import_expert(raw, raw, request(["a", "b"]), tmp_path / "expert", {})
