"""Methods and sparsifiers of other packages: the example package, installed as users do."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import example_package
import numpy as np
import pytest
import small_models
from safetensors.torch import load_file

from mergegrid import plugins
from mergegrid.engine.method import Method
from mergegrid.methods.average import Average
from mergegrid.methods.ties import Ties

ROOT = Path(__file__).parents[2]
RECIPE = """
base: base
experts: {math: math, code: code}
sparsifier: {kind: norm_limit, limit: [0.001, 10]}
method: {kind: root_sum, coefficient: 0.5}
output: {dtype: float32}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run mergegrid where the example package is installed."""
    environment = example_package.install(tmp_path_factory.mktemp("packages"))

    def mergegrid(*words):
        program = [sys.executable, "-c", "from mergegrid.cli import main; main()", *words]
        done = subprocess.run(program, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return mergegrid


def test_the_example_is_listed_with_its_settings(run):
    listed = run("methods")
    assert "root_sum: The base plus the sum of the deltas over the root of their number." in listed
    assert "norm_limit: Scale the deltas of a tensor down to a largest root mean square." in listed
    assert "limit" in listed


def test_the_example_is_in_the_schemas_and_in_the_reference(run, tmp_path):
    for folder in ("config", "docs", "resources"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    run("docs", str(tmp_path / "config"))
    for schema in ("merge.schema.json", "config.schema.json"):
        text = (tmp_path / "config" / schema).read_text()
        assert json.loads(text)
        assert '"root_sum"' in text
        assert '"norm_limit"' in text
    reference = (tmp_path / "config" / "README.md").read_text()
    assert "root_sum" in reference
    assert "Largest root mean square of the deltas of a tensor." in reference


def test_the_example_merges_models(run, tmp_path):
    base = small_models.llama()
    models = {"base": base}
    models |= {
        name: small_models.finetuned(base, seed) for seed, name in ((1, "math"), (2, "code"))
    }
    for name, model in models.items():
        small_models.save(model, tmp_path / name)
    (tmp_path / "merge.yaml").write_text(RECIPE)
    lines = run("merge", str(tmp_path / "merge.yaml"), str(tmp_path / "out")).splitlines()
    assert len(lines) == 2
    tensors = {
        name: {key: value.float().numpy() for key, value in model.state_dict().items()}
        for name, model in models.items()
    }
    for limit in (0.001, 10.0):
        merged = load_file(
            tmp_path / "out" / f"norm_limit~limit={limit}+root_sum~coefficient=0.5"
            / "model.safetensors"
        )  # fmt: skip
        for name, theta in tensors["base"].items():
            total = np.zeros_like(theta)
            for expert in ("math", "code"):
                delta = tensors[expert][name] - theta
                size = np.sqrt((delta.astype(np.float64) ** 2).mean())
                total += delta * np.float32(min(1.0, limit / size))
            expected = theta + np.float32(0.5 / np.sqrt(2)) * total
            np.testing.assert_allclose(merged[name].numpy(), expected, atol=1e-7)


class WithoutArithmetic(Method):
    kind: str = "without_arithmetic"


class Third(Average):
    kind: str = "third"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("test_plugins_missing:Nothing", "No module named 'test_plugins_missing'"),
        ("json:dumps", "json:dumps is not a subclass of Method"),
        ("mergegrid.methods.ties:Ties", "the kind 'ties' is already taken"),
    ],
)
def test_a_package_that_does_not_work_is_ignored_with_a_warning(
    monkeypatch, caplog, value, message
):
    entry = EntryPoint("broken", value, "mergegrid.methods")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry])
    classes = plugins.with_plugins(Method, [Average, Ties], "mergegrid.methods")
    assert classes == {"average": Average, "ties": Ties}
    assert message in caplog.text


def test_a_class_without_arithmetic_is_ignored_and_cannot_be_used(monkeypatch, caplog):
    monkeypatch.setattr(EntryPoint, "load", lambda _: WithoutArithmetic)
    entry = EntryPoint("broken", "some:WithoutArithmetic", "mergegrid.methods")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry])
    assert plugins.with_plugins(Method, [Average], "mergegrid.methods") == {"average": Average}
    assert "some:WithoutArithmetic does not define merge" in caplog.text
    with pytest.raises(TypeError, match="abstract"):
        WithoutArithmetic()


def test_classes_of_other_packages_come_last_by_name(monkeypatch):
    def entry(name, settings):
        point = EntryPoint(name, "unused", "mergegrid.methods")
        monkeypatch.setattr(EntryPoint, "load", lambda self: {"a": Third, "b": Ties}[self.name])
        return point

    points = [entry("b", Ties), entry("a", Third)]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    classes = plugins.with_plugins(Method, [Average], "mergegrid.methods")
    assert list(classes) == ["average", "third", "ties"]
