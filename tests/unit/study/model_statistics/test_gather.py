"""Files of statistics of a real, tiny expert."""

import pytest
import torch
from safetensors.torch import load_file

from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.model_statistics import open_statistics
from mergegrid.checkpoints.publish import published_digest, read_manifest
from mergegrid.errors import CheckpointError, DataError
from mergegrid.methods.fisher import Fisher
from mergegrid.methods.regmean import RegMean
from mergegrid.study.model_statistics.gather import gather
from mergegrid.study.schema.encoder_jobs import Statistic
from mergegrid.study.tasks.encoding import encode

KINDS = [(kind, how) for kind in ("fisher", "regmean") for how in ("exact", "reference")]


@pytest.fixture(scope="module")
def gathered(base, expert, examples, request_for_praise, tmp_path_factory):
    """Gathers statistics from these numbers of examples; returns the folder."""

    def run(*counts, kinds=KINDS):
        folder = tmp_path_factory.mktemp("statistics") / "seed~0"
        files = [
            Statistic(kind=kind, arithmetic=how, examples=count)
            for count in counts
            for kind, how in kinds
        ]
        gather(base, expert, request_for_praise.target, files, examples, folder)
        return folder

    return run


@pytest.fixture(scope="module")
def folder(gathered):
    return gathered(64, 128, 192)


def test_the_folder_holds_exactly_these_files(folder):
    files = {f"{kind}~{how}~{n}.safetensors" for kind, how in KINDS for n in (64, 128, 192)}
    assert set(read_manifest(folder)["files"]) == files
    assert {path.name for path in folder.iterdir()} == {*files, "manifest.json"}


@pytest.mark.parametrize("count", [64, 128, 192])
def test_files_do_not_depend_on_which_others_are_gathered(folder, gathered, count):
    alone = gathered(count)
    for kind, how in KINDS:
        name = f"{kind}~{how}~{count}.safetensors"
        assert (alone / name).read_bytes() == (folder / name).read_bytes(), name


def test_more_examples_are_other_statistics(gathered):
    folder = gathered(8, 16, kinds=[("fisher", "exact"), ("regmean", "exact")])
    for kind in ("fisher", "regmean"):
        few, many = (load_file(folder / f"{kind}~exact~{n}.safetensors") for n in (8, 16))
        assert any(not torch.allclose(few[name], many[name], rtol=1e-3) for name in few)


def test_files_say_what_they_hold(folder, expert):
    statistics = open_statistics(folder / "regmean~reference~128.safetensors")
    assert statistics.metadata == {
        "kind": "regmean",
        "arithmetic": "reference",
        "examples": 128,
        "expert": published_digest(expert),
    }


def test_information_is_about_every_tensor_of_the_base(folder, base):
    for how in ("exact", "reference"):
        statistics = open_statistics(folder / f"fisher~{how}~64.safetensors")
        Fisher(arithmetic=how).check_statistics(open_checkpoint(base), {"praise": statistics})
        assert set(statistics) == set(open_checkpoint(base))


def test_reference_examples_are_counted_in_full_batches(gathered):
    folder = gathered(20, 32, kinds=[("fisher", "reference"), ("regmean", "reference")])
    for kind in ("fisher", "regmean"):
        part, whole = (load_file(folder / f"{kind}~reference~{n}.safetensors") for n in (20, 32))
        assert all(torch.equal(part[name], whole[name]) for name in whole)


def test_no_more_examples_are_encoded_than_are_used(gathered, monkeypatch):
    counts = []

    def recorded(tokenizer, part, max_length):
        counts.append(len(part))
        return encode(tokenizer, part, max_length)

    monkeypatch.setattr("mergegrid.study.model_statistics.gather.encode", recorded)
    gathered(8, 20, kinds=[("regmean", "exact")])
    assert counts == [32]


def test_too_few_examples_are_refused_with_their_number(gathered):
    with pytest.raises(
        DataError, match=r"need 193 training examples, but task praise has 192; low"
    ):
        gathered(193)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Fisher(examples=128), "with examples 64, but fisher requires 128; use another file"),
        (Fisher(arithmetic="reference"), "with arithmetic exact, but fisher requires reference"),
        (RegMean(), "with kind fisher, but regmean requires regmean"),
    ],
)
def test_a_file_that_is_something_else_is_refused(folder, base, method, message):
    base = open_checkpoint(base)
    statistics = open_statistics(folder / "fisher~exact~64.safetensors")
    with pytest.raises(CheckpointError, match=message):
        method.check_statistics(base, {"praise": statistics})
    Fisher(examples=64).check_statistics(base, {"praise": statistics})
    Fisher().check_statistics(base, {"praise": statistics})
