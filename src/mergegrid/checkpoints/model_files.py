"""The files beside the weights of a merged model that come from its inputs: config, tokenizer."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

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
#: Files beside the config: of processors of images, sound and video, and of sentence encoders.
COMPANIONS = (
    "*preprocessor_config.json",
    "audio_tokenizer_config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "processor_config.json",
    "sentence_*_config.json",
)


def config_files(base: Path) -> list[str]:
    """Names of a base's config files, including its Python code if the config refers to it.

    Processors of text-and-image models and the modules of sentence encoders are among them.

    Raises:
        CheckpointError: `config.json` is missing or damaged.
    """
    if not (base / "config.json").is_file():
        if (base / "adapter_config.json").is_file():
            raise CheckpointError(
                f"{base} is a LoRA adapter, not a whole model; name the model it was trained on"
            )
        raise CheckpointError(
            f"{base} has no config.json, so the model cannot be loaded; download it again"
        )
    code = ["*.py"] if "auto_map" in read_json(base / "config.json") else []
    modules = [f"{folder}/*" for folder in _module_folders(base)]
    return _existing(base, ["config.json", "generation_config.json", *code, *COMPANIONS, *modules])


def _module_folders(base: Path) -> list[str]:
    """Folders of the further modules of a sentence encoder, such as `1_Pooling`.

    Raises:
        CheckpointError: `modules.json` is damaged, or names a folder outside the model's.
    """
    path = base / "modules.json"
    if not path.is_file():
        return []
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        folders = [str(module["path"]) for module in modules if module["path"]]
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a list of modules with their paths ({error}); download it again"
        ) from error
    for folder in folders:
        if PurePosixPath(folder).is_absolute() or ".." in PurePosixPath(folder).parts:
            raise CheckpointError(f"{path} refers to {folder}, outside of {base}; correct its path")
    return folders


def tokenizer_files(source: Path) -> list[str]:
    """Names of a model's tokenizer files."""
    return _existing(source, TOKENIZER_FILES)


def copy_files(source: Path, names: Sequence[str], folder: Path) -> None:
    """Copy files of a model folder by name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
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
    write_config(folder, config)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the config of a model into its folder."""
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def _existing(folder: Path, patterns: Sequence[str]) -> list[str]:
    paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return sorted(path.relative_to(folder).as_posix() for path in paths)
