"""attention.hpp against torch.nn.functional.scaled_dot_product_attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_harness import each_isa, from_bf16, load, ptr, to_bf16

Mask = np.ndarray | None
Codes = tuple[tuple[float, int], ...]


def strides(array: np.ndarray) -> list[int]:
    return [step // array.itemsize for step in array.strides]


def run(
    isa: str,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    mask: Mask = None,
    causal: bool = False,
    offset: int = 0,
    threads: int = 1,
    scale: float | None = None,
    transposed_out: bool = False,
    codes: Codes = ((1.0, 0),) * 3,
    out_code: tuple[float, int] | None = None,
) -> np.ndarray:
    """`codes`: scale and zero point of q, k, v where they are bytes; `out_code`: of the result, stored as bytes."""
    batch, heads, queries, dim = q.shape
    name = {np.float32: "f32", np.uint16: "bf16", np.int8: "i8", np.uint8: "u8"}[q.dtype.type]
    out_type = np.uint8 if out_code else np.float32 if q.dtype.itemsize == 1 else q.dtype
    order = (batch, queries, heads) if transposed_out else (batch, heads, queries)
    out = np.full((*order, v.shape[3]), 9, out_type)
    if transposed_out:
        out = out.transpose(0, 2, 1, 3)
    mask_strides = [0, 0, 0, 0] if mask is None else strides(np.broadcast_to(mask, (batch, heads, queries, k.shape[2])))
    numbers = [batch, heads, k.shape[1], queries, k.shape[2], dim, v.shape[3]]
    for array in (q, k, v):
        numbers += strides(array)[:3]
    numbers += [queries * heads, 1, heads] if transposed_out else [heads * queries, queries, 1]
    numbers += [*mask_strides, int(causal), offset, threads, *(zero for _, zero in codes)]
    numbers.append(out_code[1] if out_code else 0)
    scales = np.array([scale or dim**-0.5, *(s for s, _ in codes), 1 / out_code[0] if out_code else 1], np.float32)
    bias = mask if mask is not None and mask.dtype == np.float32 else None
    keep = mask if mask is not None and mask.dtype == np.bool_ else None
    run = load("attention_driver", isa)[f"attention_{name}{'_u8' if out_code else ''}"]
    run(ptr(q), ptr(k), ptr(v), ptr(out), ptr(bias), ptr(keep), ptr(np.array(numbers, np.int64)), ptr(scales))
    return out


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: Mask = None, causal: bool = False) -> np.ndarray:
    tensors = [torch.from_numpy(np.ascontiguousarray(x)).double() for x in (q, k, v)]
    m = None if mask is None else torch.from_numpy(np.ascontiguousarray(mask))
    m = m.double() if m is not None and m.dtype == torch.float32 else m
    sdpa = torch.nn.functional.scaled_dot_product_attention
    return sdpa(*tensors, attn_mask=m, is_causal=causal, enable_gqa=k.shape[1] != q.shape[1]).numpy()


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 3, 49, 49, 32, 32),
    (1, 2, 128, 128, 64, 64),
    (1, 2, 70, 131, 17, 5),
    (2, 2, 1, 300, 64, 64),
    (1, 2, 3, 17, 40, 9),
    (1, 1, 33, 200, 8, 24),
    (1, 2, 16, 64, 300, 300),
    (0, 2, 4, 4, 8, 8),
    (1, 2, 5, 0, 8, 8),
    (1, 1, 0, 3, 8, 8),
]


@each_isa
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("causal", [False, True])
def test_matches_torch(isa: str, shape: tuple[int, ...], causal: bool) -> None:
    batch, heads, queries, keys, dim, value_dim = shape
    q, k = random(batch, heads, queries, dim), random(batch, heads, keys, dim, seed=1)
    v = random(batch, heads, keys, value_dim, seed=2)
    got = run(isa, q, k, v, causal=causal, threads=2)
    np.testing.assert_allclose(got, reference(q, k, v, causal=causal), rtol=1e-5, atol=3e-6)


@each_isa
@pytest.mark.parametrize("mask_shape", [(2, 4, 37, 90), (2, 1, 1, 90), (1, 1, 37, 90), (37, 90), (2, 1, 37, 1)])
@pytest.mark.parametrize("boolean", [False, True])
@pytest.mark.parametrize("queries", [37, 1])
def test_masks_broadcast_and_heads_are_shared(
    isa: str, mask_shape: tuple[int, ...], boolean: bool, queries: int
) -> None:
    shape = tuple(queries if size == 37 else size for size in mask_shape)
    rng = np.random.default_rng(3)
    mask = rng.random(shape) > 0.4 if boolean else rng.standard_normal(shape).astype(np.float32)
    q, k, v = random(2, 4, queries, 32), random(2, 2, 90, 32, seed=1), random(2, 2, 90, 32, seed=2)
    got = run(isa, q, k, v, mask=mask, threads=2)
    np.testing.assert_allclose(got, reference(q, k, v, mask), rtol=1e-5, atol=3e-6)


@each_isa
@pytest.mark.parametrize("queries", [1, 20])
def test_rows_without_keys_are_zero_and_nan_stays_in_its_row(isa: str, queries: int) -> None:
    q, k, v = random(1, 1, queries, 16), random(1, 1, 80, 16, seed=1), random(1, 1, 80, 16, seed=2)
    mask = np.ones((queries, 80), np.bool_)
    mask[0] = False
    np.testing.assert_array_equal(run(isa, q, k, v, mask=mask)[0, 0, 0], 0)
    minus = np.where(mask, 0, -np.inf).astype(np.float32)
    np.testing.assert_array_equal(run(isa, q, k, v, mask=minus)[0, 0, 0], 0)
    q[0, 0, queries - 1, 3] = np.nan
    got = run(isa, q, k, v)
    assert np.isnan(got[0, 0, queries - 1]).all()
    assert np.isfinite(got[0, 0, : queries - 1]).all()


@each_isa
@pytest.mark.parametrize("queries", [1, 20])
@pytest.mark.parametrize("same", [False, True])
def test_lowest_floats_hide_keys_unless_all_have_them(isa: str, queries: int, same: bool) -> None:
    q, k, v = random(1, 2, queries, 16), random(1, 2, 83, 16, seed=1), random(1, 2, 83, 16, seed=2)
    mask = np.zeros((1 if same else queries, 83), np.float32)
    mask[:, 40:] = np.finfo(np.float32).min
    mask[0] = np.finfo(np.float32).min
    np.testing.assert_allclose(run(isa, q, k, v, mask=mask), reference(q, k, v, mask), rtol=1e-5, atol=3e-6)


@each_isa
def test_strided_operands_offset_and_large_scores(isa: str) -> None:
    q = (random(2, 20, 3, 64) * 20).transpose(0, 2, 1, 3)
    k = (random(2, 83, 3, 64, seed=1) * 20).transpose(0, 2, 1, 3)
    v = random(2, 83, 3, 64, seed=2).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(run(isa, q, k, v, transposed_out=True), reference(q, k, v), rtol=2e-4, atol=2e-4)
    mask = np.tril(np.ones((20, 83), np.bool_), 63)
    got = run(isa, q, k, v, causal=True, offset=63)
    np.testing.assert_allclose(got, reference(q, k, v, mask), rtol=2e-4, atol=2e-4)


@each_isa
@pytest.mark.parametrize("queries", [1, 45])
def test_bf16_storage(isa: str, queries: int) -> None:
    q, k, v = (to_bf16(random(1, 2, n, 33, seed=n)) for n in (queries, 70, 70))
    got = from_bf16(run(isa, q, k, v, causal=False))
    want = reference(from_bf16(q), from_bf16(k), from_bf16(v))
    np.testing.assert_allclose(got, want, rtol=1e-2, atol=1e-2)


def byte_reference(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, codes: Codes, mask: Mask = None, causal: bool = False
) -> np.ndarray:
    """Attention over what bytes stand for, exponentials over a row's largest rounded to 255ths (up to 128 keys)."""
    q, k, v = ((x.astype(np.float64) - zero) * scale for x, (scale, zero) in zip((q, k, v), codes))
    k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    scores = np.einsum("bhqd,bhkd->bhqk", q, k) * q.shape[3] ** -0.5
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == np.bool_ else scores + mask
    if causal:
        scores = np.where(np.tril(np.ones(scores.shape[-2:], np.bool_)), scores, -np.inf)
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    weights = np.rint(255 * np.exp(scores - np.where(np.isinf(top), 0, top)))
    total = weights.sum(-1, keepdims=True)
    return np.einsum("bhqk,bhkd->bhqd", weights / np.where(total == 0, 1, total), v)


