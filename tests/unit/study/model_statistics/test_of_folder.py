"""`mergegrid statistics`: files that merges by merge files name."""

import json

import pytest
import torch
from safetensors.torch import load_file
from small_models import family, recipe
from typer.testing import CliRunner

from mergegrid.checkpoints.model_statistics import open_statistics
from mergegrid.cli import app
from mergegrid.errors import ConfigError, DataError

TEXTS = [{"text": f"the good film is w{number} and w{number + 7}"} for number in range(20, 32)]
ASKED = [{"instruction": f"is w{number} good", "output": f"w{number} is"} for number in (20, 21)]


@pytest.fixture
def folder(tmp_path):
    family(tmp_path)
    for name, records in (("texts", TEXTS), ("instructions", ASKED)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    return tmp_path


def command(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def gather(folder, expert, kind, *options, texts="texts"):
    out = folder / f"{expert}-{kind}.safetensors"
    where = ["--kind", kind, "--texts", folder / f"{texts}.jsonl"]
    result = command("statistics", folder / expert, out, *where, *options)
    assert result.exit_code == 0, result.output
    assert str(out) in result.output
    return out


@pytest.mark.parametrize(("kind", "more"), [("fisher", {}), ("regmean", {"ridge": 1e-3})])
def test_merges_of_folders_use_the_files(folder, kind, more):
    files = {expert: gather(folder, expert, kind).name for expert in ("math", "code")}
    for name, method in (("merged", {"kind": kind, **more}), ("mean", {"kind": "average"})):
        sparsifier = {"kind": "none"}
        path = recipe(folder, method=method, sparsifier=sparsifier, statistics=files)
        assert command("merge", path, folder / name).exit_code == 0
    merged, mean = (load_file(folder / name / "model.safetensors") for name in ("merged", "mean"))
    assert any(not torch.equal(merged[name], mean[name]) for name in mean)


def test_a_file_says_from_how_many_texts_it_is(folder):
    assert open_statistics(gather(folder, "math", "fisher")).metadata["examples"] == 12
    few = open_statistics(gather(folder, "code", "fisher", "--examples", 3)).metadata
    assert few["examples"] == 3
    assert len(few["expert"]) == 64


def test_instructions_are_read_with_their_prompt(folder):
    options = ["--prompt", "the film {instruction}", "--max-length", 30]
    one = load_file(gather(folder, "math", "regmean", *options, texts="instructions"))
    two = load_file(gather(folder, "code", "regmean", texts="instructions"))
    assert set(one) == set(two)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[]", "line 3 of .*instructions.jsonl is not an object with a `text`, or with"),
        ('{"text": "the"}', "line 3 of .* like the lines before it"),
        ("{", "line 3"),
    ],
)
def test_a_wrong_line_is_named(folder, line, message):
    path = folder / "instructions.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=message):
        gather(folder, "math", "fisher", texts="instructions")
    assert not list(folder.glob("*.safetensors"))


def test_a_file_that_exists_is_kept(folder):
    out = gather(folder, "math", "regmean")
    with pytest.raises(ConfigError, match=r"math-regmean.safetensors exists; choose another name"):
        gather(folder, "math", "regmean")
    assert out.exists()
    with pytest.raises(ConfigError, match=r"end it in .safetensors"):
        command(
            "statistics", folder / "math", folder / "x", "--kind", "fisher", "--texts", folder / "t"
        )


def test_too_few_texts_leave_nothing_behind(folder):
    with pytest.raises(DataError, match="need 50 examples, but there are 12"):
        gather(folder, "math", "fisher", "--examples", 50)
    assert not list(folder.glob("*.safetensors"))
    assert not list(folder.glob(".*draft"))
