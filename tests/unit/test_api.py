"""The Python API: folders and state dicts, with the bits of the command line."""

import subprocess
import sys

import numpy as np
import pytest
import small_models
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import mergegrid
from mergegrid import ConfigError, Dare, Fisher, MergegridError, Output, TaskArithmetic, Ties
from mergegrid.cli import app

DARE = Dare(rate=0.5, seed=3)
SUM = TaskArithmetic(coefficient=0.5)
RECIPE = """
base: base
experts: {math: math, code: code}
sparsifier: {kind: dare, rate: 0.5, seed: 3}
method: {kind: task_arithmetic, coefficient: 0.5}
"""


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def family(request, tmp_path_factory):
    """Folders and models in bfloat16 of a base and two experts."""
    place = tmp_path_factory.mktemp("family")
    base = small_models.llama(tied=request.param)
    models = {
        "base": base,
        "math": small_models.finetuned(base, 1),
        "code": small_models.finetuned(base, 2),
    }
    for name, model in models.items():
        small_models.save(model, place / name)
    (place / "merge.yaml").write_text(RECIPE)
    return place, models


@pytest.fixture(scope="module")
def by_command(family):
    """The tensors that the command line writes."""
    place, _ = family
    result = CliRunner().invoke(app, ["merge", str(place / "merge.yaml"), str(place / "command")])
    assert result.exit_code == 0, result.output
    return load_file(place / "command" / "model.safetensors")


def experts(place):
    return {name: place / name for name in ("math", "code")}


def test_folders_are_merged_as_by_the_command_line(family, by_command):
    place, _ = family
    folder = mergegrid.merge(place / "base", experts(place), DARE, SUM, out=place / "api")
    assert folder == place / "api"
    assert mergegrid.inspect(folder).verified
    written = load_file(folder / "model.safetensors")
    assert set(written) == set(by_command)
    assert all(torch.equal(written[name], by_command[name]) for name in by_command)


def test_without_a_folder_the_tensors_come_back(family, by_command):
    place, _ = family
    tensors = mergegrid.merge(str(place / "base"), experts(place), DARE, SUM)
    assert set(tensors) == set(by_command)
    for name, tensor in by_command.items():
        assert np.array_equal(tensors[name], tensor.float().numpy())


def test_state_dicts_give_the_bits_of_folders_and_go_into_a_model(family, by_command):
    _, models = family
    merged = mergegrid.merge(
        models["base"].state_dict(),
        {name: models[name].state_dict() for name in ("math", "code")},
        DARE,
        SUM,
    )
    assert list(merged) == list(models["base"].state_dict())
    for name, tensor in by_command.items():
        assert merged[name].dtype == torch.bfloat16
        assert torch.equal(merged[name], tensor), name
    model = small_models.llama(tied=models["base"].config.tie_word_embeddings)
    mergegrid.load_into(model, merged)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, merged[name])


def test_tied_tensors_stay_tied():
    base = small_models.llama(tied=True)
    merged = mergegrid.merge(
        base.state_dict(), {"math": small_models.finetuned(base, 1).state_dict()}
    )
    assert merged["lm_head.weight"] is merged["model.embed_tokens.weight"]


def test_numpy_arrays_integers_and_a_dtype():
    base = {"w": np.ones((2, 3), np.float32), "ids": np.arange(3)}
    expert = {"w": np.full((2, 3), 3, np.float32), "ids": np.arange(3)}
    merged = mergegrid.merge(base, {"a": expert}, output=Output(dtype="float16"))
    assert merged["w"].dtype == np.float16
    assert (merged["w"] == 3).all()
    assert merged["ids"] is base["ids"]


@pytest.mark.parametrize(
    ("expert", "settings", "message"),
    [
        ({"w": np.ones((2, 4), np.float32)}, {}, r"w .*\(2, 4\)"),
        ({}, {}, "w"),
        ({"w": np.ones((2, 3))}, {}, "float64; convert it to one of float32"),
        ({"w": [1, 2]}, {}, "is a list; pass NumPy arrays or torch tensors"),
        (
            {"w": np.ones((2, 3), np.float32)},
            {"out": "x"},
            "`out`, `statistics` and `base_is` need model",
        ),
        ({"w": np.ones((2, 3), np.float32)}, {"method": Fisher()}, "model statistics of every exp"),
        ({"w": np.ones((2, 3), np.float32)}, {"max_memory": "5G"}, "max_memory: invalid size '5G'"),
        ({"w": np.ones((2, 3), np.float32)}, {"max_memory": "5GB"}, "`max_memory` and all of `out"),
        (
            {"w": np.ones((2, 3), np.float32)},
            {"output": Output(vocabulary="pad")},
            "`max_memory` and all of `output` but its dtype need model folders",
        ),
        ("models/math", {}, "expert a is a str, but the base is a state dict"),
    ],
)
def test_state_dicts_that_do_not_fit_are_refused(expert, settings, message):
    with pytest.raises(MergegridError, match=message):
        mergegrid.merge({"w": np.ones((2, 3), np.float32)}, {"a": expert}, **settings)


