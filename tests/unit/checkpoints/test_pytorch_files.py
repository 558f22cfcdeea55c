import json
import os
import struct
import subprocess
import sys
from collections import OrderedDict
from contextlib import suppress
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mergegrid.checkpoints import pytorch_files, safetensors_files
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.errors import CheckpointError


def saved(folder, state, **options):
    torch.save(state, folder / "pytorch_model.bin", **options)
    return folder


def repacked(folder, change):
    """Pack the file again, its records changed by a function of name and content."""
    path = folder / "pytorch_model.bin"
    with ZipFile(path) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with ZipFile(path, "w") as archive:
        for name, content, compression in change(records):
            archive.writestr(ZipInfo(name), content, compression)
    return folder


def assert_equal_to_torch(folder):
    expected = torch.load(folder / "pytorch_model.bin", weights_only=True)
    checkpoint = open_checkpoint(folder)
    assert list(checkpoint) == sorted(expected)
    for name, tensor in expected.items():
        assert checkpoint.infos[name].dtype.name == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(checkpoint[name], tensor.detach().float().numpy())


@pytest.fixture
def module():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_tensor_has_the_values_that_torch_loads(tmp_path, module, dtype):
    assert_equal_to_torch(saved(tmp_path, module.to(dtype).state_dict()))


def test_parameters_views_scalars_and_empty_tensors_read_like_plain_ones(tmp_path):
    whole = torch.arange(24.0).view(6, 4)
    state = {
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "view": whole[2:4],
        "column": torch.ones(3, 1).t(),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }
    assert_equal_to_torch(saved(tmp_path, state))


def test_tied_weights_lie_at_one_place(tmp_path):
    weight = torch.randn(4, 3)
    places = pytorch_files.locate(saved(tmp_path, {"lm_head.weight": weight, "wte.weight": weight}))
    assert places["lm_head.weight"] == places["wte.weight"]


def test_shards_read_like_a_single_file(tmp_path, module):
    weight_map = {}
    for number, (name, tensor) in enumerate(module.state_dict().items()):
        weight_map[name] = f"pytorch_model-{number}.bin"
        torch.save({name: tensor}, tmp_path / weight_map[name])
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    checkpoint = open_checkpoint(tmp_path)
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(checkpoint[name], tensor.numpy())
    torch.save({}, tmp_path / weight_map["0.weight"])
    with pytest.raises(CheckpointError, match=r"lacks 0\.weight, which pytorch_model\.bin\.index"):
        open_checkpoint(tmp_path)


def test_an_archive_in_another_order_is_read_by_its_directory(tmp_path):
    saved(tmp_path, {"a": torch.zeros(4), "b": torch.ones(4)})
    repacked(tmp_path, lambda records: [(*record, ZIP_STORED) for record in reversed(records)])
    assert_equal_to_torch(tmp_path)


def test_older_files_that_name_no_byte_order_are_little_endian(tmp_path, module):
    saved(tmp_path, module.state_dict())

    def without_byte_order(records):
        return [(*record, ZIP_STORED) for record in records if "byteorder" not in record[0]]

    assert_equal_to_torch(repacked(tmp_path, without_byte_order))


def test_nothing_imports_torch(tmp_path, module):
    saved(tmp_path, module.state_dict())
    program = (
        "import sys; from pathlib import Path;"
        "from mergegrid.checkpoints.folder import open_checkpoint;"
        "open_checkpoint(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


class Code:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("where", ["entry", "top", "attribute"])
def test_code_is_refused_by_name_and_does_not_run(tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    state = OrderedDict(weight=torch.ones(2))
    if where == "entry":
        state["payload"] = Code()
    elif where == "attribute":
        state._metadata = Code()
    saved(tmp_path, Code() if where == "top" else state)
    with pytest.raises(CheckpointError, match=r"contains code: it calls '(posix|nt)\.system'"):
        pytorch_files.locate(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cbuiltins\neval\n(V1\ntR.",
        b"ctorch.storage\n_load_from_bytes\n(V1\ntR.",
        b"ctorch\nload\n.",
        b"\x80\x04\x8c\x05torch\x8c\x16FloatStorage.__class__\x93.",
        b"\x80\x04\x8c\x0bcollections\x8c\x15OrderedDict.__class__\x93.",
        b"(ios\nsystem\n(Vtrue\ntR.",
    ],
)
def test_no_other_name_can_be_reached(tmp_path, program):
    with ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", program)
    with pytest.raises(CheckpointError, match="contains code: it calls"):
        pytorch_files.locate(tmp_path)


def test_one_file_cannot_change_how_the_next_is_read(tmp_path):
    program = b"ctorch._utils\n_rebuild_tensor_v2\n(N(dV__defaults__\n(Vchanged\ntstb."
    with ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", program)
    with pytest.raises(CheckpointError):
        pytorch_files.locate(tmp_path)
    assert_equal_to_torch(saved(tmp_path, {"w": torch.ones(3)}))


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_pickle_with_changed_bytes_gives_tensors_or_one_error(tmp_path_factory, data):
    folder = saved(tmp_path_factory.mktemp("changed"), {"a": torch.ones(2, 3), "b": torch.ones(4)})

    def with_another_byte(records):
        for name, content in records:
            if name.endswith("data.pkl"):
                place = data.draw(st.integers(0, len(content) - 1))
                byte = data.draw(st.integers(0, 255))
                yield name, content[:place] + bytes([byte]) + content[place + 1 :], ZIP_STORED
            else:
                yield name, content, ZIP_STORED

    repacked(folder, with_another_byte)
    size = (folder / "pytorch_model.bin").stat().st_size
    with suppress(CheckpointError):
        places = pytorch_files.locate(folder)
        assert all(0 <= place.offset <= place.end <= size for place in places.values())


@pytest.mark.parametrize(
    "tensor", [torch.ones(3, 2).t(), torch.ones(4)[::2], torch.ones(1).expand(3)]
)
def test_a_view_that_is_not_in_one_piece_is_refused_by_name(tmp_path, tensor):
    with pytest.raises(
        CheckpointError, match=r"^w in .* is a non-contiguous view .*save it as safetensors$"
    ):
        pytorch_files.locate(saved(tmp_path, {"w": tensor}))


@pytest.mark.parametrize(
    ("dtype", "code"),
    [
        (torch.float64, "F64"),
        (torch.int8, "I8"),
        (torch.uint16, "uint16"),
        (torch.float8_e4m3fn, "float8_e4m3fn"),
        (torch.complex64, "ComplexFloatStorage"),
    ],
)
def test_a_type_that_cannot_be_merged_is_refused_by_name(tmp_path, dtype, code):
    with pytest.raises(CheckpointError, match=rf"^w in .* is stored as {code}; only"):
        pytorch_files.locate(saved(tmp_path, {"w": torch.ones(2).to(dtype)}))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"state_dict": {"w": torch.ones(2)}}, "state_dict in .* is of type dict, not a tensor"),
        ({"w": torch.ones(2), "step": 3}, "step in .* is of type int, not a tensor"),
        ([torch.ones(2)], "contains a list, not tensors by name"),
        ({}, "contains no tensors"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, state, message):
    with pytest.raises(CheckpointError, match=message):
        pytorch_files.locate(saved(tmp_path, state))


