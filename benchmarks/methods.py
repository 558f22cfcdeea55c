"""Measure every merging method, and those on whole matrices beside the direct way.

    python benchmarks/methods.py --work .bench
    python benchmarks/methods.py --work .bench --model half-2 --only iso_c wudi

Creates random models in the work folder: those of `merge.py` (`full`), two layers of half their
width (`half`), and an encoder with eight experts (`minilm`). Merges with every method and its
defaults, and prints wall and CPU time, peak memory, the memory that the plan states, and CPU time
relative to task_arithmetic. Methods by singular values or least squares also run the direct way:
with torch on whole float32 matrices and, but for WUDI, with FusionBench if `--fusion-bench` names
the Python of an environment that has it. On `full` methods on whole matrices take long and are only
measured if `--only` names them.

Results are added to `methods.json` in the work folder, so that parts can be measured at different
times; `methods.md` has the tables. Outputs and model statistics are deleted after each run.

Limits: as of `merge.py`: inputs are in the page cache, and weights are random.
"""

import argparse
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import yaml
from measure import Cost, measure, read_all
from method_tables import Measured, write_tables
from model_sets import SETS, ModelSet

MATRICES = ("regmean", "iso_c", "iso_cts", "tsv_m", "wudi", "knots")
"""Methods that compute with whole matrices."""
DIRECT = ("iso_c", "tsv_m", "wudi")
FUSION_BENCH = ("iso_c", "tsv_m")
"""Those that FusionBench computes in the same way; its WUDI takes 300 steps of Adam."""
STATISTICS = ("fisher", "regmean")
ONE_EACH = ("emr", "tall_mask")
"""Methods that make a model per expert; that of the first is measured."""
IDLE_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""Threads of torch that wait must not count as CPU time."""
PLAN = re.compile(r"at most ([\d,]+) MB of memory")
HERE = Path(__file__).parent

logger = logging.getLogger("benchmark")


class Runner:
    """Measures merges; every run starts with the inputs in the page cache and ends without output.

    Args:
        work: folder for models and results.
        engine: the mergegrid program.
        fusion_bench: Python of an environment with FusionBench, or None.
    """

    def __init__(self, work: Path, engine: Path, fusion_bench: Path | None) -> None:
        self.work, self.engine, self.fusion_bench = work, engine, fusion_bench
        self.out, self.logs = work / "out", work / "logs"
        self.results = work / "methods.json"

    def run(self, models: ModelSet, method: str) -> None:
        """Measure a method of mergegrid."""
        statistics = self._statistics(models, method) if method in STATISTICS else {}
        recipe = self._recipe(models, method, statistics)
        log = self.logs / f"methods {models.name} {method}.log"
        cost = self._measure(models, [self.engine, "merge", recipe, self.out], log)
        plan = PLAN.search(log.read_text())
        assert plan, f"{log} states no memory"
        self._add(models, "mergegrid", method, cost, float(plan[1].replace(",", "")))
        for path in statistics.values():
            Path(path).unlink()

    def warm_up(self, models: ModelSet) -> None:
        """Merge once, unmeasured: mergegrid compiles its loops at first use."""
        command = [self.engine, "merge", self._recipe(models, "task_arithmetic", {}), self.out]
        self._measure(models, command, self.logs / "methods warm up.log")

    def run_direct(self, models: ModelSet, method: str) -> None:
        """Measure the direct way, and FusionBench."""
        programs = {"direct": (Path(sys.executable), "direct_methods.py")}
        if self.fusion_bench and method in FUSION_BENCH:
            programs["FusionBench"] = (self.fusion_bench, "fusion_bench_methods.py")
        folders = models.base(self.work), *models.expert_folders(self.work)
        for program, (python, script) in programs.items():
            log = self.logs / f"methods {models.name} {method} {program}.log"
            command = [python, HERE / script, method, self.out, *folders]
            cost = self._measure(models, command, log, IDLE_THREADS)
            self._add(models, program, method, cost, None)

    def measured(self) -> list[Measured]:
        """All results so far."""
        if not self.results.is_file():
            return []
        rows = json.loads(self.results.read_text())
        return [Measured(**row | {"cost": Cost(**row["cost"])}) for row in rows]

    def _recipe(self, models: ModelSet, method: str, statistics: Mapping[str, str]) -> Path:
        first = models.expert_folders(self.work)[0].name
        content = {
            "base": str(models.base(self.work)),
            "experts": {path.name: str(path) for path in models.expert_folders(self.work)},
            "method": {"kind": method} | ({"expert": first} if method in ONE_EACH else {}),
            **({"statistics": statistics} if statistics else {}),
        }
        path = self.work / "recipe.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    def _measure(
        self,
        models: ModelSet,
        command: list[str | Path],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> Cost:
        shutil.rmtree(self.out, ignore_errors=True)
        base = models.weights(models.base(self.work))
        needed, free = 1.1 * _bytes(base), shutil.disk_usage(self.work).free
        if free < needed:
            sys.exit(
                f"error: {free / 1e9:.0f} GB free in {self.work}, {needed / 1e9:.0f} GB needed; "
                "free some space, or choose another --work or --model"
            )
        os.sync()
        read_all(models.inputs(self.work), self.logs / "warm")
        cost = measure(command, log, environment)
        written = _bytes(list(self.out.rglob("*.safetensors")))
        if abs(written - _bytes(base)) > 0.01 * _bytes(base):
            sys.exit(f"error: {log} is of a run that wrote {written} bytes, not {_bytes(base)}")
        shutil.rmtree(self.out)
        return cost

    def _statistics(self, models: ModelSet, method: str) -> dict[str, str]:
        names = [path.name for path in models.expert_folders(self.work)]
        files = {name: str(self.work / "statistics" / f"{name}.safetensors") for name in names}
        program = HERE / "statistics_files.py"
        base = models.base(self.work)
        subprocess.run([sys.executable, program, method, base, *files.values()], check=True)
        return files

    def _add(
        self, models: ModelSet, program: str, method: str, cost: Cost, stated: float | None
    ) -> None:
        measured = Measured(models.name, program, method, cost, stated)
        logger.info("%s", measured.line())
        rows = [asdict(row) for row in [*self.measured(), measured]]
        self.results.write_text(json.dumps(rows, indent=1) + "\n")


def _bytes(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def registry() -> dict[str, int | None]:
    """Names of all methods, and the most experts that each merges."""
    # In a process of its own: see measure.py.
    script = (
        "import json; from mergegrid.methods import METHODS;"
        "print(json.dumps({kind: method.expert_count[1] for kind, method in METHODS.items()}))"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
    return dict(json.loads(printed))


def chosen(models: ModelSet, methods: dict[str, int | None], only: list[str] | None) -> list[str]:
    """The methods to measure on some models."""
    names = [kind for kind, most in methods.items() if most is None or models.experts <= most]
    if only:
        return [kind for kind in names if kind in only]
    return [kind for kind in names if models.matrices or kind not in MATRICES]


def parse(methods: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for models and results")
    add("--model", nargs="+", choices=SETS, default=list(SETS), metavar="MODELS")
    add("--only", nargs="+", choices=methods, metavar="METHOD")
    add("--repeats", type=int, default=1, help="runs of each merge; tables have medians")
    add("--skip-direct", action="store_true", help="skip the direct way")
    add("--fusion-bench", type=Path, metavar="PYTHON", help="Python that has fusion-bench 0.2.33")
    add("--delete-models", action="store_true", help="delete models after their runs")
    engine = Path(sys.executable).with_name("mergegrid")
    add("--engine", type=Path, default=engine, help="the mergegrid program")
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    methods = registry()
    arguments = parse(list(methods))
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    runner = Runner(work, arguments.engine, arguments.fusion_bench)
    for models in (SETS[name] for name in arguments.model):
        logger.info("models: %s", models.folder(work))
        models.make(work)
        runner.warm_up(models)
        for kind in chosen(models, methods, arguments.only):
            for _ in range(arguments.repeats):
                runner.run(models, kind)
                if kind in DIRECT and models.matrices and not arguments.skip_direct:
                    runner.run_direct(models, kind)
        if arguments.delete_models:
            shutil.rmtree(models.folder(work))
    tables = write_tables(runner.measured(), list(methods), work / "methods.md")
    logger.info("\n%s\n\nWritten: %s", tables, work / "methods.md")


if __name__ == "__main__":
    main()
