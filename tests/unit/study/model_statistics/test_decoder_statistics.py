"""Statistics of real, tiny decoders against their definitions."""

import json
import logging
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from small_models import family, finetuned, llama, save, tokenizer
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.model_statistics import open_statistics
from mergegrid.checkpoints.publish import published_digest, read_manifest
from mergegrid.errors import CheckpointError, DataError
from mergegrid.methods.fisher import Fisher
from mergegrid.methods.regmean import RegMean
from mergegrid.study.decoders.importing import import_decoder
from mergegrid.study.model_statistics.calibration import TokenSequence
from mergegrid.study.model_statistics.decoder_fisher import target_uniforms
from mergegrid.study.model_statistics.decoder_statistics import (
    gather_decoder,
    gather_files,
    open_decoder,
)
from mergegrid.study.schema.decoder_jobs import StatisticsRequest
from mergegrid.study.schema.encoder_jobs import Statistic

KINDS = ("fisher", "regmean")


def sequences(count=6):
    """Sequences of 5, 7, 9 ... tokens, of which all but the first three count."""
    generator = torch.Generator().manual_seed(3)
    lengths = [5 + 2 * index for index in range(count)]
    return [
        TokenSequence(
            torch.randint(0, 60, (length,), generator=generator).tolist(),
            [False] * 3 + [True] * (length - 3),
        )
        for length in lengths
    ]


def model_of(folder, tied=False, **options):
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder, **options)
    return model


def gathered(model, folder, counts=(6,), kinds=KINDS, texts=None, **options):
    folder.mkdir(exist_ok=True)
    files = {
        folder / f"{kind}~{count}.safetensors": Statistic(
            kind=kind, arithmetic="exact", examples=count
        )
        for kind in kinds
        for count in counts
    }
    gather_files(open_decoder(model, **options), texts or sequences(), files)
    return folder


def information(model, texts):
    """mean_x (d sum_t log p(y_t | x_<t) / d theta)^2, by the gradient of the whole model."""
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    for row, text in enumerate(texts):
        logits = model(input_ids=torch.tensor([text.ids])).logits[0, :-1][text.positions]
        rising = logits.detach().double().softmax(-1).cumsum(-1)
        uniforms = target_uniforms(0, row, len(text.positions))[text.positions]
        targets = (rising < uniforms.unsqueeze(1) * rising[:, -1:]).sum(-1)
        outcome = logits.log_softmax(-1).gather(1, targets.unsqueeze(1)).sum()
        for total, gradient in zip(
            sums.values(), torch.autograd.grad(outcome, list(parameters.values())), strict=True
        ):
            total += gradient.double() ** 2
    return {name: total / len(texts) for name, total in sums.items()}


@pytest.mark.parametrize("tied", [False, True])
def test_information_is_the_squared_gradient_of_the_whole_model(tmp_path, tied):
    model = model_of(tmp_path / "model", tied)
    folder = gathered(tmp_path / "model", tmp_path / "out", kinds=["fisher"])
    computed = load_file(folder / "fisher~6.safetensors")
    expected = information(model, sequences())
    assert set(computed) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(
            computed[name], values, rtol=1e-5, atol=1e-5 * float(values.mean()), err_msg=name
        )


def test_logits_in_several_parts_give_the_same_information(tmp_path, monkeypatch):
    model_of(tmp_path / "model", tied=True)
    whole = gathered(tmp_path / "model", tmp_path / "whole", kinds=["fisher"])
    monkeypatch.setattr("mergegrid.study.model_statistics.decoder_fisher.LOGITS", 4)
    parts = gathered(tmp_path / "model", tmp_path / "parts", kinds=["fisher"])
    one, two = (load_file(folder / "fisher~6.safetensors") for folder in (whole, parts))
    for name, values in one.items():
        np.testing.assert_allclose(values, two[name], rtol=1e-4, atol=1e-5 * values.mean())


def test_targets_are_drawn_from_the_models_own_distribution():
    draws = torch.cat([target_uniforms(0, row, 50) for row in range(40)])
    assert len(draws.unique()) == 2000
    assert abs(float(draws.mean()) - 0.5) < 0.02
    assert torch.equal(target_uniforms(0, 3, 20), target_uniforms(0, 3, 50)[:20])
    assert not torch.equal(target_uniforms(0, 3, 20), target_uniforms(1, 3, 20))


def layer_inputs(model, name, texts):
    """Inputs [positions, in] of a layer from which counted tokens are predicted."""
    found = []
    layer = model.get_submodule(name.removesuffix(".weight"))
    hook = layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].detach()))
    for text in texts:
        model(input_ids=torch.tensor([text.ids]))
    hook.remove()
    pairs = zip(found, texts, strict=True)
    return torch.cat([x[0, :-1][text.positions] for x, text in pairs]).double()


