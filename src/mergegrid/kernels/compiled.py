"""Machine code of the program loop: compiled once for a processor, then loaded from disk.

The compiler, numba, takes half a second to start, more than a small merge. So what is kept is the
machine code itself, which LLVM loads in a few milliseconds. Its file's name covers all that it is
made from: the source, the compiler and the processor.
"""

import ctypes
import hashlib
import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from mergegrid.errors import MergegridError

logger = logging.getLogger(__name__)

#: The function that is compiled.
NAME = "execute"
#: Arrays whose addresses it takes.
ARRAYS = 12
_HERE = Path(__file__).parent
_DIGEST = hashlib.sha256().digest_size
# Read when the rest of this package is: its files may change while a long job runs.
_SOURCE = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(_HERE.glob("*.py")))
).hexdigest()


@cache
def program_loop() -> Callable[..., None]:
    """`program_loop.execute`, which runs without the interpreter's lock."""
    name, machine = file_name(), target()
    code = next(filter(None, (_read(folder / name) for folder in _folders())), None)
    if code is None:
        logger.warning("compiling the merging loops for this processor, once (10 to 30 seconds)")
        code = _compile(name)
        _keep(name, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    function: Any = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * ARRAYS)(
        engine.get_function_address(NAME)
    )
    # The machine code lives as long as what loaded it.
    function.engine = engine
    found: Callable[..., None] = function
    return found


def target() -> Any:
    """What code is made for: this processor, with all it can do."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        *_processor(), opt=3, codemodel="jitdefault", jit=True
    )


def file_name() -> str:
    """Name of the file with the machine code that is made from what runs here."""
    made_from = (*_processor(), version("numba"), version("llvmlite"), _SOURCE)
    digest = hashlib.sha256("\n".join(made_from).encode()).hexdigest()
    return f"{NAME}-{digest[:16]}.o"


def _processor() -> tuple[str, str]:
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def _compile(name: str) -> bytes:
    """The machine code, from a process of its own: numba takes 160 MB, which stay taken.

    Raises:
        MergegridError: it failed, or the source has changed since this process started.
    """
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import mergegrid.kernels.numba_compat as c;"
    )
    command = [sys.executable, "-c", f"{program} c.main()", str(_HERE.parents[1]), name]
    own = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    made = subprocess.run(command, env=own, stdout=subprocess.PIPE, check=False)
    if made.returncode:
        raise MergegridError("the merging loops were not compiled, for the reason above")
    return made.stdout


def _folders() -> Iterator[Path]:
    """Where machine code is kept: beside the source, or else in the user's own cache."""
    yield _HERE / "__pycache__"
    with suppress(RuntimeError):  # There is no home.
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mergegrid"


def _read(path: Path) -> bytes | None:
    """Machine code from a file; none where there is no file, or it is not as it was written."""
    try:
        text = path.read_bytes()
    except OSError:
        return None
    digest, code = text[:_DIGEST], text[_DIGEST:]
    return code if hashlib.sha256(code).digest() == digest else None


def _keep(name: str, code: bytes) -> None:
    """Write machine code where that is possible; a reader sees all of it or none."""
    for folder in _folders():
        part = folder / f"{name}.{uuid.uuid4().hex[:8]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            part.write_bytes(hashlib.sha256(code).digest() + code)
            part.replace(folder / name)
            return
        except OSError:
            with suppress(OSError):
                part.unlink()
    logger.warning(
        "machine code cannot be kept, so every start compiles again: %s cannot be written; "
        "set XDG_CACHE_HOME to a folder that can",
        " and ".join(map(str, _folders())),
    )
