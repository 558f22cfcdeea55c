"""Create a new study: check everything, then write its folder as a whole."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mergegrid.errors import ConfigError
from mergegrid.study.live.phases import base_rule
from mergegrid.study.new_study.estimates import estimate_lines
from mergegrid.study.new_study.models import check_models
from mergegrid.study.new_study.options import (
    ChosenBenchmark,
    benchmark_options,
    expert_options,
)
from mergegrid.study.new_study.ready_benchmarks import READY
from mergegrid.study.new_study.study_text import study_text
from mergegrid.study.runtime.project_files import project_folder
from mergegrid.study.schema.loading import read_study

STUDY_FILE = "study.yaml"


def create_study(
    folder: Path, base: str, experts: Sequence[str], benchmarks: Sequence[str]
) -> list[str]:
    """Write a folder with a study, and return lines on what it is and costs.

    Args:
        folder: the new folder.
        base: folder or hub id of the base.
        experts: texts such as `math=org/model`.
        benchmarks: texts such as `gsm8k`, `math:gsm8k` or `mine=questions.jsonl`.

    Raises:
        MergegridError: an option is wrong, models do not fit together, or the folder exists;
            nothing is written then.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists; choose another folder, or remove it")
    models_by_name = expert_options(experts)
    chosen = benchmark_options(benchmarks, list(models_by_name))
    models = check_models(base, models_by_name)
    text = study_text(models, chosen)
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        (draft / STUDY_FILE).write_text(text, encoding="utf-8")
        study = read_study(draft / STUDY_FILE)
        jobs = _planned_jobs(draft)
        costs = estimate_lines(study, models, {one.name: one.questions for one in chosen})
        shutil.rmtree(draft / ".snakemake", ignore_errors=True)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return [
        f"{folder / STUDY_FILE}: OK; {models.label} with {len(models_by_name)} experts, checked by "
        "their headers",
        *models.notes,
        *_hints(chosen),
        jobs,
        *costs,
        f"next: cd {folder} && mergegrid run    # with a GPU: mergegrid run --resources gpu=1",
    ]


def _hints(chosen: Sequence[ChosenBenchmark]) -> list[str]:
    """What to look at before the first run."""
    lines = []
    for one in chosen:
        if one.guessed and one.path is None:
            lines.append(
                f"{one.name} measures {', '.join(one.experts)}, by the names; otherwise write "
                f"--benchmark EXPERT:{one.name}, or edit the study"
            )
        if one.path is None and READY[one.name].judged:
            lines.append(f"{one.name} needs a judge: start the server that {STUDY_FILE} names")
    return lines


def _planned_jobs(folder: Path) -> str:
    """Number of jobs, by a dry run."""
    if find_spec("snakemake") is None:
        return 'jobs: unknown without Snakemake; pip install "mergegrid[study]"'
    options = ["--dry-run", "--quiet", "rules", "host", "--configfile", STUDY_FILE]
    command = [sys.executable, "-m", "snakemake", "--snakefile"]
    done = subprocess.run(
        [*command, str(project_folder() / "Snakefile"), *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # The table comes twice, before and after the list of jobs.
    table, total, _ = done.stdout.partition("\ntotal ")
    counts = Counter[str]()
    for rule, count in re.findall(r"^(\S+) +(\d+)$", table, re.MULTILINE):
        counts[base_rule(rule)] += int(count)
    if done.returncode or not total:
        raise ConfigError(f"the study cannot be planned:\n{done.stdout.strip()}")
    kinds = ", ".join(f"{count} {rule}" for rule, count in counts.items() if rule != "all")
    return f"jobs: {counts.total()} ({kinds})"
