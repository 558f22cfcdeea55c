"""Fetching, for real: PyPI through pip and the index, an index and a small hub on 127.0.0.1."""

import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub, Repo, environment, hub_of, python
from package_index import Index

from mergegrid.checkpoints.disk import check_free_space
from mergegrid.checkpoints.sources import cache as store
from mergegrid.checkpoints.sources.archives import unpack
from mergegrid.checkpoints.sources.fetch import Record, fetch, locate
from mergegrid.checkpoints.sources.hub_files import patterns
from mergegrid.checkpoints.sources.source import SourceConfig
from mergegrid.errors import ConfigError, SourceError

SIX = "8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254"
VADER = "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ---- PyPI ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SourceConfig, Record]:
    cache = tmp_path_factory.mktemp("cache")
    config = SourceConfig(source="pypi:six==1.16.0:six.py", sha256=SIX)
    return cache, config, fetch(config, "dataset", cache)


def test_a_wheel_is_fetched_through_pip_and_recorded(
    six: tuple[Path, SourceConfig, Record],
) -> None:
    cache, config, record = six
    path = locate(record, config, cache)
    assert path.name == "six.py"
    assert record.files == {"six.py": sha(path.read_bytes())}
    assert record.bytes == path.stat().st_size
    assert record.resolved == "six-1.16.0-py2.py3-none-any.whl"
    assert (record.sha256, record.licence) == (SIX, "MIT")
    assert Record.from_json(record.to_json()) == record
    assert str(cache) not in record.to_json()


