"""`mergegrid merge` and `mergegrid inspect`: folders in, folders out."""

import json
import os
import re
import shutil

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from small_models import VOCABULARY, family, finetuned, llama, manifest, recipe, save, tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergegrid.engine.masks import threshold
from mergegrid.recipes.merge_file import read_merge_file, recipes_of

TOKENIZER = {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
OTHERS = {"README.md", "config.json", "generation_config.json", "manifest.json", "recipe.yaml"}
BESIDE_THE_WEIGHTS = TOKENIZER | OTHERS
EXPERTS = ("code", "math")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A base and two experts, not to be changed."""
    return family(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def tied_models(tmp_path_factory):
    return family(tmp_path_factory.mktemp("tied"), tied=True)


def asks(folder, models, **changes):
    """A merge file in `folder` for models elsewhere."""
    experts = {name: str(models / name) for name in EXPERTS}
    return recipe(folder, **({"base": str(models / "base"), "experts": experts} | changes))


def listing(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def tensors(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def kept(seed, expert, name, count, rate):
    """Which elements DARE keeps, from the definition of its masks: Philox4x32-10 in Python."""
    from mergegrid.engine.masks import mask_key

    k0, k1, c2, c3 = mask_key(seed, expert, name)
    words = []
    for block in range(-(-count // 4)):
        counter, key = [block & 0xFFFFFFFF, block >> 32, c2, c3], [k0, k1]
        for _ in range(10):
            left, right = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
            counter = [
                (right >> 32) ^ counter[1] ^ key[0],
                right & 0xFFFFFFFF,
                (left >> 32) ^ counter[3] ^ key[1],
                left & 0xFFFFFFFF,
            ]
            key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
        words += counter
    return torch.tensor(words[:count]) < threshold(rate)


def oracle(models, rate=0.9, seed=1, coefficient=0.5, experts=EXPERTS):
    """base + coefficient * sum of DAREd deltas, in float32; to be rounded once."""
    base = {name: tensor.float() for name, tensor in tensors(models / "base").items()}
    loaded = {expert: tensors(models / expert) for expert in experts}
    merged = {}
    for name, ours in base.items():
        total = torch.zeros_like(ours)
        for expert in experts:
            delta = loaded[expert][name].float() - ours
            mask = kept(seed, expert, name, delta.numel(), rate).view(delta.shape)
            total += torch.where(mask, delta * torch.tensor(1 / (1 - rate)), 0.0)
        merged[name] = ours + torch.tensor(coefficient) * total
    return merged


def assert_near(found, expected):
    """Equal but for the last bit of float32 before it was rounded."""
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        rounded = wanted.to(found[name].dtype)
        differ = (found[name] != rounded).float().mean().item()
        assert differ < 1e-3, f"{name}: {differ:.2%} differ"
        torch.testing.assert_close(found[name].float(), wanted, rtol=2**-8, atol=1e-7)


@pytest.fixture(scope="session")
def expected(models):
    return oracle(models)


def loads(folder):
    """Load a folder with transformers, and check that nothing is missing or left over."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", output_loading_info=True
    )
    assert not any(report.values()), report
    words = AutoTokenizer.from_pretrained(folder)
    ids = words("the good film", return_tensors="pt").input_ids
    assert words.decode(ids[0]) == "the good film"
    assert torch.isfinite(model(ids).logits).all()
    return model


def test_an_output_holds_these_files_and_no_others(models, run, tmp_path):
    outcome = run("merge", asks(tmp_path, models), tmp_path / "out")
    assert (outcome.code, outcome.out) == (0, f"{tmp_path / 'out'}  21 tensors\n")
    assert listing(tmp_path / "out") == {"model.safetensors"} | BESIDE_THE_WEIGHTS
    assert {path.name for path in tmp_path.iterdir()} == {"merge.yaml", "out"}


def test_the_merged_tensors_are_those_of_the_formula(models, run, tmp_path, expected):
    run("merge", asks(tmp_path, models), tmp_path / "out")
    found = tensors(tmp_path / "out")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert_near(found, expected)
    model = loads(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in found.items())


