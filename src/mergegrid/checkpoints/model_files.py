"""The files beside the weights of a merged model: config, tokenizer, model card and recipe."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mergegrid.checkpoints.location import read_json
from mergegrid.errors import CheckpointError

#: Tokenizer files of transformers and sentencepiece.
TOKENIZER_FILES = (
    "added_tokens.json",
    "additional_chat_templates/*.jinja",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "spm.model",
    "tekken.json",
    "tokenization_*.py",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
RECIPE = "recipe.yaml"
CARD = "README.md"


def config_files(base: Path) -> list[str]:
    """Names of a base's config files, including its Python code if the config refers to it.

    Raises:
        CheckpointError: `config.json` is missing or damaged.
    """
    if not (base / "config.json").is_file():
        raise CheckpointError(
            f"{base} has no config.json, so the model cannot be loaded; download it again"
        )
    code = ["*.py"] if "auto_map" in read_json(base / "config.json") else []
    return _existing(base, ["config.json", "generation_config.json", *code])


def tokenizer_files(source: Path) -> list[str]:
    """Names of a model's tokenizer files."""
    return _existing(source, TOKENIZER_FILES)


def copy_files(source: Path, names: Sequence[str], folder: Path) -> None:
    """Copy files of a model folder by name."""
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, folder / name)


def adapt_config(folder: Path, dtype: str | None, vocabulary: int | None) -> None:
    """Set the dtype and vocabulary size in the config of a folder, unless they are None.

    Pass no dtype for a model with several dtypes; it keeps the entry of the base's config.
    """
    config = read_json(folder / "config.json")
    config.pop("_name_or_path", None)
    # Multimodal models keep the config of their language model in `text_config`.
    text_config = config.get("text_config")
    for part in [config, text_config] if isinstance(text_config, dict) else [config]:
        current = part.get("dtype") or part.get("torch_dtype")
        new = dtype if dtype and (current or part is config) else current
        if new:
            # transformers before 4.56 reads `torch_dtype` only, and float32 without it.
            part["dtype"] = part["torch_dtype"] = new
        if vocabulary and (part is config or "vocab_size" in part):
            part["vocab_size"] = vocabulary
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def _existing(folder: Path, patterns: Sequence[str]) -> list[str]:
    paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def model_name(folder: Path) -> str:
    """The name of a model: its hub id if it is in a hub cache, else the name of its folder."""
    folder = folder.resolve()
    for part in folder.parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return folder.name


def write_recipe(folder: Path, recipe: Mapping[str, Any]) -> str:
    """Write the recipe into a model folder and return its text."""
    text = yaml.safe_dump(dict(recipe), sort_keys=True, default_flow_style=False)
    (folder / RECIPE).write_text(text, encoding="utf-8")
    return text


def write_card(
    folder: Path, base: str, experts: Mapping[str, str], recipe: str, notes: Sequence[str]
) -> None:
    """Write the model card, with front matter for the hub."""
    front = {
        "base_model": [base, *experts.values()],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["merge", "mergegrid"],
    }
    names = "\n".join(f"- {name}: `{model}`" for name, model in experts.items())
    remarks = "".join(f"\n{note}\n" for note in notes)
    text = (
        f"---\n{yaml.safe_dump(front, sort_keys=True)}---\n\n"
        f"# {folder.name.removeprefix('.').removesuffix('.draft')}\n\n"
        f"Merged with mergegrid from the base `{base}` and its experts\n\n{names}\n\n"
        f"with this recipe:\n\n```yaml\n{recipe}```\n{remarks}\n"
        "`manifest.json` contains digests of the inputs and tensors; `mergegrid inspect` checks "
        "them.\n"
    )
    (folder / CARD).write_text(text, encoding="utf-8")
