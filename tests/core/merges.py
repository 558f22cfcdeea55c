"""Merges small models with what is installed beside this Python; prints digests as JSON.

`install.py` runs it in environments with nothing but the core, once for each Python.
"""

import json
import logging
import subprocess
import sys
from pathlib import Path

import plain_models
import yaml

from mergegrid import Dare, TaskArithmetic, Ties, deltas, inspect, merge

MODELS = {"base": "models/base", "experts": {"math": "models/math", "code": "models/code"}}
DARE = {"kind": "dare", "rate": 0.9, "seed": 1}
SPARSIFIERS = {
    "none": {"kind": "none"},
    "dare": DARE,
    "drop_only": {"kind": "drop_only", "rate": 0.5, "seed": 1},
    "magnitude": {"kind": "magnitude", "rate": 0.5},
    "masked_finetuned": {"kind": "masked_finetuned", "rate": 0.5, "seed": 1},
    "della": {"kind": "della", "rate": 0.7, "seed": 1},
    "breadcrumbs": {"kind": "breadcrumbs", "rate": 0.5},
    "cabs": {"kind": "cabs", "n": 3, "m": 16},
    "tall": {"kind": "tall"},
}
METHODS = {
    "average": {"kind": "average"},
    "task_arithmetic": {"kind": "task_arithmetic", "coefficient": 0.5},
    "ties": {"kind": "ties"},
    "slerp": {"kind": "slerp"},
    "nuslerp": {"kind": "nuslerp"},
    "model_stock": {"kind": "model_stock"},
    "sce": {"kind": "sce"},
    "fisher": {"kind": "fisher"},
    "regmean": {"kind": "regmean"},
    "consensus": {"kind": "consensus"},
    "magmax": {"kind": "magmax"},
    "ram": {"kind": "ram", "boost": 1.1},
    "karcher": {"kind": "karcher"},
    "multislerp": {"kind": "multislerp"},
    "iso_c": {"kind": "iso_c"},
    "tsv_m": {"kind": "tsv_m"},
    "wudi": {"kind": "wudi"},
    "pcb": {"kind": "pcb", "keep": 0.2},
    "emr": {"kind": "emr", "expert": "math"},
    "iso_cts": {"kind": "iso_cts"},
    "knots": {"kind": "knots"},
    "tall_mask": {"kind": "tall_mask", "expert": "code"},
}
#: Needs SciPy, which the core does without.
OPTIONAL = {"regmean"}
EXTENSION = {"fisher": "fisher", "regmean": "gram"}


def content(sparsifier, method):
    """A merge file of these settings."""
    file = {**MODELS, "sparsifier": SPARSIFIERS[sparsifier], "method": METHODS[method]}
    if kind := EXTENSION.get(method):
        file["statistics"] = {name: f"{kind}-{name}.safetensors" for name in ("math", "code")}
    return file


def prepare(folder):
    """Models, statistics and a merge file for each sparsifier and method."""
    plain_models.family(folder / "models")
    for kind in EXTENSION.values():
        for seed, name in enumerate(("math", "code")):
            plain_models.save_statistics(folder / f"{kind}-{name}.safetensors", seed, kind)
    pairs = [(name, "task_arithmetic") for name in SPARSIFIERS]
    pairs += [("none", name) for name in METHODS if name != "task_arithmetic"]
    files = {}
    for sparsifier, method in [*pairs, ("dare", "ties")]:
        path = folder / f"{sparsifier}+{method}.yaml"
        path.write_text(yaml.safe_dump(content(sparsifier, method)))
        files[path.stem] = path
    return files


def command(folder, *arguments, code=0):
    """Run a mergegrid command that ends with a code; gives its lines of errors."""
    program = Path(sys.executable).with_name("mergegrid")
    done = subprocess.run(
        [program, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return [line for line in done.stderr.splitlines() if "error:" in line]


def main(folder):
    """Merge from Python and from the command line, and meet what the core leaves out."""
    files = prepare(folder)
    digests = {}
    for name, path in files.items():
        if name.partition("+")[2] in OPTIONAL:
            continue
        merged = folder / "merged" / name
        assert command(folder, "merge", path.name, str(merged)) == []
        inspection = inspect(merged)
        assert inspection.verified, merged
        digests[name] = inspection.digest
        assert command(folder, "inspect", str(merged)) == []
    base, experts = (
        folder / MODELS["base"],
        {name: folder / path for name, path in MODELS["experts"].items()},
    )
    for name, method in (
        ("dare+task_arithmetic", TaskArithmetic(coefficient=0.5)),
        ("dare+ties", Ties()),
    ):
        out = folder / "python" / name
        merge(base, experts, sparsifier=Dare(rate=0.9, seed=1), method=method, out=out)
        assert inspect(out).digest == digests[name]
    assert command(folder, "deltas", "models/base", "models/math") == []
    digests["deltas"] = deltas(base, experts["math"]).verdict
    assert "torch" not in sys.modules

    missing = {
        "regmean": ("merge", "none+regmean.yaml", "out"),
        "torch": ("merge", "dare+ties.yaml", "out", "--device", "cuda"),
        "study": ("check", "none.yaml"),
    }
    for extra, arguments in missing.items():
        (line,) = command(folder, *arguments, code=2)
        assert f'pip install "mergegrid[{extra}]"' in line
    sys.stdout.write(json.dumps(digests))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main(Path(sys.argv[1]))