def test_a_tied_model_stays_tied(tied_models, run, tmp_path):
    run("merge", asks(tmp_path, tied_models), tmp_path / "out")
    assert "lm_head.weight" not in tensors(tmp_path / "out")
    model = loads(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_shards_and_pickles_merge_like_single_files(models, run, tmp_path, expected):
    for name in ("base", *EXPERTS):
        model = AutoModelForCausalLM.from_pretrained(models / name, dtype="auto")
        files = "safetensors" if name == "base" else "bin"
        save(model, tmp_path / name, files, max_shard_size="40KB")
    assert len(list((tmp_path / "base").glob("model-*.safetensors"))) > 1
    run("merge", recipe(tmp_path), tmp_path / "out")
    assert listing(tmp_path / "out") == {"model.safetensors"} | BESIDE_THE_WEIGHTS
    assert_near(tensors(tmp_path / "out"), expected)


def test_shards_hold_at_most_what_was_asked_and_load(models, run, tmp_path):
    run("merge", asks(tmp_path, models), tmp_path / "one")
    sharded = asks(tmp_path, models, output={"shard_size": "40KB"})
    run("merge", sharded, tmp_path / "several")
    shards = sorted((tmp_path / "several").glob("model-*.safetensors"))
    names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    index = "model.safetensors.index.json"
    assert listing(tmp_path / "several") == {*names, index} | BESIDE_THE_WEIGHTS
    assert len(shards) > 2
    assert all(path.stat().st_size <= 40_000 + 2_000 for path in shards)
    weight_map = json.loads((tmp_path / "several" / index).read_text())["weight_map"]
    held = {}
    for path in shards:
        with safe_open(path, "pt") as file:
            held |= dict.fromkeys(file.keys(), path.name)
    assert weight_map == held
    loads(tmp_path / "several")
    digest = re.compile(r"digest: (\w{64})")
    one, several = (run("inspect", tmp_path / name).out for name in ("one", "several"))
    assert digest.search(one)[1] == digest.search(several)[1]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_output_is_of_the_dtype_that_was_asked(models, run, tmp_path, expected, dtype):
    run("merge", asks(tmp_path, models, output={"dtype": dtype}), tmp_path / "out")
    found = tensors(tmp_path / "out")
    assert {tensor.dtype for tensor in found.values()} == {getattr(torch, dtype)}
    for name, wanted in expected.items():
        tolerance = {"float32": 1e-6, "float16": 2**-10, "bfloat16": 2**-8}[dtype]
        torch.testing.assert_close(found[name].float(), wanted, rtol=tolerance, atol=1e-7)
    assert loads(tmp_path / "out").dtype == getattr(torch, dtype)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == dtype
    assert config["torch_dtype"] == dtype


@pytest.fixture(scope="session")
def models_with_a_token(tmp_path_factory):
    """The expert `math` has a token, and a row of embeddings, that the others lack."""
    folder = tmp_path_factory.mktemp("larger")
    base = llama()
    save(base, folder / "base")
    save(finetuned(base, 1, rows=1), folder / "math", extra=["[PAD]"])
    save(finetuned(base, 2), folder / "code")
    return folder


def test_rows_that_only_an_expert_has_are_left_out_and_said(models_with_a_token, run, tmp_path):
    outcome = run("merge", asks(tmp_path, models_with_a_token), tmp_path / "out")
    notes = [
        f"expert math: 1 row of {name} beyond the base's {VOCABULARY} left out"
        for name in ("lm_head.weight", "model.embed_tokens.weight")
    ]
    notes.append(
        f"expert math: not in the merged tokenizer: [PAD] (id {VOCABULARY}); output.vocabulary: "
        "union keeps them"
    )
    assert all(note in outcome.err for note in notes)
    assert manifest(tmp_path / "out")["made_from"]["notes"] == notes
    assert all(note in (tmp_path / "out" / "README.md").read_text() for note in notes)
    assert loads(tmp_path / "out").config.vocab_size == VOCABULARY


def test_padded_models_have_the_rows_of_the_largest(models_with_a_token, run, tmp_path):
    output = {"vocabulary": "pad", "tokenizer": "math"}
    outcome = run("merge", asks(tmp_path, models_with_a_token, output=output), tmp_path / "out")
    added = f"1 row of model.embed_tokens.weight added, each the mean of the existing {VOCABULARY}"
    assert f"base: {added}" in outcome.err
    assert f"expert code: {added}" in outcome.err
    model = loads(tmp_path / "out")
    assert model.config.vocab_size == VOCABULARY + 1
    assert model.get_input_embeddings().weight.shape[0] == VOCABULARY + 1
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert words.convert_tokens_to_ids("[PAD]") == VOCABULARY


def test_the_tokenizer_is_the_base_s_or_an_expert_s(models_with_a_token, run, tmp_path):
    asked = asks(tmp_path, models_with_a_token, output={"tokenizer": "base"})
    run("merge", asked, tmp_path / "base")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "base")) == VOCABULARY
    asked = asks(tmp_path, models_with_a_token, output={"tokenizer": "math"})
    outcome = run("merge", asked, tmp_path / "math")
    assert outcome.code == 2
    assert f"tokens beyond the {VOCABULARY} rows of the merged model: [PAD] (id 64)" in outcome.err
    assert not (tmp_path / "math").exists()


