"""Compare the merge engine with mergekit and with the limits of disk and memory.

    python benchmarks/merge.py --work .bench

Creates three models of 1.1 billion random parameters and an environment with mergekit in the work
folder, unless they exist, and runs the same merges with both programs and with `cat` and `cp` (the
floor), alternately. Prints every run and a summary; writes `merge.json` and `merge.md` into the
work folder.

Limits: the inputs are in the page cache when a run starts, so slow disks are not measured. The
weights are random: only sizes and distributions resemble those of a real model.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cases import CASES, EXPERTS, RATES, TEN_RATES, Case, mergekit_config
from measure import Cost, floor, measure, read_all
from report import Results, Run

MERGEKIT = "mergekit==0.1.5"
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
SHOWN_VERSIONS = ("mergekit", "torch", "transformers", "numpy", "safetensors")
SHAPES: dict[str, dict[str, int]] = {
    "full": {"layers": 22},
    "small": {
        "layers": 2,
        "hidden": 256,
        "intermediate": 704,
        "heads": 8,
        "key_value_heads": 2,
        "vocabulary": 2000,
    },
}

logger = logging.getLogger("benchmark")


@dataclass(frozen=True)
class Models:
    """A base and its experts on disk."""

    folder: Path

    @property
    def name(self) -> str:
        """Name of this set of models."""
        return self.folder.name

    def weights(self, model: str) -> list[Path]:
        """Return the weight files of one model."""
        return sorted((self.folder / model).glob("*.safetensors"))

    @property
    def inputs(self) -> list[Path]:
        """The weight files of all models."""
        return [file for model in ("base", *EXPERTS) for file in self.weights(model)]


@dataclass
class Runner:
    """Measures commands; every run starts with an empty output folder and removes its output."""

    work: Path
    engine: Path
    dtype: str
    runs: list[Run] = field(default_factory=list)

    @property
    def output(self) -> Path:
        """Folder of merged models."""
        return self.work / "out"

    @property
    def mergekit(self) -> Path:
        """Folder of mergekit's environment."""
        return self.work / "mergekit"

    def log(self, name: str) -> Path:
        """Return the log file of one kind of run."""
        return self.work / "logs" / f"{name.replace(',', '').replace(' ', '_')}.log"

    def run_mergegrid(self, case: Case, models: Models, outputs: int = 1) -> None:
        """Measure mergegrid."""
        merge_file = models.folder / "recipes" / f"{self.log(case.name).stem}.yaml"
        merge_file.parent.mkdir(exist_ok=True)
        merge_file.write_text(case.merge_file())
        self._prepare(models, outputs)
        command: list[str | Path] = [self.engine, "merge", merge_file, self.output]
        cost = measure(command, self.log(f"mergegrid {case.name}"))
        self._finish("mergegrid", case.name, models, outputs, cost)

    def run_mergekit(self, method: str, models: Models) -> None:
        """Measure mergekit with its defaults for a machine without a GPU."""
        config = models.folder / "recipes" / f"mergekit_{method}_{self.dtype}.yaml"
        config.parent.mkdir(exist_ok=True)
        config.write_text(mergekit_config(method, models.folder, self.dtype))
        self._prepare(models, 1)
        program = self.mergekit / "bin" / "mergekit-yaml"
        command: list[str | Path] = [program, config, self.output, "--random-seed", "1"]
        cost = measure(command, self.log(f"mergekit {method}"), {"HF_HUB_OFFLINE": "1"})
        self._finish("mergekit", method, models, 1, cost)

    def warm_up(self, models: Models, with_mergekit: bool) -> None:
        """Run both programs once, unmeasured: mergegrid compiles its loops at first use."""
        self.run_mergegrid(CASES[0], models)
        if with_mergekit:
            self.run_mergekit(CASES[0].mergekit, models)
        self.runs.clear()

    def run_floor(self, job: str, models: Models, outputs: int = 1) -> None:
        """Measure reading the inputs and writing the base, of equal size, once per merged model."""
        self._prepare(models, outputs)
        folders = [self.output / str(number) for number in range(outputs)]
        cost = floor(models.inputs, models.weights("base"), folders, self.log("floor"))
        self._finish("floor", job, models, outputs, cost)

    def _prepare(self, models: Models, outputs: int) -> None:
        shutil.rmtree(self.output, ignore_errors=True)
        needed = int(1.1 * outputs * _bytes(models.weights("base")))
        free = shutil.disk_usage(self.work).free
        if free < needed:
            sys.exit(
                f"error: {free / 1e9:.0f} GB free in {self.work}, {needed / 1e9:.0f} GB needed; "
                "free some space, choose another --work, or skip cases (--only, --skip-rates)"
            )
        os.sync()
        read_all(models.inputs, self.log("warm"))

    def _finish(self, program: str, job: str, models: Models, outputs: int, cost: Cost) -> None:
        written = _bytes(self.output.rglob("*.safetensors"))
        expected = outputs * _bytes(models.weights("base"))
        if abs(written - expected) > 0.01 * expected:
            sys.exit(f"error: {program} wrote {written} bytes for {job}; expected about {expected}")
        shutil.rmtree(self.output)
        self.runs.append(Run(program, job, models.name, cost))
        logger.info(self.runs[-1].line())


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def make_models(work: Path, scale: str, deep: bool) -> Models:
    """Return the models of a scale; create them if they do not exist."""
    shape = SHAPES[scale] | {"layers": SHAPES[scale]["layers"] * (2 if deep else 1)}
    models = Models(work / "models" / f"{scale}-{shape['layers']}")
    logger.info("models: %s", models.folder)
    program = Path(__file__).with_name("models.py")
    subprocess.run([sys.executable, program, models.folder, json.dumps(shape)], check=True)
    return models


