import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mergegrid.kernels import compiled
from mergegrid.kernels.expression import load, store
from mergegrid.kernels.program import Machine, Rows


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Two folders for machine code, and the code there is instead of a slow compilation."""
    folders = [tmp_path / "source", tmp_path / "cache"]
    compiled.program_loop()
    name = compiled.file_name()
    code = next(filter(None, (compiled._read(folder / name) for folder in compiled._folders())))
    made = []
    monkeypatch.setattr(compiled, "_folders", lambda: iter(folders))
    monkeypatch.setattr(compiled, "_compile", lambda name: made.append(name) or code)
    yield folders, made
    compiled.program_loop.cache_clear()


def start():
    """What a new process would do."""
    compiled.program_loop.cache_clear()
    machine = Machine()
    numbers = np.array([1.0, 1 + 2**-8, -3.5], np.float32)
    machine.inputs = Rows(numbers.view(np.uint8).reshape(1, -1))
    machine.outputs = Rows(np.zeros((1, 6), np.uint8))
    machine.run([store("bfloat16", load("float32", 3, 0))])
    assert machine.outputs.array.view(np.uint16).tolist() == [[0x3F80, 0x3F80, 0xC060]]


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
    assert "XDG_CACHE_HOME" in caplog.text


def test_its_name_covers_processor_compiler_and_source(monkeypatch):
    names = {compiled.file_name()}
    for what, value in [
        ("_processor", lambda: ("znver4", "+avx2")),
        ("_processor", lambda: ("znver4", "+avx512f")),
        ("version", lambda library: "0.0"),
        ("_SOURCE", "other"),
    ]:
        monkeypatch.setattr(compiled, what, value)
        names.add(compiled.file_name())
    assert len(names) == 5


@pytest.fixture
def copied(tmp_path):
    """A copy of the library, and a way to start a program that uses it."""
    shutil.copytree(
        compiled._HERE.parent, tmp_path / "mergegrid", ignore=shutil.ignore_patterns("__pycache__")
    )

    def program(*lines, **environment):
        text = "\n".join([f"import sys; sys.path.insert(0, {str(tmp_path)!r})", *lines])
        own = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")} | environment
        return subprocess.run([sys.executable, "-c", text], env=own, capture_output=True, text=True)

    return tmp_path / "mergegrid" / "kernels", program


SUBTRACT = """
import numpy as np
from mergegrid.engine.ops.cpu import CpuOperations
ops = CpuOperations()
def array(number):
    buffer = ops.buffer(1, DTYPES["float32"])
    buffer[:] = number
    return ops.load(buffer, DTYPES["float32"])
print(ops.values(ops.subtract(array(5), array(2)))[0])
"""


@pytest.mark.slow
def test_code_is_not_made_from_a_source_that_changed_after_the_program_started(copied):
    folder, program = copied
    imports = "from mergegrid.checkpoints.dtypes import DTYPES; import mergegrid.engine.ops.cpu"
    change = (
        f"path = __import__('pathlib').Path({str(folder / 'opcodes.py')!r});"
        "path.write_text(path.read_text().replace('SUBTRACT, PRODUCT', 'PRODUCT, SUBTRACT'))"
    )
    late = program(imports, change, SUBTRACT)
    assert late.returncode == 1
    assert "has changed since this program was started; restart it" in late.stderr
    assert not list(folder.rglob("execute-*.o"))
    assert program(imports, SUBTRACT).stdout == "3.0\n"


@pytest.mark.slow
def test_the_compilers_own_settings_do_not_reach_what_is_kept(copied):
    folder, program = copied
    imports = "from mergegrid.checkpoints.dtypes import DTYPES"
    made = program(imports, SUBTRACT, NUMBA_DISABLE_JIT="1", NUMBA_BOUNDSCHECK="1")
    assert made.stdout == "3.0\n", made.stderr
    assert len(list(folder.rglob("execute-*.o"))) == 1


def test_merging_starts_without_the_compiler():
    compiled.program_loop()
    program = (
        "import sys; import mergegrid.api; from mergegrid.kernels.compiled import program_loop;"
        "program_loop(); sys.exit('imported numba' if 'numba' in sys.modules else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
