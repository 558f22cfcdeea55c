"""What a text names: a folder, or a model on the hub."""

import pytest

from mergegrid.checkpoints.sources.models import hub_origin, locate_models, model_label
from mergegrid.checkpoints.sources.source import HubOrigin
from mergegrid.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("Qwen/Qwen2.5-1.5B", HubOrigin("Qwen/Qwen2.5-1.5B", None, None)),
        ("org/name@v1", HubOrigin("org/name", "v1", None)),
        ("org/name@refs/pr/3", HubOrigin("org/name", "refs/pr/3", None)),
        ("org/name:cola/lr1e-05", HubOrigin("org/name", None, "cola/lr1e-05")),
        ("org/name@v1:a/b", HubOrigin("org/name", "v1", "a/b")),
        ("hub:gpt2", HubOrigin("gpt2", None, None)),
        ("hub:org/name@v1:a", HubOrigin("org/name", "v1", "a")),
        ("hf://org/name", HubOrigin("org/name", None, None)),
        ("hf://models/org/name@v1/a/b", HubOrigin("org/name", "v1", "a/b")),
        ("https://huggingface.co/org/name", HubOrigin("org/name", None, None)),
        ("https://huggingface.co/org/name/tree/v1/a", HubOrigin("org/name", "v1", "a")),
    ],
)
def test_an_id_has_a_repository_a_revision_and_a_folder(text, origin):
    assert hub_origin(text) == origin


@pytest.mark.parametrize(
    "text", ["llama", "./org/name", "../org/name", "/org/name", "~/name", "a/b/c", "org/", "C:/x"]
)
def test_other_texts_can_only_be_paths(text):
    assert hub_origin(text) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hub:", "write hub:org/name"),
        ("hub:org/name:../x", "points outside its package or repository"),
        ("org/name:/etc", "points outside its package or repository"),
        ("hf://datasets/org/name", "is a dataset, not a model"),
        ("hf://org", "write org/name"),
        ("https://example.com/org/name", "write org/name"),
        ("https://huggingface.co/org/name/commits/main", "write org/name"),
    ],
)
def test_malformed_ids_are_refused(text, says):
    with pytest.raises(ConfigError, match=says):
        hub_origin(text)


def test_labels_are_the_last_names():
    labels = {
        "models/llama": "llama",
        "org/llama@v1": "llama",
        "hub:org/all:math/one": "one",
        "/data/llama.v1": "llama.v1",
    }
    assert {text: model_label(text) for text in labels} == labels


def test_a_folder_wins_and_a_path_is_always_a_folder(tmp_path):
    (tmp_path / "org" / "name").mkdir(parents=True)
    models = locate_models({"": "org/name", "math": tmp_path / "a" / "b"}, tmp_path)
    assert models.base == tmp_path / "org" / "name"
    assert models.experts == {"math": tmp_path / "a" / "b"}
    assert not models.hub
