"""Largest error of a product of two float32 matrices by Triton's `tl.dot`: prints one number.

Whether TRITON_F32_DEFAULT is `ieee` decides whether the products are TF32; vLLM's attention in
float32 is such a kernel. With TRITON_INTERPRET=1 it runs on the CPU.
"""

import sys

import torch
import triton
import triton.language as tl

SIDE = 64  # Two such blocks fit into the shared memory of any GPU.


@triton.jit
def multiply(left, right, out, side: tl.constexpr):
    """One block: out = left @ right."""
    rows = tl.arange(0, side)[:, None] * side + tl.arange(0, side)[None, :]
    tl.store(out + rows, tl.dot(tl.load(left + rows), tl.load(right + rows)))


def main(device: str) -> None:
    """Compare with float64."""
    torch.manual_seed(0)
    left, right = torch.randn(2, SIDE, SIDE, device=device)
    out = torch.empty(SIDE, SIDE, device=device)
    multiply[(1,)](left, right, out, SIDE)
    exact = left.double() @ right.double()
    error = ((out.double() - exact).abs().max() / exact.abs().max()).item()
    sys.stdout.write(f"{error:.1e}\n")


if __name__ == "__main__":
    main(sys.argv[1])