def make_environment(folder: Path) -> dict[str, str]:
    """Create an environment with mergekit unless it exists, and return versions in it by name.

    Libraries that both programs use have the versions of `constraints.txt`.
    """
    python = folder / "bin" / "python"
    marker = folder / "complete.json"
    content = {"mergekit": MERGEKIT, "constraints": CONSTRAINTS.read_text()}
    if not marker.is_file() or json.loads(marker.read_text()) != content:
        logger.info("environment: %s (some minutes, once)", folder)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS)]
        subprocess.run(
            [*install, "torch"], check=True
        )  # First, so that a CPU build is used if the index has one.
        subprocess.run([*install, MERGEKIT], check=True)
        marker.write_text(json.dumps(content))
    script = (
        "import importlib.metadata, json, sys;"
        "print(json.dumps({n: importlib.metadata.version(n) for n in sys.argv[1:]}))"
    )
    command = [str(python), "-c", script, *SHOWN_VERSIONS]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(json.loads(printed))


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for models, environment and results")
    add("--scale", choices=SHAPES, default="full", help="small: for a trial run")
    add("--repeats", type=int, default=3, help="runs of mergegrid and of the floor")
    add(
        "--mergekit-repeats",
        type=int,
        default=1,
        help="runs of mergekit, at most --repeats; 0 for none",
    )
    add("--mergekit-dtype", choices=("bfloat16", "float32"), default="bfloat16")
    add(
        "--deep",
        action="store_true",
        help="also measure the memory of mergegrid on models twice as deep",
    )
    add("--skip-rates", action="store_true", help="skip the merge at ten rates (22 GB)")
    add("--only", nargs="+", choices=[case.name for case in CASES], metavar="CASE")
    engine = Path(sys.executable).with_name("mergegrid")
    add("--engine", type=Path, default=engine, help="the mergegrid program")
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    arguments = parse()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    runner = Runner(work, arguments.engine, arguments.mergekit_dtype)
    versions = make_environment(runner.mergekit) if arguments.mergekit_repeats else {}
    models = make_models(work, arguments.scale, deep=False)
    deep = make_models(work, arguments.scale, deep=True) if arguments.deep else None
    cases = [case for case in CASES if not arguments.only or case.name in arguments.only]

    if arguments.scale == "full":
        runner.warm_up(make_models(work, "small", deep=False), bool(versions))

    for turn in range(arguments.repeats):
        methods = {case.mergekit for case in cases} if turn < arguments.mergekit_repeats else set()
        for case in cases:
            runner.run_mergegrid(case, models)
            runner.run_floor(case.name, models)
            if case.mergekit in methods:
                methods.remove(case.mergekit)
                runner.run_mergekit(case.mergekit, models)
    # Last, because writing 22 GB changes the free memory and the page cache.
    for _ in range(0 if arguments.skip_rates else arguments.repeats):
        runner.run_mergegrid(TEN_RATES, models, outputs=len(RATES))
        runner.run_floor(TEN_RATES.name, models, outputs=len(RATES))
    if deep:
        for case in cases:
            runner.run_mergegrid(case, deep)

    results = Results(runner.runs, models.name, deep.name if deep else None)
    mergekit_runs = min(arguments.repeats, arguments.mergekit_repeats)
    settings = {
        "models": models.name,
        "mergekit dtype": runner.dtype,
        "runs": f"{arguments.repeats} of mergegrid and of the floor, {mergekit_runs} of mergekit",
    }
    results.write(work, settings, versions)
    logger.info("\n%s\n\n%sWritten: %s", results.table(), results.ten_rates(), work / "merge.md")


if __name__ == "__main__":
    main()