def test_a_second_fetch_needs_no_network(
    six: tuple[Path, SourceConfig, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, config, record = six
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert fetch(config, "dataset", cache) == record


def test_tasks_with_other_files_of_one_package_share_its_entry(
    six: tuple[Path, SourceConfig, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, _, _ = six
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    folder = SourceConfig(
        source="pypi:six==1.16.0:six-1.16.0.dist-info", sha256=SIX, licence="as agreed"
    )
    record = fetch(folder, "dataset", cache)
    assert list(record.files) == sorted(record.files)
    assert "METADATA" in record.files
    assert record.licence == "as agreed"
    assert (locate(record, folder, cache) / "METADATA").is_file()


def test_a_path_that_the_wheel_lacks_is_answered_with_near_names(
    six: tuple[Path, SourceConfig, Record],
) -> None:
    cache, _, _ = six
    config = SourceConfig(source="pypi:six==1.16.0:lib/six.py", sha256=SIX)
    with pytest.raises(SourceError, match=r"does not contain lib/six\.py; did you mean: six\.py\?"):
        fetch(config, "dataset", cache)


def test_a_lost_or_changed_file_is_fetched_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = SourceConfig(source="pypi:six==1.16.0:six.py", sha256=SIX)
    record = fetch(config, "dataset", tmp_path)
    path = locate(record, config, tmp_path)
    path.unlink()
    assert locate(record, config, tmp_path).is_file()
    data = path.read_bytes()
    path.write_bytes(b"#" * len(data))
    assert locate(record, config, tmp_path) == path
    assert path.read_bytes() == data
    assert "six.py was changed after it was unpacked; fetching it again" in caplog.text


def test_a_wrong_checksum_names_both_and_keeps_nothing(tmp_path: Path) -> None:
    config = SourceConfig(source="pypi:six==1.16.0:six.py", sha256="0" * 64)
    with pytest.raises(SourceError) as caught:
        fetch(config, "dataset", tmp_path)
    assert "expected sha256 " + "0" * 64 in str(caught.value)
    assert SIX in str(caught.value)
    assert not [path for path in tmp_path.rglob("*.*") if path.suffix in (".whl", ".py")]


def test_a_real_sdist_without_a_wheel_is_unpacked_without_its_top_folder(tmp_path: Path) -> None:
    config = SourceConfig(
        source="pypi:vaderSentiment==0.5:vaderSentiment/vader_sentiment_lexicon.txt", sha256=VADER
    )
    record = fetch(config, "dataset", tmp_path)
    assert record.resolved == "vaderSentiment-0.5.zip"
    assert list(record.files) == ["vader_sentiment_lexicon.txt"]
    assert record.bytes > 100_000


def test_without_a_network_the_error_says_what_pip_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    config = SourceConfig(source="pypi:six==1.15.0:six.py", sha256=SIX)
    with pytest.raises(SourceError, match=r"pip said: ERROR: .*PIP_INDEX_URL") as caught:
        fetch(config, "dataset", tmp_path)
    assert "secret" not in str(caught.value)


def sdist(marker: Path) -> bytes:
    """An sdist whose setup.py writes a file."""
    setup = f"open({str(marker)!r}, 'w').write('ran')\nfrom setuptools import setup\nsetup()\n"
    members = {
        "trap-1.0/setup.py": setup,
        "trap-1.0/PKG-INFO": "Metadata-Version: 2.1\nName: trap\nVersion: 1.0\n"
        "Classifier: License :: OSI Approved :: BSD License\n",
        "trap-1.0/data/rows.txt": "one\ntwo\n",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.mark.parametrize("as_json", [True, False])
def test_nothing_of_an_sdist_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    marker = tmp_path / "ran"
    archive = sdist(marker)
    config = SourceConfig(source="pypi:trap==1.0:data", sha256=sha(archive))
    with Index("trap-1.0.tar.gz", archive, as_json=as_json).open() as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        record = fetch(config, "dataset", tmp_path / "cache")
    assert record.files == {"rows.txt": sha(b"one\ntwo\n")}
    assert record.licence == "BSD License"
    assert not marker.exists()
    # The trap works: it is the fetching that does not step on it.
    folder = locate(record, config, tmp_path / "cache").parent
    subprocess.run([sys.executable, folder / "setup.py", "--version"], check=True, cwd=folder)
    assert marker.exists()


def test_a_cut_download_is_an_error_and_the_next_run_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = sdist(tmp_path / "ran")
    config = SourceConfig(source="pypi:trap==1.0:data/rows.txt", sha256=sha(archive))
    with Index("trap-1.0.tar.gz", archive, as_json=True).open() as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        index.cuts = [len(archive) // 2]
        with pytest.raises(SourceError, match=r"connection ended after \d+ of \d+ bytes"):
            fetch(config, "dataset", tmp_path / "cache")
        assert fetch(config, "dataset", tmp_path / "cache").bytes == len(b"one\ntwo\n")


def tar_with(name: str, link: str = "", kind: bytes = tarfile.SYMTYPE) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with tarfile.open(path, "w:gz") as archive:
            member = tarfile.TarInfo(name)
            if link or kind != tarfile.SYMTYPE:
                member.type, member.linkname = kind, link
            archive.addfile(member, io.BytesIO())

    return write


def damaged_xz(path: Path) -> None:
    with tarfile.open(path, "w:xz") as archive:
        member = tarfile.TarInfo("rows.txt")
        member.size = 1 << 16
        archive.addfile(member, io.BytesIO(random.Random(0).randbytes(member.size)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + b"damage" + whole[len(whole) // 2 + 6 :])


def zip_with(name: str, mode: int = 0o100644) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            archive.writestr(member, "/etc/passwd")

    return write


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.tar.gz", tar_with("../outside.txt")),
        ("a.tar.gz", tar_with("a-1/link", link="../../outside.txt")),
        ("a.tar.gz", tar_with("a-1/link", link="/etc/passwd")),
        ("a.tar.gz", tar_with("/outside.txt")),
        ("a.tar.gz", tar_with("a-1/link", link="link")),
        ("a.tar.gz", tar_with("a-1/device", kind=tarfile.CHRTYPE)),
        ("a.tar.gz", lambda path: path.write_bytes(b"no tar")),
        ("a.tar.xz", damaged_xz),
        ("a.zip", zip_with("../outside.txt")),
        ("a.whl", zip_with("/outside.txt")),
        ("a.whl", zip_with("link", mode=0o120777)),
        ("a.whl", lambda path: path.write_bytes(b"PK no zip")),
    ],
)
def test_an_unsafe_or_damaged_archive_is_refused(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    (tmp_path / "content").mkdir()
    with pytest.raises(SourceError, match="damaged or not safe to unpack"):
        unpack(tmp_path / name, tmp_path / "content")
    assert not list((tmp_path / "content").rglob("*"))
    assert not (tmp_path / "outside.txt").exists()


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), (".",), ("a", "a/b/c")])
@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_an_archive_at_odds_with_itself_is_refused(
    tmp_path: Path, names: tuple[str, ...], suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "text")
    else:
        with tarfile.open(path, "w:gz") as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    (tmp_path / "content").mkdir()
    with pytest.raises(SourceError, match="damaged or not safe to unpack"):
        unpack(path, tmp_path / "content")


def test_links_in_an_archive_become_what_they_lead_to(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a-1.tar.gz", "w:gz") as archive:
        for name in ("a-1/rows.txt", "a-1/deep/more.txt"):
            member = tarfile.TarInfo(name)
            member.size, member.mode = 4, 0o4777
            archive.addfile(member, io.BytesIO(b"one\n"))
        for kind, link in ((tarfile.SYMTYPE, "../rows.txt"), (tarfile.LNKTYPE, "a-1/rows.txt")):
            member = tarfile.TarInfo(f"a-1/deep/{kind.decode()}")
            member.type, member.linkname = kind, link
            archive.addfile(member)
    content = tmp_path / "content"
    content.mkdir()
    unpack(tmp_path / "a-1.tar.gz", content)
    files = [each for each in sorted(content.rglob("*")) if not each.is_dir()]
    assert [str(each.relative_to(content)) for each in files] == [
        *("deep/1", "deep/2", "deep/more.txt", "rows.txt"),
    ]
    for each in files:
        assert each.read_bytes() == b"one\n"
        assert not each.is_symlink()
        assert not each.stat().st_mode & 0o4111


# ---- The cache ----------------------------------------------------------------------------------


def test_the_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("MERGEGRID_CACHE", raising=False)
    assert store.root() == tmp_path / "xdg" / "mergegrid"
    monkeypatch.setenv("MERGEGRID_CACHE", str(tmp_path / "ours"))
    assert store.root() == tmp_path / "ours"
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="set MERGEGRID_CACHE"):
        store.root(tmp_path / "file" / "below")


def test_two_wanting_one_entry_fill_it_once(tmp_path: Path) -> None:
    filled = []

    def fill(content: Path) -> str:
        filled.append(content)
        time.sleep(0.2)
        (content / "a.txt").write_text("a")
        return "origin"

    with ThreadPoolExecutor(4) as pool:
        entries = list(pool.map(lambda _: store.entry(tmp_path / "e", fill), range(4)))
    assert len(filled) == 1
    assert {entry.files["a.txt"] for entry in entries} == {sha(b"a")}


@pytest.mark.parametrize("damage", ["manifest", "half manifest", "size", "extra file"])
def test_an_entry_that_is_not_whole_is_made_anew(tmp_path: Path, damage: str) -> None:
    def fill(content: Path) -> str:
        (content / "a.txt").write_text("whole")
        return "origin"

    folder = tmp_path / "e"
    store.entry(folder, fill)
    manifest = folder / "manifest.json"
    match damage:
        case "manifest":
            manifest.unlink()
        case "half manifest":
            manifest.write_text(manifest.read_text()[:20])
        case "size":
            (folder / "content" / "a.txt").write_text("who")
        case "extra file":
            (folder / "content" / "b.txt").touch()
    entry = store.entry(folder, fill)
    assert {path.name: path.read_text() for path in entry.content.iterdir()} == {"a.txt": "whole"}


def test_a_failed_or_killed_fill_leaves_no_entry(tmp_path: Path) -> None:
    def fail(content: Path) -> str:
        (content / "a.txt").write_text("half")
        raise SourceError("cut")

    (tmp_path / "e.part-killed" / "content").mkdir(parents=True)
    with pytest.raises(SourceError, match="cut"):
        store.entry(tmp_path / "e", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["e.lock"]


# ---- Local paths --------------------------------------------------------------------------------


def test_a_local_folder_is_recorded_by_content_and_a_change_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "b.txt").write_text("b")
    (tmp_path / "data" / "sub" / "a.txt").write_text("a")
    (tmp_path / "data" / "c.txt").symlink_to("b.txt")
    config = SourceConfig(source="path:data")
    record = fetch(config, "dataset", tmp_path / "cache")
    assert record.files == {"b.txt": sha(b"b"), "c.txt": sha(b"b"), "sub/a.txt": sha(b"a")}
    assert list(record.files) == sorted(record.files)
    assert (record.resolved, record.sha256, record.licence, record.bytes) == (
        "", None, "not stated", 3,
    )  # fmt: skip
    shutil.copytree("data", "copy")
    copy = fetch(SourceConfig(source="path:copy"), "dataset", tmp_path / "cache")
    assert copy.digest == record.digest
    assert locate(record, config, tmp_path / "cache") == tmp_path / "data"
    (tmp_path / "data" / "sub" / "a.txt").write_text("A")
    with pytest.raises(SourceError, match=r"sub/a\.txt has sha256"):
        locate(record, config, tmp_path / "cache")


def test_a_local_file_is_checked_against_its_pin(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("rows")
    source = f"path:{tmp_path}/rows.txt"
    record = fetch(SourceConfig(source=source, sha256=sha(b"rows")), "dataset", tmp_path / "cache")
    assert (record.files, record.sha256) == ({"rows.txt": sha(b"rows")}, sha(b"rows"))
    with pytest.raises(SourceError, match=f"expected sha256 {'0' * 64}, got {sha(b'rows')}"):
        fetch(SourceConfig(source=source, sha256="0" * 64), "dataset", tmp_path / "cache")


def test_missing_and_empty_paths_and_links_to_no_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=f"{tmp_path}/absent does not exist; correct"):
        fetch(SourceConfig(source="path:absent"), "model", tmp_path / "cache")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SourceError, match="contains no files"):
        fetch(SourceConfig(source="path:folder"), "model", tmp_path / "cache")
    (tmp_path / "folder" / "out").symlink_to("/etc")
    with pytest.raises(SourceError, match="folder/out is a link to /etc, which is a folder"):
        fetch(SourceConfig(source="path:folder"), "model", tmp_path / "cache")
    (tmp_path / "folder" / "out").unlink()
    (tmp_path / "folder" / "out").symlink_to("gone")
    with pytest.raises(SourceError, match="folder/out is a link to gone, which is missing"):
        fetch(SourceConfig(source="path:folder"), "model", tmp_path / "cache")


def test_a_record_of_another_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    record = fetch(SourceConfig(source=f"path:{tmp_path}/a"), "model", tmp_path / "cache")
    with pytest.raises(SourceError, match="fetch again"):
        locate(record, SourceConfig(source=f"path:{tmp_path}/b"), tmp_path / "cache")


# ---- Which files of a hub repository ------------------------------------------------------------

BERT = [
    ".gitattributes", "LICENSE", "README.md", "config.json", "flax_model.msgpack",
    "coreml/fill-mask/float32_model.mlpackage/Data/com.apple.CoreML/weights/weight.bin",
    "coreml/fill-mask/float32_model.mlpackage/Manifest.json", "model.onnx", "model.safetensors",
    "onnx/config.json", "onnx/model.onnx", "pytorch_model.bin", "rust_model.ot", "tf_model.h5",
    "tokenizer.json", "tokenizer_config.json", "vocab.txt",
]  # fmt: skip
WIZARD = [
    ".gitattributes", "README.md", "added_tokens.json", "config.json", "generation_config.json",
    *(f"pytorch_model-0000{n}-of-00003.bin" for n in (1, 2, 3)), "pytorch_model.bin.index.json",
    "special_tokens_map.json", "tokenizer.model", "tokenizer_config.json", "training_args.bin",
    "optimizer.pt",
]  # fmt: skip
ROBERTA_GLUE = [
    ".gitattributes", "README.md",
    *(
        f"{task}/roberta-base_lr1e-05/{name}"
        for task in ("cola", "mnli")
        for name in ("config.json", "merges.txt", "pytorch_model.bin", "trainer_state.json",
                     "training_args.bin", "vocab.json")
    ),
]  # fmt: skip
GLUE = [
    ".gitattributes", "README.md", "glue.py",
    *(f"{c}/{s}-00000-of-00001.parquet" for c in ("ax", "cola") for s in ("test", "train")),
]  # fmt: skip


def test_of_berts_formats_only_safetensors_is_taken() -> None:
    assert patterns(BERT, "model", None) == [
        "LICENSE", "README.md", "config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "vocab.txt",
    ]  # fmt: skip


def test_a_repository_with_only_bin_weights_keeps_them_with_their_index() -> None:
    unneeded = {".gitattributes", "training_args.bin", "optimizer.pt"}
    assert patterns(WIZARD, "model", None) == sorted(set(WIZARD) - unneeded)


def test_sharded_safetensors_come_without_second_copies() -> None:
    wanted = [
        "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "tokenizer.model",
    ]  # fmt: skip
    others = [
        "consolidated.safetensors", "pytorch_model-00001-of-00001.bin", "original/params.json",
        "pytorch_model.bin.index.json", "q4.gguf", "checkpoint-10/model.safetensors",
    ]  # fmt: skip
    assert patterns([*others, *wanted], "model", None) == wanted
    adapter = ["adapter_model.safetensors", "config.json", "pytorch_model.bin"]
    assert patterns(adapter, "model", None) == ["config.json", "pytorch_model.bin"]


def test_of_an_adapter_its_weights_config_and_tokenizer_are_taken() -> None:
    wanted = ["README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]
    others = [
        "adapter_model.bin", "checkpoint-10/adapter_model.safetensors", "optimizer.pt",
        "checkpoint-10/trainer_state.json", "trainer_state.json", "training_args.bin",
    ]  # fmt: skip
    assert patterns([*others, *wanted], "model", None) == wanted
    pickled = ["adapter_config.json", "adapter_model.bin"]
    assert patterns(pickled, "model", None) == pickled
    assert patterns([f"math/{name}" for name in wanted], "model", "math") == [
        f"math/{name}" for name in wanted
    ]
    assert patterns(["adapter_config.json", "README.md"], "model", None) == []
    # An adapter beside a whole model comes along, so that opening it says what is wrong.
    both = ["adapter_config.json", "model.safetensors"]
    assert patterns([*both, "adapter_model.safetensors"], "model", None) == both


def test_named_chat_templates_and_modules_of_sentence_encoders_come_along() -> None:
    wanted = [
        "1_Pooling/config.json", "2_Dense/model.safetensors",
        "additional_chat_templates/tool_use.jinja", "config.json", "model.safetensors",
        "modules.json",
    ]  # fmt: skip
    others = ["onnx/config.json", "2_Dense/pytorch_model.bin", "other/additional.jinja"]
    assert patterns([*wanted, *others], "model", None) == wanted


def test_a_subfolder_of_a_model_is_one_checkpoint() -> None:
    assert patterns(ROBERTA_GLUE, "model", "cola/roberta-base_lr1e-05") == [
        "README.md",
        *(
            f"cola/roberta-base_lr1e-05/{name}"
            for name in ("config.json", "merges.txt", "pytorch_model.bin", "trainer_state.json",
                         "vocab.json")
        ),
    ]  # fmt: skip
    assert patterns(ROBERTA_GLUE, "model", None) == []


def test_a_data_set_is_its_folder_or_file_without_scripts() -> None:
    cola = ["cola/test-00000-of-00001.parquet", "cola/train-00000-of-00001.parquet"]
    assert patterns(GLUE, "dataset", "cola") == ["README.md", *cola]
    assert patterns(GLUE, "dataset", None) == sorted(set(GLUE) - {".gitattributes", "glue.py"})
    alpaca = ["README.md", "alpaca_eval.json", "alpaca_eval.py", "alpaca_eval_all_outputs.json"]
    assert patterns(alpaca, "dataset", "alpaca_eval.json") == ["README.md", "alpaca_eval.json"]
    assert patterns(GLUE, "dataset", "absent") == []


# ---- A small hub --------------------------------------------------------------------------------

CARD = b"---\nlicense: apache-2.0\nlanguage: en\n---\n# A model\n"
WEIGHTS = bytes(range(256)) * 40_000
REPOS = {
    "org/bert": Repo({"main": {"README.md": CARD, "config.json": b"{}",
                               "model.safetensors": WEIGHTS, "pytorch_model.bin": b"bin",
                               "onnx/model.onnx": b"onnx"}}),
    "org/glue": Repo({"main": {"README.md": CARD, "cola/[train].parquet": b"rows",
                               "mnli/train.parquet": b"r"}}),
    "org/gated": Repo({"main": {"config.json": b"{}", "model.safetensors": b"weights"}}, "gated"),
}  # fmt: skip
COMMIT = REPOS["org/bert"].commit("main")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_of(REPOS) as served:
        yield served


STEPS = """
import sys
from pathlib import Path
from mergegrid.checkpoints.sources.fetch import fetch, locate
from mergegrid.checkpoints.sources.source import SourceConfig
from mergegrid.errors import SourceError
for line in sys.argv[2:]:
    kind, source, *options = line.split(" ")
    config = SourceConfig(source=source)
    try:
        record = fetch(config, kind, Path(sys.argv[1]))
        print(record.to_json())
        print(locate(record, config, Path(sys.argv[1]), anew="anew" in options))
    except SourceError as error:
        print("SourceError:", error)
"""


def run(url: str, home: Path, *lines: str, **settings: str) -> list[str]:
    """Fetch and locate in a process of its own."""
    done = python(STEPS, environment(url, home, **settings), str(home / "cache"), *lines)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_hub_is_asked_for_one_format_once_and_then_works_offline(
    hub: Hub, tmp_path: Path
) -> None:
    url = hub.url
    source = "model hub:org/bert"
    text, path = run(url, tmp_path, source)
    record = Record.from_json(text)
    assert record.resolved == COMMIT
    assert record.licence == "apache-2.0"
    assert record.files["model.safetensors"] == sha(WEIGHTS)
    assert list(record.files) == ["README.md", "config.json", "model.safetensors"]
    assert sorted(each.name for each in Path(path).iterdir()) == list(record.files)
    assert len(hub.downloads("model.safetensors")) == 1
    hub.requests.clear()
    assert run(url, tmp_path, source, HF_HUB_OFFLINE="1") == [text, path]
    assert hub.requests == []
    assert run("http://127.0.0.1:9", tmp_path, f"model hub:org/bert@{COMMIT}")[1] == path
    # A cache that an older huggingface_hub made has no list of the repository's files.
    shutil.rmtree(tmp_path / "hf" / "hub" / "models--org--bert" / "trees")
    assert run(url, tmp_path, source, HF_HUB_OFFLINE="1") == [text, path]


def test_a_cut_hub_download_is_taken_up_again_and_whole(hub: Hub, tmp_path: Path) -> None:
    url = hub.url
    hub.cuts["model.safetensors"] = len(WEIGHTS) // 3
    text, _ = run(url, tmp_path, "model hub:org/bert")
    assert Record.from_json(text).files["model.safetensors"] == sha(WEIGHTS)
    assert len(hub.downloads("model.safetensors")) == 2


def test_a_file_lost_or_cut_in_the_hubs_cache_is_downloaded_again(hub: Hub, tmp_path: Path) -> None:
    url = hub.url
    text, path = run(url, tmp_path, "model hub:org/bert")
    weights = Path(path) / "model.safetensors"
    weights.unlink()
    (lost,) = run(url, tmp_path, "model hub:org/bert", HF_HUB_OFFLINE="1")
    assert "is not complete" in lost
    assert "HF_HUB_OFFLINE is set" in lost
    assert run(url, tmp_path, "model hub:org/bert") == [text, path]
    weights.resolve().write_bytes(b"half")
    assert run(url, tmp_path, "model hub:org/bert") == [text, path]
    assert weights.stat().st_size == 10240000


def flip(path: Path) -> None:
    """Change a bit in place, so that every link to the file has it changed."""
    with path.open("r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))


def test_a_changed_bit_in_the_hubs_cache_is_downloaded_again_into_a_new_file(
    hub: Hub, tmp_path: Path
) -> None:
    url = hub.url
    source = "model hub:org/bert"
    text, path = run(url, tmp_path, source)
    weights = Path(path) / "model.safetensors"
    linked = tmp_path / "linked"
    linked.hardlink_to(weights.resolve())
    # Before the first fetch of another cache of checksums, and after it.
    for forget in (True, False):
        flip(weights.resolve())
        if forget:
            shutil.rmtree(tmp_path / "cache")
        hub.requests.clear()
        assert run(url, tmp_path, source) == [text, path]
        assert len(hub.downloads("model.safetensors")) == 1
        assert sha(weights.read_bytes()) == sha(WEIGHTS)
        assert not linked.samefile(weights)
    flip(weights.resolve())
    (offline,) = run(url, tmp_path, source, HF_HUB_OFFLINE="1")
    assert "is not complete" in offline


def test_bits_that_rot_without_a_trace_are_found_by_reading_anew(hub: Hub, tmp_path: Path) -> None:
    url = hub.url
    text, path = run(url, tmp_path, "model hub:org/bert")
    weights = (Path(path) / "model.safetensors").resolve()
    flip(weights)
    # As if the disk had done it: what is remembered of the file fits.
    (memory,) = (tmp_path / "cache" / "digests").iterdir()
    known, stat = json.loads(memory.read_text()), weights.stat()
    known["model.safetensors"][:3] = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    memory.write_text(json.dumps(known))
    assert run(url, tmp_path, "model hub:org/bert") == [text, path]
    assert sha(weights.read_bytes()) != sha(WEIGHTS)
    assert run(url, tmp_path, "model hub:org/bert anew") == [text, path]
    assert sha(weights.read_bytes()) == sha(WEIGHTS)


def test_a_folder_and_a_file_of_a_data_set_are_named_relative_to_themselves(
    hub: Hub, tmp_path: Path
) -> None:
    lines = ("dataset hub:org/glue:cola", "dataset hub:org/glue@main:cola/[train].parquet")
    folder, folder_path, file, file_path = run(hub.url, tmp_path, *lines)
    assert Record.from_json(folder).files == {"[train].parquet": sha(b"rows")}
    assert Record.from_json(file).files == {"[train].parquet": sha(b"rows")}
    assert Path(file_path) == Path(folder_path) / "[train].parquet"
    assert not (Path(folder_path).parent / "mnli").exists()


def test_hub_errors_say_what_to_do(hub: Hub, tmp_path: Path) -> None:
    url = hub.url
    unknown, revision, subfolder, gated = run(
        url, tmp_path, "model hub:org/absent", "model hub:org/bert@v9",
        "dataset hub:org/glue:sst2", "model hub:org/gated",
    )  # fmt: skip
    assert "the hub has no model of this name, or you have no access (401)" in unknown
    assert "org/bert@v9: this branch, tag or commit does not exist" in revision
    assert "org/glue:sst2 has no files; the repository contains: README.md, cola, mnli" in subfolder
    assert "no token was sent (401)" in gated
    assert "set HF_TOKEN" in gated
    (refused,) = run(url, tmp_path, "model hub:org/gated", HF_TOKEN=TOKEN)
    assert "your token has no access (403); request access" in refused
    (offline,) = run(url, tmp_path, "model hub:org/other", HF_HUB_OFFLINE="1")
    assert "fetch it once without HF_HUB_OFFLINE" in offline
    (down,) = run("http://127.0.0.1:9", tmp_path, "model hub:org/other")
    assert "could not be downloaded from http://127.0.0.1:9" in down


def test_a_download_larger_than_the_disk_is_refused_with_both_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet" / "made"
    check_free_space({}, {folder: 1})
    with pytest.raises(ConfigError, match=r"has .* free, but 1,000,000,000\.0 GB are needed: "):
        check_free_space({}, {folder: 10**18})
