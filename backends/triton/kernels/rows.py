"""Along an axis of a tile: products and extremes. Elements outside are given as what does not count."""

import triton
import triton.language as tl


@triton.jit
def _times(a, b):
    return a * b


@triton.jit
def product(x, axis: tl.constexpr):
    """The product along an axis."""
    return tl.reduce(x, axis, _times)


@triton.jit
def largest(x, axis: tl.constexpr):
    """The largest element along an axis; NaN if there is one."""
    found = tl.max(x, axis)
    if x.dtype.is_floating():
        found = tl.where(tl.max((x != x).to(tl.int32), axis) != 0, float("nan"), found)
    return found


@triton.jit
def smallest(x, axis: tl.constexpr):
    """The smallest element along an axis; NaN if there is one."""
    found = tl.min(x, axis)
    if x.dtype.is_floating():
        found = tl.where(tl.max((x != x).to(tl.int32), axis) != 0, float("nan"), found)
    return found
