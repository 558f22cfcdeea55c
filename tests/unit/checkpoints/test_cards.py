"""Model cards: what the hub shows of a merge, and under which license it stands."""

import logging
import warnings
from itertools import pairwise

import pytest
import yaml
from huggingface_hub import ModelCard

from mergegrid.checkpoints.cards import Card
from mergegrid.checkpoints.licences import UNKNOWN, Licence, licence_of, merged_licence
from mergegrid.checkpoints.parents import parent_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(tmp_path, repo, front=None, subfolder=""):
    """A snapshot in a hub cache whose card has this front matter."""
    snapshot = tmp_path / f"models--{repo.replace('/', '--')}" / "snapshots" / COMMIT
    (snapshot / subfolder).mkdir(parents=True)
    if front is not None:
        (snapshot / "README.md").write_text(f"---\n{yaml.safe_dump(front)}---\n\n# {repo}\n")
    return parent_of(snapshot / subfolder)


def written(folder, *parents, **values):
    """The card of a merge of these parents as huggingface_hub reads it, without a warning."""
    folder.mkdir()
    names = ("", *map("expert{}".format, range(1, len(parents))))
    card = {"title": "merged", "recipe": "base: x\n", "digests": {"base": "0" * 64}}
    Card(parents=dict(zip(names, parents, strict=True)), **(card | values)).write(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ModelCard.load(folder / "README.md")


@pytest.fixture(autouse=True)
def no_warnings(caplog):
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_models_of_the_hub_are_listed_once_with_the_base_first(tmp_path):
    base, math = cached(tmp_path, "org/zeta"), cached(tmp_path, "org/alpha", subfolder="math")
    local = tmp_path / "private" / "home" / "mine"
    local.mkdir(parents=True)
    card = written(tmp_path / "out", base, math, parent_of(local), math)
    assert card.data.base_model == ["org/zeta", "org/alpha"]
    assert card.data.base_model_relation == "merge"
    assert card.data.library_name == "transformers"
    assert card.data.tags == ["merge", "mergegrid"]
    assert f"[org/alpha@{COMMIT}:math](https://huggingface.co/org/alpha/tree/{COMMIT})" in card.text
    assert "`mine`" in card.text
    assert str(tmp_path) not in card.content


def test_a_merge_of_local_folders_has_no_parents_on_the_hub(tmp_path):
    folders = [tmp_path / "base", tmp_path / "math"]
    for folder in folders:
        folder.mkdir()
    card = written(tmp_path / "out", *map(parent_of, folders))
    assert card.data.base_model is None
    assert card.data.get("base_model_relation") is None
    assert card.data.license == "unknown"


def test_a_model_that_a_study_imported_is_known_by_its_manifest(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    made_from = f'{{"source": "hub:org/name@main:sub/folder", "resolved": "{COMMIT}"}}'
    (folder / "manifest.json").write_text(f'{{"files": {{}}, "made_from": {made_from}}}')
    assert parent_of(folder).name == f"org/name@{COMMIT}:sub/folder"


def test_equal_licenses_language_and_task_are_those_of_the_merge(tmp_path):
    front = {"license": "apache-2.0", "language": ["en", "de"], "pipeline_tag": "text-generation"}
    card = written(
        tmp_path / "out", cached(tmp_path, "org/base", front), cached(tmp_path, "org/a", front)
    )
    assert card.data.license == "apache-2.0"
    assert card.data.language == ["en", "de"]
    assert card.data.pipeline_tag == "text-generation"
    assert not (tmp_path / "out" / "LICENSE").exists()
    assert "**License:**" not in card.text


def test_different_languages_and_tasks_are_left_out(tmp_path):
    base = cached(tmp_path, "org/base", {"language": "en", "pipeline_tag": "text-generation"})
    other = cached(tmp_path, "org/a", {"language": "de", "pipeline_tag": "feature-extraction"})
    card = written(tmp_path / "out", base, other)
    assert card.data.language is None
    assert card.data.pipeline_tag is None


def test_mixed_licenses_are_listed_and_none_is_chosen(tmp_path):
    base = cached(tmp_path, "meta/llama", {"license": "llama2"})
    free = cached(tmp_path, "org/free", {"license": "mit"})
    silent = cached(tmp_path, "org/silent")
    card = written(tmp_path / "out", base, free, silent)
    assert (card.data.license, card.data.license_name) == ("other", "mixed")
    assert card.data.license_link == "LICENSE"
    listed = (tmp_path / "out" / "LICENSE").read_text()
    places = [listed.index(f"org/{name}@") for name in ("free", "silent")]
    assert all(first < second for first, second in pairwise([listed.index("meta/llama"), *places]))
    for parent in (base, free, silent):
        assert f"{parent.name}\n  license: {parent.licence.label}\n" in listed
        assert parent.link in listed
    first = card.text.strip().splitlines()[2]
    assert first.startswith("> **License:** [meta/llama@")
    assert "`llama2`" in first


@pytest.mark.parametrize(
    "front",
    [
        {"license": "cc-by-nc-4.0"},
        {"license": "cc-by-nc-sa-4.0"},
        {"license": "llama3.1"},
        {"license": "gemma"},
        {"license": "other", "license_name": "tongyi-community"},
        {"license": "other", "license_name": "qwen-research", "license_link": "LICENSE"},
    ],
)
def test_terms_that_restrict_are_in_the_first_lines(tmp_path, front):
    parents = [cached(tmp_path, f"org/{name}", front) for name in ("base", "math")]
    card = written(tmp_path / "out", *parents)
    assert card.text.strip().splitlines()[2].startswith("> **License:** [org/base@")
    assert card.data.license == front["license"]


def test_a_license_file_of_the_base_is_linked_in_its_repository(tmp_path):
    front = {"license": "other", "license_name": "qwen", "license_link": "LICENSE"}
    parents = [cached(tmp_path, f"Qwen/{name}", front) for name in ("base", "math")]
    card = written(tmp_path / "out", *parents)
    assert card.data.license_name == "qwen"
    assert card.data.license_link == "https://huggingface.co/Qwen/base/blob/main/LICENSE"


@pytest.mark.parametrize(
    ("licences", "merged"),
    [
        ([UNKNOWN, UNKNOWN], "unknown"),
        ([Licence("mit"), UNKNOWN], "mixed"),
        ([Licence("mit"), Licence("apache-2.0")], "mixed"),
        ([Licence("mit"), Licence("mit")], "mit"),
        ([Licence("other", "own"), Licence("other", "own")], "mixed"),
        ([licence_of({"license": ["mit", "gpl-3.0"]}, "o/n")] * 2, "mixed"),
    ],
)
def test_the_license_of_a_merge(licences, merged):
    assert merged_licence(licences).label == merged


@pytest.mark.parametrize(
    "text", ["", "# no front matter", "---\nlicense: [\n---\n", "---\n- 1\n---\n"]
)
def test_a_card_without_valid_front_matter_states_nothing(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert parent_of(tmp_path).licence == UNKNOWN
