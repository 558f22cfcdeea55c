"""Compiling the loops with numba to object files that need neither numba nor Python.

This relies on how numba lowers a C callback: `inspect_llvm` returns the whole module as text,
`native_name` is the function without the wrapper for Python, and all other functions are internal
to it. `compiled` runs this module in a separate process.
"""

import sys

import llvmlite.binding as llvm
from numba import cfunc, types

from mergegrid.errors import MergegridError
from mergegrid.kernels import product_loop, program_loop
from mergegrid.kernels.compiled import ARRAYS, NAME, file_name, target


def machine_code(loop: str = NAME) -> bytes:
    """An object file that contains only one loop, for this processor.

    Raises:
        MergegridError: the loop may allocate or raise, for which it would need numba's library.
    """
    source = program_loop.execute if loop == NAME else product_loop.multiply
    signature = types.void(*[types.voidptr] * ARRAYS[loop])
    compiled = cfunc(signature, error_model="numpy")(source)
    module = llvm.parse_assembly(compiled.inspect_llvm())
    module.get_function(compiled.native_name).name = loop
    for function in module.functions:
        if not function.is_declaration and function.name != loop:
            function.linkage = "internal"
    # Remove numba's error reporting, which needs its library and is unreachable in these loops.
    machine, passes = target(), llvm.create_new_module_pass_manager()
    passes.add_ipsccp_pass()
    passes.add_simplify_cfg_pass()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    needed = {function.name for function in module.functions if function.is_declaration}
    outside = sorted(name for name in needed if not name.startswith("llvm."))
    if outside:
        raise MergegridError(
            f"the compiled loops need {', '.join(outside)}: loops must neither raise nor allocate; "
            "change the loop that does, or install the numba and llvmlite versions of "
            "pyproject.toml"
        )
    code: bytes = machine.emit_object(module)
    return code


def main() -> None:
    """Write the machine code to standard output, if it belongs to the file name in `sys.argv`."""
    loop = sys.argv[2].partition("-")[0]
    if file_name(loop) != sys.argv[2]:
        sys.exit("mergegrid has changed since this program was started; restart it")
    try:
        code = machine_code(loop)
    except MergegridError as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(code)
