"""Rules of the house: what may import what, and what every rule of the workflow must have."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from tiers import FIRST, SLOW, TESTS

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "src" / "mergegrid"
#: From the ground up: a module imports only from its own floor or from one below. The core ends
#: where `study` begins; the command line alone opens both, each command when it runs.
FLOORS = [
    {
        *("errors", "extras", "hashing", "stages", "progress", "fsync", "settings", "yaml_files"),
        "kernels",
    },
    {"checkpoints", "plugins"},
    {"engine"},
    {"sparsifiers"},
    {"methods"},
    {"recipes"},
    {"delta_reports", "merging"},
    {"in_memory", "preflight"},
    {"extraction"},
    {"adapter_merging"},
    {"api"},
    {"study.runtime", "study.grading.answers"},
    {"study.schema"},
    {"study.tasks", "study.encoders.importing", "study.encoders.class_order", "study.decoders"},
    {"study.finetuning", "study.model_statistics", "study.generation"},
    {"study.encoders", "study.grading", "study.scoring"},
    {"study.reporting"},
    {"study.live", "study.new_study", "study.local_data"},
    {"study_cli"},
    {"cli"},
]
MODULES = sorted(LIBRARY.rglob("*.py"))
RULES = sorted((ROOT / "workflow" / "rules").glob("*.smk"))


def floor(package):
    return next(level for level, names in enumerate(FLOORS) if package in names)


def package_of(parts):
    """The longest name that has a floor: `study.grading.answers` stands below `study.grading`."""
    names = [".".join(parts[:length]) for length in (3, 2, 1)]
    return next(name for name in names if any(name in level for level in FLOORS))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").partition(".")[0] == "mergegrid"
        ):
            for alias in node.names:
                yield package_of([*node.module.split("."), alias.name][1:])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_imports_never_run_upwards(path):
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    if parts in {("__init__",), ("study", "__init__")}:
        return
    package = package_of(parts)
    above = [name for name in imports(path) if floor(name) > floor(package)]
    assert not above


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_what_is_private_to_a_module_stays_in_it(path):
    found = [
        alias.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mergegrid.")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert not found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_modules_hold_one_idea(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_no_threads_wait_for_each_other_to_compute_a_property(path):
    # Python 3.11 computes a cached_property under one lock of all instances.
    assert "cached_property" not in path.read_text()


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_rules_say_what_they_need_and_log_what_they_do(path):
    text = path.read_text()
    rules = re.split(r"^rule ", text, flags=re.MULTILINE)[1:]
    if rules:
        assert "REQUIRED INPUTS:" in text
        assert "OUTPUTS:" in text
    for rule in rules:
        name = rule.split(":")[0]
        for part in ("log:", "conda:", "mem_mb=", "runtime=", "script:", '"""'):
            assert part in rule, f"rule {name} has no {part}"
        assert "retries:" not in rule, f"rule {name} has retries; they belong into a profile"


def test_no_script_of_the_workflow_hides_a_module_of_python():
    # The folder of a script is where Python looks first while the script runs.
    scripts = {path.stem for path in (ROOT / "workflow" / "scripts").glob("*.py")}
    assert scripts.isdisjoint(sys.stdlib_module_names)


#: Scripts that start models; all others must not wait for what takes seconds to import.
WITH_TORCH = {
    "decoder", "decoder_similarity", "decoder_statistics", "expert", "gather_statistics",
    "generate", "generate_variants", "import_base", "import_decoder", "merges", "oracle",
    "oracle_scores", "similarity", "sweep",
}  # fmt: skip
LIGHT = [
    path
    for path in sorted((ROOT / "workflow" / "scripts").glob("[!_]*.py"))
    if path.stem not in WITH_TORCH
]
TORCH = {"torch", "transformers"}
#: By what is imported, the libraries that must not come with it. All of it is imported by one
#: interpreter, so the strictest stands first: what a line has imported, the next ones have too.
WITHOUT = {
    "mergegrid.study.reporting.catalogue": TORCH | {"pandas", "matplotlib", "mergegrid.methods"},
    "mergegrid.study.schema.encoder_jobs, mergegrid.study.schema.loading": TORCH
    | {"pandas", "matplotlib", "numba"},
    "mergegrid, mergegrid.api": TORCH | {"pandas", "matplotlib", "snakemake"},
    "mergegrid.study.reporting.tables, mergegrid.study.reporting.files, "
    "mergegrid.study.reporting.libraries": TORCH | {"matplotlib"},
    "mergegrid.cli": TORCH | {"sklearn", "scipy.stats"},
    **{path.stem: TORCH | {"sklearn", "scipy.stats"} for path in LIGHT},
}
IMPORT = """
import json, sys
for name, modules, slow in json.load(sys.stdin):
    exec(f"import {modules}")
    if came := sorted(set(slow) & set(sys.modules)):
        sys.exit(f"{name} imports {', '.join(came)}")
"""


def test_what_starts_often_imports_nothing_slow():
    pytest.importorskip("snakemake", reason="jobs of studies are among what starts often")
    scripts = {path.stem: path for path in LIGHT}
    lines = []
    for name, slow in WITHOUT.items():
        modules = name
        if name in scripts:
            tree = ast.parse(scripts[name].read_text())
            froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
            modules = ", ".join(sorted({node.module for node in froms}))
        lines.append((name, modules, sorted(slow)))
    path = [str(ROOT / "workflow" / "scripts"), os.environ.get("PYTHONPATH", "")]
    subprocess.run(
        [sys.executable, "-c", IMPORT],
        input=json.dumps(lines),
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
    )


def test_imports_read_no_source_for_descriptions():
    code = (
        "import linecache, mergegrid.api; print([n for n in linecache.cache if 'mergegrid' in n])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_every_table_and_figure_has_a_function_and_a_description():
    pytest.importorskip("pandas", reason="tables are of studies")
    from mergegrid.study.reporting.catalogue import FIGURES, TABLES

    for entry in (*TABLES.values(), *FIGURES.values()):
        module, _, name = entry.function.partition(".")
        function = getattr(import_module(f"mergegrid.study.reporting.{module}"), name)
        assert function.__doc__


def test_the_list_of_faults_names_tests():
    for line in (ROOT / "tests" / "faults" / "elsewhere.txt").read_text().split():
        path, name = line.split("::")
        assert f"def {name}(" in (ROOT / path).read_text(), line


def test_every_slow_and_every_long_file_of_tests_is_there():
    for name in (*SLOW, *FIRST):
        assert (TESTS / name).exists(), f"tests/helpers/tiers.py names {name}"
