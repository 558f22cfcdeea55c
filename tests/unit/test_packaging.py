"""What pip and conda install, and what happens where an optional library is missing."""

import ast
import re
import runpy
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mergegrid
from mergegrid.errors import MissingLibraryError
from mergegrid.extras import EXTRAS, explain, require

pytest.importorskip("snakemake", reason="names of distributions come from what is installed")

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "src" / "mergegrid"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = PROJECT["dependencies"]
#: Imported by programs that run in the environment of vLLM or of lm-eval; or by one sampler alone,
#: so that it is neither in `study` nor in the environment of tests.
ELSEWHERE = {"vllm", "lm_eval", "optuna"}
#: Comes with another library, of which it is a part or the client.
WITH = {
    "openai": "alpaca-eval",
    "pydantic-core": "pydantic",
    "snakemake-interface-logger-plugins": "snakemake",
}
DISTRIBUTIONS = packages_distributions()


def flat(requirements):
    """Requirements without `mergegrid[...]`, which stands for those of its extras."""
    for text in requirements:
        if text.startswith("mergegrid["):
            for extra in Requirement(text).extras:
                yield from flat(PROJECT["optional-dependencies"][extra])
        else:
            yield text


def names(requirements):
    return {canonicalize_name(Requirement(text).name) for text in flat(requirements)}