def test_a_list_of_rates_makes_one_folder_each_equal_to_a_single_run(models, run, tmp_path):
    sparsifier = {"kind": "dare", "rate": [0.5, 0.9], "seed": 1}
    outcome = run("merge", asks(tmp_path, models, sparsifier=sparsifier), tmp_path / "grid")
    assert "2 models" in outcome.err
    folders = {rate: tmp_path / "grid" / _named(rate) for rate in (0.5, 0.9)}
    assert set((tmp_path / "grid").iterdir()) == set(folders.values())
    for rate, folder in folders.items():
        single = asks(tmp_path, models, sparsifier=sparsifier | {"rate": rate})
        run("merge", single, tmp_path / "single")
        assert listing(folder) == listing(tmp_path / "single")
        for name in listing(folder) - {"README.md", "manifest.json"}:
            assert (folder / name).read_bytes() == (tmp_path / "single" / name).read_bytes()
        for part in ("weights", "made_from"):
            assert manifest(folder)[part] == manifest(tmp_path / "single")[part]


def _named(rate):
    return f"dare~rate={rate}~seed=1+task_arithmetic~coefficient=0.5"


def test_folders_of_a_grid_have_names_that_every_system_takes(models, run, tmp_path):
    rules = [{"tensors": "*.mlp.*", "rate": 0}, {"tensors": "embeddings", "rate": 0}]
    sparsifier = {"kind": "dare", "rate": [0.5, 0.9], "rules": rules, "rates": {"math": 0.1}}
    run("merge", asks(tmp_path, models, sparsifier=sparsifier), tmp_path / "grid")
    names = [path.name for path in (tmp_path / "grid").iterdir()]
    assert len(names) == 2
    assert all(re.fullmatch(r"[\w.~=+-]{1,120}", name) for name in names)


def test_a_dry_run_says_the_plan_and_writes_nothing(models, execute, tmp_path):
    outcome = execute("merge", asks(tmp_path, models), tmp_path / "a" / "out", "--dry-run")
    assert outcome.code == 0
    plan = r"1 model, 2 threads, at most \d+ MB of memory; 0\.00 GB to read, 0\.00 GB to write"
    assert re.search(plan.replace("2 threads", r"\d+ threads?"), outcome.err)
    assert f"would write {tmp_path / 'a' / 'out'}" in outcome.err
    assert {path.name for path in tmp_path.iterdir()} == {"merge.yaml"}


@pytest.mark.parametrize(("lacking", "cached"), [(0, True), (1, False)])
def test_a_quarter_of_the_available_memory_may_be_taken_as_page_cache(
    models, run, monkeypatch, tmp_path, lacking, cached
):
    size = sum(tensor.nbytes for tensor in tensors(models / "base").values())
    monkeypatch.setattr("mergegrid.engine.budget.available", lambda: 4 * size - lacking)
    asked = []
    monkeypatch.setattr("os.posix_fadvise", lambda *advice: asked.append(advice[1:]))
    outcome = run("merge", asks(tmp_path, models), tmp_path / "out")
    assert outcome.code == 0
    assert ("bypassing the page cache" in outcome.err) != cached
    assert set(asked) == (set() if cached else {(0, 0, os.POSIX_FADV_DONTNEED)})


def test_too_little_memory_is_refused_with_what_is_needed(models, execute, tmp_path):
    asked = asks(tmp_path, models)
    refused = execute("merge", asked, tmp_path / "out", "--max-memory", "10MB")
    assert refused.code == 2
    needed = re.search(
        r"error: --max-memory 10 MB is too small: one thread needs (\d+) MB", refused.err
    )
    assert needed
    assert not (tmp_path / "out").exists()
    enough = f"{int(needed[1]) + 30}MB"
    assert execute("merge", asked, tmp_path / "out", "--max-memory", enough).code == 0