CODES = ((0.05, 3), (0.04, -7), (0.03, 11))


def random_bytes(name: str, *shape: int, seed: int = 0) -> np.ndarray:
    kind = np.int8 if name == "i8" else np.uint8
    limits = np.iinfo(kind)
    return np.random.default_rng(seed).integers(limits.min, limits.max, shape, kind, endpoint=True)


def code_of(name: str) -> Codes:
    return CODES if name == "i8" else tuple((scale, zero + 128) for scale, zero in CODES)


@each_isa
@pytest.mark.parametrize("name", ["i8", "u8"])
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[4] <= 128])
@pytest.mark.parametrize("causal", [False, True])
def test_bytes_are_multiplied_exactly(isa: str, name: str, shape: tuple[int, ...], causal: bool) -> None:
    """A weight may be rounded the other way where the kernel's exponential and the exact one differ, and a few queries
    are computed without rounding: a 255th of two values more or less."""
    batch, heads, queries, keys, dim, value_dim = shape
    q, k = random_bytes(name, batch, heads, queries, dim), random_bytes(name, batch, heads, keys, dim, seed=1)
    v = random_bytes(name, batch, heads, keys, value_dim, seed=2)
    codes = code_of(name)
    got = run(isa, q, k, v, causal=causal, threads=2, codes=codes)
    want = byte_reference(q, k, v, codes, causal=causal)
    np.testing.assert_allclose(got, want, rtol=0, atol=0.06)


