"""Machine code of the loops: compiled once per processor, then loaded from a file.

Importing the compiler, numba, takes longer than a small merge. So the machine code is kept as an
object file, which LLVM loads in a few milliseconds. The file name is a digest of everything that
the code depends on: the source, the compiler and the processor.
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

#: Names of the compiled functions: of the program loop, and of the product loop.
NAME, PRODUCT = "execute", "multiply"
#: Number of their arguments, all of them addresses of arrays.
ARRAYS = {NAME: 12, PRODUCT: 5}
_HERE = Path(__file__).parent
_DIGEST = hashlib.sha256().digest_size
# Read at import, like the rest of the package, because the files may change during a long job.
_SOURCE = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(_HERE.glob("*.py")))
).hexdigest()


@cache
def program_loop() -> Callable[..., None]:
    """The compiled `program_loop.execute`, which releases the interpreter's lock."""
    return _function(NAME)


@cache
def product_loop() -> Callable[..., None]:
    """The compiled `product_loop.multiply`, which releases the interpreter's lock."""
    return _function(PRODUCT)


def _function(loop: str) -> Callable[..., None]:
    name, machine = file_name(loop), target()
    code = next(filter(None, (_read(folder / name) for folder in _folders())), None)
    if code is None:
        logger.warning("compiling the merging loops for this processor, once (10 to 30 seconds)")
        code = _compile(name)
        _save(name, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    function: Any = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * ARRAYS[loop])(
        engine.get_function_address(loop)
    )
    function.engine = engine  # The machine code lives as long as its engine.
    compiled: Callable[..., None] = function
    return compiled


def target() -> Any:
    """The LLVM target machine: this processor with all of its features."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        *_processor(), opt=3, codemodel="jitdefault", jit=True
    )


def file_name(loop: str = NAME) -> str:
    """Name of the file with the machine code of a loop for this source, compiler and processor."""
    inputs = (*_processor(), version("numba"), version("llvmlite"), _SOURCE)
    digest = hashlib.sha256("\n".join(inputs).encode()).hexdigest()
    return f"{loop}-{digest[:16]}.o"


def _processor() -> tuple[str, str]:
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def _compile(name: str) -> bytes:
    """Compile in a separate process, because the memory of numba (160 MB) is never released.

    Raises:
        MergegridError: compilation failed, or the source has changed since this process started.
    """
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import mergegrid.kernels.numba_compat as c;"
    )
    command = [sys.executable, "-c", f"{program} c.main()", str(_HERE.parents[1]), name]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise MergegridError("compiling the merging loops failed; see the error above")
    return done.stdout


def _folders() -> Iterator[Path]:
    """Folders for machine code: beside the source, or else in the user's cache."""
    yield _HERE / "__pycache__"
    with suppress(RuntimeError):  # The user has no home directory.
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mergegrid"


def _read(path: Path) -> bytes | None:
    """The machine code in a file, or None if the file is missing or damaged."""
    try:
        text = path.read_bytes()
    except OSError:
        return None
    digest, code = text[:_DIGEST], text[_DIGEST:]
    return code if hashlib.sha256(code).digest() == digest else None


def _save(name: str, code: bytes) -> None:
    """Save machine code in the first writable folder; readers see the whole file or none."""
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
        "machine code cannot be saved, so it is compiled at every start: %s are not writable; set "
        "XDG_CACHE_HOME to a writable folder",
        " and ".join(map(str, _folders())),
    )
