import shutil
from pathlib import Path

import pytest

import mergegrid
from mergegrid import provenance
from mergegrid.provenance import canonical_json, code_version, digest


def test_canonical_json_does_not_depend_on_the_order_of_keys():
    assert canonical_json({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_canonical_json_refuses_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A copy of the library whose files may be edited."""
    root = tmp_path / "mergegrid"
    shutil.copytree(Path(mergegrid.__file__).parent, root)
    monkeypatch.setattr(provenance, "_ROOT", root)
    script = root / "script.py"
    shutil.copy(Path(__file__).parents[2] / "workflow" / "scripts" / "merges.py", script)

    def edit(name, change):
        path = root / name
        path.write_text(change(path.read_text()))
        provenance._module.cache_clear()
        return code_version(script)

    yield edit
    provenance._module.cache_clear()


def test_comments_docstrings_and_layout_do_not_change_the_version(library):
    before = library("merging/masks.py", lambda text: text)
    assert library("merging/masks.py", lambda text: text + "\n\n# A comment.\n") == before
    assert library("merging/masks.py", lambda text: text.replace("Random masks", "Masks")) == before


def test_code_that_is_imported_indirectly_changes_the_version(library):
    before = library("kernels/loops.py", lambda text: text)
    fewer = library("kernels/loops.py", lambda text: text.replace("_ROUNDS = 10", "_ROUNDS = 7"))
    assert fewer != before


def test_code_that_is_not_imported_does_not_change_the_version(library):
    before = library("merging/ranges.py", lambda text: text)
    assert library("merging/ranges.py", lambda text: text + "\nX = 1\n") == before


def test_the_script_itself_changes_the_version_but_not_by_a_comment(library):
    before = library("script.py", lambda text: text)
    assert library("script.py", lambda text: text + "# A comment.\n") == before
    assert library("script.py", lambda text: text + "X = 1\n") != before


@pytest.mark.parametrize("changed", ["torch", "transformers", "numpy", "numba"])
def test_another_version_of_what_computes_changes_the_version(library, monkeypatch, changed):
    monkeypatch.setattr(provenance, "version", lambda name: "1")
    before = library("script.py", lambda text: text)
    monkeypatch.setattr(provenance, "version", lambda name: "2" if name == changed else "1")
    assert library("script.py", lambda text: text) != before


def test_only_libraries_that_are_imported_count(library, monkeypatch):
    monkeypatch.setattr(provenance, "version", lambda name: "1")
    before = library("script.py", lambda text: "from mergegrid.errors import ConfigError\n")
    monkeypatch.setattr(provenance, "version", lambda name: "2")
    assert library("script.py", lambda text: text) == before


def test_the_configuration_reaches_jobs_as_params_and_not_as_code(library):
    before = library("config/study.py", lambda text: text)
    assert library("config/study.py", lambda text: text + "\nX = 1\n") == before


def test_every_module_is_read_once_for_all_scripts(monkeypatch):
    parse, parsed = provenance.ast.parse, []

    def noted(text):
        parsed.append(text)
        return parse(text)

    provenance._module.cache_clear()
    monkeypatch.setattr(provenance.ast, "parse", noted)
    scripts = Path(__file__).parents[2] / "workflow" / "scripts"
    for name in ("merges", "sweep", "score", "table"):
        code_version(scripts / f"{name}.py")
    modules = [text for text in parsed if text]  # Many an `__init__.py` says the same: nothing.
    assert len(set(modules)) == len(modules)