@pytest.mark.parametrize("tied", [False, True])
def test_gram_matrices_are_means_over_the_positions_that_predict_what_counts(tmp_path, tied):
    model = model_of(tmp_path / "model", tied)
    folder = gathered(tmp_path / "model", tmp_path / "out", kinds=["regmean"])
    computed = load_file(folder / "regmean~6.safetensors")
    linear = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert set(computed) == (linear - {"lm_head.weight"} if tied else linear)
    for name in computed:
        x = layer_inputs(model, name, sequences())
        assert len(x) == sum(sum(text.counted) for text in sequences())
        np.testing.assert_allclose(
            computed[name], x.T @ x / len(x), rtol=1e-5, atol=1e-5, err_msg=name
        )


def test_files_fit_the_methods_and_say_what_they_hold(tmp_path):
    model_of(tmp_path / "model")
    folder = gathered(tmp_path / "model", tmp_path / "out", digest="abc")
    base = open_checkpoint(tmp_path / "model")
    for method in (Fisher(examples=6), RegMean(examples=6)):
        statistics = open_statistics(folder / f"{method.kind}~6.safetensors")
        method.check_statistics(base, {"math": statistics})
        assert statistics.metadata == {
            "kind": method.kind,
            "arithmetic": "exact",
            "examples": 6,
            "expert": "abc",
        }


def test_a_file_depends_on_neither_the_others_nor_the_shards_of_the_model(tmp_path):
    model_of(tmp_path / "model")
    model_of(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    several = gathered(tmp_path / "model", tmp_path / "several", counts=(2, 4, 6))
    alone = gathered(tmp_path / "shards", tmp_path / "alone", counts=(4,))
    for kind in KINDS:
        name = f"{kind}~4.safetensors"
        assert (alone / name).read_bytes() == (several / name).read_bytes()
        assert (several / f"{kind}~2.safetensors").read_bytes() != (several / name).read_bytes()


def test_rows_are_those_of_the_base(tmp_path):
    base = llama()
    save(base, tmp_path / "base")
    for rows in (0, 5):
        save(finetuned(base, 1, rows), tmp_path / f"expert{rows}")
        expert = LlamaForCausalLM.from_pretrained(tmp_path / f"expert{rows}", dtype=torch.float32)
        folder = gathered(tmp_path / f"expert{rows}", tmp_path / f"{rows}", base=tmp_path / "base")
        computed = load_file(folder / "fisher~6.safetensors")
        expected = information(expert, sequences())
        for name in ("lm_head.weight", "model.embed_tokens.weight"):
            values = expected[name][:64]
            np.testing.assert_allclose(
                computed[name], values, rtol=1e-5, atol=1e-5 * float(values.mean())
            )
        for method in (Fisher(), RegMean()):
            statistics = open_statistics(folder / f"{method.kind}~6.safetensors")
            method.check_statistics(open_checkpoint(tmp_path / "base"), {"math": statistics})


def test_tensors_outside_of_the_class_have_no_information(tmp_path, caplog):
    model_of(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    extra = {"model.adapter.weight": torch.ones(4)}
    save_file(load_file(file) | extra, file, {"format": "pt"})
    with caplog.at_level(logging.INFO):
        folder = gathered(tmp_path / "model", tmp_path / "out", kinds=["fisher"])
    assert "1 tensors are not parameters of its class" in caplog.text
    computed = load_file(folder / "fisher~6.safetensors")
    assert not computed["model.adapter.weight"].any()


def test_a_mixture_of_experts_is_refused_with_what_to_do(tmp_path):
    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        moe_intermediate_size=16,
        num_experts=4,
        head_dim=8,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(tmp_path / "model")
    with pytest.raises(
        CheckpointError, match=r"experts.*its file does not, which has .*by a method without stat"
    ):
        gathered(tmp_path / "model", tmp_path / "out")


def test_transposed_matrices_have_information_and_no_gram_matrices(tmp_path):
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    config.bos_token_id = config.eos_token_id = 1
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path / "model")
    folder = gathered(tmp_path / "model", tmp_path / "out", kinds=["fisher"])
    computed = load_file(folder / "fisher~6.safetensors")
    for name, values in information(model, sequences()).items():
        np.testing.assert_allclose(
            computed[name], values, rtol=1e-4, atol=1e-5 * float(values.mean()), err_msg=name
        )
    with pytest.raises(CheckpointError, match=r"no layer of class Linear.*use fisher instead"):
        gathered(tmp_path / "model", tmp_path / "out", kinds=["regmean"])


def test_too_few_sequences_are_refused_with_their_number(tmp_path):
    model_of(tmp_path / "model")
    silent = TokenSequence([1, 2, 3], [True, False, False])
    with pytest.raises(DataError, match="need 6 examples, but there are 5"):
        gathered(tmp_path / "model", tmp_path / "out", texts=[silent, *sequences(5)])
    assert not list((tmp_path / "out").iterdir())


def test_an_adapter_has_the_statistics_of_the_model_that_it_makes(tmp_path):
    model_of(tmp_path / "base")
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    tokenizer().save_pretrained(tmp_path / "base")
    torch.manual_seed(2)
    settings = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = get_peft_model(base, settings)
    adapted.save_pretrained(tmp_path / "adapter")
    folder = gathered(
        tmp_path / "adapter", tmp_path / "out", base=tmp_path / "base", homologous=False
    )
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    whole = gathered(tmp_path / "merged", tmp_path / "whole")
    for kind in KINDS:
        one, two = (load_file(each / f"{kind}~6.safetensors") for each in (folder, whole))
        assert set(one) == set(two)
        for name, values in two.items():
            np.testing.assert_allclose(
                one[name], values, rtol=1e-3, atol=1e-4 * values.abs().mean()
            )


def test_a_config_that_transformers_does_not_know_is_refused(tmp_path):
    model_of(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "own"}))
    with pytest.raises(CheckpointError, match="transformers cannot read the configuration of"):
        gathered(tmp_path / "model", tmp_path / "out")


