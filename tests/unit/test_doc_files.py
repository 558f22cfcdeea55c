"""Every piece of a configuration in the docs is valid."""

import re
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from mergegrid.errors import ConfigError
from mergegrid.recipes.merge_file import MergeFile
from mergegrid.study.schema.loading import check_study
from mergegrid.yaml_files import check_content, read_yaml

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "config" / "README.md"]
BLOCKS = [
    pytest.param(text, id=f"{page.name} {number}")
    for page in PAGES
    for number, text in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S))
]
#: Where a piece of a study stands, by one of its keys.
PLACES = {
    "families": ("decoders",),
    "finetune": ("encoders", "families", "minilm"),
    "train": ("encoders", "tasks", "rte"),
}
MERGE_FILE = {
    "base": "models/llama",
    "experts": {name: f"models/llama-{name}" for name in ("math", "code", "chat")},
}


@pytest.fixture
def study(monkeypatch):
    """A study of encoders and decoders, which the pieces change."""
    monkeypatch.setenv("GLUE_DATA", "glue")
    encoders = read_yaml(ROOT / "config" / "glue_small.yaml")["encoders"]
    decoders = read_yaml(ROOT / "config" / "config.yaml")["decoders"]
    # What pieces refer to.
    for name in ("gsm8k", "humaneval"):
        decoders["benchmarks"][name] = {"kind": name}
    decoders["benchmarks"]["gsm8k"]["records"] = {"source": "hub:openai/gsm8k"}
    decoders["families"]["llama"] = {
        "base": {"source": "hub:org/llama"},
        "experts": {"code": {"source": {"source": "hub:org/code"}, "benchmarks": ["humaneval"]}},
    }
    return {"encoders": encoders, "decoders": decoders}


def content_of(text):
    """A piece as part of a study, or None if it belongs to a merge file."""
    content = yaml.safe_load(text)
    if content.keys() <= {"encoders", "decoders"}:
        return content
    for key, place in PLACES.items():
        if key in content:
            for name in reversed(place):
                content = {name: content}
            return content
    return None


@pytest.mark.parametrize("text", BLOCKS)
def test_every_piece_of_a_file_is_valid(text, study):
    content = content_of(text)
    if content is None:
        piece = yaml.safe_load(text)
        experts = {} if "layers" in piece else MERGE_FILE
        method = {"kind": "task_arithmetic"}
        check_content(MergeFile, {"method": method, **experts, **piece}, "docs")
        return
    update_config(study, content)
    check_study(study, "docs")


def test_a_piece_with_a_wrong_key_is_not(study):
    update_config(study, content_of("finetune: {learning_rates: 1}"))
    with pytest.raises(ConfigError, match="learning_rates"):
        check_study(study, "docs")