def test_an_expert_that_unties_what_the_base_ties_is_refused():
    tied = np.ones((2, 3), np.float32)
    base = {"embed_tokens.weight": tied, "lm_head.weight": tied}
    expert = {name: tied + row for row, name in enumerate(base)}
    with pytest.raises(MergegridError, match=r"one tensor in the base, but differ in expert a"):
        mergegrid.merge(base, {"a": expert})
    copies = {name: tensor.copy() for name, tensor in base.items()}
    merged = mergegrid.merge(copies, {"a": expert})
    assert all((merged[name] == expert[name]).all() for name in base)


def test_tensors_that_only_an_expert_has_are_an_error_and_heads_a_note(caplog):
    base = {"w": np.ones(3, np.float32)}
    expert = {"w": np.ones(3, np.float32), "classifier.weight": np.ones(3, np.float32)}
    caplog.set_level("INFO")
    assert set(mergegrid.merge(base, {"a": expert})) == {"w"}
    assert "expert a: the task head is not merged: classifier.weight" in caplog.text
    with pytest.raises(MergegridError, match="the base has no adapter, which expert a has"):
        mergegrid.merge(base, {"a": {**expert, "adapter": np.ones(3, np.float32)}})


def test_no_experts_and_settings_of_the_wrong_kind_are_errors_of_mergegrid():
    with pytest.raises(ConfigError, match="experts: "):
        mergegrid.merge("models/llama", {})
    with pytest.raises(ConfigError, match="method"):
        mergegrid.merge("models/llama", {"a": "models/math"}, method="ties")


def test_a_state_dict_among_folders_is_refused():
    with pytest.raises(ConfigError, match="expert a is a state dict, but the base is a folder"):
        mergegrid.merge("models/llama", {"a": {"w": np.ones(3, np.float32)}})


def test_merged_tensors_that_stay_in_memory_count_in_the_budget(family, tmp_path, monkeypatch):
    monkeypatch.setattr("mergegrid.engine.budget.resident", lambda: 10**8)
    place, _ = family
    recipe = mergegrid.Recipe(family="f", experts=("math",))
    folders = {"math": place / "math"}
    job = mergegrid.MergeJob(place / "base", folders, {tmp_path / "out": recipe})
    opened = job.open()
    size = sum(info.bytes for info in opened.infos.values())
    written, kept = opened.plan(threads=1), opened.plan(threads=1, recipe=recipe)
    assert kept.memory == written.memory + size


def test_notes_on_what_is_cut_are_logged_in_memory_too(tmp_path, caplog):
    base = small_models.llama()
    small_models.save(base, tmp_path / "base")
    small_models.save(small_models.finetuned(base, 1, rows=1), tmp_path / "math")
    caplog.set_level("INFO")
    mergegrid.merge(tmp_path / "base", {"math": tmp_path / "math"})
    assert "expert math: 1 row of model.embed_tokens.weight beyond the base's" in caplog.text


def test_integers_that_differ_are_refused():
    base, expert = (
        {"w": np.ones(3, np.float32), "ids": ids} for ids in (np.arange(3), np.ones(3, int))
    )
    with pytest.raises(MergegridError, match="ids of expert a holds other integers"):
        mergegrid.merge(base, {"a": expert})


@pytest.mark.parametrize("name", ["base", "a b", ""])
def test_names_of_experts_are_checked(name):
    with pytest.raises(ConfigError, match="invalid expert name"):
        mergegrid.merge("models/llama", {name: "models/math"})


def test_a_method_of_ones_own_needs_no_package(family):
    place, _ = family

    class Doubled(Ties):
        kind: str = "doubled"

        def merge(self, chunk):
            return chunk.ops.plus(chunk.base, chunk.deltas[0], 2.0)

    base = mergegrid.open_model(place / "base")
    expert = mergegrid.open_model(place / "math")
    output = Output(dtype="float32")
    merged = mergegrid.merge(
        place / "base", {"math": place / "math"}, method=Doubled(), output=output
    )
    for name in base:
        assert np.array_equal(merged[name], base[name] + 2 * (expert[name] - base[name]))


def test_every_public_name_exists_and_importing_the_package_takes_no_time():
    assert all(getattr(mergegrid, name) is not None for name in mergegrid.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mergegrid.nothing  # noqa: B018
    program = "import sys, mergegrid; sys.exit('numpy' in sys.modules or 'pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_functions_are_not_hidden_by_packages_of_the_same_name():
    program = "from mergegrid import deltas, inspect, merge; deltas.__call__"
    subprocess.run([sys.executable, "-c", program], check=True)
