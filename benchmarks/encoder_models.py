"""Create a random encoder in the shape of the quickstart's MiniLM, and eight experts, in float32.

A separate program, because the process that measures must stay small (see measure.py).
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

EXPERTS = 8
DEVIATION = 0.001
"""Standard deviation of the deltas."""


def make_encoders(folder: Path) -> None:
    """Write `base` and `expert1` to `expert8` below a folder, unless they exist."""
    marker = folder / "complete"
    if marker.is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(1)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, intermediate_size=1536, architectures=["BertModel"]
    )
    base = {name: value.contiguous() for name, value in BertModel(config).state_dict().items()}
    for number in range(EXPERTS + 1):
        model = folder / (f"expert{number}" if number else "base")
        config.save_pretrained(model)
        deviation = DEVIATION if number else 0
        tensors = {
            name: value + deviation * torch.randn(value.shape)
            for name, value in base.items()
            if value.is_floating_point()
        }
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    marker.touch()  # Last, so its existence means that all models are complete.


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the models to create or reuse")
    make_encoders(parser.parse_args().folder)


if __name__ == "__main__":
    main()