@pytest.fixture
def published(tmp_path):
    """A base and an expert as a study keeps them."""
    family(tmp_path / "raw")
    for name in ("base", "math"):
        import_decoder(tmp_path / "raw" / name, tmp_path / name, {"source": "test"})
    return tmp_path


@pytest.mark.parametrize("table", ["instructions", "texts"])
def test_a_study_publishes_statistics_from_its_examples(published, table):
    words = [f"the good w{20 + row}" for row in range(8)]
    if table == "texts":
        examples = pd.DataFrame({"text": words})
    else:
        split = ["validation", *["train"] * 7]
        examples = pd.DataFrame({"split": split, "instruction": words, "output": words})
        # It leaves no room for an answer.
        examples.loc[1, "instruction"] = " ".join(["the"] * 20)
    files = [Statistic(kind=kind, arithmetic="exact", examples=4) for kind in KINDS]
    request = StatisticsRequest(
        statistics=files, prompt="a {instruction}", chat=False, max_length=16
    )
    places = [published / name for name in ("one", "two")]
    for place in places:
        gather_decoder(published / "base", published / "math", request, examples, place)
        names = {"fisher~exact~4.safetensors", "regmean~exact~4.safetensors"}
        assert set(read_manifest(place)["files"]) == names
        assert {path.name for path in place.iterdir()} == {*names, "manifest.json"}
        for name in names:
            metadata = open_statistics(place / name).metadata
            assert metadata["expert"] == published_digest(published / "math")
    assert read_manifest(places[0])["files"] == read_manifest(places[1])["files"]
    many = files[0].model_copy(update={"examples": 9})
    more = request.model_copy(update={"statistics": [many]})
    with pytest.raises(DataError, match="need 9 examples, but there are"):
        gather_decoder(published / "base", published / "math", more, examples, published / "x")
    assert not (published / "x").exists()


MEASURE = """
import json, logging, re, resource, sys
from pathlib import Path
import torch
from mergegrid.study.model_statistics.calibration import TokenSequence
from mergegrid.study.model_statistics.decoder_statistics import gather_files, open_decoder
from mergegrid.study.schema.encoder_jobs import Statistic

class Stated(logging.Handler):
    def emit(self, record):
        if found := re.search(r"tokens: (\\d+) MB of memory", record.getMessage()):
            stated.append(int(found[1]))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000

stated, used, model = [], {}, Path(sys.argv[1])
logging.basicConfig(level=logging.INFO, handlers=[Stated()])
opened = open_decoder(model)
torch.ones(64, 64) @ torch.ones(64, 64)
before = peak()
texts = [TokenSequence([n % 60 for n in range(32)], [True] * 32) for _ in range(4)]
# The kind that needs less goes first: a peak never falls.
for kind in ("regmean", "fisher"):
    file = model.parent / f"{model.name}-{kind}.safetensors"
    gather_files(opened, texts, {file: Statistic(kind=kind, arithmetic="exact", examples=4)})
    used[kind] = peak() - before
print(json.dumps({"used": used, "stated": dict(zip(used, stated))}))
"""


@pytest.mark.slow
def test_memory_is_stated_and_does_not_grow_with_the_depth(tmp_path):
    found = {}
    for depth in (2, 10):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=512,
            num_hidden_layers=depth,
            num_attention_heads=8,
            num_key_value_heads=8,
            intermediate_size=1536,
        )
        model = tmp_path / f"depth{depth}"
        # Blocks of 14 MB.
        LlamaForCausalLM(config).save_pretrained(model)
        run = subprocess.run(
            [sys.executable, "-c", MEASURE, model], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        found[depth] = json.loads(run.stdout.splitlines()[-1])
        for kind, used in found[depth]["used"].items():
            assert used < found[depth]["stated"][kind]
    for kind in KINDS:
        # Eight more blocks have 109 MB of weights, and five times as much with their information.
        assert found[10]["used"][kind] < found[2]["used"][kind] + 20
