import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaModel,
)

from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.errors import CheckpointError
from mergegrid.study.encoders.importing import import_base, import_expert

SMALL = {
    "vocab_size": 17,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def published(model, raw_encoder, folder):
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(raw_encoder).save_pretrained(folder)
    return folder


def test_a_base_keeps_the_values_of_its_file_under_the_classifiers_names(base, raw_encoder):
    imported, raw = open_checkpoint(base), open_checkpoint(raw_encoder)
    assert set(imported) == {f"bert.{name}" for name in raw}
    assert all((imported[f"bert.{name}"] == raw[name]).all() for name in raw)


def test_a_base_has_no_language_model_head_and_no_invented_pooler(raw_encoder, tmp_path):
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**SMALL))
    import_base(published(model, raw_encoder, tmp_path / "raw"), tmp_path / "base", {})
    names = list(open_checkpoint(tmp_path / "base"))
    assert all(name.startswith("bert.") for name in names)
    assert not any("pooler" in name for name in names)


def test_the_pooler_that_roberta_classifiers_lack_is_left_out(raw_encoder, tmp_path):
    torch.manual_seed(0)
    model = RobertaModel(RobertaConfig(**SMALL))
    import_base(published(model, raw_encoder, tmp_path / "raw"), tmp_path / "base", {})
    names = list(open_checkpoint(tmp_path / "base"))
    assert all(name.startswith("roberta.") for name in names)
    assert not any("pooler" in name or "classifier" in name for name in names)


def test_a_base_that_was_a_classifier_loses_its_head(raw_encoder, tmp_path):
    model = BertForSequenceClassification(BertConfig(**SMALL))
    import_base(published(model, raw_encoder, tmp_path / "raw"), tmp_path / "base", {})
    assert all(name.startswith("bert.") for name in open_checkpoint(tmp_path / "base"))


def test_a_base_with_a_value_that_is_no_number_is_refused(raw_encoder, tmp_path):
    model = BertForSequenceClassification(BertConfig(**SMALL))
    with torch.no_grad():
        model.bert.pooler.dense.bias[3] = float("nan")
    raw = published(model, raw_encoder, tmp_path / "raw")
    with pytest.raises(
        CheckpointError, match=r"bert\.pooler\.dense\.bias has values that are not finite"
    ):
        import_base(raw, tmp_path / "base", {})
    assert not (tmp_path / "base").exists()


def test_a_ready_expert_is_imported_with_its_head(raw_encoder, request_for_praise, tmp_path):
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SMALL))
    raw = published(model, raw_encoder, tmp_path / "raw")
    import_base(raw, tmp_path / "base", {})
    import_expert(raw, tmp_path / "base", request_for_praise, tmp_path / "expert", {})
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "expert")
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_a_ready_expert_of_another_base_is_refused(raw_encoder, base, request_for_praise, tmp_path):
    model = BertForSequenceClassification(BertConfig(**SMALL))
    raw = published(model, raw_encoder, tmp_path / "raw")
    with pytest.raises(CheckpointError, match="it was not fine-tuned from this base"):
        import_expert(raw, base, request_for_praise, tmp_path / "expert", {})
    assert not (tmp_path / "expert").exists()


def test_a_ready_expert_without_a_head_is_refused(raw_encoder, base, request_for_praise, tmp_path):
    with pytest.raises(CheckpointError, match=r"lacks classifier\.bias of BertForSequenceCl"):
        import_expert(raw_encoder, base, request_for_praise, tmp_path / "expert", {})


def test_a_ready_expert_of_another_task_is_refused(raw_encoder, base, request_for_praise, tmp_path):
    model = BertForSequenceClassification(BertConfig(**SMALL, num_labels=3))
    raw = published(model, raw_encoder, tmp_path / "raw")
    with pytest.raises(CheckpointError, match="answers with 3 labels, but the task has 2"):
        import_expert(raw, base, request_for_praise, tmp_path / "expert", {})


def test_a_folder_that_is_not_an_encoder_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be loaded as an encoder"):
        import_base(tmp_path, tmp_path / "base", {})
