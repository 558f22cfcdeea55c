import shutil
import subprocess
import sys

import numpy as np
import pytest

from mergegrid.kernels import compiled
from mergegrid.kernels.program import Machine, Rows, load, store


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Two folders for machine code, and the code there is instead of a slow compilation."""
    folders = [tmp_path / "source", tmp_path / "cache"]
    compiled.program_loop()
    name = compiled._file_name(*compiled._processor())
    code = next(filter(None, (compiled._read(folder / name) for folder in compiled._folders())))
    made = []
    monkeypatch.setattr(compiled, "_folders", lambda: iter(folders))
    monkeypatch.setattr(compiled, "_compile", lambda target: made.append(target) or code)
    yield folders, made
    compiled.program_loop.cache_clear()


def start():
    """What a new process would do."""
    compiled.program_loop.cache_clear()
    machine = Machine()
    numbers = np.array([1.0, 1 + 2**-8, -3.5], np.float32)
    machine.rooms = Rows(numbers.view(np.uint8).reshape(1, -1))
    machine.results = Rows(np.zeros((1, 6), np.uint8))
    machine.run([store("bfloat16", load("float32", 3, 0))])
    assert machine.results.array.view(np.uint16).tolist() == [[0x3F80, 0x3F80, 0xC060]]


def test_the_machine_code_is_made_once(kept):
    folders, made = kept
    start()
    start()
    assert len(made) == 1
    assert [len(list(folder.glob("*"))) for folder in folders if folder.exists()] == [1]


@pytest.mark.parametrize(
    "spoil", [lambda code: code[:-1], lambda code: code[:40] + b"?" + code[41:], lambda code: b""]
)
def test_damaged_machine_code_is_made_again(kept, spoil):
    folders, made = kept
    start()
    (path,) = folders[0].iterdir()
    path.write_bytes(spoil(path.read_bytes()))
    start()
    start()
    assert len(made) == 2


def test_it_is_kept_in_the_cache_where_the_source_cannot_be_written(kept):
    folders, made = kept
    folders[0].write_text("no folder")
    start()
    start()
    assert len(made) == 1
    assert len(list(folders[1].iterdir())) == 1


def test_where_nothing_can_be_written_it_is_made_at_every_start(kept, caplog):
    folders, made = kept
    for folder in folders:
        folder.write_text("no folder")
    start()
    start()
    assert len(made) == 2
    assert "MERGEGRID_CACHE" in caplog.text


def test_its_name_covers_processor_compiler_and_source(tmp_path, monkeypatch):
    names = {compiled._file_name("znver4", "+avx2"), compiled._file_name("znver4", "+avx512f")}
    monkeypatch.setattr(compiled, "version", lambda name: "0.0")
    names.add(compiled._file_name("znver4", "+avx2"))
    for source in compiled._HERE.glob("*.py"):
        shutil.copy(source, tmp_path)
    monkeypatch.setattr(compiled, "_HERE", tmp_path)
    assert compiled._file_name("znver4", "+avx2") in names
    with (tmp_path / "loops.py").open("a") as file:
        file.write("# changed\n")
    names.add(compiled._file_name("znver4", "+avx2"))
    assert len(names) == 4


def test_a_loop_that_could_fail_is_not_kept(monkeypatch):
    import llvmlite.binding as llvm

    from mergegrid.kernels import program_loop

    def execute(a, b, c, d, e, f, g, h, i, j, k, m):
        np.empty(3)[0] = 1.0
        raise ValueError

    monkeypatch.setattr(program_loop, "execute", execute)
    compiled.program_loop()
    with pytest.raises(AssertionError, match="neither raise nor allocate"):
        compiled._compile(llvm.Target.from_default_triple().create_target_machine())


def test_merging_starts_without_the_compiler():
    compiled.program_loop()
    program = (
        "import sys; import mergegrid.api; from mergegrid.kernels.compiled import program_loop;"
        "program_loop(); sys.exit('imported numba' if 'numba' in sys.modules else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
