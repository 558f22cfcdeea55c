"""What lies beside the weights of a merged model: config, tokenizer, model card, recipe."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mergegrid.checkpoints.location import inside, read_json
from mergegrid.errors import CheckpointError

#: Files of a tokenizer, as transformers and sentencepiece name them.
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
    """Names of the files that say how the base is built, its own code included.

    Raises:
        CheckpointError: there is no config, or it is none.
    """
    if not (base / "config.json").is_file():
        raise CheckpointError(
            f"{base} has no config.json, without which no model loads; fetch it again"
        )
    code = ["*.py"] if "auto_map" in read_json(base / "config.json") else []
    return _present(base, ["config.json", "generation_config.json", *code])


def tokenizer_files(source: Path) -> list[str]:
    """Names of the files of a model's tokenizer."""
    return _present(source, TOKENIZER_FILES)


def copy_files(source: Path, names: Sequence[str], folder: Path) -> None:
    """Copy files of a model, by their names in its folder."""
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, folder / name)


def adapt_config(folder: Path, dtype: str | None, vocabulary: int | None) -> None:
    """Make the config of a folder that of a model with these dtype and embedding rows.

    A model of several dtypes keeps what the base's config says of them.
    """
    config = read_json(folder / "config.json")
    config.pop("_name_or_path", None)
    # A model of text and images keeps what is said of its language model apart.
    inner = config.get("text_config")
    for part in [config, inner] if isinstance(inner, dict) else [config]:
        known = part.get("dtype") or part.get("torch_dtype")
        written = dtype if dtype and (known or part is config) else known
        if written:
            # Before transformers 4.56 the key was `torch_dtype`; without it, those read float32.
            part["dtype"] = part["torch_dtype"] = written
        if vocabulary and (part is not inner or "vocab_size" in part):
            part["vocab_size"] = vocabulary
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def _present(folder: Path, patterns: Sequence[str]) -> list[str]:
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    names = sorted(path.relative_to(folder).as_posix() for path in found)
    for name in names:
        inside(folder, name)
    return names


def model_name(folder: Path) -> str:
    """What a model is called: its id where a hub cache holds it, else the name of its folder."""
    folder = folder.resolve()
    for part in folder.parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return folder.name


def write_recipe(folder: Path, recipe: Mapping[str, Any]) -> str:
    """Write the recipe beside the model; gives its text."""
    text = yaml.safe_dump(dict(recipe), sort_keys=True, default_flow_style=False)
    (folder / RECIPE).write_text(text, encoding="utf-8")
    return text


def write_card(
    folder: Path, base: str, experts: Mapping[str, str], recipe: str, notes: Sequence[str]
) -> None:
    """Write the model card, with the front matter that the hub reads."""
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
        f"by this recipe:\n\n```yaml\n{recipe}```\n{remarks}\n"
        "`manifest.json` holds digests of inputs and tensors; `mergegrid inspect` checks them.\n"
    )
    (folder / CARD).write_text(text, encoding="utf-8")
