"""Compare the grid of pairs with the paper's procedure: candidates scored per minute.

    GLUE_DATA=path/to/glue python benchmarks/pairs.py --study config/glue_small.yaml

Takes three finished experts of a study (created by `make glue-small`) and scores every candidate of
the paper's ranges (arXiv 2311.03099, appendix A) over their pairs, selected on the test split as in
the paper's code: average, task arithmetic 6, Fisher 4, RegMean 16, TIES 18, and DARE at five rates
before the best setting of each method. Both sides score the same candidates on the same examples.

mergegrid: the jobs of the workflow that follow the experts, `snakemake --cores N`: statistics once
per expert, and one job per pair, which scores both of its targets.

The paper's procedure, `pairs_original.py`: one process for each method and ordered pair, with and
without DARE; statistics are gathered again for every candidate. Of candidates that cost the same,
one is run and counts for all, to keep the time bounded: for RegMean one ratio per number of
examples, for TIES and task arithmetic one setting, for DARE one rate. Fisher's 20 candidates that
repeat others, because a common factor cancels, are left out on both sides. It uses all cores.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from tabulate import tabulate

from mergegrid.study.schema.loading import read_study
from mergegrid.study.schema.study import Study

EXAMPLES = [256, 512, 1024, 2048]
RATES = [0.1, 0.3, 0.5, 0.7, 0.9]
COEFFICIENTS = [0.1, 0.3, 0.5, 0.7, 0.9, 1.0]
METHODS: list[dict[str, Any]] = [
    {"kind": "average"},
    {"kind": "task_arithmetic", "coefficient": COEFFICIENTS},
    {"kind": "fisher", "examples": EXAMPLES},
    {"kind": "regmean", "examples": EXAMPLES, "offdiagonal": [0.7, 0.8, 0.9, 1.0], "ridge": 1e-5},
    {"kind": "ties", "coefficient": COEFFICIENTS, "trim": [0.7, 0.8, 0.9]},
]
ORIGINAL = Path(__file__).with_name("pairs_original.py")
TARGET = 10
"""Least ratio of candidates per minute."""


def representatives(method: dict[str, Any]) -> list[tuple[dict[str, Any], int]]:
    """Return the candidates of a method to run, and how many candidates each stands for."""
    settings = {key: values for key, values in method.items() if key != "kind"}
    count = 1
    for values in settings.values():
        count *= len(values) if isinstance(values, list) else 1
    plain = {
        key: values[-1] if isinstance(values, list) else values for key, values in settings.items()
    }
    if "examples" not in settings:
        return [(plain, count), (plain | {"rate": RATES[-1]}, len(RATES))]
    by_examples = [(plain | {"examples": number}, count // len(EXAMPLES)) for number in EXAMPLES]
    return [*by_examples, (plain | {"rate": RATES[-1]}, len(RATES))]


def config_of(study: Study, path: Path, experts: list[str], results: Path) -> dict[str, Any]:
    """Return the configuration of a study of three existing experts and their pairs."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert study.encoders is not None
    ((family, config),) = study.encoders.families.items()
    made = Path(study.paths.results).resolve() / family
    tasks = {name: content["encoders"]["tasks"][config.task_of(name)] for name in experts}
    for task in tasks.values():
        task["sizes"] = {"test": task["sizes"]["test"]}
    return {
        "title": "Pairs, timed",
        "paths": {"results": str(results), "logs": str(results / "logs")},
        "encoders": {
            "tasks": tasks,
            "families": {
                family: {
                    "base": {"source": f"path:{made / 'base'}"},
                    "max_length": config.max_length,
                    "experts": {
                        name: {"source": {"source": f"path:{made / 'experts' / name / 'seed~0'}"}}
                        for name in experts
                    },
                }
            },
            "seeds": {"training": [0], "mask": [0]},
            "sweep": None,
            "merges": {
                "sets": ["pairs"],
                "aim": "each",
                "methods": METHODS,
                "sparsifiers": [{"kind": "none"}, {"kind": "dare", "rate": RATES}],
            },
            "selection": "test",
        },
    }


