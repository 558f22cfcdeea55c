"""Break the code in many places, one at a time, and see that the tests notice.

    python tests/breakages.py                 all, in about fifteen minutes on two cores
    python tests/breakages.py ties writer     those whose name has one of these words
    python tests/breakages.py --list          their names, without running anything

Each breakage is one line of arithmetic, changed in a scratch copy of the project, and the tests
that must fail then. A breakage that no test notices, and one whose line is no longer there, end the
command with an error: write the missing test, or change something else there.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parents[1]
#: What tests read of the project.
PARTS = (
    *("src", "tests", "workflow", "config", "profiles", "resources", "docs", "examples"),
    *("benchmarks", "Snakefile", "README.md", "Makefile", "pyproject.toml", "environment.yml"),
    "constraints.txt",
)
#: Seconds; who breaks a loop may make it endless.
_LONGEST = 1800


@dataclass(frozen=True)
class Breakage:
    """One changed line, and who must notice."""

    name: str
    files: str
    """Where the line is, below `src/mergegrid`: a pattern of files, in exactly one of which it
    occurs exactly once, so that it may move among them."""
    line: str
    """Regular expression of what is replaced."""
    broken: str
    """What stands there instead."""
    tests: tuple[str, ...]
    """Arguments of pytest, relative to `tests`."""


def _golden(stage: str) -> str:
    test = "test_numbers_change_only_when_the_version_of_their_stage_is_raised"
    return f"golden/test_golden.py::{test}[{stage}]"


def _b(name: str, files: str, line: str, broken: str, *tests: str) -> Breakage:
    return Breakage(name, files, line, broken, tests)


UNIT = "unit/engine"
STUDY = "unit/study"
BREAKAGES = [
    # Masks and exact selection.
    _b(
        "masks: share of words that keep",
        "engine/**/*.py",
        r"round\(\(1 - (\w+)\) \* 2\*\*32\)",
        r"round((1 - \1) * 2**31)",
        f"{UNIT}/test_masks.py",
    ),
    _b(
        "masks: byte order of keys",
        "engine/**/*.py",
        r', "little"\)',
        ', "big")',
        f"{UNIT}/test_masks.py",
    ),
    _b(
        "masks: constant of Philox",
        "kernels/*.py",
        "0xD2511F53",
        "0xD2511F55",
        f"{UNIT}/test_philox.py",
    ),
    _b(
        "thresholds: equals that are kept",
        "engine/**/*.py",
        r"\.equal - \((\w+) - (\w+)\.below\)",
        r".equal - (\1 - \2.below) + 1",
        f"{UNIT}/test_thresholds.py",
    ),
    _b(
        "thresholds: elements below a bin",
        "engine/**/*.py",
        r"total\[(\w+)\] - histogram\[\1\]",
        r"total[\1]",
        f"{UNIT}/test_thresholds.py",
    ),
    _b(
        "thresholds: rank of the reference",
        "engine/**/*.py",
        r"rank = int\((\w+) \* (\w+)\)",
        r"rank = round(\1 * \2)",
        "unit/methods/test_parity.py",
        "unit/methods/test_ties.py",
        "unit/sparsifiers/test_sparsifiers.py",
    ),
    # Sparsifiers.
    _b(
        "dare: rescaling",
        "sparsifiers/dare.py",
        r"inverse\((\w+)\.rate\)",
        r"inverse(\1.rate / 2)",
        "unit/sparsifiers/test_dare.py",
    ),
    _b(
        "drop_only: no rescaling",
        "sparsifiers/drop_only.py",
        r", 1\.0\)",
        ", 1.5)",
        "unit/sparsifiers",
    ),
    _b(
        "magnitude: rescaling",
        "sparsifiers/magnitude.py",
        r"inverse\((\w+)\.rate\)",
        r"inverse(\1.rate / 2)",
        "unit/sparsifiers/test_sparsifiers.py",
    ),
    _b(
        "breadcrumbs: share of small deltas",
        "sparsifiers/breadcrumbs.py",
        r"low = rate - top",
        "low = rate",
        "unit/sparsifiers/test_sparsifiers.py",
    ),
    _b(
        "della: window",
        "sparsifiers/della.py",
        r"\.rate - window",
        ".rate",
        "unit/sparsifiers/test_sparsifiers.py",
    ),
    _b(
        "masked_finetuned: no rescaling",
        "sparsifiers/masked_finetuned.py",
        r"else 1\.0",
        "else 0.5",
        "unit/sparsifiers",
    ),
    # Methods.
    _b(
        "weights and coefficients: one that is not given",
        "engine/tensors.py",
        r"values\.get\((\w+), 1\.0\)",
        r"values.get(\1, 2.0)",
        "unit/methods/test_methods.py",
    ),
    _b(
        "ties: the sign of the majority",
        "methods/ties.py",
        r"float\(np\.sign\(",
        "-float(np.sign(",
        "unit/methods/test_parity.py",
        "unit/methods/test_ties.py",
    ),
    _b(
        "fisher: shares of normalized information",
        "methods/fisher.py",
        r"(\w+) / \((\w+)\.result\(",
        r"\1 * (\2.result(",
        "unit/methods/test_fisher.py",
    ),
    _b(
        "regmean: entries off the diagonal",
        "methods/regmean.py",
        r"\(1 - offdiagonal\)",
        "offdiagonal",
        "unit/methods/test_regmean.py",
    ),
    _b(
        "sce: weights of experts",
        "methods/sce.py",
        r"\(delta, delta\) for",
        "(delta, deltas[0]) for",
        "unit/methods/test_sce.py",
    ),
    _b(
        "slerp: share of the first",
        "methods/slerp.py",
        r"math\.sin\(near \* angle\)",
        "math.sin(far * angle)",
        "unit/methods/test_methods.py",
    ),
    _b(
        "tall: sum of the others",
        "sparsifiers/tall.py",
        r"ops\.subtract\(total, delta\)",
        "total",
        "unit/sparsifiers/test_tall.py",
    ),
    _b(
        "pcb: square of shares",
        "methods/pcb.py",
        r"experts \* share\*\*2",
        "experts * share",
        "unit/methods/test_pcb.py",
    ),
    _b(
        "emr: sign of a sum of zero",
        "methods/emr.py",
        r"weights, -1\.0\)",
        "weights, 1.0)",
        "unit/methods/test_per_expert.py",
    ),
    _b(
        "iso_cts: an expert without its common part",
        "methods/iso_cts.py",
        r"rest -= outputs @",
        "rest += outputs @",
        "unit/methods/test_iso_cts.py",
    ),
    _b(
        "knots: rank in the bin of the cut",
        "methods/knots.py",
        r"rank - below",
        "rank",
        "unit/methods/test_knots.py",
    ),
    _b(
        "model_stock: ratio",
        "methods/model_stock.py",
        r"/ \(1 \+ \(count - 1\) \* cosine\)",
        "/ (1 + count * cosine)",
        "unit/methods/test_methods.py",
    ),
    # The engine and checkpoints.
    _b(
        "rounding to bfloat16",
        "kernels/loops.py",
        r"value \+ np\.uint32\(0x7FFF\)",
        "value + np.uint32(0x8000)",
        "unit/kernels",
        f"{UNIT}/ops",
    ),
    _b(
        "memory budget: bytes of an element",
        "engine/**/*.py",
        r"return _FLOAT \* (max\()",
        r"return \1",
        f"{UNIT}/test_budget.py",
        f"{UNIT}/test_memory.py",
    ),
    _b(
        "writer: size of shards",
        "checkpoints/**/*.py",
        r"-= (\w+)\.bytes",
        r"-= \1.bytes // 2",
        "unit/checkpoints/test_writer.py",
    ),
    _b(
        "publish: digests of files are compared",
        "checkpoints/**/*.py",
        r"if file_digest\((.+?)\) != (\w+):",
        r"if not file_digest(\1):",
        "unit/checkpoints/test_damage.py",
    ),
    _b(
        "publish: sizes of weights are compared",
        "checkpoints/**/*.py",
        r'(\w+)\.stat\(\)\.st_size != (\w+)\["bytes"\]',
        "False",
        "unit/checkpoints/test_damage.py",
    ),
    _b(
        "digests: shape of a tensor",
        "checkpoints/**/*.py",
        r"\[info\.dtype\.name, list\(info\.shape\)\]",
        "[info.dtype.name]",
        "unit/checkpoints/test_digests.py",
    ),
    _b(
        "compatibility: configs are compared",
        "checkpoints/**/*.py",
        r"base\[key\] != expert\[key\]",
        "not base[key]",
        "unit/checkpoints/test_compatibility.py",
    ),
    _b(
        "sources: checksums are compared",
        "checkpoints/**/*.py",
        r"sha256 is not None and (\w+) != sha256",
        r"sha256 is not None and not \1",
        "unit/checkpoints/test_sources.py",
    ),
    _b(
        "sources: archives stay in their folder",
        "checkpoints/**/*.py",
        r'parts\[0\] == "" or "\.\." in parts',
        'parts[0] == ""',
        "unit/checkpoints/test_sources.py",
    ),
    _b(
        "hashing: order of keys",
        "hashing.py",
        "sort_keys=True",
        "sort_keys=False",
        "unit/test_hashing.py",
        "unit/recipes",
    ),
    _b(
        "deltas: their mean size",
        "delta_reports/sizes.py",
        r"self\.l1 / self\.n",
        "self.l1 / (self.n - 1)",
        "unit/delta_reports/test_sizes.py",
    ),
    _b(
        "stage versions: one raised without its numbers",
        "**/*.py",
        r'(?m)^STAGE_VERSIONS = \{"merge": \d+',
        'STAGE_VERSIONS = {"merge": 99',
        _golden("merge"),
    ),
    # Studies.
    _b(
        "fine-tuning: loss per token",
        "study/finetuning/**/*.py",
        r"losses / \(",
        "losses / 2 / (",
        f"{STUDY}/finetuning/test_decoder.py",
    ),
    _b(
        "fine-tuning: warm-up",
        "study/finetuning/**/*.py",
        r"(\w+) \* settings\.warmup_ratio",
        r"\1 * settings.warmup_ratio / 2",
        f"{STUDY}/finetuning/test_multitask.py",
        _golden("finetune_multitask"),
    ),
    _b(
        "statistics: a mean over examples",
        "study/model_statistics/**/*.py",
        r"sums / count",
        "sums / (count + 1)",
        f"{STUDY}/model_statistics",
    ),
    _b(
        "generation: the most likely tokens",
        "study/generation/**/*.py",
        r"kept = sums - \w+ < ",
        "kept = sums < ",
        f"{STUDY}/generation/test_transformers_backend.py",
    ),
    _b(
        "generation: the most likely of the tokens that are left",
        "study/generation/**/*.py",
        r"allowed & \(sums - \w+ < ",
        "allowed & (sums < ",
        f"{STUDY}/generation",
    ),
    _b(
        "generation: room for the answer",
        "study/generation/**/*.py",
        r"max_tokens, (\w+) - len\(ids\)",
        r"max_tokens, \1",
        f"{STUDY}/generation",
    ),
    _b(
        "grading: numbers are compared",
        "study/grading/**/*.py",
        r"value / divisor if divisor",
        "value / 10 if divisor",
        f"{STUDY}/grading/answers/test_numbers.py",
        f"{STUDY}/grading/answers/test_known_faults.py",
    ),
    _b(
        "grading: preferences of a judge",
        "study/grading/**/*.py",
        r"float\(value\) - 1 if",
        "(float(value) - 1) / 2 if",
        f"{STUDY}/grading/judges/test_alpaca.py",
    ),
    _b(
        "sandbox: memory of a program",
        "study/grading/**/*.py",
        r"(\w+)\.memory_bytes",
        r"\1.memory_bytes * 64",
        f"{STUDY}/grading/programs/test_hostile.py",
    ),
    _b(
        "sandbox: system calls that are refused",
        "study/grading/**/*.py",
        r"_IF_EQUAL, 0, 1, number",
        "_IF_EQUAL, 0, 1, number + 1",
        f"{STUDY}/grading/programs/test_seccomp.py",
        f"{STUDY}/grading/programs/test_hostile.py",
    ),
    _b(
        "GPU lease: places on a GPU",
        "study/runtime/**/*.py",
        r"fcntl\.LOCK_SH if jobs_per_gpu > 1 else",
        "fcntl.LOCK_SH if jobs_per_gpu > 0 else",
        f"{STUDY}/runtime/test_gpu_lease.py",
    ),
    _b(
        "journal: sums of lines",
        "study/runtime/**/*.py",
        r'"sum"\) != (\w+)\(',
        r'"sum") == \1(',
        f"{STUDY}/runtime/test_journal.py",
    ),
    _b(
        "scores: standard error",
        "study/tasks/**/*.py",
        r"\(total - 1\) / total \*",
        "1 / total *",
        f"{STUDY}/tasks/test_metrics.py",
    ),
    _b(
        "selection: the best is chosen",
        "study/scoring/**/*.py",
        r"\.idxmax\(\)",
        ".idxmin()",
        f"{STUDY}/scoring/test_choice.py",
    ),
    _b(
        "comparisons: p-values are never zero",
        "study/scoring/**/*.py",
        r"2 \* \((\w+) \+ 1\)",
        r"2 * \1",
        f"{STUDY}/scoring/test_comparisons.py",
    ),
    _b(
        "comparisons: Holm's steps",
        "study/scoring/**/*.py",
        r"np\.arange\(len\((\w+)\), 0, -1\)",
        r"np.arange(1, len(\1) + 1)",
        f"{STUDY}/scoring/test_comparisons.py",
    ),
    _b(
        "findings: variance of seeds beyond that of examples",
        "study/scoring/levels.py",
        r"one\.variance - one\.explained",
        "one.variance",
        f"{STUDY}/scoring/test_levels.py",
    ),
    _b(
        "findings: one differing example more",
        "study/scoring/levels.py",
        r" \+ largest / count\*\*2",
        "",
        f"{STUDY}/scoring/test_levels.py",
    ),
    _b(
        "findings: correction for the number of comparisons",
        "study/scoring/findings.py",
        r"level = LEVEL / item\.comparisons",
        "level = LEVEL",
        f"{STUDY}/scoring/test_findings.py",
    ),
    _b(
        "tables: change from the whole expert",
        "study/reporting/tables.py",
        r'\["value"\] - (\w+)\["whole"\]',
        r'["value"] + \1["whole"]',
        f"{STUDY}/reporting/test_tables.py",
    ),
    _b(
        "tables: difference from published numbers",
        "study/reporting/published.py",
        r'\.mean\(\) - (\w+)\["published"\]',
        r'.mean() + \1["published"]',
        f"{STUDY}/reporting/test_published.py",
    ),
    _b(
        "costs: hours",
        "study/reporting/costs.py",
        r" / 3600\b",
        " / 3601",
        f"{STUDY}/reporting/test_costs.py",
        _golden("costs"),
    ),
]


def main() -> int:
    """Run what was asked for, and print a line for each breakage."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", help="parts of names; all breakages without any")
    parser.add_argument("--list", action="store_true", help="print names and tests, run nothing")
    parser.add_argument(
        "--at-once",
        action="store_true",
        help="take it that the tests pass before anything is broken",
    )
    parser.add_argument("--project", type=Path, default=ROOT, help="another working tree to break")
    parser.add_argument("--jobs", type=int, default=2, help="breakages tried at a time")
    arguments = parser.parse_args()
    chosen = [
        breakage
        for breakage in BREAKAGES
        if not arguments.words or any(word in breakage.name for word in arguments.words)
    ]
    gone = [problem for each in chosen if (problem := missing(each, arguments.project))]
    if arguments.list or gone:
        write("".join(f"{each.name}: {' '.join(each.tests)}\n" for each in chosen))
        write("".join(f"error: {problem}\n" for problem in gone))
        return bool(gone)
    with tempfile.TemporaryDirectory(prefix="breakages-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(arguments.jobs):
            copies.put(copy_project(arguments.project, Path(folder) / str(number)))
        tests = dict.fromkeys(test for breakage in chosen for test in breakage.tests)
        if not arguments.at_once:
            write("Before anything is broken: ")
            if failed := first_failure(Path(folder) / "0", tuple(tests)):
                write(f"{failed} fails; see to that first\n")
                return 1
            write("all of these tests pass\n")
        with ThreadPoolExecutor(arguments.jobs) as pool:
            outcomes = pool.map(lambda breakage: attempt(breakage, copies), chosen)
            missed = 0
            for breakage, (noticed, seconds) in zip(chosen, outcomes, strict=True):
                missed += noticed is None
                write(f"{breakage.name:50} {seconds:5.0f} s  {noticed or 'NOT NOTICED'}\n")
    write(f"{len(chosen)} breakages, {len(chosen) - missed} noticed\n")
    return bool(missed)


def missing(breakage: Breakage, project: Path) -> str | None:
    """Why a breakage cannot be tried, None where it can."""
    try:
        find(breakage, project)
    except LookupError as error:
        return str(error)
    for test in breakage.tests:
        if not (project / "tests" / test.partition("::")[0]).exists():
            return f"{breakage.name}: there is no tests/{test}; name the tests that notice it now"
    return None


def find(breakage: Breakage, project: Path) -> Path:
    """The file with the line of a breakage.

    Raises:
        LookupError: there is none, or the line occurs more than once.
    """
    package = project / "src" / "mergegrid"
    found = {
        path: len(re.findall(breakage.line, path.read_text(encoding="utf-8")))
        for path in sorted(package.glob(breakage.files))
    }
    places = [path for path, count in found.items() if count]
    if sum(found.values()) != 1:
        raise LookupError(
            f"{breakage.name}: {breakage.line!r} occurs {sum(found.values())} times in "
            f"src/mergegrid/{breakage.files}, and must once; change something else there"
        )
    return places[0]


def copy_project(project: Path, folder: Path) -> Path:
    """A copy of what tests read, with compiled files."""
    for part in PARTS:
        source = project / part
        if source.is_dir():
            shutil.copytree(source, folder / part, symlinks=True)
        elif source.exists():
            shutil.copy2(source, folder / part)
    return folder


def attempt(breakage: Breakage, copies: "SimpleQueue[Path]") -> tuple[str | None, float]:
    """The first test that fails when the line is broken, None where all pass; and the seconds."""
    start = time.monotonic()
    project = copies.get()
    path = find(breakage, project)
    text = path.read_text(encoding="utf-8")
    try:
        path.write_text(re.sub(breakage.line, breakage.broken, text), encoding="utf-8")
        return first_failure(project, breakage.tests), time.monotonic() - start
    finally:
        path.write_text(text, encoding="utf-8")
        copies.put(project)


def first_failure(project: Path, tests: tuple[str, ...]) -> str | None:
    """The first of some tests that fails in a copy of the project."""
    options = ["-q", "-x", "-p", "no:cacheprovider", "--durations=0", "--tb=line"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *(f"tests/{test}" for test in tests)],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(project / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"a test that took more than {_LONGEST} s"
    if done.returncode == 0:
        return None
    failed = re.findall(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.MULTILINE)
    if not failed:
        raise RuntimeError(f"pytest ended without a failed test:\n{done.stdout}")
    return failed[0]


def write(text: str) -> None:
    """Print at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
