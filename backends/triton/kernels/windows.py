"""Convolutions as products of tiles: the filter's taps times channels are the inner axis, addressed on the fly."""

import triton
import triton.language as tl

from mcomp.backends.triton.kernels.numbers import wide
from mcomp.backends.triton.kernels.products import dot, signed_bytes


@triton.jit
def along(o, tap, size, stride: tl.constexpr, low: tl.constexpr, dilation: tl.constexpr, TRANSPOSED: tl.constexpr):
    """Where output place o reads for a tap along one axis, and whether that is inside."""
    if TRANSPOSED:
        at = o + low - tap * dilation
        i = at // stride
        return i, (at >= 0) & (i * stride == at) & (i < size)
    else:
        i = o * stride + tap * dilation - low
        return i, (i >= 0) & (i < size)


@triton.jit
def conv(
    x_ptr, x_rows, o0, o1, o2, x_channel, step0, step1, step2, size0, size1, size2, w_ptr, w_cols, filler, acc,
    CHANNELS: tl.constexpr, K0: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr, S0: tl.constexpr, S1: tl.constexpr,
    S2: tl.constexpr, L0: tl.constexpr, L1: tl.constexpr, L2: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr,
    D2: tl.constexpr, TRANSPOSED: tl.constexpr, BLOCK_K: tl.constexpr,
):
    """acc + the products of a tile: rows are output places (o0, o1, o2) of the image at x_rows, columns are outputs.

    w[n, tap, c] at w_cols[n] + tap * CHANNELS + c; taps count K0 * K1 * K2, first axis slowest. S, L, D: stride, padding
    before and dilation by axis. Outside of the image the input is `filler` (a byte's zero point), as stored.
    """
    ks = tl.arange(0, BLOCK_K)
    for start in range(0, K0 * K1 * K2 * CHANNELS, BLOCK_K):
        k = start + ks
        if CHANNELS % BLOCK_K == 0:
            tap = start // CHANNELS
            channel = start % CHANNELS + ks
        else:
            tap = k // CHANNELS
            channel = k % CHANNELS
        there = k < K0 * K1 * K2 * CHANNELS
        if CHANNELS % BLOCK_K == 0:
            i0, in0 = along(o0, tap // (K1 * K2), size0, S0, L0, D0, TRANSPOSED)
            i1, in1 = along(o1, tap // K2 % K1, size1, S1, L1, D1, TRANSPOSED)
            i2, in2 = along(o2, tap % K2, size2, S2, L2, D2, TRANSPOSED)
            place = (x_rows + i0 * step0 + i1 * step1 + i2 * step2)[:, None] + (channel * x_channel)[None, :]
            inside = (in0 & in1 & in2)[:, None]
            mask = inside & there[None, :]
        else:
            i0, in0 = along(o0[:, None], (tap // (K1 * K2))[None, :], size0, S0, L0, D0, TRANSPOSED)
            i1, in1 = along(o1[:, None], (tap // K2 % K1)[None, :], size1, S1, L1, D1, TRANSPOSED)
            i2, in2 = along(o2[:, None], (tap % K2)[None, :], size2, S2, L2, D2, TRANSPOSED)
            place = x_rows[:, None] + i0 * step0 + i1 * step1 + i2 * step2 + (channel * x_channel)[None, :]
            mask = in0 & in1 & in2 & there[None, :]
        a = tl.load(x_ptr + place, mask=mask, other=filler)
        b = tl.load(w_ptr + (w_cols[None, :] + k[:, None]), mask=there[:, None], other=0)
        acc = dot(signed_bytes(a), b, acc)
    return acc


@triton.jit
def depthwise(
    x_ptr, x_rows, o0, o1, o2, x_cols, step0, step1, step2, size0, size1, size2, w_ptr, w_cols, filler, offset, acc,
    K0: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr, S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr,
    L0: tl.constexpr, L1: tl.constexpr, L2: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,
):
    """acc + every channel with a filter of its own: rows are output places, columns channels; w[n, tap] at
    w_cols[n] + tap. `offset` is subtracted from inputs (a byte's zero point)."""
    for tap in range(K0 * K1 * K2):
        i0, in0 = along(o0, tap // (K1 * K2), size0, S0, L0, D0, False)
        i1, in1 = along(o1, tap // K2 % K1, size1, S1, L1, D1, False)
        i2, in2 = along(o2, tap % K2, size2, S2, L2, D2, False)
        place = (x_rows + i0 * step0 + i1 * step1 + i2 * step2)[:, None] + x_cols[None, :]
        a = tl.load(x_ptr + place, mask=(in0 & in1 & in2)[:, None], other=filler)
        b = tl.load(w_ptr + (w_cols + tap))
        if acc.dtype == tl.float32:
            acc += (wide(a) - offset) * wide(b)[None, :]
        else:
            acc += (a.to(acc.dtype) - offset) * b.to(acc.dtype)[None, :]
    return acc
