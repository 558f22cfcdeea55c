"""README and docs promise commands, folders and a rule graph: each must be there."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from mergegrid.cli import app
from mergegrid.methods import METHODS
from mergegrid.study.new_study.options import benchmark_options, expert_options

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
#: Pages with commands that start in a clone. The guides to SLURM and to GPUs need those.
PAGES = {
    path.name: path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if path.name not in ("cluster.md", "gpus.md")
}
COMMANDS = {
    page: [
        line.partition("#")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    for page, text in PAGES.items()
}
#: The same command on several pages is tried once.
ALL_COMMANDS = list(dict.fromkeys(command for page in COMMANDS.values() for command in page))


def test_every_make_target_exists():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [command.split()[1] for command in ALL_COMMANDS if command.startswith("make ")]
    assert set(named) <= set(targets)
    assert {"make quickstart", "make test"} <= set(COMMANDS["README.md"])


@pytest.mark.parametrize("command", [c for c in ALL_COMMANDS if c.startswith("snakemake ")])
def test_every_snakemake_command_is_accepted(command):
    arguments = shlex.split(command)[1:]
    if "--report" in arguments:
        assert arguments[arguments.index("--report") + 1].endswith(".html")
        return
    plan = [] if "--dry-run" in arguments or "--rulegraph" in arguments else ["--dry-run"]
    run(["-m", "snakemake", *arguments, *plan])


# What merges models needs some: the test of the guide to merging has them. Races are replayed on a
# finished study: `tests/workflow/test_racing.py` has one.
STUDIES = [
    c
    for c in ALL_COMMANDS
    if re.match(
        "mergegrid (?!merge|convert|inspect|deltas|extract|push|racing|statistics|init|run)", c
    )
]


@pytest.mark.parametrize("command", STUDIES)
def test_every_mergegrid_command_works(command):
    arguments = shlex.split(command)[1:]
    program = "from mergegrid.cli import main; main()"
    subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, check=True)


@pytest.mark.parametrize("command", [c for c in ALL_COMMANDS if c.startswith("mergegrid stat")])
def test_statistics_are_gathered_but_for_the_texts(command):
    program = "from mergegrid.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *shlex.split(command)[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "error: there is no file math.jsonl; correct the path of --texts\n"


@pytest.mark.parametrize("command", [c for c in ALL_COMMANDS if c.startswith("mergegrid run")])
def test_every_run_of_a_study_is_accepted(command):
    program = "from mergegrid.cli import main; main()"
    # A study of the reader's own.
    command = command.replace("run study.yaml", "run config/smoke.yaml")
    run(["-c", program, *shlex.split(command)[1:], "--dry-run"])


@pytest.mark.parametrize("command", [c for c in ALL_COMMANDS if c.startswith("mergegrid init")])
def test_every_new_study_has_known_options_and_benchmarks(command):
    init = get_command(app).commands["init"]
    options = init.make_context("init", shlex.split(command)[2:]).params
    experts = list(expert_options(options["expert"]))
    ready = [text for text in options["benchmark"] if "=" not in text]
    assert benchmark_options(ready, experts)


@pytest.mark.parametrize("command", [c for c in ALL_COMMANDS if c.startswith("mergegrid push")])
def test_every_upload_has_known_options(command):
    push = get_command(app).commands["push"]
    push.make_context("push", shlex.split(command)[2:])


def test_the_rule_graph_is_that_of_the_workflow():
    printed = run(["-m", "snakemake", "--forceall", "--rulegraph", "mermaid-js"])
    names = dict(re.findall(r"(id\d+)\[([^\]]+)\]", printed))
    # One rule for each set of experts whose variants pass through one engine.
    short = {key: name.partition("_smollm2_")[0] for key, name in names.items()}
    arrows = {(short[a], short[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", printed)}
    drawn = PAGES["studies.md"].partition("<!-- begin: rule graph -->")[2]
    drawn = drawn.partition("<!-- end: rule graph -->")[0]
    assert set(re.findall(r"(\w+) --> (\w+)", drawn)) == arrows, "run `make docs`"


def test_every_test_and_benchmark_that_a_command_names_exists():
    named = [
        word for c in ALL_COMMANDS for word in c.split() if re.match("(tests|benchmarks)/", word)
    ]
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_folder_of_the_tour_exists_and_every_package_is_in_the_architecture():
    tour = PAGES["architecture.md"].partition("### Folders of the repository")[2]
    named = re.findall(r"^\| `([\w/]+/)` \|", tour.partition("\n## ")[0], re.MULTILINE)
    assert {"config/", "workflow/", "tests/"} <= set(named)
    assert all((ROOT / folder).is_dir() for folder in named)
    packages = {
        f"{path.name}/"
        for path in (ROOT / "src" / "mergegrid").iterdir()
        if (path / "__init__.py").is_file()
    }
    table = re.findall(r"^\| (`.*?) \|", PAGES["architecture.md"], re.MULTILINE)
    assert packages <= set(re.findall(r"`(\w+/)`", " ".join(table)))


def test_every_picture_and_link_leads_somewhere():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target.partition("#")[0]).exists(), target


def comparison():
    """Rows of the table beside other tools, without its heading."""
    lines = README.partition("\n| | mergegrid |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_cell_of_ours_beside_other_tools_leads_to_its_page_or_test():
    rows = comparison()
    assert len(rows) > 15
    for row in rows:
        assert len(row) == 4, row
        assert re.fullmatch(r"\[[^\]]+\]\((LICENSE|docs/.+|tests/.+/test_\w+\.py)\)", row[1]), row
        assert all(row)


def test_the_cells_of_other_tools_are_those_that_are_looked_up_in_their_code():
    peers = runpy.run_path(str(ROOT / "benchmarks" / "peers.py"))
    rows = {row[0]: row[2:] for row in comparison()}
    for cell in peers["CELLS"]:
        assert rows[cell.row][list(peers["PACKAGES"]).index(cell.tool)] == cell.text, cell.row
    for package in peers["PACKAGES"].values():
        assert package.replace("==", " ") in " ".join(README.split())


def test_the_number_of_methods_in_the_readme_is_not_too_high():
    assert "more than 20, each behind any sparsifier" in README
    assert len(METHODS) > 20


def test_the_readme_is_short_and_its_figure_and_commands_come_first():
    lines = README.splitlines()
    figure = next(number for number, line in enumerate(lines) if line.startswith("!["))
    commands = next(number for number, line in enumerate(lines) if line.startswith("```sh"))
    assert figure < commands < 25
    assert len(lines) < 140
    for language in ("yaml", "python", "sh"):
        for block in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL):
            assert len(block.splitlines()) <= 7


def run(command):
    result = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
