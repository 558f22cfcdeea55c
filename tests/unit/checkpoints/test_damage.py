"""Damage in published folders: found by their manifests, before what is damaged is used."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.checkpoints.digests import digest_tensors
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.publish import check_published, check_tensors, publish, read_manifest
from mergegrid.errors import CheckpointError, DamagedError
from mergegrid.study.decoders.importing import write_weights


@pytest.fixture
def encoder(tmp_path):
    """A folder as encoders are published, whose files are all digested."""
    with publish(tmp_path / "encoder", {}) as draft:
        save_file({"w": torch.ones(8)}, draft / "model.safetensors")
        (draft / "config.json").write_text("{}")
        (draft / "task").mkdir()
        (draft / "task" / "vocab.txt").write_text("good")
    return tmp_path / "encoder"


@pytest.fixture
def decoder(tmp_path):
    """A folder as decoders are published, whose weights were streamed."""
    with publish(tmp_path / "decoder", {}) as draft:
        (draft / "config.json").write_text("{}")
        write_weights(draft, InMemory({"w": np.ones(8, np.float32)}), "test")
    return tmp_path / "decoder"


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_folder_as_it_was_published_passes(encoder, decoder):
    for folder in (encoder, decoder):
        check_published(folder)
        check_tensors(folder, digest_tensors(open_checkpoint(folder)))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "task/vocab.txt"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_changed_byte_in_any_file_is_named_with_its_folder(encoder, name, place):
    flip(encoder / name, place)
    with pytest.raises(
        DamagedError, match=rf"{name} does not match manifest\.json; rebuild"
    ) as wrong:
        check_published(encoder)
    assert wrong.value.folder == encoder


def test_of_streamed_weights_size_and_header_are_compared(decoder):
    path = decoder / "model.safetensors"
    whole = path.read_bytes()
    longer = whole[:7] + b"\x40" + whole[8:]
    for damaged in (whole[:-1], whole[:4], whole + b"0", whole.replace(b"F32", b"I32"), longer):
        path.write_bytes(damaged)
        with pytest.raises(DamagedError, match=r"the size or the header of .*model\.safetensors"):
            check_published(decoder)


def test_a_changed_bit_in_streamed_weights_is_found_by_who_digests_them(decoder):
    flip(decoder / "model.safetensors", -1)
    check_published(decoder)
    found = digest_tensors(open_checkpoint(decoder))
    with pytest.raises(DamagedError, match=r"^w in .*decoder does not match manifest\.json"):
        check_tensors(decoder, found)
    check_tensors(decoder, {"another": "0" * 64})


def test_a_folder_that_nobody_published_says_nothing_of_its_tensors(tmp_path):
    check_tensors(tmp_path, {"w": "0" * 64})


@pytest.mark.parametrize("text", [None, "{", "[]", '{"files": {}}'])
def test_a_manifest_that_is_gone_or_damaged_is_damage(encoder, text):
    manifest = encoder / "manifest.json"
    manifest.unlink() if text is None else manifest.write_text(text)
    with pytest.raises(DamagedError, match="manifest") as wrong:
        read_manifest(encoder)
    assert wrong.value.folder == encoder


def test_a_lost_file_is_damage(encoder):
    (encoder / "config.json").unlink()
    with pytest.raises(DamagedError, match=r"lacks config\.json; rebuild it"):
        check_published(encoder)


@pytest.fixture
def failing(monkeypatch):
    """Let every look at one file, or every reading of it, fail with an error of the system."""

    def fail(wanted, method, number):
        real = getattr(Path, method)

        def instead(path, *arguments, **named):
            if path == wanted:
                raise OSError(number, os.strerror(number), str(path))
            return real(path, *arguments, **named)

        monkeypatch.setattr(Path, method, instead)

    return fail


@pytest.mark.parametrize("name", ["manifest.json", "config.json"])
@pytest.mark.parametrize("method", ["stat", "open"])
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EACCES, errno.EMFILE, errno.ETIMEDOUT])
def test_what_cannot_be_read_just_now_is_not_damaged(encoder, failing, name, method, number):
    failing(encoder / name, method, number)
    with pytest.raises(CheckpointError, match=r"cannot be read: .*run the same command") as wrong:
        check_published(encoder)
    assert not isinstance(wrong.value, DamagedError)


@pytest.mark.parametrize("name", ["manifest.json", "config.json"])
def test_what_the_disk_cannot_read_is_damage(encoder, failing, name):
    failing(encoder / name, "open", errno.EIO)
    with pytest.raises(DamagedError, match=r"cannot be read: .*Input/output error.*rebuild it"):
        check_published(encoder)
