"""A chat merge stops where its expert does, with the expert's tokenizer and chat template.

Takes about a minute with vLLM, which needs VLLM_PYTHON where it is not installed: a Python that has
it.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_vocabularies import bpe, decoder
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergegrid import NoSparsifier, Output, TaskArithmetic, merge

pytestmark = pytest.mark.integration
START, LENGTH = "<|im_start|>", 12
CHAT = "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}"
# vLLM's kernels need heads of 32 elements.
SIZES = {"spread": 0.5, "width": 64}


def merged(folder, giver):
    return merge(
        folder / "base",
        {"chat": folder / "chat"},
        NoSparsifier(),
        TaskArithmetic(coefficient=0.5),
        out=folder / f"merged-{giver}",
        output=Output(vocabulary="union", tokenizer=giver, chat_template="chat"),
    )


def answer(folder, **options):
    """The tokens that transformers generates for a chat, and their text."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "abcd"}]
    prompt = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokens = model.generate(**prompt, max_new_tokens=LENGTH, do_sample=False, **options)
    tokens = tokens[0, prompt.input_ids.shape[1] :]
    return tokens.tolist(), tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    """A merge with the base's ends, which does not stop, and one with those of the expert."""
    folder = tmp_path_factory.mktemp("chat")
    base = decoder(folder / "base", bpe(), **SIZES)
    chat = bpe([START], template=CHAT)
    decoder(folder / "chat", chat, seed=1, base=base, **SIZES)
    endless, _ = answer(merged(folder, "chat"), eos_token_id=-1)
    stop = next(token for token in endless if token != endless[0])
    chat.eos_token = chat.convert_ids_to_tokens(stop)
    decoder(folder / "chat", chat, seed=1, base=base, stops=[2, stop], **SIZES)
    return endless, stop, {giver: merged(folder, giver) for giver in ("base", "chat")}


def test_transformers_stops_at_the_end_of_the_expert(chats):
    endless, stop, folders = chats
    assert answer(folders["base"])[0] == endless
    assert answer(folders["chat"])[0] == endless[: endless.index(stop) + 1]


def test_vllm_stops_at_the_end_of_the_expert(chats):
    python = os.environ.get("VLLM_PYTHON")
    if python is None and importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here; set VLLM_PYTHON to a Python that has it")
    script = Path(__file__).with_name("vllm_answers.py")
    command = [python or sys.executable, script, chats[2]["chat"], str(LENGTH), "abcd"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    answers = json.loads(done.stdout.strip().splitlines()[-1])
    assert answers == [answer(chats[2]["chat"])[1]]
