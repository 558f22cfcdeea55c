"""The memory that jobs on decoders state, beside what they take, for models of two sizes."""

import subprocess
import sys
from pathlib import Path

import pytest
import small_models

from mergegrid.study.decoders.importing import import_decoder
from mergegrid.study.runtime import memory_estimates as hardware

pytestmark = pytest.mark.integration

#: Width of the models, which have 25 and 89 million parameters.
WIDTHS = {"small": 512, "large": 960}
STATED = {
    "finetune": lambda size: hardware.finetuning_mb(size, on_gpu=False),
    "generate": lambda size: hardware.generation_mb(size, gpus=0, one_engine=True),
    "similarity": lambda size: hardware.similarity_mb(size, on_gpu=False),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders with a base and an expert of each size."""
    folders = {}
    for name, width in WIDTHS.items():
        folders[name] = tmp_path_factory.mktemp(name)
        base = small_models.llama(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=6,
            num_key_value_heads=4,
        )
        small_models.save(base, folders[name] / "saved")
        import_decoder(folders[name] / "saved", folders[name] / "base", {})
        small_models.save(small_models.finetuned(base, 1), folders[name] / "math")
    return folders


@pytest.mark.parametrize("work", STATED)
def test_stated_memory_holds_and_grows_as_what_is_taken_does(models, work):
    taken, stated = {}, {}
    for name, folder in models.items():
        command = [sys.executable, Path(__file__).with_name("memory_of_jobs.py"), work, folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        taken[name] = int(done.stdout.splitlines()[-1]) / 1e6
        stated[name] = STATED[work](hardware.size_of(folder / "base"))
        assert taken[name] <= stated[name]
    grown = taken["large"] - taken["small"]
    # Steps of 500 MB are rounded up.
    assert grown / 1.5 - 500 < stated["large"] - stated["small"] < 3 * grown + 500, (taken, stated)