def imported(paths):
    """Top-level names of the libraries that files import, anywhere in them."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                yield (node.module or "").partition(".")[0]
            elif isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)


def distributions(modules):
    libraries = set(modules) - set(sys.stdlib_module_names) - {"mergegrid"} - ELSEWHERE
    found = {canonicalize_name(DISTRIBUTIONS[name][0]) for name in libraries}
    return {WITH.get(name, name) for name in found}


def test_the_core_depends_on_what_it_imports_and_on_nothing_else():
    core = [path for path in LIBRARY.rglob("*.py") if "study" not in path.parts]
    optional = distributions(set(EXTRAS) - ELSEWHERE)
    assert distributions(imported(core)) - optional == names(CORE)
    assert names(CORE).isdisjoint(optional)


def test_every_other_library_that_is_imported_has_an_extra():
    libraries = distributions(imported(LIBRARY.rglob("*.py")))
    assert libraries <= names(CORE) | distributions(set(EXTRAS) - ELSEWHERE)


@pytest.mark.parametrize("library", sorted(EXTRAS))
def test_the_extra_of_a_library_installs_it(library):
    (distribution,) = [library] if library in ELSEWHERE else distributions([library])
    assert distribution in names([f"mergegrid[{EXTRAS[library]}]"])


def test_a_study_needs_no_more_than_its_extra():
    assert names(["mergegrid[study]"]) >= distributions(set(EXTRAS) - ELSEWHERE)


def test_requirements_have_a_lower_bound_and_no_ceiling_below_the_next_major_version():
    for text in [*CORE, *flat([f"mergegrid[{','.join(PROJECT['optional-dependencies'])}]"])]:
        bounds = {bound.operator: bound.version for bound in Requirement(text).specifier}
        assert set(bounds) in ({">="}, {">=", "<"}), text
        assert re.fullmatch(r"\d+", bounds.get("<", "1")), text


def test_conda_and_pip_users_get_the_same_packages():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    expected = sorted([*CORE, *flat(["mergegrid[study]"])], key=str.lower)
    assert environment["dependencies"][-1]["pip"] == expected


def test_the_environment_of_lm_eval_has_the_same_bounds():
    environment = yaml.safe_load((ROOT / "workflow" / "envs" / "lm_eval.yml").read_text())
    known = {Requirement(text).name: text for text in [*CORE, *flat(["mergegrid[study]"])]}
    for text in environment["dependencies"][-1]["pip"]:
        name = Requirement(text).name
        assert name == "lm-eval" or known[name] == text


def test_exact_versions_fit_the_requirements():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    exact = {
        canonicalize_name(name): version
        for name, _, version in (line.partition("==") for line in lines if "==" in line[1:])
        if name[0] != "#"
    }
    every = [*CORE, *flat([f"mergegrid[{','.join(PROJECT['optional-dependencies'])}]"])]
    for requirement in map(Requirement, every):
        assert requirement.specifier.contains(exact[canonicalize_name(requirement.name)])


def test_the_version_is_the_same_everywhere():
    version = PROJECT["version"]
    assert mergegrid.__version__ == version, "install again: pip install --no-deps -e ."
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert newest == version
    # The library takes it from its installation.
    assert f'"{version}"' not in "".join(path.read_text() for path in LIBRARY.rglob("*.py"))


README = (
    "![A figure](docs/figures/a.png) and [a page](docs/merging.md#inputs), [PyPI](https://pypi.org)"
)


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        (None, " and a page, [PyPI](https://pypi.org)"),
        (
            "https://github.com/org/name/",
            "![A figure](https://github.com/org/name/raw/v1.2.3/docs/figures/a.png) and "
            "[a page](https://github.com/org/name/blob/v1.2.3/docs/merging.md#inputs), "
            "[PyPI](https://pypi.org)",
        ),
    ],
)
def test_links_of_the_description_on_pypi_lead_to_the_repository_or_nowhere(repository, expected):
    pytest.importorskip("setuptools")
    description = runpy.run_path(str(ROOT / "setup.py"), run_name="read")["description"]
    assert description(README, "1.2.3", repository) == expected
    whole = description((ROOT / "README.md").read_text(), "1.2.3", repository)
    targets = re.findall(r"\]\(([^)]*)\)", whole)
    assert targets
    assert all(target.startswith("https://") for target in targets)


#: Packages whose names differ on conda-forge.
CONDA = {
    "huggingface-hub": "huggingface_hub",
    "typing-extensions": "typing_extensions",
    "xxhash": "python-xxhash",
}


def test_the_recipe_for_conda_is_that_of_the_core():
    recipe = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
    assert recipe["context"]["version"] == PROJECT["version"]
    assert PROJECT["requires-python"] == f">={recipe['context']['python_min']}"
    python, *run = recipe["requirements"]["run"]
    assert python == "python >=${{ python_min }}"
    requirements = [re.split("(?=>)", text) for text in CORE]
    assert sorted(run) == sorted(
        f"{CONDA.get(name, name)} {bounds}" for name, bounds in requirements
    )
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    host = [text.replace(" ", "") for text in recipe["requirements"]["host"]]
    assert host[2:] == build
    commands = [f"{name} = {function}" for name, function in PROJECT["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == commands


def ignored(path, patterns):
    """Whether .dockerignore leaves out a path: the last pattern counts that fits it or a parent."""
    places = [path, *path.parents]
    out = False
    for pattern in patterns:
        bare = pattern.removeprefix("!").removeprefix("**/")
        if any(place.match(bare) for place in places if place != Path()):
            out = not pattern.startswith("!")
    return out


def test_the_image_is_built_from_what_the_package_needs_and_from_nothing_else():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and line[0] != "#"]
    kept = {path.name for path in ROOT.iterdir() if not ignored(Path(path.name), patterns)}
    parts = runpy.run_path(str(ROOT / "setup.py"), run_name="read")["PARTS"]
    needed = {"pyproject.toml", "setup.py", "constraints.txt", "README.md", "LICENSE", "src"}
    assert kept == needed | set(parts)
    assert not ignored(Path("src/mergegrid/cli.py"), patterns)
    assert ignored(Path("src/mergegrid/__pycache__/cli.cpython-311.pyc"), patterns)


def test_the_image_has_the_python_of_studies_and_exact_versions():
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", "").splitlines()
    instructions = [line.split(maxsplit=1) for line in lines if line and line[0] != "#"]
    (base,) = [rest for name, rest in instructions if name == "FROM"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert (
        f"python ={base.removeprefix('python:').removesuffix('-slim')}"
        in environment["dependencies"]
    )
    copied = [rest.split()[:-1] for name, rest in instructions if name == "COPY"]
    assert copied == [["pyproject.toml", "constraints.txt"], ["."]]
    installs = re.findall(r"pip install [^&]*", " ".join(rest for _, rest in instructions))
    assert len(installs) == 2
    for command in installs:
        assert "--constraint constraints.txt" in command or "--no-deps" in command, command
        assert "==" not in command
    extra = next(rest for name, rest in instructions if rest.startswith("EXTRA="))
    assert extra.removeprefix("EXTRA=") in PROJECT["optional-dependencies"]
    assert [rest for name, rest in instructions if name == "USER"] == ["1000"]
    assert instructions[-2] == ["ENTRYPOINT", '["mergegrid"]']


def test_options_of_docker_for_the_sandbox_are_those_that_its_error_names():
    message = (LIBRARY / "study" / "grading" / "programs" / "sandbox.py").read_text()
    message = re.sub(r'"\n +"', "", message)
    named = re.search(r"in Docker ((?:--security-opt \w+=\w+ ?)+)", message)[1]
    assert len(named.split()) == 4
    commands = re.findall(r"^docker run .*", (ROOT / "docs" / "install.md").read_text(), re.M)
    assert any(named in command for command in commands)


WITHOUT = """
import sys
sys.modules |= dict.fromkeys({missing!r})
sys.argv[1:] = {arguments!r}
from mergegrid.cli import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "missing", "extra"),
    [
        (["check", "config/config.yaml"], "pandas", "study"),
        (["summary", "config/config.yaml"], "pandas", "study"),
        (["docs", "{tmp}"], "pandas", "study"),
    ],
)
def test_a_command_without_its_library_is_one_line_with_the_extra(
    tmp_path, arguments, missing, extra
):
    arguments = [each.format(tmp=tmp_path) for each in arguments]
    program = WITHOUT.format(missing=[missing], arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    line = f'error: {missing} is not installed; install it with: pip install "mergegrid[{extra}]"'
    assert (done.returncode, done.stderr.splitlines()) == (2, [line])


def test_a_module_that_no_extra_installs_is_not_explained():
    assert explain(ModuleNotFoundError(name="mergegrid.moved")) is None
    missing = explain(ModuleNotFoundError(name="torch.nn"))
    assert 'pip install "mergegrid[study]"' in str(missing)


def test_a_missing_library_is_known_without_importing_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingLibraryError, match=r'"mergegrid\[torch\]", or merge on the cpu'):
        require("torch", "torch", "merge on the cpu")
    require("numpy")
