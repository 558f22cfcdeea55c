"""One word for one thing: names in the code, and the glossary."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "src").rglob("*.py"), *(ROOT / "workflow").rglob("*.py")]
TEXTS = [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md"), ROOT / "config" / "README.md"]
#: As names of things they say nothing, or have another word now; see docs/glossary.md.
GONE = {
    *("asked", "asker", "asking", "each", "found", "ours", "own", "said", "says", "seen"),
    *("theirs", "told", "wanted"),
    *("bench", "desk", "inquiry", "room", "rooms", "spoiled", "survey", "surveys", "witness"),
}


def words(name):
    return set(re.findall(r"[a-z]+", re.sub(r"([A-Z])", r"_\1", name).lower()))


def names(path):
    """The names that a module gives: to variables, functions, classes and arguments."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_words_of_the_field(path):
    gone = [f"{line}: {name}" for line, name in names(path) if words(name) & GONE]
    assert not gone


@pytest.mark.parametrize("path", [*SOURCES, *TEXTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_have_none_of_the_words_that_were_replaced(path):
    text = path.read_text().lower()
    assert not re.findall(r"\b(?:inquiry|witness|surveys?|surveyed|is no [a-z]+ of)\b", text)


def test_what_the_glossary_names_exists():
    code = "\n".join(path.read_text() for path in SOURCES)
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    for row in re.findall(r"^\| [^|]+\| [^|]+\| ([^|]+)\|$", glossary, re.MULTILINE)[4:]:
        for name in re.findall(r"`([^`]+)`", row):
            if "/" in name or name.endswith(".py"):
                assert (ROOT / "src" / "mergegrid" / name).exists(), name
            else:
                owner, _, attribute = name.rpartition(".")
                assert re.search(rf"(class {owner or name}\b|\b{attribute or name} = )", code), name
                assert re.search(rf"\b{attribute or name}\b", code), name
