"""The guide to merging works as it stands: its file, its commands, its Python."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small_models
import yaml

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "merging.md").read_text()
README = (ROOT / "README.md").read_text()
PROGRAM = "from mergegrid.cli import main; main()"


def blocks(kind, text=GUIDE):
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def commands(text):
    return [
        shlex.split(line, comments=True)
        for line in text.splitlines()
        if re.match("mergegrid (merge|inspect|deltas) ", line)
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = small_models.family(tmp_path_factory.mktemp("guide"))
    (folder / "models").mkdir()
    for name, called in (("base", "llama"), ("math", "llama-math"), ("code", "llama-code")):
        (folder / name).rename(folder / "models" / called)
    (folder / "merge.yaml").write_text(blocks("yaml")[0])
    parts = [str(folder / "models" / name) for name in ("llama", "llama-math", "llama-math-lora")]
    run(folder, sys.executable, "-c", PROGRAM, "extract", *parts, "--rank", "4")
    return folder


def run(folder, *command):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_python(folder, program):
    return run(folder, sys.executable, "-c", program)


def test_the_commands_of_the_guide_work_one_after_the_other(models):
    shutil.rmtree(models / "merged", ignore_errors=True)
    for command in commands("\n".join(blocks("sh"))):
        printed = run(models, sys.executable, "-c", PROGRAM, *command[1:])
        assert ("--dry-run" in command) != (models / "merged").is_dir()
    assert "DARE" in printed


def test_the_commands_of_the_readme_are_among_them():
    assert commands(README)
    assert all(command in commands(GUIDE) for command in commands(README))


def test_the_merge_file_of_the_readme_is_that_of_the_guide():
    assert yaml.safe_load(blocks("yaml", README)[0]) == yaml.safe_load(blocks("yaml")[0])


def test_python_and_the_merge_file_give_the_same_model(models):
    shutil.rmtree(models / "merged", ignore_errors=True)
    digest, verdict = run_python(models, blocks("python")[0]).splitlines()
    assert verdict.startswith("DARE ")
    run(models, sys.executable, "-c", PROGRAM, "merge", "merge.yaml", "by-file")
    inspected = run(models, sys.executable, "-c", PROGRAM, "inspect", "by-file")
    assert re.search("^digest: (.*)$", inspected, re.MULTILINE)[1] == digest


def test_the_python_of_the_readme_writes_the_bytes_of_its_merge_file(models):
    (program,) = blocks("python", README)
    written = []
    for command in (["-c", program], ["-c", PROGRAM, "merge", "merge.yaml", "merged"]):
        shutil.rmtree(models / "merged", ignore_errors=True)
        run(models, sys.executable, *command)
        weights = sorted((models / "merged").glob("*.safetensors"))
        written.append([(path.name, path.read_bytes()) for path in weights])
    assert written[0] == written[1] != []


@pytest.mark.parametrize("number", range(1, len(blocks("python"))))
def test_the_python_of_the_guide_changes_models_in_memory(models, number):
    program = blocks("python")[number]
    check = """
import torch
loaded, old = model.state_dict(), AutoModelForCausalLM.from_pretrained("models/llama").state_dict()
for name, tensor in tensors.items():
    assert torch.equal(loaded[name], torch.as_tensor(tensor).to(old[name].dtype)), name
assert any(not torch.equal(loaded[name], old[name]) for name in tensors)
"""
    run_python(models, program + check)


def merge(folder, content):
    (folder / "part.yaml").write_text(yaml.safe_dump(content))
    shutil.rmtree(folder / "from-part", ignore_errors=True)
    run(folder, sys.executable, "-c", PROGRAM, "merge", "part.yaml", "from-part")
    assert (folder / "from-part" / "manifest.json").is_file()


PARTS = [text for text in blocks("yaml") if text.startswith(("sparsifier:", "method:"))]


@pytest.mark.parametrize("text", PARTS, ids=lambda text: " ".join(text.split())[:30])
def test_the_parts_of_merge_files_in_the_guide_merge(models, text):
    merge(models, yaml.safe_load(blocks("yaml")[0]) | yaml.safe_load(text))


def test_the_slerp_by_layer_of_the_guide_merges(models):
    (text,) = (block for block in blocks("yaml") if "kind: slerp" in block)
    content = yaml.safe_load(text)
    merge(models, content | {"base": "models/llama", "experts": {"openchat": "models/llama-code"}})


def test_the_stacked_layers_of_the_guide_are_written(tmp_path):
    (text,) = (block for block in blocks("yaml") if "layers:" in block)
    for seed, name in enumerate(("llama", "llama-math", "llama-code")):
        model = small_models.finetuned(small_models.llama(num_hidden_layers=24), seed)
        small_models.save(model, tmp_path / "models" / name)
    merge(tmp_path, yaml.safe_load(text))
    config = json.loads((tmp_path / "from-part" / "config.json").read_text())
    assert config["num_hidden_layers"] == 28
