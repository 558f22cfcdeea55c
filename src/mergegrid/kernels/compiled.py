"""Machine code of the program loop: compiled once for a processor, then loaded from disk.

The compiler, numba, takes half a second to start, more than a small merge. So what is kept is the
machine code itself, which LLVM loads in a few milliseconds. Its file's name covers all that it is
made from: the source, the compiler and the processor.
"""

import ctypes
import hashlib
import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from mergegrid.user_cache import user_cache

logger = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_NAME = "execute"
#: Arrays whose addresses it takes.
_ARRAYS = 12
_DIGEST = hashlib.sha256().digest_size


@cache
def program_loop() -> Callable[..., None]:
    """`program_loop.execute`, which runs without the interpreter's lock."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    processor = _processor()
    target = llvm.Target.from_default_triple().create_target_machine(
        *processor, opt=3, codemodel="jitdefault", jit=True
    )
    name = _file_name(*processor)
    code = next(filter(None, (_read(folder / name) for folder in _folders())), None)
    if code is None:
        logger.warning("compiling the merging loops for this processor, once: some ten seconds")
        code = _compile(target)
        _keep(name, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    function: Any = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * _ARRAYS)(
        engine.get_function_address(_NAME)
    )
    # The machine code lives as long as what loaded it.
    function.engine = engine
    found: Callable[..., None] = function
    return found


def _processor() -> tuple[str, str]:
    """The processor's name and what it can do."""
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def _file_name(*processor: str) -> str:
    """Name of the file with the machine code that is made from what is here now."""
    made_from = hashlib.sha256()
    for each in (*processor, version("numba"), version("llvmlite")):
        made_from.update(f"{each}\n".encode())
    for source in sorted(_HERE.glob("*.py")):
        made_from.update(source.read_bytes())
    return f"{_NAME}-{made_from.hexdigest()[:16]}.o"


def _compile(target: Any) -> bytes:
    """An object file with nothing but the program loop."""
    from numba import cfunc, types

    from mergegrid.kernels.program_loop import execute

    compiled = cfunc(types.void(*[types.voidptr] * _ARRAYS), error_model="numpy")(execute)
    module = llvm.parse_assembly(compiled.inspect_llvm())
    module.get_function(compiled.native_name).name = _NAME
    for function in module.functions:
        if not function.is_declaration and function.name != _NAME:
            function.linkage = "internal"
    # What numba adds to report errors needs its own library. No loop can fail, so that goes.
    passes = llvm.create_new_module_pass_manager()
    passes.add_ipsccp_pass()
    passes.add_simplify_cfg_pass()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options()))
    needed = {function.name for function in module.functions if function.is_declaration}
    outside = sorted(name for name in needed if not name.startswith("llvm."))
    assert not outside, f"loops must neither raise nor allocate, but need {outside}"
    code: bytes = target.emit_object(module)
    return code


def _folders() -> Iterator[Path]:
    """Where machine code is kept: beside the source, or else in the user's cache."""
    yield _HERE / "__pycache__"
    yield user_cache()


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
        "%s and %s cannot be written, so every start compiles again; "
        "set MERGEGRID_CACHE to a folder that can",
        *_folders(),
    )