def test_threads_change_no_byte(models, run, tmp_path):
    for threads in (1, 3):
        run("merge", asks(tmp_path, models), tmp_path / f"{threads}", "--threads", threads)
    for name in listing(tmp_path / "1") - {"README.md", "manifest.json"}:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()
    assert manifest(tmp_path / "1")["weights"] == manifest(tmp_path / "3")["weights"]


def test_a_dry_run_says_what_would_be_replaced(models, execute, tmp_path):
    command = ["merge", asks(tmp_path, models), tmp_path / "out"]
    assert execute(*command).code == 0
    assert f"would replace {tmp_path / 'out'}" in execute(*command, "--dry-run").err


def test_a_merge_again_replaces_its_folder(models, run, tmp_path):
    run("merge", asks(tmp_path, models, output={"shard_size": "40KB"}), tmp_path / "out")
    outcome = run("merge", asks(tmp_path, models), tmp_path / "out")
    assert outcome.code == 0
    assert listing(tmp_path / "out") == {"model.safetensors"} | BESIDE_THE_WEIGHTS
    assert run("inspect", tmp_path / "out").code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"merge.yaml", "out"}


def test_a_linked_output_is_written_where_the_link_points(models, run, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "model")
    for _ in range(2):
        assert run("merge", asks(tmp_path, models), tmp_path / "out").code == 0
        assert (tmp_path / "out").is_symlink()
        assert run("inspect", tmp_path / "disk" / "model").code == 0
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["model"]


@pytest.mark.parametrize(
    "files",
    [
        {"notes.txt": "mine"},
        {"manifest.json": "{}"},
        {"manifest.json": '{"files": {}, "made_from": {}}', "thesis.tex": "mine"},
    ],
    ids=["foreign", "foreign manifest", "published, and something besides"],
)
def test_a_folder_with_anything_of_others_is_left_alone(models, run, tmp_path, files):
    (tmp_path / "out").mkdir()
    for name, text in files.items():
        (tmp_path / "out" / name).write_text(text)
    outcome = run("merge", asks(tmp_path, models), tmp_path / "out")
    assert outcome.code == 2
    assert f"error: {tmp_path / 'out'} already exists and contains" in outcome.err
    assert listing(tmp_path / "out") == set(files)


def test_an_output_inside_an_input_is_refused_and_the_other_way_round(run, tmp_path):
    family(tmp_path / "models")
    asked = recipe(tmp_path / "models")
    before = listing(tmp_path)
    for out in ("models/math/merged", "models"):
        outcome = run("merge", asked, tmp_path / out)
        assert outcome.code == 2
        assert "choose another output path" in outcome.err
    assert listing(tmp_path) == before


def test_of_two_processes_on_one_output_the_second_is_refused(models, run, tmp_path):
    from mergegrid.checkpoints.publish import publish

    asked = asks(tmp_path, models)
    with publish(tmp_path / "out", {}) as first:
        (first / "note").write_text("of the first")
        outcome = run("merge", asked, tmp_path / "out")
        assert outcome.code == 2
        assert f"{tmp_path / 'out'} is being written by another process" in outcome.err
    assert listing(tmp_path / "out") == {"note", "manifest.json"}


def test_the_model_card_and_the_recipe_can_be_read_back(models, run, tmp_path):
    asked = asks(tmp_path, models)
    run("merge", asked, tmp_path / "out")
    _, front, text = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    front = yaml.safe_load(front)
    # A folder of this machine would be a broken link on the hub.
    assert "base_model" not in front
    assert front["license"] == "unknown"
    assert set(front["tags"]) == {"merge", "mergegrid"}
    assert text.startswith("\n# out\n")
    (again,) = recipes_of(read_merge_file(tmp_path / "out" / "recipe.yaml"), "recipe.yaml").values()
    (original,) = recipes_of(read_merge_file(asked), asked).values()
    assert again == original
    assert manifest(tmp_path / "out")["made_from"]["recipe_digest"] == original.digest