@each_isa
@pytest.mark.parametrize("name", ["i8", "u8"])
@pytest.mark.parametrize("keys", [90, 300])
def test_bytes_stay_close_to_floats(isa: str, name: str, keys: int) -> None:
    """Small scores, so that all keys count: rounding weights to 255ths hardly shows."""
    q, k, v = (random_bytes(name, 2, h, n, 32, seed=n) for h, n in ((4, 37), (2, keys), (2, keys)))
    codes = tuple((scale * factor, zero) for (scale, zero), factor in zip(code_of(name), (0.2, 0.2, 1)))
    mask = np.random.default_rng(3).standard_normal((2, 1, 37, keys)).astype(np.float32)
    decoded = [((x.astype(np.float32) - zero) * np.float32(scale)) for x, (scale, zero) in zip((q, k, v), codes)]
    for given in (None, mask, mask > -1, mask[:, :, :1], mask[:, :, :1] > -1):
        got = run(isa, q, k, v, codes=codes, mask=given, threads=2)
        want = reference(*decoded, mask=given)
        assert np.abs(got - want).max() < 0.01 * np.abs(decoded[2]).max()


@each_isa
def test_byte_rows_without_keys_are_zero_and_nan_stays_in_its_row(isa: str) -> None:
    q, k, v = (random_bytes("i8", 1, 1, 20, 16, seed=n) for n in range(3))
    mask = np.zeros((20, 20), np.float32)
    mask[0] = -np.inf
    mask[1, 3] = np.nan
    mask[2, 19] = np.inf
    mask[3] = np.finfo(np.float32).min
    got = run(isa, q, k, v, mask=mask, codes=CODES)
    scale, zero = CODES[2]
    np.testing.assert_allclose(got[0, 0, 3], ((v[0, 0].astype(np.float32) - zero) * scale).mean(0), atol=1e-5)
    np.testing.assert_array_equal(got[0, 0, 0], 0)
    assert np.isnan(got[0, 0, 1:3]).all() and np.isfinite(got[0, 0, 3:]).all()


@each_isa
def test_results_leave_as_bytes(isa: str) -> None:
    q, k, v = (random(1, 2, 30, 20, seed=n) for n in range(3))
    got = run(isa, q, k, v, out_code=(0.01, 120), transposed_out=True)
    want = np.clip(np.rint(reference(q, k, v) / 0.01) + 120, 0, 255)
    assert np.abs(got.astype(np.int64) - want).max() <= 1
    assert (got == want).mean() > 0.99
