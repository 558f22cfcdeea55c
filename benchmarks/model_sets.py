"""Sets of random models for the benchmark of methods: how they are made, and where they are."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LLAMA = ("math", "code", "law", "chat")
"""Names of the experts of the decoders, as `models.py` writes them."""
HERE = Path(__file__).parent


@dataclass(frozen=True)
class ModelSet:
    """A base and its experts."""

    name: str
    title: str
    """For the tables."""
    experts: int
    matrices: bool
    """Whether methods on whole matrices take minutes at most."""
    shape: Mapping[str, int] = field(default_factory=dict)
    """Sizes of a decoder that differ from those of `models.py`; empty for the encoder."""

    def folder(self, work: Path) -> Path:
        """Folder of all models; sets that differ in the number of experts share it."""
        name = self.name.partition("-")[0]
        return work / "models" / (f"full-{self.shape['layers']}" if name == "full" else name)

    def base(self, work: Path) -> Path:
        """Folder of the base."""
        return self.folder(work) / "base"

    def expert_folders(self, work: Path) -> list[Path]:
        """Folders of the experts."""
        encoders = [f"expert{number}" for number in range(1, self.experts + 1)]
        names = LLAMA[: self.experts] if self.shape else encoders
        return [self.folder(work) / name for name in names]

    def weights(self, model: Path) -> list[Path]:
        """Weight files of one model."""
        return sorted(model.glob("*.safetensors"))

    def inputs(self, work: Path) -> list[Path]:
        """Weight files of all models."""
        models = [self.base(work), *self.expert_folders(work)]
        return [file for model in models for file in self.weights(model)]

    def make(self, work: Path) -> None:
        """Create the models that do not exist."""
        command = [sys.executable, HERE / "encoder_models.py", self.folder(work)]
        if self.shape:
            shape, experts = json.dumps(self.shape), str(self.experts)
            command = [sys.executable, HERE / "models.py", self.folder(work), shape]
            command += ["--experts", experts]
        subprocess.run(command, check=True)


_HALF = {
    "layers": 2,
    "hidden": 1024,
    "intermediate": 2816,
    "heads": 16,
    "key_value_heads": 2,
    "vocabulary": 2000,
}
SETS = {
    models.name: models
    for models in (
        ModelSet("full-2", "1.1B, 2 experts", 2, False, {"layers": 22}),
        ModelSet("full-4", "1.1B, 4 experts", 4, False, {"layers": 22}),
        ModelSet("half-2", "two layers of half its width, 2 experts", 2, True, _HALF),
        ModelSet("half-4", "two layers of half its width, 4 experts", 4, True, _HALF),
        ModelSet("minilm-8", "MiniLM, 8 experts", 8, True),
    )
}
