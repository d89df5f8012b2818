"""Pooling: every element of the result goes over its window."""

import triton
import triton.language as tl


@triton.jit
def window(
    x_ptr, base, o0, o1, o2, step0, step1, step2, size0, size1, size2, inside, acc, MOST: tl.constexpr,
    K0: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr, S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr,
    L0: tl.constexpr, L1: tl.constexpr, L2: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,
):
    """The sum, or with MOST the largest, of the window of each output place (o0, o1, o2); what is outside of the image does
    not count. Elements at base + i * step. K, S, L, D: size, stride, padding before and dilation by axis."""
    for tap in range(K0 * K1 * K2):
        i0 = o0 * S0 - L0 + (tap // (K1 * K2)) * D0
        i1 = o1 * S1 - L1 + (tap // K2 % K1) * D1
        i2 = o2 * S2 - L2 + (tap % K2) * D2
        there = inside & (i0 >= 0) & (i0 < size0) & (i1 >= 0) & (i1 < size1) & (i2 >= 0) & (i2 < size2)
        place = base + i0 * step0 + i1 * step1 + i2 * step2
        x = tl.load(x_ptr + place, mask=there, other=0).to(acc.dtype)
        if MOST:
            acc = tl.where(there & ((x > acc) | (x != x)), x, acc)
        else:
            acc += tl.where(there, x, 0)
    return acc


@triton.jit
def covered(o, size, K: tl.constexpr, S: tl.constexpr, L: tl.constexpr, HIGH: tl.constexpr, PADDED: tl.constexpr):
    """How many places of a window along one axis count for the mean: those inside of the image, or with PADDED of the padded
    one."""
    start = o * S - L
    if PADDED:
        return tl.minimum(start + K, size + HIGH) - start
    else:
        return tl.minimum(start + K, size) - tl.maximum(start, 0)
