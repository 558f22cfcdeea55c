"""The jobs of the shipped studies with their parameters, which decide what reruns.

`parameters.json` holds, for each study and rule, the number of jobs and a digest of their inputs,
outputs and parameters. Where a digest changes, users' results of that rule are computed again. If
that is intended, write the file again: `python tests/workflow/test_parameters.py`.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDED = Path(__file__).with_name("parameters.json")
#: Studies whose files are on the hub or in packages, so that a plan reads nothing.
STUDIES = ("config", "modern", "paper_decoders", "paper_encoders", "smoke")


def parameters_of(study: str) -> dict[str, list[int | str]]:
    """For each rule: the number of its jobs, and a digest of them all."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "jobs"
        program = ROOT / "tests" / "helpers" / "planned_jobs.py"
        arguments = ["--configfile", str(ROOT / "config" / f"{study}.yaml"), "--directory", folder]
        command = [sys.executable, str(program), str(file), "-s", str(ROOT / "Snakefile")]
        offline = {"HF_HUB_OFFLINE": "1", "MERGEGRID_CACHE": f"{folder}/cache"}
        subprocess.run(
            [*command, *arguments, "--workflow-profile", "none"],
            env={**os.environ, **offline},
            check=False,
            capture_output=True,
        )
        jobs = file.read_text().splitlines()
    rules: dict[str, list[str]] = {}
    for job in jobs:
        rules.setdefault(json.loads(job)["rule"], []).append(job)
    return {
        rule: [len(each), hashlib.sha256("\n".join(each).encode()).hexdigest()[:16]]
        for rule, each in sorted(rules.items())
    }


@pytest.mark.parametrize("study", STUDIES)
def test_jobs_have_the_parameters_that_finished_results_were_made_with(study):
    assert parameters_of(study) == json.loads(RECORDED.read_text())[study]


if __name__ == "__main__":
    text = json.dumps({study: parameters_of(study) for study in STUDIES}, indent=1)
    RECORDED.write_text(re.sub(r"\[\s+(\d+),\s+(\S+)\s+\]", r"[\1, \2]", text) + "\n")
