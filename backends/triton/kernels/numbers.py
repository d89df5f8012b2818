"""Widening and narrowing of numbers. The interpreter cuts bf16 and fp8 off instead of rounding them, and misreads subnormal
bf16: for it the bits are computed here."""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def wide(x):
    """Floats of at most 16 bits as f32."""
    if INTERPRETED and x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """Numbers as another type; to bf16 rounded to nearest even."""
    if INTERPRETED and dtype == tl.bfloat16 and x.dtype != tl.bfloat16:
        bits = x.to(tl.float32).to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        rounded = tl.where((bits & 0x7FFFFFFF) > 0x7F800000, 0x7FC0, rounded)
        return rounded.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    elif INTERPRETED and (dtype == tl.float8e4nv or dtype == tl.float8e5) and x.dtype != dtype:
        LOST: tl.constexpr = 20 if dtype == tl.float8e4nv else 21
        STEP: tl.constexpr = 512.0 if dtype == tl.float8e4nv else 65536.0
        LEAST: tl.constexpr = 0.015625 if dtype == tl.float8e4nv else 6.103515625e-05
        wide_ = x.to(tl.float32)
        bits = wide_.to(tl.uint32, bitcast=True)
        rounded = (bits + ((1 << (LOST - 1)) - 1) + ((bits >> LOST) & 1)) & (0xFFFFFFFF - ((1 << LOST) - 1))
        magic = 12582912.0 / STEP
        small = tl.where(wide_ < 0, (wide_ - magic) + magic, (wide_ + magic) - magic)
        return tl.where(tl.abs(wide_) < LEAST, small, rounded.to(tl.float32, bitcast=True)).to(dtype)
    else:
        return x.to(dtype)
