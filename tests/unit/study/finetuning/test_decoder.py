"""Fine-tuning decoders: training, publishing and resuming."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from small_models import llama, save, tokenizer
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.inspection import inspect
from mergegrid.errors import CheckpointError, ConfigError, DataError
from mergegrid.study.decoders.importing import import_decoder
from mergegrid.study.finetuning.chat_data import IGNORED, EncodedExamples, ExampleEncoder
from mergegrid.study.finetuning.decoder import finetune_decoder
from mergegrid.study.finetuning.training import EpochLog
from mergegrid.study.generation.tokens import PromptTokenizer
from mergegrid.study.schema.decoder_jobs import DecoderFinetuneRequest

COMPANIONS = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
FOLDER = COMPANIONS | {"manifest.json", "model.safetensors", "training.json"}
CHAT = (
    "{% for message in messages %}<s>{{ message.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>{% endif %}"
)
PROMPT = "was {instruction} is"
LORA = {"rank": 4, "targets": ["q_proj", "down_proj"]}


class KilledError(Exception):
    """Stands for a process killed during training."""


def publish_base(folder, dtype=torch.bfloat16, tied=False, template=CHAT):
    save(llama(tied).to(dtype), folder / "raw")
    words = tokenizer()
    words.chat_template = template
    words.save_pretrained(folder / "raw")
    if not template:
        (folder / "raw" / "chat_template.jinja").unlink()
    import_decoder(folder / "raw", folder / "base", {"source": "test"})
    return folder / "base"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return publish_base(tmp_path_factory.mktemp("bfloat16"))


@pytest.fixture(scope="module")
def exact_base(tmp_path_factory):
    return publish_base(tmp_path_factory.mktemp("float32"), torch.float32)


@pytest.fixture(scope="module")
def examples():
    """Two words by which the answer is found, in questions of several lengths."""
    rows = []
    for index in range(72):
        good = index % 2
        filler = " ".join(["film", "book", "one"][: 1 + index % 3])
        question = f"the {'good' if good else 'bad'} {filler}"
        answer = "three four" if good else "one"
        rows.append(("train" if index < 60 else "validation", question, answer))
    return pd.DataFrame(rows, columns=["split", "instruction", "output"])


def request(seed=0, chat=False, prompt=PROMPT, **settings):
    settings = {"learning_rate": 3e-3, "epochs": 3, "batch_size": 8} | settings
    data = {"generated": {"generator": "instructions", "count": 2}}
    return DecoderFinetuneRequest.model_validate(
        {"data": data, "settings": settings, "prompt": prompt, "chat": chat, "seed": seed}
    )


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def losses(folder):
    return [entry["loss"] for entry in json.loads((folder / "training.json").read_text())["curve"]]


@pytest.fixture(scope="module")
def expert(base, examples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("expert") / "seed~0"
    finetune_decoder(base, request(), examples, folder)
    return folder


def test_an_expert_is_a_folder_of_exactly_these_files(base, expert):
    assert {path.name for path in expert.iterdir()} == FOLDER
    assert not expert.with_name(f"{expert.name}.state").exists()
    assert inspect(expert).verified
    for name in COMPANIONS:
        assert (expert / name).read_bytes() == (base / name).read_bytes()


def test_the_loss_falls_and_the_curve_is_kept(expert):
    training = json.loads((expert / "training.json").read_text())
    assert [entry["epoch"] for entry in training["curve"]] == [1, 2, 3]
    assert losses(expert)[-1] < losses(expert)[0] / 2
    assert training["seed"] == 0


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("lora", [None, LORA])
def test_an_expert_has_exactly_the_tensors_of_its_base(tied, lora, examples, tmp_path):
    base = publish_base(tmp_path, tied=tied)
    finetune_decoder(base, request(epochs=1, lora=lora), examples, tmp_path / "expert")
    before, after = open_checkpoint(base), open_checkpoint(tmp_path / "expert")
    assert dict(after.infos) == dict(before.infos)
    assert ("lm_head.weight" in after) is not tied
    assert any((before[name] != after[name]).any() for name in before)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(base, examples, expert, tmp_path):
    finetune_decoder(base, request(), examples, tmp_path / "again")
    finetune_decoder(base, request(seed=1), examples, tmp_path / "other")
    assert weights(tmp_path / "again") == weights(expert)
    assert weights(tmp_path / "other") != weights(expert)


@pytest.mark.parametrize(
    ("epoch", "settings"),
    [
        (1, {}),
        (2, {}),
        (1, {"lora": LORA | {"dropout": 0.2}}),
        (2, {"lora": LORA | {"dropout": 0.2}}),
        (2, {"towards_base": 0.1}),
    ],
)
def test_a_run_killed_after_an_epoch_goes_on_and_ends_with_the_same_bytes(
    base, examples, tmp_path, monkeypatch, epoch, settings
):
    requested = request(**settings)
    finetune_decoder(base, requested, examples, tmp_path / "undisturbed")
    folder = tmp_path / "seed~0"
    with monkeypatch.context() as patch:
        patch.setattr(EpochLog, "on_epoch_begin", kill_at(epoch), raising=False)
        with pytest.raises(KilledError):
            finetune_decoder(base, requested, examples, folder)
    assert not folder.exists()
    epochs = count_epochs(monkeypatch)
    finetune_decoder(base, requested, examples, folder)
    assert epochs == list(range(epoch, 3))
    assert weights(folder) == weights(tmp_path / "undisturbed")
    assert losses(folder) == losses(tmp_path / "undisturbed")


def test_the_loss_is_the_mean_over_the_tokens_of_answers(exact_base, examples, tmp_path):
    finetune_decoder(
        exact_base, request(learning_rate=1e-12, epochs=1), examples, tmp_path / "unchanged"
    )
    words = AutoTokenizer.from_pretrained(exact_base)
    model = AutoModelForCausalLM.from_pretrained(exact_base, dtype=torch.float32).eval()
    total, count = 0.0, 0
    for row in examples[examples["split"] == "validation"].itertuples():
        question = words(PROMPT.replace("{instruction}", row.instruction))["input_ids"]
        answer = [*words(row.output)["input_ids"], words.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([question + answer])).logits[0, len(question) - 1 : -1]
        total += float(cross_entropy(logits, torch.tensor(answer), reduction="sum"))
        count += len(answer)
    assert losses(tmp_path / "unchanged") == [pytest.approx(total / count, rel=1e-5)]


def test_parts_of_a_step_add_up_to_the_step(exact_base, examples, tmp_path):
    for parts in (1, 4):
        requested = request(epochs=1, accumulation=parts)
        finetune_decoder(exact_base, requested, examples, tmp_path / f"parts-{parts}")
    whole, parts = (open_checkpoint(tmp_path / f"parts-{parts}") for parts in (1, 4))
    for name, start in open_checkpoint(exact_base).items():
        assert np.abs(whole[name] - parts[name]).max() < np.abs(whole[name] - start).max() / 100


def test_adapters_are_merged_as_a_change_of_low_rank(exact_base, examples, tmp_path):
    finetune_decoder(exact_base, request(lora=LORA), examples, tmp_path / "expert")
    before, after = open_checkpoint(exact_base), open_checkpoint(tmp_path / "expert")
    for name in before:
        change = after[name].astype(np.float64) - before[name]
        if any(target in name for target in LORA["targets"]):
            sizes = np.linalg.svd(change, compute_uv=False)
            assert sizes[0] > 1e-3
            # What is left beyond the rank is the rounding of float32.
            assert sizes[LORA["rank"]] < sizes[0] / 1000
        else:
            assert not change.any()


def test_a_bfloat16_expert_is_the_float32_one_rounded_once(base, examples, tmp_path):
    # The same numbers in float32: what is learnt is the same, and only the rounding differs.
    raw = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    save(raw, tmp_path / "raw")
    import_decoder(tmp_path / "raw", tmp_path / "wide", {}, tokenizer=base)
    requested = request(epochs=1)
    finetune_decoder(base, requested, examples, tmp_path / "rounded")
    finetune_decoder(tmp_path / "wide", requested, examples, tmp_path / "exact")
    rounded, exact = open_checkpoint(tmp_path / "rounded"), open_checkpoint(tmp_path / "exact")
    for name in rounded:
        once = torch.from_numpy(exact[name]).to(torch.bfloat16).float().numpy()
        assert np.array_equal(rounded[name], once)


def test_checkpointing_of_gradients_changes_no_bit(base, examples, expert, tmp_path):
    finetune_decoder(base, request(gradient_checkpointing=True), examples, tmp_path / "expert")
    assert weights(tmp_path / "expert") == weights(expert)


def test_products_in_bfloat16_learn_too(base, examples, expert, tmp_path):
    finetune_decoder(base, request(precision="bfloat16"), examples, tmp_path / "expert")
    assert weights(tmp_path / "expert") != weights(expert)
    assert losses(tmp_path / "expert")[-1] == pytest.approx(losses(expert)[-1], rel=0.2)


def test_weights_that_are_not_finite_are_refused(base, examples, tmp_path, monkeypatch):
    def break_down(self, args, state, control, model, **_):
        with torch.no_grad():
            next(model.parameters())[0, 0] = float("nan")

    monkeypatch.setattr(EpochLog, "on_epoch_end", break_down, raising=False)
    with pytest.raises(CheckpointError, match=r"non-finite.*learning rate"):
        finetune_decoder(base, request(epochs=1), examples, tmp_path / "expert")
    assert not (tmp_path / "expert").exists()


@pytest.mark.parametrize("chat", [False, True])
def test_a_question_is_learnt_as_it_will_be_asked(base, chat):
    encoder, prompts = ExampleEncoder(base, PROMPT, chat), PromptTokenizer(base)
    question, answer = encoder.encode("the good film", "three four")
    prompt = prompts.chat("the good film") if chat else prompts.encode("was the good film is")
    assert tuple(question) == prompt
    words = AutoTokenizer.from_pretrained(base)
    assert answer == [*words("three four")["input_ids"], words.eos_token_id]


def test_only_answers_have_labels_and_long_ones_are_cut(base):
    examples = pd.DataFrame(
        {"instruction": ["the film", "the " * 20], "output": ["one two three", "one"]}
    )
    (row,) = EncodedExamples(ExampleEncoder(base, PROMPT, chat=False), examples, max_length=6)
    assert row["labels"][:4] == [IGNORED] * 4
    assert row["labels"][4:] == row["input_ids"][4:]
    assert len(row["input_ids"]) == 6


def test_examples_that_are_all_too_long_are_refused(base, examples, tmp_path):
    long = examples.assign(instruction="the " * 20)
    with pytest.raises(DataError, match="no question is shorter than 16 tokens"):
        finetune_decoder(base, request(max_length=16), long, tmp_path / "expert")


def test_a_chat_needs_a_template(examples, tmp_path):
    base = publish_base(tmp_path, template=None)
    with pytest.raises(CheckpointError, match=r"has no chat template; set `chat: false`"):
        finetune_decoder(base, request(chat=True), examples, tmp_path / "expert")


def test_a_template_that_rewrites_questions_is_refused(examples, tmp_path):
    base = publish_base(tmp_path, template="{{ messages | length }}{{ messages[-1].content }}")
    with pytest.raises(CheckpointError, match="renders a question differently once it is answ"):
        finetune_decoder(base, request(chat=True), examples, tmp_path / "expert")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accumulation": 3}, "batch_size 8 is not divisible by accumulation 3"),
        ({"lora": {"targets": ["attention"]}}, r"lora\.targets = \['attention'\]"),
    ],
)
def test_settings_that_cannot_be_are_refused(base, examples, tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        finetune_decoder(base, request(**settings), examples, tmp_path / "expert")


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