def test_a_file_of_the_time_before_zip_is_refused(tmp_path, module):
    saved(tmp_path, module.state_dict(), _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"is not a zip file.*save it as safetensors"):
        pytorch_files.locate(tmp_path)


@pytest.mark.parametrize("kept", [20, 700, -30])
def test_a_cut_file_is_refused(tmp_path, module, kept):
    path = saved(tmp_path, module.state_dict()) / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="is damaged or truncated"):
        pytorch_files.locate(tmp_path)


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    saved(tmp_path, {"w": torch.ones(6, 5)})

    def one_row_more(records):
        for name, content in records:
            six, seven = (b"K" + struct.pack("B", rows) + b"K\x05\x86" for rows in (6, 7))
            yield name, content.replace(six, seven), ZIP_STORED

    repacked(tmp_path, one_row_more)
    with pytest.raises(CheckpointError, match=r"w of shape \(7, 5\) does not fit into its storage"):
        pytorch_files.locate(tmp_path)


def test_compressed_records_are_refused(tmp_path, module):
    saved(tmp_path, module.state_dict())
    repacked(tmp_path, lambda records: [(*record, ZIP_DEFLATED) for record in records])
    with pytest.raises(CheckpointError, match="has a compressed or encrypted record"):
        pytorch_files.locate(tmp_path)


def test_a_big_endian_file_is_refused(tmp_path, module):
    saved(tmp_path, module.state_dict())

    def big(records):
        return [(name, text.replace(b"little", b"big"), ZIP_STORED) for name, text in records]

    repacked(tmp_path, big)
    with pytest.raises(CheckpointError, match="was written on a big-endian machine"):
        pytorch_files.locate(tmp_path)


def test_constants_of_older_versions_are_left_out_of_either_kind_of_file(tmp_path, caplog):
    state = {
        "bert.embeddings.position_ids": torch.arange(3)[None],
        "h.0.attn.bias": torch.ones(1, 1, 3, 3, dtype=torch.bool),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3),
        "h.0.attn.c_attn.bias": torch.ones(3),
    }
    save_file(state, tmp_path / "model.safetensors")
    saved(tmp_path, state)
    with caplog.at_level("INFO"):
        for files in (safetensors_files, pytorch_files):
            assert list(files.locate(tmp_path)) == ["h.0.attn.c_attn.bias"]
    assert caplog.text.count("3 constants are not parameters and are ignored") == 2


def test_a_name_of_several_lines_is_refused_in_one(tmp_path):
    save_file({"w\nx": torch.ones(2)}, tmp_path / "model.safetensors")
    saved(tmp_path, {"w\nx": torch.ones(2)})
    for files in (safetensors_files, pytorch_files):
        with pytest.raises(
            CheckpointError, match=r"^.* has a tensor with the unprintable name 'w\\nx'; .*$"
        ):
            files.locate(tmp_path)


def test_an_index_may_name_constants_that_are_left_out(tmp_path):
    save_file({"w": torch.ones(2), "e.position_ids": torch.arange(3)}, tmp_path / "a.safetensors")
    index = {"weight_map": {"w": "a.safetensors", "e.position_ids": "a.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert list(safetensors_files.locate(tmp_path)) == ["w"]


def test_integers_of_other_names_are_refused_in_safetensors_too(tmp_path):
    save_file({"w": torch.ones(2, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"^w in .* is stored as I8"):
        safetensors_files.locate(tmp_path)


def test_a_gap_between_tensors_is_still_found_beside_constants(tmp_path):
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}
    constant = {"dtype": "I32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"w": entry, "e.position_ids": constant}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(12)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="w starts at byte 8 of the data, not at 4"):
        safetensors_files.locate(tmp_path)
