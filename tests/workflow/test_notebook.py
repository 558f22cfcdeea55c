"""The notebook runs from top to bottom on the results of the smoke study."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.workflow

NOTEBOOK = Path(__file__).parents[2] / "examples" / "merge_and_measure.ipynb"


def test_every_cell_runs_and_dare_keeps_what_plain_dropping_loses(smoke_copy):
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    (smoke_copy.folder / "examples").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*code, "print(table.loc[0.9].to_json())"])],
        cwd=smoke_copy.folder / "examples",
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    at_90_percent = json.loads(done.stdout.splitlines()[-1])
    for task in ("trec", "spam"):
        kept, lost = (at_90_percent[f"('{task}', '{kind}')"] for kind in ("Dare", "DropOnly"))
        assert kept >= lost
    # Nearly all messages are no spam, so that task is safe by chance; that of six classes is not.
    assert at_90_percent["('trec', 'Dare')"] > at_90_percent["('trec', 'DropOnly')"] + 0.1
    merged = smoke_copy.folder / "results" / "smoke" / "merged"
    assert (merged / "manifest.json").is_file()
