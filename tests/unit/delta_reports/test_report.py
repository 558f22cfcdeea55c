import csv
import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from mergegrid import api
from mergegrid.cli import app
from mergegrid.delta_reports.report import expert_delta_sizes
from mergegrid.errors import CheckpointError, ConfigError

CONFIG = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2}


def drawn(seed, scale):
    return np.random.default_rng(seed).standard_normal((64, 64)).astype(np.float32) * scale


@pytest.fixture
def model(tmp_path):
    """Writes a model folder of two tensors."""

    def make(name, weight, dtype=torch.float32, config=CONFIG):
        folder = tmp_path / name
        folder.mkdir()
        tensors = {
            "model.embed_tokens.weight": torch.zeros(10 + (name == "longer"), 64),
            "model.layers.0.mlp.up_proj.weight": torch.from_numpy(weight),
        }
        save_file(
            {each: tensor.to(dtype) for each, tensor in tensors.items()},
            folder / "model.safetensors",
        )
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


@pytest.fixture
def base(model):
    return model("base", drawn(0, 0.05))


@pytest.mark.parametrize(
    ("scale", "verdict"),
    [
        (0, r"There is no delta: the expert is the base\."),
        (0.0002, r"DARE applies: 100\.0 % of \|delta\| are below 0\.002\."),
        (0.004, r"DARE may fail at high rates: only 4\d\.\d % of \|delta\| are below 0\.002"),
        (0.03, r"DARE fails on such deltas: 6\d\.\d % of \|delta\| are above 0\.01 \(half of all"),
    ],
)
def test_the_verdict_says_by_which_figures(base, model, scale, verdict):
    expert = model("math", drawn(0, 0.05) + drawn(1, np.float32(scale)))
    report = api.deltas(base, expert)
    assert report.whole.n == 64 * 64 + 640
    assert re.match(verdict, report.verdict)


def test_what_an_expert_in_float32_loses_in_the_dtype_of_its_base_is_told(model):
    base = model("base", drawn(0, 0.05), torch.bfloat16)
    rounded = torch.from_numpy(drawn(0, 0.05)).bfloat16().float().numpy()
    expert = model("math", rounded + drawn(1, np.float32(1e-5)))
    report = api.deltas(base, expert)
    assert report.dtype == "bfloat16"
    assert 640 <= report.whole.zero < 700
    assert report.whole.unchanged > 0.9 * report.whole.n
    assert "rounded to bfloat16, 9" in str(report)
    exact = api.deltas(base, expert, dtype="float32")
    assert exact.whole.unchanged == exact.whole.zero


def test_every_tensor_has_a_line_and_a_row(base, model, tmp_path):
    expert = model("math", drawn(0, 0.05) + drawn(1, np.float32(0.001)))
    arguments = ["deltas", str(base), str(expert), "--csv", str(tmp_path / "table.csv")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines[-6:-2]] == [
        "tensor",
        "model.embed_tokens.weight",
        "model.layers.0.mlp.up_proj.weight",
        "all",
    ]
    assert lines[-1].startswith("DARE applies: 9")
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["tensor"] == "all"
    assert float(rows[0]["l2"]) == api.deltas(base, expert).whole.l2
    assert float(rows[1]["share_unchanged"]) == float(rows[1]["share_zero"]) == 1.0


def test_a_dtype_that_is_none_is_refused(base):
    with pytest.raises(ConfigError, match="unknown dtype 'int8'; use one of float32, bfloat16"):
        api.deltas(base, base, dtype="int8")


def test_a_folder_that_is_not_there_is_refused(base, tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no folder .*nowhere; pass the folder"):
        api.deltas(base, tmp_path / "nowhere")


def test_an_expert_of_another_architecture_is_refused(base, model):
    other = model("other", drawn(0, 0.05), config={**CONFIG, "rope_theta": 1e6})
    with pytest.raises(
        CheckpointError, match="architecture of expert other differs from the base's"
    ):
        api.deltas(base, other)


def test_an_expert_of_another_shape_is_refused(base, model):
    with pytest.raises(CheckpointError, match=r"\(64, 64\) in the base and \(32, 64\) in expert"):
        api.deltas(base, model("other", drawn(0, 0.05)[:32]))


def test_tokens_that_only_the_expert_has_are_left_out_and_told(base, model):
    report = api.deltas(base, model("longer", drawn(0, 0.05)))
    assert report.whole.n == 64 * 64 + 640
    assert "1 row of model.embed_tokens.weight beyond the base's 10 left out" in str(report)


def test_a_study_measures_an_expert_with_an_added_token_in_the_rows_of_the_base(base, model):
    expert = model("longer", drawn(0, 0.05))
    whole, *tensors = expert_delta_sizes(base, expert, "code")
    assert [each.n for each in tensors] == [640, 64 * 64]
    assert (whole.n, whole.max) == (640 + 64 * 64, 0)


def test_a_study_measures_an_expert_of_another_base_whose_config_differs(base, model):
    expert = model("code", drawn(0, 0.05), config=CONFIG | {"rope_theta": 1e6})
    assert expert_delta_sizes(base, expert, "code")[0].max == 0


def test_a_study_measures_no_expert_of_other_shapes(base, model):
    expert = model("wide", drawn(0, 0.05)[:, :32].copy())
    with pytest.raises(CheckpointError, match=r"\(64, 64\) in the base and \(64, 32\) in expert"):
        expert_delta_sizes(base, expert, "code")
