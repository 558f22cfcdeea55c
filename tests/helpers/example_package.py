"""The example package with a method and a sparsifier, installed into a folder."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def install(folder: Path) -> dict[str, str]:
    """Install the package; returns the environment in which it is found."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    source = ROOT / "examples" / "mergegrid-example"
    subprocess.run([*command, "--no-build-isolation", source], check=True)
    paths = [str(folder), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
