"""`mergegrid push`: models and results on a small hub, and what is refused before an upload."""

import json
import subprocess
import sys

import pytest
from hub_uploads import Repository, upload_hub
from plain_models import family

from mergegrid import Dare, TaskArithmetic, merge

WEIGHTS = "model.safetensors"
RUN = "from mergegrid.cli import main; main()"
FILES = {"README.md", "config.json", "manifest.json", WEIGHTS, "recipe.yaml"}


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    family(folder)
    experts = {name: folder / name for name in ("math", "code")}
    return merge(folder / "base", experts, Dare(rate=0.5), TaskArithmetic(), out=folder / "merged")


@pytest.fixture
def model(merged, tmp_path):
    """A copy to change."""
    copied = tmp_path / "merged"
    copied.mkdir()
    for path in merged.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    return copied


@pytest.fixture
def hub():
    with upload_hub() as hub:
        yield hub


@pytest.fixture
def push(hub, tmp_path):
    """`push(*arguments)` in a process of its own: the hub's settings are read at import."""

    def call(*arguments, token="write", **settings):
        command = [sys.executable, "-c", RUN, "push", *map(str, arguments)]
        environment = hub.environment(tmp_path / "home", token) | settings
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    return call


def refused(code, errors, *words):
    """One line on standard error, exit code 2."""
    assert code == 2, errors
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def test_a_model_is_uploaded_with_the_bytes_of_its_folder(push, hub, model):
    done = push(model, "org/merged", "--private")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"uploaded: {hub.url}/org/merged/commit/1"
    stored = hub.repositories["model", "org/merged"]
    assert stored.private
    assert set(stored.branches["main"]) == FILES
    for name, content in stored.branches["main"].items():
        assert content == (model / name).read_bytes()
        assert str(model.parent).encode() not in content
    again = push(model, "org/merged", "--private")
    assert again.returncode == 0, again.stderr


def test_a_dry_run_lists_files_and_sizes_and_asks_the_hub_nothing(push, hub, model):
    done = push(model, "org/merged", "--dry-run", token=None)
    assert done.returncode == 0, done.stderr
    *lines, total, last = done.stdout.splitlines()
    listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in lines}
    assert listed == {name: (model / name).stat().st_size for name in FILES}
    assert total.split() == [f"{sum(listed.values()):,}", "bytes", "in", "5", "files"]
    assert last == "would upload to org/merged"
    assert hub.asked == []


def test_weights_of_an_earlier_upload_are_removed_and_other_files_stay(push, hub, model):
    assert push(model, "org/merged").returncode == 0
    files = hub.repositories["model", "org/merged"].branches["main"]
    files["model-00001-of-00002.safetensors"] = b"old"
    files["notes.txt"] = b"mine"
    assert push(model, "org/merged").returncode == 0
    files = hub.repositories["model", "org/merged"].branches["main"]
    assert set(files) == {*FILES, "notes.txt"}


def test_a_branch_is_created_and_a_pull_request_leaves_main_alone(push, hub, model):
    assert push(model, "org/merged", "--revision", "v1").returncode == 0
    stored = hub.repositories["model", "org/merged"]
    assert set(stored.branches["v1"]) == FILES
    assert not stored.branches["main"]
    done = push(model, "org/merged", "--create-pr")
    assert done.stdout.splitlines()[-1] == f"uploaded: {hub.url}/org/merged/discussions/1"
    assert set(stored.pull_requests[0]) == FILES
    assert not stored.branches["main"]


def test_files_beside_the_model_stay_here_and_an_edited_card_goes_along(push, hub, model):
    (model / "private.csv").write_text("mine")
    (model / ".env").write_text("SECRET=1")
    (model / "README.md").write_text("---\nlicense: mit\n---\n\n# My words\n")
    done = push(model, "org/merged")
    files = hub.repositories["model", "org/merged"].branches["main"]
    assert set(files) == FILES
    assert b"My words" in files["README.md"]
    for name in (".env", "private.csv"):
        assert f"manifest.json does not list it: {name}" in done.stdout


def damage(model):
    content = bytearray((model / WEIGHTS).read_bytes())
    content[-100] ^= 1
    (model / WEIGHTS).write_bytes(content)


def name_a_path(model):
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["made_from"]["source"] = "path:/tmp/models/base"
    (model / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damage, ["does not match manifest.json", "rebuild"]),
        (lambda model: (model / WEIGHTS).unlink(), ["lacks model.safetensors", "rebuild"]),
        (lambda model: (model / "manifest.json").unlink(), ["no manifest.json", "rebuild"]),
        (lambda model: (model / "config.json").write_text("{}"), ["config.json does not match"]),
        (name_a_path, ["mentions /tmp/models/base", "path of this machine"]),
    ],
)
def test_a_model_that_is_not_as_published_is_not_uploaded(run, model, change, words):
    change(model)
    outcome = run("push", model, "org/merged", "--dry-run")
    refused(outcome.code, outcome.err, *words)


@pytest.mark.parametrize(
    "repo",
    ["merged", "org/a/b", "org/ä", "https://huggingface.co/org/a", "org/a--b", "-a/b", "a/b."],
)
def test_a_wrong_name_of_a_repository_is_refused(run, model, repo):
    outcome = run("push", "--dry-run", "--", model, repo)
    refused(outcome.code, outcome.err, repr(repo), "write org/name")


@pytest.mark.parametrize(
    ("token", "settings", "words"),
    [
        (None, {}, ["no valid token", "(401)", "hf auth login"]),
        ("wrong", {}, ["no valid token", "(401)", "HF_TOKEN"]),
        ("read", {}, ["may not write", "(403)", "settings/tokens"]),
        ("write", {"HF_HUB_OFFLINE": "1"}, ["HF_HUB_OFFLINE is set"]),
        ("write", {"HF_ENDPOINT": "http://127.0.0.1:9"}, ["could not be reached", "HF_ENDPOINT"]),
    ],
)
def test_a_hub_that_refuses_is_one_line(push, model, token, settings, words):
    done = push(model, "org/merged", token=token, **settings)
    refused(done.returncode, done.stderr, *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["org/new", "--create-pr", "--revision", "v1"], ["omit --revision"]),
        (["org/new", "--create-pr"], ["does not exist", "token"]),
        (["org/public", "--private"], ["is public", "--private"]),
    ],
)
def test_options_that_cannot_hold_are_refused(push, hub, model, options, words):
    hub.repositories["model", "org/public"] = Repository(private=False)
    done = push(model, *options)
    refused(done.returncode, done.stderr, *words)
    assert not hub.repositories["model", "org/public"].branches["main"]
