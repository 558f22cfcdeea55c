"""Models by hub id, on a hub on 127.0.0.1: what is transferred, checked, cached and refused."""

import json
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
from hub_server import TOKEN, Repo, environment, hub_of, python, repo_of
from plain_models import CONFIG, family, normal, save, shapes

from mergegrid.api import inspect

COMMANDS = """
import contextlib, io, json, logging, sys

class Stderr:
    def write(self, text): return sys.stderr.write(text)
    def flush(self): pass

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=Stderr())
from mergegrid import cli
outcomes = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["mergegrid", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
            code = 0
        except SystemExit as stopped:
            code = stopped.code or 0
    outcomes.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(outcomes))
"""
BIG = {"hidden_size": 1024, "intermediate_size": 2816, "vocab_size": 32000, "num_hidden_layers": 16}


class Outcome:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def errors(self):
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Run commands in one process that uses a hub and starts in `tmp_path`."""

    def run(hub, *lines, **settings):
        monkeypatch.chdir(tmp_path)
        url = hub if isinstance(hub, str) else hub.url
        env = environment(url, tmp_path / "home", **settings)
        done = python(COMMANDS, env, json.dumps([list(map(str, line)) for line in lines]))
        assert done.returncode == 0, done.stderr
        return [Outcome(*outcome) for outcome in json.loads(done.stdout.splitlines()[-1])]

    return run


@pytest.fixture
def models(tmp_path):
    return family(tmp_path / "models")


def serve(models, **others):
    repos = {f"org/{folder.name}": repo_of(folder) for folder in models.iterdir()}
    return hub_of(repos | {f"org/{name}": repo for name, repo in others.items()})


def merge_file(folder, base="org/base", name="merge.yaml", **experts):
    text = {
        "base": base,
        "experts": experts or {"math": "org/math", "code": "hub:org/code"},
        "sparsifier": {"kind": "dare", "rate": 0.5, "seed": 1},
    }
    (folder / name).write_text(json.dumps(text))
    return folder / name


def changed(models, name, config=(), **options):
    """A copy of an expert as a repository, with other tensors or another config."""
    folder = models.parent / name
    shutil.copytree(models / "math", folder)
    (folder / "config.json").write_text(json.dumps(CONFIG | dict(config)))
    if options:
        save(folder / "model.safetensors", normal(1, 0.02) | options["tensors"])
    return folder


def hollow(folder, shards):
    """A sharded model of 0.5 GB in bfloat16 whose files have headers and holes."""
    width, hidden, rows = BIG["hidden_size"], BIG["intermediate_size"], BIG["vocab_size"]
    sizes = {"model.embed_tokens.weight": (rows, width), "lm_head.weight": (rows, width)}
    for layer in range(BIG["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for part in ("q", "k", "v", "o"):
            sizes[f"{prefix}.self_attn.{part}_proj.weight"] = (width, width)
        for part in ("gate", "up"):
            sizes[f"{prefix}.mlp.{part}_proj.weight"] = (hidden, width)
        sizes[f"{prefix}.mlp.down_proj.weight"] = (width, hidden)
        for norm in ("input", "post_attention"):
            sizes[f"{prefix}.{norm}_layernorm.weight"] = (width,)
    sizes["model.norm.weight"] = (width,)
    names, weight_map = list(sizes), {}
    folder.mkdir(parents=True)
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        header, end = {}, 0
        for name in names[number::shards]:
            start, end = end, end + 2 * sizes[name][0] * (sizes[name][1:] or (1,))[0]
            header[name] = {
                "dtype": "BF16",
                "shape": list(sizes[name]),
                "data_offsets": [start, end],
            }
            weight_map[name] = file
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as output:
            output.write(len(text).to_bytes(8, "little") + text)
            output.truncate(8 + len(text) + end)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(CONFIG | BIG | {"num_key_value_heads": 4}))
    return folder


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "a server without ranges"])
def test_a_dry_run_answers_before_weights_move(tmp_path, commands, ranges):
    for name in ("base", "math", "code"):
        hollow(tmp_path / "big" / name, shards=4)
    size = sum(path.stat().st_size for path in (tmp_path / "big").rglob("*.safetensors"))
    with serve(tmp_path / "big") as hub:
        hub.ranges = ranges
        start = time.monotonic()
        (plan,) = commands(hub, ["merge", merge_file(tmp_path), "out", "--dry-run"])
        seconds = time.monotonic() - start
    assert plan.code == 0, plan.err
    answer = f"transferred before the answer: {hub.sent:,} of {size:,} bytes, {seconds:.1f} s\n"
    sys.stdout.write(answer)
    assert size > 1_500_000_000
    # 12 headers, or what a server without ranges pushes before the connection closes.
    assert hub.sent < (2_000_000 if ranges else 150_000_000)
    assert plan.err.count("model-00003-of-00004.safetensors: ") == 3
    assert "GB to read, 0.54 GB to write" in plan.err
    assert "would write out" in plan.err
    assert not list((tmp_path / "home").rglob("*.safetensors"))
    assert not (tmp_path / "out").exists()


def test_a_merge_of_ids_is_that_of_their_folders_and_then_works_offline(tmp_path, commands, models):
    ids, local = (
        merge_file(tmp_path),
        merge_file(tmp_path, "models/base", "local.yaml", math="models/math", code="models/code"),
    )
    with serve(models) as hub:
        hub.cuts["model.safetensors"] = 200  # The first range is cut, too, and asked for again.
        outcomes = commands(hub, ["merge", ids, "out"], ["merge", local, "local"])
        assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[0].err
        hub.requests.clear()
        again, listed, report, adapter = commands(
            hub,
            ["merge", ids, "out", "--dry-run"],
            ["inspect", "org/math"],
            ["deltas", "org/base", "org/math"],
            ["extract", "org/base", "org/math", "adapter", "--rank", "4"],
        )
        assert (again.code, listed.code, report.code, adapter.code) == (0, 0, 0, 0), adapter.err
        assert "would download" not in again.err
        assert not hub.downloads("model.safetensors")
        commit = hub.repos["org/math"].commit("main")
    merged = inspect(tmp_path / "out")
    assert merged.digest == inspect(tmp_path / "local").digest
    assert f"math: org/math@{commit}\n" in (tmp_path / "out" / "recipe.yaml").read_text()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- org/base\n" in card
    assert "models--" not in card
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["made_from"]["models"]["math"] == f"org/math@{commit}"
    pinned = merge_file(tmp_path, "org/base", "pinned.yaml", math=f"org/math@{commit}")
    offline, exact = commands(
        "http://127.0.0.1:9",
        ["merge", ids, "offline"],
        ["merge", pinned, "pinned"],
        HF_HUB_OFFLINE="1",
    )
    assert (offline.code, exact.code) == (0, 0), offline.err
    assert inspect(tmp_path / "offline").digest == merged.digest


def test_revisions_and_folders_of_a_repository_are_models(tmp_path, commands, models):
    first, second = repo_of(models / "math"), repo_of(models / "code")
    nested = {f"runs/one/{name}": path for name, path in first.branches["main"].items()}
    repo = Repo(
        {"main": first.branches["main"], "v2": second.branches["main"], "refs/pr/1": nested}
    )
    files = {
        "main": "org/both",
        "v2": "org/both@v2",
        "nested": "org/both@refs/pr/1:runs/one",
        "address": "http://127.0.0.1:{port}/org/both/tree/v2",
        "uri": "hf://org/both@v2",
    }
    with serve(models, both=repo) as hub:
        files["address"] = f"{hub.url}/org/both/tree/v2"
        lines = [
            ["merge", merge_file(tmp_path, name=f"{name}.yaml", math=text), name]
            for name, text in files.items()
        ]
        outcomes = commands(hub, *lines)
        assert [outcome.code for outcome in outcomes] == [0] * 5, outcomes
    digests = {name: inspect(tmp_path / name).digest for name in files}
    assert digests["main"] == digests["nested"]
    assert digests["v2"] == digests["address"] == digests["uri"] != digests["main"]
    recipe = (tmp_path / "nested" / "recipe.yaml").read_text()
    assert f"math: org/both@{repo.commit('refs/pr/1')}:runs/one\n" in recipe


def test_a_folder_wins_over_an_id(tmp_path, commands, models):
    (tmp_path / "org").mkdir()
    for name in ("base", "math", "code"):
        (tmp_path / "org" / name).symlink_to(models / name)
    with serve(models) as hub:
        (outcome,) = commands(
            hub, ["merge", merge_file(tmp_path, math="org/math", code="org/code"), "out"]
        )
    assert outcome.code == 0, outcome.err
    assert not hub.requests


def unfit(models):
    """Experts that do not fit the base, each with what the error says; all are refused early."""
    norm = {"model.norm.weight": normal(1, 1)["model.embed_tokens.weight"]}
    broken = changed(models, "broken")
    (broken / "model.safetensors").write_bytes((9_999_999).to_bytes(8, "little") + b"{}")
    cut = changed(models, "cut")
    content = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(content[:-100])
    lone = changed(models, "lone")
    index = {"weight_map": dict.fromkeys(shapes(), "model-00001-of-00002.safetensors")}
    (lone / "model.safetensors.index.json").write_text(json.dumps(index))
    (lone / "model.safetensors").rename(lone / "model-00002-of-00002.safetensors")
    lacking = changed(models, "lacking", tensors={})
    tensors = normal(1, 0.02)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save(lacking / "model.safetensors", tensors)
    adapter = changed(models, "odd")
    (adapter / "model.safetensors").rename(adapter / "weights.safetensors")
    return {
        "wide": (changed(models, "wide", tensors=norm), "model.norm.weight has shape"),
        "rope": (changed(models, "rope", {"rope_theta": 5e5}), "rope_theta"),
        "deep": (changed(models, "deep", {"num_hidden_layers": 3}), "num_hidden_layers"),
        "broken": (broken, "org/broken@"),
        "cut": (cut, "is damaged or truncated"),
        "lone": (lone, "model-00001-of-00002.safetensors is missing"),
        "lacking": (lacking, "lacks 1 of its base's tensors"),
        "odd": (adapter, "has no model.safetensors"),
    }


def test_what_does_not_fit_is_refused_before_weights_move(tmp_path, commands, models):
    cases = unfit(models)
    repos = {name: repo_of(folder) for name, (folder, _) in cases.items()}
    with serve(models, **repos) as hub:
        lines = [
            ["merge", merge_file(tmp_path, name=f"{name}.yaml", math=f"org/{name}"), f"out/{name}"]
            for name in cases
        ]
        outcomes = commands(hub, *lines)
        for (name, (_, says)), outcome in zip(cases.items(), outcomes, strict=True):
            assert outcome.code == 2, name
            (error,) = outcome.errors
            assert says in error, name
            assert "/mergegrid-" not in error, name
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_what_the_hub_refuses_is_one_line_with_the_way_out(tmp_path, commands, models):
    files = repo_of(models / "math").branches
    empty = Repo({"main": {"README.md": b"", "config.json": b"{}"}})
    nested = Repo({"main": {f"a/b/{name}": path for name, path in files["main"].items()}})
    repos = {
        "gated": Repo(files, "gated"),
        "disabled": Repo(files, "disabled"),
        "empty": empty,
        "nested": nested,
    }
    cases = {
        "org/maht": ("there is no folder", "org/maht", "no model of this name", "(401)"),
        "models/maht": ("did you mean", "models/math?", "As an id of the hub: hub:models/maht"),
        "hub:org/maht": ("expert math: hub:org/maht", "check the spelling"),
        "org/math@v9": ("org/math@v9", "does not exist", "/commits/main"),
        "org/math:sub": ("org/math:sub has no *.safetensors", "there are some in: hub:org/math"),
        "org/nested": ("there are some in: hub:org/nested:a/b",),
        "org/math:model.safetensors": ("is a file", "name the folder"),
        "org/empty": ("has no *.safetensors", "specify another repository"),
        "org/gated": ("is gated and no token was sent (401)", "hf auth login"),
        "org/disabled": ("was disabled by the hub (403)", "use another copy"),
        "hub:": ("is not a source", "hub:org/name"),
        "hf://datasets/org/math": ("is a dataset, not a model",),
        "https://example.com/org/math": ("https://example.com/org/math", "org/name"),
        "nowhere": ("there is no folder", "nowhere", "correct the path"),
        "./org/math": ("there is no folder", "correct the path"),
    }
    with serve(models, **repos) as hub:
        lines = [
            ["merge", merge_file(tmp_path, name=f"{number}.yaml", math=text), "out"]
            for number, text in enumerate(cases)
        ]
        outcomes = commands(hub, *lines)
        checked = list(zip(cases.values(), outcomes, strict=True))
        gated, math = lines[list(cases).index("org/gated")], merge_file(tmp_path)
        (refused,) = commands(hub, gated, HF_TOKEN=TOKEN)
        (wrong,) = commands(hub, ["merge", math, "out"], HF_TOKEN="hf_wrong")
        (offline,) = commands(hub, ["merge", math, "out"], HF_HUB_OFFLINE="1")
    (down,) = commands("http://127.0.0.1:9", ["merge", math, "out"])
    checked += [
        (("your token has no access (403)", "request access"), refused),
        (("rejects your token (401)", "correct HF_TOKEN"), wrong),
        (("HF_HUB_OFFLINE is set", "fetch it once"), offline),
        (("could not be downloaded from http://127.0.0.1:9", "check the connection"), down),
    ]
    for says, outcome in checked:
        assert outcome.code == 2, says
        (error,) = outcome.errors
        assert all(part in error for part in says), (says, error)
    assert not (tmp_path / "out").exists()


def test_a_download_that_fails_keeps_the_files_that_are_complete(tmp_path, commands, models):
    repos = {name: repo_of(models / name) for name in ("base", "math")}
    with serve(models, **repos) as hub:
        hub.denied.add("org/math")
        lines = [["merge", merge_file(tmp_path, math="org/math"), "out"]]
        (failed,) = commands(hub, *lines)
        assert failed.code == 2
        assert len(failed.errors) == 1
        assert not (tmp_path / "out").exists()
        hub.denied.clear()
        hub.requests.clear()
        (finished,) = commands(hub, *lines)
        assert finished.code == 0, finished.err
        assert {line.split("/")[2] for line in hub.downloads("model.safetensors")} == {"math"}


def test_an_adapter_of_the_hub_is_checked_by_its_header_and_merged(tmp_path, commands, models):
    local, wrong = tmp_path / "adapter", tmp_path / "wrong"
    with serve(models) as hub:
        line = ["extract", models / "base", models / "math", local, "--rank", "4"]
        (outcome,) = commands(hub, line)
        assert outcome.code == 0, outcome.err
    shutil.copytree(local, wrong)
    key = "base_model.model.model.layers.7.mlp.up_proj.lora_A.weight"
    save(wrong / "adapter_model.safetensors", {key: normal(1, 1)["model.norm.weight"]}, "F32")
    repos = {"adapter": repo_of(local), "wrong": repo_of(wrong)}
    with serve(models, **repos) as hub:
        united = json.loads(merge_file(tmp_path, math="org/adapter", two="org/adapter").read_text())
        united |= {"sparsifier": {"kind": "none"}, "output": {"form": "adapter"}}
        (tmp_path / "united.yaml").write_text(json.dumps(united))
        (united_plan,) = commands(hub, ["merge", "united.yaml", "united", "--dry-run"])
        assert united_plan.code == 0, united_plan.err
        assert "would download org/adapter@" in united_plan.err
        assert "would write united" in united_plan.err
        hub.requests.clear()
        plan, merged, folders, refused, dry = commands(
            hub,
            ["merge", merge_file(tmp_path, math="org/adapter"), "out", "--dry-run"],
            ["merge", merge_file(tmp_path, math="org/adapter"), "out"],
            ["merge", merge_file(tmp_path, name="folders.yaml", math=str(local)), "folders"],
            ["merge", merge_file(tmp_path, name="wrong.yaml", math="org/wrong"), "wrong-out"],
            ["extract", "org/base", "org/code", "other", "--rank", "4", "--dry-run"],
        )
        assert [plan.code, merged.code, folders.code, refused.code] == [0, 0, 0, 2], plan.err
        assert dry.code == 0, dry.err
        assert "would download org/code@" in dry.err
        assert "adapter_model.safetensors: " in plan.err
        assert "org/wrong@" in refused.errors[0]
        # Three headers and one whole file.
        assert len(hub.downloads("adapter_model.safetensors")) == 4
    assert inspect(tmp_path / "out").digest == inspect(tmp_path / "folders").digest


def test_of_pickled_weights_a_dry_run_knows_the_sizes_alone(tmp_path, commands, models):
    files = {"config.json": models / "math" / "config.json", "pytorch_model.bin": b"x" * 1000}
    rope = {"config.json": json.dumps(CONFIG | {"rope_theta": 5e5}).encode()}
    repos = {"old": Repo({"main": files}), "rope": Repo({"main": files | rope})}
    with serve(models, **repos) as hub:
        plan, refused = commands(
            hub,
            ["merge", merge_file(tmp_path, math="org/old", code="org/code"), "out", "--dry-run"],
            ["merge", merge_file(tmp_path, name="b.yaml", math="org/rope"), "out", "--dry-run"],
        )
    assert plan.code == 0, plan.err
    assert "pytorch_model.bin: 1,000 bytes" in plan.err
    assert "expert math: tensors of .bin files" in plan.err
    assert refused.code == 2
    assert "rope_theta" in refused.errors[0]
    assert not hub.downloads("pytorch_model.bin")


def test_downloads_and_outputs_that_exceed_the_disk_are_refused(
    tmp_path, commands, models, small_disk
):
    disk = small_disk(400)
    with serve(models) as hub:
        (outcome,) = commands(
            hub, ["merge", merge_file(tmp_path), disk / "out"], HF_HOME=str(disk / "hf")
        )
    assert outcome.code == 2
    (error,) = outcome.errors
    assert re.search(r"has \d{3}\.\d KB free, but \d{3}\.\d KB are needed: \d{3}\.\d KB in", error)
    assert "choose another output path, or set HF_HOME" in error
    assert not list(Path(disk).rglob("*.safetensors"))


def test_slices_of_a_mergekit_file_are_compared_with_the_configs_of_hub_models(
    models, tmp_path, commands
):
    text = """
        merge_method: slerp
        base_model: org/base
        parameters: {t: [0.2, 0.8]}
        dtype: bfloat16
        slices:
          - sources:
              - {model: org/base, layer_range: [0, %d]}
              - {model: org/math@main, layer_range: [0, %d]}
    """
    for layers in (1, 2):
        (tmp_path / f"{layers}.yml").write_text(text % (layers, layers))
    with serve(models) as hub:
        one, two = commands(hub, ["convert", "1.yml"], ["convert", "2.yml"])
        assert not hub.downloads(".safetensors")
        (done,) = commands(hub, ["merge", "2.yml", "out"])
    assert "layers:" in one.out
    assert "layers:" not in two.out
    assert (done.code, done.errors) == (0, [])
    assert inspect(tmp_path / "out").digest
