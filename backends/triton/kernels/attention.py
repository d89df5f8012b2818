"""Flash attention: softmax and both products over blocks of keys, with a running maximum and sum (arXiv 2307.08691)."""

import triton
import triton.language as tl

from mcomp.backends.triton.kernels.numbers import narrow, wide
from mcomp.backends.triton.kernels.products import dot

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def attend(
    q_ptr, q_rows, q_step, k_ptr, k_at, k_row, k_step, v_ptr, v_at, v_row, v_step, mask_ptr, mask_rows, mask_step,
    rows, keys, scale, MASK: tl.constexpr, CAUSAL: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
):
    """A tile of queries against `keys` keys: f32 [BLOCK_M, BLOCK_V].

    Query m at q_rows[m] + d * q_step; key s at k_at + s * k_row + d * k_step; likewise values. MASK: 0 none, 1 truths kept,
    2 numbers added, at mask_rows[m] + s * mask_step. CAUSAL: only keys up to `rows[m]`. A row with nothing kept is 0.
    """
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_V)
    n = tl.arange(0, BLOCK_N)
    q = tl.load(q_ptr + (q_rows[:, None] + (d * q_step)[None, :]), mask=(d < D)[None, :], other=0)
    top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_V), dtype=tl.float32)
    end = keys
    if CAUSAL:
        end = tl.minimum(keys, tl.max(rows, 0) + 1)
    for start in range(0, end, BLOCK_N):
        s = start + n
        inside = s < keys
        k = tl.load(
            k_ptr + (k_at + (s * k_row)[None, :] + (d * k_step)[:, None]), mask=inside[None, :] & (d < D)[:, None], other=0
        )
        scores = dot(q, k, tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)) * (scale * LOG2E)
        kept = inside[None, :]
        if MASK == 1:
            given = tl.load(mask_ptr + (mask_rows[:, None] + (s * mask_step)[None, :]), mask=inside[None, :], other=0)
            kept = kept & (given != 0)
        if MASK == 2:
            given = tl.load(mask_ptr + (mask_rows[:, None] + (s * mask_step)[None, :]), mask=inside[None, :], other=0)
            given = wide(given)
            # The lowest float, times log2(e), would be -infinity: a row of them is no row with nothing kept.
            scores += tl.where(given == float("-inf"), given, tl.maximum(given * LOG2E, -3.0e38))
        if CAUSAL:
            kept = kept & (rows[:, None] >= s[None, :])
        scores = tl.where(kept, scores, float("-inf"))
        highest = tl.maximum(top, tl.max(scores, 1))
        base = tl.where(highest == float("-inf"), 0.0, highest)
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(top - base)
        total = total * shrink + tl.sum(weights, 1)
        v = tl.load(
            v_ptr + (v_at + (s * v_row)[:, None] + (e * v_step)[None, :]), mask=inside[:, None] & (e < DV)[None, :], other=0
        )
        acc = dot(narrow(weights, v.dtype), v, acc * shrink[:, None])
        top = highest
    return acc / tl.where(total == 0.0, 1.0, total)[:, None]
