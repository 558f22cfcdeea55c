"""The README promises commands, folders and a rule graph: each must be there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]


def test_every_make_target_exists():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [command.split()[1] for command in COMMANDS if command.startswith("make ")]
    assert {"quickstart", "test"} <= set(named) <= set(targets)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("snakemake ")])
def test_every_snakemake_command_is_accepted(command):
    arguments = shlex.split(command)[1:]
    if "--report" in arguments:
        assert arguments[arguments.index("--report") + 1].endswith(".html")
        return
    plan = [] if "--dry-run" in arguments or "--rulegraph" in arguments else ["--dry-run"]
    run(["snakemake", *arguments, *plan])


# What merges models needs some: the test of the guide to merging has them.
STUDIES = [c for c in COMMANDS if re.match("mergegrid (?!merge|inspect|deltas)", c)]


@pytest.mark.parametrize("command", STUDIES)
def test_every_mergegrid_command_works(command):
    arguments = shlex.split(command)[1:]
    program = "from mergegrid.cli import main; main()"
    subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, check=True)


def test_the_rule_graph_is_that_of_the_workflow():
    printed = run(["snakemake", "--forceall", "--rulegraph", "mermaid-js"])
    names = dict(re.findall(r"(id\d+)\[([^\]]+)\]", printed))
    # One rule for each set of experts whose variants pass through one engine.
    short = {key: name.partition("_smollm2_")[0] for key, name in names.items()}
    arrows = {(short[a], short[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", printed)}
    drawn = re.search(r"```mermaid\n(.*?)```", README, re.DOTALL).group(1)
    assert set(re.findall(r"(\w+) --> (\w+)", drawn)) == arrows, "run `make docs`"


def test_every_folder_of_the_tour_exists_and_every_package_is_in_it():
    named = re.findall(r"^\| `([\w/]+/)` \|", README, re.MULTILINE)
    assert all((ROOT / folder).is_dir() for folder in named)
    packages = {
        f"src/mergegrid/{path.name}/"
        for path in (ROOT / "src" / "mergegrid").iterdir()
        if (path / "__init__.py").is_file()
    }
    assert packages <= set(named)


def test_every_picture_and_link_leads_somewhere():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def run(command):
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
