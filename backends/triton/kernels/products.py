"""Matrix products of tiles: what a program computes of a product, for each way that weights are stored.

Rows and columns of a tile are given as vectors of places (elements from a pointer), already limited to what exists; the
caller stores only what is inside. Accumulators are f32, or i32 for bytes.
"""

import triton
import triton.language as tl

from mcomp.backends.triton.kernels.numbers import INTERPRETED, narrow, wide


@triton.jit
def dot(a, b, acc):
    """acc + a @ b without TF32. The interpreter would multiply bf16 by its bits; it is given f32."""
    if INTERPRETED and (a.dtype == tl.bfloat16 or a.dtype == tl.float16):
        return tl.dot(wide(a), wide(b), acc, input_precision="ieee", out_dtype=acc.dtype)
    elif a.dtype == tl.float8e4nv:  # sums of so many products at most are kept in the few bits of the units themselves
        return tl.dot(a, b, acc, max_num_imprecise_acc=32, out_dtype=acc.dtype)
    else:
        return tl.dot(a, b, acc, input_precision="ieee", out_dtype=acc.dtype)


@triton.jit
def tile_of(pid, rows, cols, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    """The row and column of the tile of a program: GROUP rows of tiles run side by side, so that they share columns in
    the cache."""
    count_m = tl.cdiv(rows, BLOCK_M)
    count_n = tl.cdiv(cols, BLOCK_N)
    width = GROUP * count_n
    first = (pid // width) * GROUP
    height = tl.minimum(count_m - first, GROUP)
    return first + (pid % width) % height, (pid % width) // height


@triton.jit
def dense(
    a_ptr, a_rows, a_step, b_ptr, b_cols, b_step, b_inside, first, last, acc, EVEN: tl.constexpr, BLOCK_K: tl.constexpr
):
    """acc + A @ B over k in [first, last): A[m, k] at a_rows[m] + k * a_step, B[k, n] at b_cols[n] + k * b_step.

    b_inside: which columns exist, or None where every b_cols is a place that may be read. EVEN: BLOCK_K divides the range.
    Bytes of B become numbers of A's type in registers.
    """
    ks = tl.arange(0, BLOCK_K)
    for start in range(first, last, BLOCK_K):
        k = start + ks
        a_at = a_ptr + (a_rows[:, None] + (k * a_step)[None, :])
        b_at = b_ptr + ((k * b_step)[:, None] + b_cols[None, :])
        if EVEN:
            a = tl.load(a_at)
            if b_inside is None:
                b = tl.load(b_at)
            else:
                b = tl.load(b_at, mask=b_inside[None, :], other=0.0)
        else:
            inside = k < last
            a = tl.load(a_at, mask=inside[None, :], other=0.0)
            if b_inside is None:
                b = tl.load(b_at, mask=inside[:, None], other=0.0)
            else:
                b = tl.load(b_at, mask=inside[:, None] & b_inside[None, :], other=0.0)
        if b.dtype != a.dtype:
            b = narrow(b, a.dtype)
        acc = dot(a, b, acc)
    return acc


@triton.jit
def signed_bytes(x):
    """Bytes of either sign as i8: unsigned ones less 128."""
    if x.dtype == tl.uint8:
        return (x ^ 128).to(tl.int8, bitcast=True)
    else:
        return x


@triton.jit
def bytes_(a_ptr, a_rows, a_step, b_ptr, b_cols, b_step, first, last, acc, EVEN: tl.constexpr, BLOCK_K: tl.constexpr):
    """acc + A @ B of bytes in i32; unsigned bytes of A count less 128. What lies behind the range counts as nothing."""
    ks = tl.arange(0, BLOCK_K)
    for start in range(first, last, BLOCK_K):
        k = start + ks
        a_at = a_ptr + (a_rows[:, None] + (k * a_step)[None, :])
        b_at = b_ptr + ((k * b_step)[:, None] + b_cols[None, :])
        if EVEN:
            a = tl.load(a_at)
            b = tl.load(b_at)
        else:
            a = tl.load(a_at, mask=(k < last)[None, :], other=0)
            b = tl.load(b_at, mask=(k < last)[:, None], other=0)
        acc = dot(signed_bytes(a), b, acc)
    return acc


@triton.jit
def scaled(q, s_ptr, s_cols, z_ptr, k, start, inside, GROUP: tl.constexpr, ONE: tl.constexpr, dtype: tl.constexpr):
    """Integers q[k, n] as real numbers: (q - zero) * scale, one scale (and zero, where z_ptr is one) for GROUP rows. ONE:
    all these rows are of one group."""
    if ONE:
        place = (start // GROUP + s_cols)[None, :]
        s = tl.load(s_ptr + place)
    else:
        place = (k // GROUP)[:, None] + s_cols[None, :]
        s = tl.load(s_ptr + place, mask=inside[:, None], other=0)
    if z_ptr is not None:
        if ONE:
            q = q - tl.load(z_ptr + place)
        else:
            q = q - tl.load(z_ptr + place, mask=inside[:, None], other=0)
    return narrow(q.to(tl.float32) * s, dtype)


@triton.jit
def grouped(
    a_ptr, a_rows, a_step, b_ptr, b_cols, s_ptr, s_cols, z_ptr, zero, first, last, acc, GROUP: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """acc + A @ B where B[k, n] is the byte at b_cols[n] + k, with scales for groups of k at s_cols[n] + k // GROUP."""
    ks = tl.arange(0, BLOCK_K)
    for start in range(first, last, BLOCK_K):
        k = start + ks
        inside = k < last
        a = tl.load(a_ptr + (a_rows[:, None] + (k * a_step)[None, :]), mask=inside[None, :], other=0)
        q = tl.load(b_ptr + (k[:, None] + b_cols[None, :]), mask=inside[:, None], other=0).to(tl.int32) - zero
        acc = dot(a, scaled(q, s_ptr, s_cols, z_ptr, k, start, inside, GROUP, GROUP % BLOCK_K == 0, a.dtype), acc)
    return acc


@triton.jit
def low_half(p, SIGNED: tl.constexpr):
    """The low four bits of bytes as i32."""
    q = p.to(tl.int32) & 15
    if SIGNED:
        return (q ^ 8) - 8
    else:
        return q


@triton.jit
def high_half(p, SIGNED: tl.constexpr):
    """The high four bits of bytes as i32."""
    q = p.to(tl.int32) >> 4
    if SIGNED:
        return (q ^ 8) - 8
    else:
        return q


@triton.jit
def nibbles(
    a_ptr, a_rows, a_step, b_ptr, b_cols, s_ptr, s_cols, z_ptr, zero, first, last, half: tl.constexpr, acc,
    GROUP: tl.constexpr, SIGNED: tl.constexpr, BLOCK_K: tl.constexpr,
):
    """acc + A @ B for bytes in [first, last) of each row of B: byte j at b_cols[n] + j holds B[j, n] and B[j + half, n].
    They become real numbers in registers."""
    ONE: tl.constexpr = GROUP % BLOCK_K == 0 and half % BLOCK_K == 0
    ks = tl.arange(0, BLOCK_K)
    for start in range(first, last, BLOCK_K):
        k = start + ks
        inside = k < last
        p = tl.load(b_ptr + (k[:, None] + b_cols[None, :]), mask=inside[:, None], other=0)
        a = tl.load(a_ptr + (a_rows[:, None] + (k * a_step)[None, :]), mask=inside[None, :], other=0)
        b = scaled(low_half(p, SIGNED) - zero, s_ptr, s_cols, z_ptr, k, start, inside, GROUP, ONE, a.dtype)
        acc = dot(a, b, acc)
        a = tl.load(a_ptr + (a_rows[:, None] + ((k + half) * a_step)[None, :]), mask=inside[None, :], other=0)
        b = scaled(
            high_half(p, SIGNED) - zero, s_ptr, s_cols, z_ptr, k + half, start + half, inside, GROUP, ONE, a.dtype
        )
        acc = dot(a, b, acc)
    return acc


@triton.jit
def blocks(
    a_ptr, a_rows, a_step, v_ptr, c_ptr, first, last, acc, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    """acc + A @ B for one row of stored blocks [HEIGHT, WIDTH] of the transposed B, number `first` up to `last`: the
    columns of A that they need are gathered. Columns of the tile from HEIGHT on get nothing. Of bytes sums are i32, and
    unsigned ones of A count less 128."""
    ks = tl.arange(0, BLOCK_K)
    o = tl.arange(0, BLOCK_N)
    for start in range(first * WIDTH, last * WIDTH, BLOCK_K):
        k = start + ks
        inside = k < last * WIDTH
        block = k // WIDTH
        column = tl.load(c_ptr + block, mask=inside, other=0) * WIDTH + k % WIDTH
        a = tl.load(a_ptr + (a_rows[:, None] + (column * a_step)[None, :]), mask=inside[None, :], other=0)
        place = (block * (HEIGHT * WIDTH) + k % WIDTH)[:, None] + (o * WIDTH)[None, :]
        b = tl.load(v_ptr + place, mask=inside[:, None] & (o < HEIGHT)[None, :], other=0)
        if a.dtype == tl.int8 or a.dtype == tl.uint8:
            acc = dot(signed_bytes(a), b, acc)
        else:
            if b.dtype == tl.int8:
                b = narrow(b, a.dtype)
            acc = dot(a, b, acc)
    return acc


@triton.jit
def vector(a_ptr, a_row, a_step, b_ptr, b_cols, b_step, first, last, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """One row times B: sums over k in [first, last), f32 [BLOCK_N]. Bytes of B count as they are."""
    ks = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_N, BLOCK_K), dtype=tl.float32)
    for start in range(first, last, BLOCK_K):
        k = start + ks
        inside = k < last
        a = wide(tl.load(a_ptr + (a_row + k * a_step), mask=inside, other=0.0))
        b = wide(tl.load(b_ptr + (b_cols[:, None] + (k * b_step)[None, :]), mask=inside[None, :], other=0.0))
        acc += a[None, :] * b
    return tl.sum(acc, 1)


@triton.jit
def vector_nibbles(
    a_ptr, a_row, a_step, b_ptr, b_cols, s_ptr, s_cols, z_ptr, zero, first, last, half: tl.constexpr,
    GROUP: tl.constexpr, SIGNED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    """One row times B of 4 bits with scales for groups: sums over the bytes in [first, last), f32 [BLOCK_N]."""
    ONE: tl.constexpr = GROUP % BLOCK_K == 0 and half % BLOCK_K == 0
    ks = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_K, BLOCK_N), dtype=tl.float32)
    for start in range(first, last, BLOCK_K):
        k = start + ks
        inside = k < last
        p = tl.load(b_ptr + (k[:, None] + b_cols[None, :]), mask=inside[:, None], other=0)
        a = wide(tl.load(a_ptr + (a_row + k * a_step), mask=inside, other=0.0))
        b = scaled(low_half(p, SIGNED) - zero, s_ptr, s_cols, z_ptr, k, start, inside, GROUP, ONE, tl.float32)
        acc += a[:, None] * b
        a = wide(tl.load(a_ptr + (a_row + (k + half) * a_step), mask=inside, other=0.0))
        b = scaled(
            high_half(p, SIGNED) - zero, s_ptr, s_cols, z_ptr, k + half, start + half, inside, GROUP, ONE, tl.float32
        )
        acc += a[:, None] * b
    return tl.sum(acc, 0)


@triton.jit
def vector_grouped(
    a_ptr, a_row, a_step, b_ptr, b_cols, s_ptr, s_cols, z_ptr, zero, first, last, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    """One row times B of bytes with scales for groups: sums over k in [first, last), f32 [BLOCK_N]."""
    ks = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_K, BLOCK_N), dtype=tl.float32)
    for start in range(first, last, BLOCK_K):
        k = start + ks
        inside = k < last
        q = tl.load(b_ptr + (k[:, None] + b_cols[None, :]), mask=inside[:, None], other=0).to(tl.int32) - zero
        a = wide(tl.load(a_ptr + (a_row + k * a_step), mask=inside, other=0.0))
        acc += a[:, None] * scaled(q, s_ptr, s_cols, z_ptr, k, start, inside, GROUP, GROUP % BLOCK_K == 0, tl.float32)
    return tl.sum(acc, 0)