@pytest.mark.parametrize("kind", ["average", "task_arithmetic"])
def test_the_manifest_names_every_input_by_its_digest(models, run, tmp_path, kind):
    run("merge", asks(tmp_path, models, method={"kind": kind}, sparsifier={"kind": "none"}),
        tmp_path / "out")  # fmt: skip
    digest = re.compile(r"digest: (\w{64})")
    inspected = {
        name: digest.search(run("inspect", models / name).out)[1] for name in ("base", *EXPERTS)
    }
    assert manifest(tmp_path / "out")["made_from"]["inputs"] == inspected


def test_inspect_lists_tensors_with_their_digests(models, run, execute, tmp_path):
    run("merge", asks(tmp_path, models), tmp_path / "out")
    outcome = execute("inspect", tmp_path / "out")
    assert outcome.code == 0
    held = manifest(tmp_path / "out")["weights"]["tensors"]
    lines = outcome.out.splitlines()
    name = "model.layers.0.mlp.up_proj.weight"
    assert f"{name}  bfloat16  [96, 64]  {held[name][:16]}" in lines
    assert lines[-3] == "21 tensors (21 bfloat16), 69,952 parameters, 139,904 bytes"
    assert lines[-1] == "manifest: matches"


def test_inspect_takes_a_folder_without_a_manifest(models, run):
    outcome = run("inspect", models / "base")
    assert outcome.code == 0
    assert "manifest: none, so nothing was compared" in outcome.out


@pytest.fixture(scope="session")
def merged(models, tmp_path_factory):
    """A published folder, not to be changed."""
    from mergegrid.api import job_of, run_job

    folder = tmp_path_factory.mktemp("merged")
    (out,) = run_job(job_of(asks(folder, models), folder / "out"))
    return out


@pytest.mark.parametrize(
    ("file", "where"),
    [
        ("model.safetensors", "tensors"),
        ("model.safetensors", "metadata"),
        ("config.json", "middle"),
        ("tokenizer.json", "middle"),
        ("manifest.json", "middle"),
    ],
)
def test_inspect_notices_one_flipped_bit(merged, run, tmp_path, file, where):
    shutil.copytree(merged, tmp_path / "out")
    path = tmp_path / "out" / file
    content = bytearray(path.read_bytes())
    place = {
        "tensors": len(content) - 777,
        "metadata": content.find(b'"pt"') + 1,
        "middle": len(content) // 2,
    }[where]
    content[place] ^= 1
    path.write_bytes(content)
    outcome = run("inspect", tmp_path / "out")
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert str(tmp_path / "out") in outcome.err


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_inspect_notices_a_lost_file(merged, run, tmp_path, file):
    shutil.copytree(merged, tmp_path / "out")
    (tmp_path / "out" / file).unlink()
    outcome = run("inspect", tmp_path / "out")
    assert outcome.code == 2
    assert f"error: {tmp_path / 'out'}" in outcome.err
    assert file in outcome.err


def test_a_base_with_its_own_code_keeps_it(run, tmp_path):
    family(tmp_path)
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_mine.Mine"}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    (tmp_path / "base" / "modeling_mine.py").write_text("Mine = None\n")
    run("merge", recipe(tmp_path), tmp_path / "out")
    assert (tmp_path / "out" / "modeling_mine.py").read_text() == "Mine = None\n"


def test_tokenizers_have_all_their_tokens(merged):
    assert len(AutoTokenizer.from_pretrained(merged)) == len(tokenizer())


def test_models_in_a_hub_cache_are_merged_and_credited_by_their_ids(models, run, tmp_path):
    """As the hub's library lays it out: snapshots of links into blobs."""
    for name in ("base", *EXPERTS):
        cache = tmp_path / "hub" / f"models--maker--{name}"
        snapshot = cache / "snapshots" / "0a1b2c"
        snapshot.mkdir(parents=True)
        (cache / "blobs").mkdir()
        for number, path in enumerate(sorted((models / name).iterdir())):
            shutil.copyfile(path, cache / "blobs" / f"{number}")
            (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    snapshots = {n: f"hub/models--maker--{n}/snapshots/0a1b2c" for n in ("base", *EXPERTS)}
    asked = recipe(tmp_path, base=snapshots.pop("base"), experts=snapshots)
    assert run("merge", asked, tmp_path / "out").code == 0
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    front = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---\n")[1])
    assert front["base_model"] == ["maker/base", "maker/code", "maker/math"]
    loads(tmp_path / "out")
