"""Jobs that hold GPUs, rehearsed with devices that are names."""

import re
from datetime import datetime

import pytest
import yaml
from project import Project

CONFIG = "config/smoke.yaml"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The smoke study on a machine with one GPU, which two jobs may share."""
    project = Project(tmp_path / "project", CONFIG)
    path = project.folder / CONFIG
    study = yaml.safe_load(path.read_text()) | {"jobs_per_gpu": 2}
    # What the experts learn does not matter here.
    for task in study["encoders"]["tasks"].values():
        task["sizes"] = {"train": 80, "test": 100}
    path.write_text(yaml.safe_dump(study))
    monkeypatch.setenv("MERGEGRID_DEVICE", "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("MERGEGRID_LEASES", str(tmp_path / "leases"))
    return project


def test_jobs_on_encoders_share_a_gpu_as_the_study_says(project):
    printed = project.snakemake("--cores", "2", "--resources", "gpu=1", "--until", "expert")
    assert "Jobs on encoders share GPUs: at most 2 at a time." in printed
    log = project.full_log()
    asked = re.findall(r"^(?:local)?rule expert:.*?resources: (.*?)$", log, re.DOTALL | re.M)
    assert all({"gpu=0", "gpu_share=1"} <= set(each.split(", ")) for each in asked)
    assert len(asked) == 2
    spans = []
    for log in (project.folder / "logs/smoke/expert").rglob("*.log"):
        assert "leased GPUs: 0" in log.read_text()
        times = re.findall(r"^(\S+ \S+,\d+) INFO", log.read_text(), re.MULTILINE)
        start, end = (
            datetime.fromisoformat(each.replace(",", ".")) for each in times[:: len(times) - 1]
        )
        spans.append((start, end))
    (one, other) = sorted(spans)
    # Both held it at once.
    assert other[0] < one[1]
