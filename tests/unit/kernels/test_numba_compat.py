"""The contract with numba and llvmlite that compiling the program loop relies on."""

import ctypes

import llvmlite.binding as llvm
import numpy as np
import pytest
from numba import carray, cfunc, njit, types

from mergegrid.errors import MergegridError
from mergegrid.kernels import compiled, numba_compat, program_loop


def double(address):
    array = carray(address, 3, np.int64)
    for i in range(3):
        array[i] *= 2


def test_the_llvm_module_of_a_callback_defines_it_under_its_native_name():
    callback = cfunc(types.void(types.voidptr), error_model="numpy")(double)
    module = llvm.parse_assembly(callback.inspect_llvm())
    assert not module.get_function(callback.native_name).is_declaration


def test_the_native_function_takes_its_arguments_like_a_function_in_c():
    callback = cfunc(types.void(types.voidptr), error_model="numpy")(double)
    numbers = np.array([1, 2, 3])
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(callback.address)
    call(numbers.ctypes.data)
    assert numbers.tolist() == [2, 4, 6]


def test_inlined_kernels_leave_no_calls_to_other_code(monkeypatch):
    kernel = njit(error_model="numpy", forceinline=True)(lambda value: value + np.int64(1))

    def execute(a, b, c, d, e, f, g, h, i, j, k, m):
        carray(a, 1, np.int64)[0] = kernel(carray(b, 1, np.int64)[0])

    monkeypatch.setattr(program_loop, "execute", execute)
    code = numba_compat.machine_code()
    assert compiled.NAME.encode() in code


def test_a_loop_that_could_fail_is_not_compiled(monkeypatch):
    def execute(a, b, c, d, e, f, g, h, i, j, k, m):
        np.empty(3)[0] = 1.0
        raise ValueError

    monkeypatch.setattr(program_loop, "execute", execute)
    with pytest.raises(MergegridError, match="neither raise nor allocate"):
        numba_compat.machine_code()
