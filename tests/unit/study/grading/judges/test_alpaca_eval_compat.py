"""What mergegrid relies on in alpaca_eval beyond its documentation; run it when upgrading.

Each test names the part of alpaca_eval that changed and the code to adapt.
"""

import json
import math
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import mergegrid
from mergegrid.study.grading.judges import alpaca_eval_compat as compat
from mergegrid.study.grading.judges.annotators import write_annotator
from mergegrid.study.schema.judge import Judge

STYLES = {
    "choice": "weighted_alpaca_eval_gpt4_turbo",
    "function": "chatgpt_fn",
    "ranking": "alpaca_eval_gpt4",
}


def run(program, folder):
    """Print the JSON that a program prints in a process set up for alpaca_eval."""
    clients = folder / "clients.yaml"
    variables = compat.environment("http://127.0.0.1:9/v1", 7, "a-key", clients)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(folder)],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"alpaca_eval {version('alpaca_eval')}: {done.stderr[-2000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def test_the_installed_version_is_the_one_that_is_relied_on():
    assert version("alpaca_eval") == compat.VERSION, (
        "alpaca_eval was upgraded: adapt alpaca_eval_compat.py until this file passes, then raise "
        "its VERSION"
    )


@pytest.mark.parametrize("name", STYLES.values())
def test_packaged_annotators_have_the_keys_that_are_changed(name):
    annotator, prompt = compat.packaged_annotator(name)
    assert {"completions_kwargs", "fn_completions"} <= annotator.keys()
    assert {"model_name", "max_tokens"} <= annotator["completions_kwargs"].keys()
    for mark in ("{instruction}", "{output_1}", "{output_2}"):
        assert mark in compat.MARKS
        assert mark.encode() in prompt
    if name == "chatgpt_fn":
        function = annotator["completions_kwargs"]["tools"][0]["function"]
        assert "best_output" in function["parameters"]["properties"]


def test_the_environment_decides_key_and_server(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEYS", "another")
    program = (
        "import json\n"
        "from mergegrid.study.grading.judges import alpaca_eval_compat as compat\n"
        "compat._provide_pkg_resources()\n"
        "from alpaca_eval import constants, utils\n"
        "import yaml\n"
        "client = yaml.safe_load(open(constants.OPENAI_CLIENT_CONFIG_PATH))['default'][0]\n"
        "print(json.dumps([constants.OPENAI_API_KEYS, client]))\n"
    )
    keys, client = run(program, tmp_path)
    assert keys == ["a-key"]
    assert client == {"base_url": "http://127.0.0.1:9/v1", "timeout": 7}


def test_an_annotator_has_the_attributes_that_are_set_and_replaced(tmp_path):
    settings = Judge(model="m", style="function", base_url="http://x/v1", api_key_env="none")
    folder = write_annotator(settings, tmp_path)
    program = (
        "import inspect, json, sys\n"
        "from pathlib import Path\n"
        "from mergegrid.study.grading.judges.alpaca_eval_compat import Annotator\n"
        f"annotator = Annotator(Path({str(folder)!r}), Path(sys.argv[1], 'none.json'), 1, print)\n"
        "inner = annotator._annotator\n"
        "print(json.dumps({\n"
        "    'columns': list(inner.df_annotations.columns),\n"
        "    'replaced': [s.fn_completions.__name__ for s in inner.annotators.values()],\n"
        "    'annotate': list(inspect.signature(inner.annotate_head2head).parameters),\n"
        "    'saved': annotator.save(Path(sys.argv[1], 'saved.json')),\n"
        "}))\n"
    )
    described = run(program, tmp_path)
    assert {"instruction", "output_1", "output_2", "annotator"} < set(described["columns"])
    assert described["replaced"] == ["complete_all"]
    assert {"outputs_1", "outputs_2", "is_ordered"} <= set(described["annotate"])
    assert described["saved"] is False
    assert not (tmp_path / "saved.json").exists()


def test_length_control_reads_the_given_file_and_downloads_nothing(tmp_path):
    lines = ["model,index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline"]
    for model, liked, shift in [("concise", 0.2, 1.5), ("verbose", 0.6, -1.5)]:
        lines += [f"{model},{n},{liked},{shift},{math.sin(n)},False" for n in range(60)]
    (tmp_path / compat.LENGTH_FILE).write_text("\n".join(lines))
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from mergegrid.study.grading.judges import alpaca_eval_compat as compat\n"
        "compat._provide_pkg_resources()\n"
        "rows = [\n"
        "    {'preference': 1.0 + (n % 7 > 3), 'index': n, 'annotator': 'a', 'generator_1': 'r',\n"
        "     'generator_2': 'm', 'output_1': 'x' * 9, 'output_2': 'x' * (3 + n % 7)}\n"
        "    for n in range(60)\n"
        "]\n"
        "file = Path(sys.argv[1], compat.LENGTH_FILE)\n"
        "print(json.dumps(compat.length_controlled_win_rate(rows, file)))\n"
    )
    rate, error = run(program, tmp_path)
    assert 0 < rate < 1
    assert 0 < error < 0.5


@pytest.mark.parametrize(
    ("row", "preference"),
    [({"preference": 1.0}, 0.0), ({"preference": 2}, 1.0), ({"preference": 1.25}, 0.25)],
)
def test_a_preference_is_0_for_the_reference_and_1_for_the_output(row, preference):
    assert compat.preference(row) == preference


@pytest.mark.parametrize(
    "row", [{}, {"preference": None}, {"preference": math.nan}, {"preference": -1}]
)
def test_a_row_without_a_readable_answer_has_no_preference(row):
    assert compat.preference(row) is None


def test_no_other_module_imports_alpaca_eval():
    package = Path(mergegrid.__file__).parent
    pattern = re.compile(r"^\s*(?:import|from) alpaca_eval\b", re.MULTILINE)
    importing = [path.name for path in package.rglob("*.py") if pattern.search(path.read_text())]
    assert importing == ["alpaca_eval_compat.py"]
