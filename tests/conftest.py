"""A tiny real encoder and a task it can learn, and a disk of limited size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from mergegrid import stages

TESTS = Path(__file__).parent
#: Folders of tests that are slow, all of them. Elsewhere, slow tests are marked one by one.
SLOW = {"workflow", "integration", "gpu", "faults", "slurm"}
#: Files that take minutes. Where tests run in several processes, each takes whole files; one that
#: began a long file last would keep the others waiting.
FIRST = {
    name: place
    for place, name in enumerate(
        ["test_vllm.py", "test_smoke.py", "test_quick.py", "test_in_the_background.py"]
    )
}

# Processors of test machines are shared, so examples have no time limit of their own.
settings.register_profile("quick", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=10_000, deadline=None)
settings.load_profile("quick")


def pytest_addoption(parser):
    parser.addoption(
        "--write-golden",
        nargs="?",
        const="raised",
        default="",
        choices=["raised", "force"],
        help="write golden numbers of raised versions; with =force, all that differ",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what runs studies, jobs and engines as slow; start what takes longest first."""
    for item in items:
        if folder_of(item.path) in SLOW:
            item.add_marker("slow")
    items.sort(
        key=lambda item: FIRST.get(item.path.name, len(FIRST) + (folder_of(item.path) not in SLOW))
    )


def folder_of(path):
    return path.relative_to(TESTS).parts[0]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Let models compute with one thread: they are small, and the processors are shared."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


WORDS = ["good", "great", "fine", "nice", "bad", "poor", "awful", "sad", "film", "book", "the", "a"]


@pytest.fixture(scope="session")
def raw_encoder(tmp_path_factory):
    """An encoder as published: `BertModel` names, without a classification head."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("raw") / "encoder"
    config = BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(vocab=str(vocabulary)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base(raw_encoder, tmp_path_factory):
    """The encoder as the workflow keeps it."""
    from mergegrid.study.encoders.importing import import_base

    folder = tmp_path_factory.mktemp("base") / "base"
    import_base(raw_encoder, folder, {"source": "test"})
    return folder


@pytest.fixture(scope="session")
def examples():
    """Praise or blame, by one word among others: 192 to learn from, 16 to choose, 24 to test."""
    import pandas as pd

    rows = []
    for index in range(232):
        word = WORDS[index % 8]
        split = "train" if index < 192 else "validation" if index < 208 else "test"
        text = f"{['the', 'a'][index % 2]} {word} {['film', 'book'][index // 8 % 2]}"
        rows.append((split, text, None, int(index % 8 < 4)))
    return pd.DataFrame(rows, columns=["split", "text_a", "text_b", "label"])


@pytest.fixture(scope="session")
def request_for_praise():
    """Three epochs, enough to learn it."""
    from mergegrid.study.schema.encoder_jobs import FinetuneRequest, Target

    target = Target(task="praise", metric="accuracy", classes=[0, 1], max_length=16)
    settings = {"learning_rate": 1e-2, "epochs": 3, "batch_size": 8}
    return FinetuneRequest(target=target, settings=settings, seed=0)


@pytest.fixture(scope="session")
def expert(base, examples, request_for_praise, tmp_path_factory):
    """A fine-tuned expert."""
    from mergegrid.study.finetuning.classifier import finetune

    folder = tmp_path_factory.mktemp("expert") / "seed~0"
    finetune(base, request_for_praise, examples, folder)
    return folder


@pytest.fixture
def raise_version(monkeypatch):
    """Raise the version of a stage by one, in this process: `raise_version("merge")`."""
    raised = {}

    def versions(module):
        found = versions_in(module)
        return {stage: version + raised.get(stage, 0) for stage, version in found.items()}

    versions_in = stages.versions_in
    monkeypatch.setattr(stages, "versions_in", versions)

    def by_one(stage):
        raised[stage] = raised.get(stage, 0) + 1

    return by_one


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a given size in KiB: `small_disk(64)`; again with another size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size, *options):
        again = ["remount"] if os.path.ismount(folder) else []
        options = ",".join([*again, f"size={size}k", *options])
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command, so no disk of limited size")
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    while os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)
