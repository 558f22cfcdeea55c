"""Installs the core for several Pythons, measures what that costs, and merges with it.

    python tests/core/install.py python3.11 python3.12 python3.13

Builds the sdist and, from it, the wheel, as a release does (`python -m build`). For each Python: a
fresh environment with the wheel and the exact versions of constraints.txt (`--newest`: the newest
that pyproject.toml allows); its command, its size, its packages and how long imports take; then
`merges.py` and, with `--tests`, the fast tests of the core. It fails where merged models differ
between Pythons.
"""

import argparse
import ast
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: What every environment holds before anything is installed.
GIVEN = {"pip", "setuptools", "wheel"}
IMPORTS = ("mergegrid", "mergegrid.api")
#: What a sdist holds beside the library and what setup.py puts into the wheel.
FILES = ("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "constraints.txt")
STARTS = 5


def output(*command, **options):
    """Standard output of a command that must succeed."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def say(line):
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def parts_of_wheel():
    """What setup.py puts into the wheel beside the library; setuptools may be missing here."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    return next(
        ast.literal_eval(node.value) for node in assigned if ast.unparse(node.targets[0]) == "PARTS"
    )


def build(folder):
    """The wheel of the sdist of this folder, from a copy, so that nothing is left here."""
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", *FILES):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", source / "src", ignore=ignored)
    # The workflow, which setup.py puts into the wheel.
    for name in parts_of_wheel():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source)
    output(sys.executable, "-m", "venv", folder / "builder")
    builder = folder / "builder" / "bin" / "python"
    output(*_pip(builder), "install", "build")
    output(builder, "-m", "build", "--outdir", folder, source)
    (sdist,) = folder.glob("mergegrid-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    if missing := {*FILES, *parts_of_wheel()} - names:
        sys.exit(f"{sdist.name} has no {', '.join(sorted(missing))}: see MANIFEST.in")
    (wheel,) = folder.glob("mergegrid-*.whl")
    say(f"{sdist.name}: {sdist.stat().st_size / 1e6:.1f} MB")
    say(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
    return wheel


def environment(python, wheel, folder, newest):
    """A fresh environment with the core; gives its Python."""
    output(python, "-m", "venv", folder)
    own = folder / "bin" / "python"
    output(*_pip(own), "install", *_constraints(newest), wheel)
    return own


def measure(python):
    """Bytes on disk by package; seconds of an import and of its processors, medians of starts."""
    sizes = json.loads(output(python, "-c", SIZES, *GIVEN))
    seconds = {}
    for module in IMPORTS:
        program = TIMED.format(module=module)
        starts = [output(python, "-c", program).split() for _ in range(STARTS)]
        seconds[module] = [
            statistics.median(map(float, each)) for each in zip(*starts, strict=True)
        ]
    return sizes, seconds


SIZES = """
import json, sys
from importlib.metadata import distributions
sizes = {}
for each in distributions():
    if each.name not in sys.argv[1:]:
        files = [file.locate() for file in each.files if file.suffix != ".pyc"]
        sizes[each.name] = sum(path.stat().st_size for path in files if path.is_file())
print(json.dumps(sizes))
"""
TIMED = """
import time
start = time.perf_counter(), time.process_time()
import {module}
print(time.perf_counter() - start[0], time.process_time() - start[1])
"""


def unit_tests(python, wheel, newest):
    """Run the fast tests of the core on the installed wheel, as `make test-core` does."""
    packages = [f"{wheel}[regmean]", "hypothesis", "pytest", "pytest-xdist"]
    output(*_pip(python), "install", *_constraints(newest), *packages)
    subprocess.run(
        ["make", "test-core", f"PYTHON={python}"], cwd=ROOT, check=True, stdout=sys.stderr
    )


def _pip(python):
    return [python, "-m", "pip", "-qq", "--disable-pip-version-check"]


def _constraints(newest):
    return [] if newest else ["--constraint", ROOT / "constraints.txt"]


def _environment(**changes):
    # Else the library of this folder, or of the caller, would be the one that runs.
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return kept | changes


def main():
    """Install, measure and merge; exit with 1 where Pythons disagree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="+", help="as in python3.12")
    parser.add_argument("--newest", action="store_true", help="ignore constraints.txt")
    parser.add_argument("--tests", action="store_true", help="run the fast tests too")
    options = parser.parse_args()
    os.environ.pop("PYTHONPATH", None)
    digests = {}
    with tempfile.TemporaryDirectory(prefix="mergegrid-core-") as name:
        work = Path(name)
        wheel = build(work)
        for python in options.pythons:
            folder = work / Path(python).name
            own = environment(python, wheel, folder / "venv", options.newest)
            version = output(own, "--version").strip()
            say(output(own.with_name("mergegrid"), "--version").strip())
            sizes, seconds = measure(own)
            say(f"{version}: {len(sizes)} packages, {sum(sizes.values()) / 1e6:,.0f} MB")
            largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
            say("  largest: " + ", ".join(f"{key} {size / 1e6:,.0f} MB" for key, size in largest))
            for module, (passed, used) in seconds.items():
                say(f"  import {module}: {passed * 1e3:.0f} ms, {used * 1e3:.0f} ms of processors")
            (folder / "models").mkdir()
            merged = output(
                own,
                HERE / "merges.py",
                folder / "models",
                env=_environment(PYTHONPATH=str(ROOT / "tests" / "helpers")),
            )
            digests[version] = json.loads(merged)
            say(f"  {len(digests[version]) - 1} merged models")
            if options.tests:
                unit_tests(own, wheel, options.newest)
    first, *others = digests.items()
    for version, each in others:
        if each != first[1]:
            differ = [key for key in first[1] if each.get(key) != first[1][key]]
            sys.exit(f"{version} and {first[0]} differ in {', '.join(differ)}")
    say(f"equal on {len(digests)} Pythons: {', '.join(first[1])}")


if __name__ == "__main__":
    main()