def snakemake(config: Path, cores: str, targets: list[Path]) -> float:
    """Build files of a study, and return the seconds it took."""
    command = [sys.executable, "-m", "snakemake", "--cores", cores, "--configfile", str(config)]
    start = time.perf_counter()
    subprocess.run([*command, "--quiet", "all", "--", *map(str, targets)], check=True)
    return time.perf_counter() - start


def mergegrid(config: Path, family: str, experts: list[str], results: Path, cores: str) -> Any:
    """Return candidates and seconds of the workflow, starting from the experts."""
    folders = [results / family / "experts" / name / "seed~0" for name in experts]
    tasks = [results / "tasks" / f"{name}.parquet" for name in experts]
    snakemake(config, cores, [*folders, *tasks])
    pairs = [
        results / family / "merges" / f"{one}+{other}" / "seed~0.parquet"
        for one, other in combinations(experts, 2)
    ]
    seconds = snakemake(config, cores, pairs)
    scores = pd.concat([pd.read_parquet(path) for path in pairs])
    return len(scores), seconds


def original(family: str, experts: list[str], results: Path, max_length: int) -> Any:
    """Return candidates, seconds and table rows of the paper's procedure on three ordered pairs."""
    rows, candidates, total = [], 0, 0.0
    for source, target in pairwise([*experts, experts[0]]):
        for method in METHODS:
            chosen = representatives(method)
            settings = {
                "base": str(results / family / "base"),
                "source": str(results / family / "experts" / source / "seed~0"),
                "target": str(results / family / "experts" / target / "seed~0"),
                "source_examples": str(results / "tasks" / f"{source}.parquet"),
                "target_examples": str(results / "tasks" / f"{target}.parquet"),
                "max_length": max_length,
                "method": method["kind"],
                "candidates": [candidate for candidate, _ in chosen],
            }
            start = time.perf_counter()
            printed = subprocess.run(
                [sys.executable, str(ORIGINAL)],
                input=json.dumps(settings),
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            wall = time.perf_counter() - start
            result = json.loads(printed.splitlines()[-1])
            # One process without DARE and one with it; both start and load the models once.
            start_up = 2 * (wall - sum(result["seconds"]))
            counts = [count for _, count in chosen]
            work = sum(
                count * seconds for count, seconds in zip(counts, result["seconds"], strict=True)
            )
            rows.append([f"{source} -> {target}", method["kind"], sum(counts), start_up + work])
            candidates += sum(counts)
            total += start_up + work
            sys.stderr.write(f"{rows[-1]}\n")
    return candidates, total, rows


def main() -> None:
    """Run and compare both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, default=Path("config/glue_small.yaml"))
    parser.add_argument("--experts", nargs=3, default=["mrpc", "rte", "stsb"])
    parser.add_argument("--work", type=Path, default=Path(".bench/pairs"))
    parser.add_argument("--cores", default=str(os.cpu_count()))
    arguments = parser.parse_args()
    study = read_study(arguments.study)
    assert study.encoders is not None
    (family,) = study.encoders.families
    arguments.work.mkdir(parents=True, exist_ok=True)
    config, results = arguments.work / "study.yaml", arguments.work / "results"
    content = config_of(study, arguments.study, arguments.experts, results)
    config.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    count, seconds = mergegrid(config, family, arguments.experts, results, arguments.cores)
    length = study.encoders.families[family].max_length
    counted, total, rows = original(family, arguments.experts, results, length)
    rates = [60 * count / seconds, 60 * counted / total]
    table = [
        ["mergegrid", count, seconds, rates[0]],
        ["the paper's procedure", counted, total, rates[1]],
        ["ratio", None, None, rates[0] / rates[1]],
    ]
    heads = ["", "candidates", "seconds", "candidates per minute"]
    text = tabulate(table, heads, tablefmt="pipe", floatfmt=".1f")
    detail = tabulate(
        rows, ["pair", "method", "candidates", "seconds"], tablefmt="pipe", floatfmt=".1f"
    )
    (arguments.work / "pairs.md").write_text(f"{text}\n\n{detail}\n", encoding="utf-8")
    sys.stdout.write(f"{text}\n\n{detail}\n")
    met = rates[0] >= TARGET * rates[1]
    sys.stdout.write(f"target: a ratio of at least {TARGET}; {'met' if met else 'NOT met'}\n")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
