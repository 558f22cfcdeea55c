"""What `make test-gpu` says without a GPU, and a rehearsal of its cheap steps on the CPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("first_run.py")
CHEAP = ["A2", "G2", "G3", "G4", "G6", "G7", "G9", "G5"]
ONLY_ON_A_GPU = ["A1", "G3b", "C9"]


def first_run(tmp_path, *arguments, **environment):
    """The exit status, what was printed, and the error output."""
    options = ["--out", tmp_path / "log.txt", "--work", tmp_path / "work"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *options, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    return done.returncode, done.stdout, done.stderr


def test_without_a_gpu_it_ends_at_once_and_says_how_to_rehearse(tmp_path):
    # Of a machine that has some, torch sees none.
    code, printed, said = first_run(tmp_path, CUDA_VISIBLE_DEVICES="-1")
    assert (code, printed) == (2, "")
    (sentence,) = said.splitlines()
    assert re.fullmatch(
        r"no GPU was found \(.*nvidia-smi.*; torch \S+ sees none\); "
        r"to rehearse on the CPU: make test-gpu DEVICE=cpu",
        sentence,
    )
    assert not list(tmp_path.iterdir())


def test_make_hands_the_refusal_on(tmp_path):
    done = subprocess.run(
        ["make", "test-gpu", f"GPU_PYTHON={sys.executable}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert done.returncode != 0
    assert "make test-gpu DEVICE=cpu" in done.stderr


def test_an_unknown_step_is_refused_with_the_names_of_all(tmp_path):
    code, _, said = first_run(tmp_path, "--device", "cpu", "--only", "A1", "Z1")
    assert code == 2
    assert re.match(r"no step Z1; choose from A1, A2, G1, .*, C9$", said)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """Exit status, lines by step, and the log of the cheap steps."""
    folder = tmp_path_factory.mktemp("rehearsal")
    steps = [*CHEAP, *ONLY_ON_A_GPU]
    code, printed, said = first_run(folder, "--device", "cpu", "--only", *steps)
    lines = {line.split()[0]: line for line in printed.splitlines()[1:]}
    return code, lines, (folder / "log.txt").read_text(), said


@pytest.mark.parametrize("step", CHEAP)
def test_the_rehearsal_of_a_cheap_step_passes(rehearsal, step):
    _, lines, log, _ = rehearsal
    assert re.match(rf"{step} +ok +[\d.]+ s  .+ \| expected: .+", lines[step]), log


@pytest.mark.parametrize("step", ONLY_ON_A_GPU)
def test_what_means_nothing_without_a_gpu_says_so(rehearsal, step):
    assert re.match(rf"{step} +only on a GPU ", rehearsal[1][step])


def test_the_rehearsal_ends_well_and_all_it_printed_is_in_the_log(rehearsal):
    code, lines, log, said = rehearsal
    assert (code, said) == (0, "")
    assert f"{len(CHEAP)} ok" in log.splitlines()[-1]
    assert f"{len(ONLY_ON_A_GPU)} only on a GPU" in log.splitlines()[-1]
    assert all(lines[step] in log for step in [*CHEAP, *ONLY_ON_A_GPU])
