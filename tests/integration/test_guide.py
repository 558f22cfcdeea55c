"""The guide to merging works as it stands: its file, its commands, its Python."""

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


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", GUIDE, re.DOTALL)


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
    return folder


def run(folder, *command):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_of_the_guide_work_one_after_the_other(models):
    program = "from mergegrid.cli import main; main()"
    for command in commands("\n".join(blocks("sh"))):
        printed = run(models, sys.executable, "-c", program, *command[1:])
        assert ("--dry-run" in command) != (models / "merged").is_dir()
    assert "DARE" in printed


def test_the_commands_of_the_readme_are_among_them():
    assert commands(README)
    assert all(command in commands(GUIDE) for command in commands(README))


def test_the_python_of_the_guide_works(models):
    shutil.rmtree(models / "merged", ignore_errors=True)
    digest, verdict = run(models, sys.executable, "-c", blocks("python")[0]).splitlines()
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert verdict.startswith("DARE ")


def test_the_rules_of_the_guide_can_be_asked_for(models):
    (text,) = (block for block in blocks("yaml") if "rules:" in block)
    content = yaml.safe_load(blocks("yaml")[0]) | yaml.safe_load(text)
    (models / "rules.yaml").write_text(yaml.safe_dump(content))
    program = "from mergegrid.cli import main; main()"
    run(models, sys.executable, "-c", program, "merge", "rules.yaml", "ruled")
    assert (models / "ruled" / "manifest.json").is_file()
