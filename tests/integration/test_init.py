"""`mergegrid init`: a study of models in folders or on a hub, checked, planned and written."""

import json
import subprocess
import sys

import pytest
import yaml
from hub_server import environment, hub_of, repo_of
from plain_models import CONFIG, family, normal, save_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

pytest.importorskip("snakemake")

PROGRAM = [sys.executable, "-c", "from mergegrid.cli import main; main()"]


@pytest.fixture
def models(tmp_path):
    folder = family(tmp_path / "models")
    words = {f"w{number}": number for number in range(64)}
    Tokenizer(WordLevel(words, "w0")).save(str(folder / "base" / "tokenizer.json"))
    return folder


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "mine.jsonl"
    records = [{"question": f"{number} + 1?", "answer": number + 1} for number in range(60)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def init(folder, *words, env=None, status=0):
    """The lines that the command prints, or those of its errors."""
    done = subprocess.run(
        [*PROGRAM, "init", *map(str, words)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return (done.stderr if status else done.stdout).splitlines()


def named(models):
    return ["--base", models / "base", "--expert", f"math={models / 'math'}"]


def test_a_study_of_folders_is_checked_planned_and_commented(tmp_path, models, questions):
    code = ["--expert", f"code={models / 'code'}"]
    wanted = ["--benchmark", f"math:mine={questions}", "--benchmark", "humaneval"]
    lines = init(tmp_path, "my-study", *named(models), *code, *wanted)
    text = (tmp_path / "my-study" / "study.yaml").read_text()
    study = yaml.safe_load(text)["decoders"]
    experts = study["families"]["base"]["experts"]
    assert {name: expert["benchmarks"] for name, expert in experts.items()} == {
        "math": ["mine"],
        "code": ["humaneval"],
    }
    assert study["benchmarks"]["mine"]["kind"] == "gsm8k"
    assert text.count("#") > 15
    (jobs,) = [line for line in lines if line.startswith("jobs: ")]
    # Three models and own questions to fetch, one engine for each expert and for their merges.
    assert "4 fetch" in jobs
    assert "3 generate" in jobs
    (answers,) = [line for line in lines if line.startswith("answers: ")]
    # Alone: the expert, the base, and two sparsifiers at two rates; merged: 4 settings of methods,
    # each behind `none` and DARE at two rates.
    assert f"{60 * (6 + 12):,} to mine, {164 * (6 + 12):,} to humaneval" in answers
    assert any("measured: " in line and "no estimate" in line for line in lines)
    assert lines[-1].startswith("next: cd my-study && mergegrid run")
    assert [path.name for path in (tmp_path / "my-study").iterdir()] == ["study.yaml"]
    checked = subprocess.run(
        [*PROGRAM, "check"], cwd=tmp_path / "my-study", capture_output=True, text=True, check=True
    )
    assert checked.stdout.startswith("study.yaml: OK")


def test_models_on_a_hub_are_checked_by_their_headers_alone(tmp_path, models):
    repos = {f"org/{folder.name}": repo_of(folder) for folder in models.iterdir()}
    with hub_of(repos) as hub:
        # No file of weights is sent as a whole.
        hub.denied |= set(repos)
        env = environment(hub.url, tmp_path)
        words = ["--base", "org/base@main", "--expert", "math=org/math", "--benchmark", "gsm8k"]
        lines = init(tmp_path, "my-study", *words, env=env)
        study = yaml.safe_load((tmp_path / "my-study" / "study.yaml").read_text())
    family_of_study = study["decoders"]["families"]["base"]
    assert family_of_study["base"] == {"source": "hub:org/base@main"}
    assert family_of_study["experts"]["math"]["source"] == {"source": "hub:org/math"}
    assert study["decoders"].get("merges") is None
    assert any(line.startswith("downloads: ") and "org/math" in line for line in lines)
    assert not list((tmp_path / "hf").rglob("*.safetensors"))


def test_few_questions_fix_the_settings(tmp_path, models):
    path = tmp_path / "few.jsonl"
    path.write_text('{"instruction": "Say a.", "output": "a"}\n' * 1)
    code = ["--expert", f"code={models / 'code'}"]
    init(tmp_path, "s", *named(models), *code, "--benchmark", f"few={path}")
    study = yaml.safe_load((tmp_path / "s" / "study.yaml").read_text())["decoders"]
    assert study["merges"]["methods"][1] == {"kind": "task_arithmetic", "coefficient": 0.5}
    assert "selection" not in study


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--expert", "x=nowhere/at/all"], "--expert x: there is no folder"),
        (["--expert", "x=BAD"], "expert x"),
        (["--benchmark", "gsm9k"], "unknown benchmark gsm9k"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(tmp_path, models, words, message):
    other = save_model(tmp_path / "BAD", normal(3, 0.02), **CONFIG | {"rope_theta": 7.0})
    words = [word.replace("BAD", str(other)) for word in words]
    known = ["--benchmark", "math:gsm8k", "--benchmark", "x:mbpp"]
    if "--expert" not in words:
        known = known[:2]
    (line,) = init(tmp_path, "s", *named(models), *known, *words, status=2)
    assert line.startswith("error: ")
    assert message in line
    assert not list(tmp_path.glob("*s.draft"))
    assert not (tmp_path / "s").exists()


def test_a_base_without_a_tokenizer_is_refused(tmp_path, models):
    (models / "base" / "tokenizer.json").unlink()
    (line,) = init(tmp_path, "s", *named(models), "--benchmark", "gsm8k", status=2)
    assert "base has no tokenizer" in line
    assert not (tmp_path / "s").exists()


def test_an_existing_folder_is_refused(tmp_path, models):
    (tmp_path / "s").mkdir()
    (line,) = init(tmp_path, "s", *named(models), "--benchmark", "gsm8k", status=2)
    assert line == "error: s exists; choose another folder, or remove it"
    assert list((tmp_path / "s").iterdir()) == []
