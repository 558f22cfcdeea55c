"""Makes the machine code of the program loop; `compiled` starts this as a process of its own."""

import sys

import llvmlite.binding as llvm
from numba import cfunc, types

from mergegrid.errors import MergegridError
from mergegrid.kernels import program_loop
from mergegrid.kernels.compiled import ARRAYS, NAME, file_name, target


def machine_code() -> bytes:
    """An object file with nothing but the program loop, for this processor.

    Raises:
        MergegridError: the loop could allocate or raise, which machine code on its own cannot.
    """
    signature = types.void(*[types.voidptr] * ARRAYS)
    compiled = cfunc(signature, error_model="numpy")(program_loop.execute)
    module = llvm.parse_assembly(compiled.inspect_llvm())
    module.get_function(compiled.native_name).name = NAME
    for function in module.functions:
        if not function.is_declaration and function.name != NAME:
            function.linkage = "internal"
    # What numba adds to report errors needs its own library. No loop can fail, so that goes.
    machine, passes = target(), llvm.create_new_module_pass_manager()
    passes.add_ipsccp_pass()
    passes.add_simplify_cfg_pass()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    needed = {function.name for function in module.functions if function.is_declaration}
    outside = sorted(name for name in needed if not name.startswith("llvm."))
    if outside:
        raise MergegridError(
            f"the compiled loops need {', '.join(outside)}: a loop must neither raise nor "
            "allocate; change the loop that does, or install the numba and llvmlite versions "
            "that pyproject.toml names"
        )
    code: bytes = machine.emit_object(module)
    return code


def main() -> None:
    """Write the machine code that the process which starts this one asks for by its file's name."""
    if file_name() != sys.argv[2]:
        sys.exit("mergegrid has changed since this program was started; start it again")
    try:
        code = machine_code()
    except MergegridError as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(code)
