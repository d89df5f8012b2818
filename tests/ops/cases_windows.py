"""Cases of convolution, pooling and resampling, with formulas in numpy."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from tests.ops.suite import Case, between

_SMALL = dict.fromkeys(range(3), between(-0.5, 0.5))
"""Data whose long sums stay small, for sums are compared to an absolute tolerance."""


def _windows(x: np.ndarray, kernel: Any, stride: Any, dilation: Any) -> np.ndarray:
    """[N, C, *S] -> [N, C, *positions, *kernel]."""
    spatial = len(kernel)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(2, 2 + spatial)))
    steps = (*(slice(None, None, s) for s in stride), *(slice(None, None, d) for d in dilation))
    return view[(slice(None), slice(None), *steps)]


def _conv(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, *, stride: Any, padding: Any, dilation: Any,
    groups: int,
) -> np.ndarray:
    x = np.pad(x, ((0, 0), (0, 0), *padding))
    spatial = x.ndim - 2
    taps = _windows(x, weight.shape[2:], stride, dilation)
    taps = taps.reshape(x.shape[0], groups, weight.shape[1], *taps.shape[2:])
    kernels = weight.reshape(groups, -1, *weight.shape[1:])
    positions, kernel = "xyz"[:spatial], "uvw"[:spatial]
    out = np.einsum(f"ngc{positions}{kernel},goc{kernel}->ngo{positions}", taps, kernels)
    out = out.reshape(x.shape[0], weight.shape[0], *out.shape[3:])
    return out if bias is None else out + bias.reshape(-1, *[1] * spatial)


def _conv_transpose(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, *, stride: Any, padding: Any,
    output_padding: Any, dilation: Any, groups: int,
) -> np.ndarray:
    kernel = weight.shape[2:]
    full = [(s - 1) * t + d * (k - 1) + 1 + e
            for s, t, d, k, e in zip(x.shape[2:], stride, dilation, kernel, output_padding)]
    out = np.zeros((x.shape[0], weight.shape[1] * groups, *full))
    width = x.shape[1] // groups
    for g in range(groups):
        inputs, kernels = x[:, g * width : (g + 1) * width], weight[g * width : (g + 1) * width]
        channels = slice(g * weight.shape[1], (g + 1) * weight.shape[1])
        for tap in product(*map(range, kernel)):
            place = tuple(slice(t * d, t * d + (s - 1) * st + 1, st)
                          for t, d, s, st in zip(tap, dilation, x.shape[2:], stride))
            out[(slice(None), channels, *place)] += np.einsum("nc...,co->no...", inputs, kernels[(..., *tap)])
    out = out[(slice(None), slice(None), *(slice(p, n - p) for p, n in zip(padding, full)))]
    return out if bias is None else out + bias.reshape(-1, *[1] * len(kernel))


def _conv_case(label: str, operands: tuple[str, ...], **attrs: Any) -> Case:
    spatial = operands[0].count(",") - 1
    given = {"stride": (1,) * spatial, "padding": ((0, 0),) * spatial, "dilation": (1,) * spatial, **attrs}
    return Case("conv", operands, given, label=label, fills=_SMALL, special=False, expect=_conv)


def _transposed_case(label: str, operands: tuple[str, ...], **attrs: Any) -> Case:
    spatial = operands[0].count(",") - 1
    given = {
        "stride": (1,) * spatial, "padding": (0,) * spatial, "output_padding": (0,) * spatial,
        "dilation": (1,) * spatial, **attrs,
    }
    return Case("conv_transpose", operands, given, label=label, fills=_SMALL, special=False, expect=_conv_transpose)


_CONV = [
    _conv_case("1x1", ("f32[B, 5, S, T]", "f32[7, 5, 1, 1]", "f32[7]")),
    _conv_case("3x3", ("f32[B, 3, S + 2, 9]", "f32[8, 3, 3, 3]", "f32[8]"), padding=((1, 1), (1, 1))),
    _conv_case("strided", ("f32[B, 3, S + 4, 11]", "f32[4, 3, 3, 3]"), stride=(2, 2), padding=((1, 1), (1, 1))),
    _conv_case("dilated", ("f32[B, 2, 9, 10]", "f32[4, 2, 3, 2]"), dilation=(2, 3), padding=((2, 2), (0, 0))),
    _conv_case("asymmetric", ("f32[B, 3, S + 3, 7]", "f32[5, 3, 4, 3]", "f32[5]"), padding=((1, 2), (0, 2))),
    _conv_case("grouped", ("f32[B, 6, 7, S + 2]", "f32[9, 2, 3, 3]", "f32[9]"), groups=3),
    _conv_case("depthwise", ("f32[B, 8, S + 4, 9]", "f32[8, 1, 3, 3]"), groups=8, padding=((1, 1), (1, 1)),
               stride=(2, 1)),
    _conv_case("multiplier", ("f32[B, 4, 7, 9]", "f32[8, 1, 5, 3]", "f32[8]"), groups=4),
    _conv_case("patches", ("f32[B, 3, 16, 16]", "f32[10, 3, 8, 8]", "f32[10]"), stride=(8, 8)),
    _conv_case("1d", ("f32[B, 4, S + 2]", "f32[6, 4, 3]", "f32[6]")),
    _conv_case("1d-causal", ("f32[B, 6, S]", "f32[6, 1, 4]", "f32[6]"), groups=6, padding=((3, 0),)),
    _conv_case("1d-strided", ("f32[B, 1, 3*S + 8]", "f32[5, 1, 10]"), stride=(5,), padding=((2, 2),)),
    _conv_case("3d", ("f32[B, 2, 4, S + 2, 5]", "f32[3, 2, 2, 3, 3]", "f32[3]"),
               padding=((0, 0), (1, 1), (1, 1)), stride=(1, 2, 1)),
    _conv_case("bf16", ("bf16[B, 3, 6, 6]", "bf16[4, 3, 3, 3]")),
    _transposed_case("2x2", ("f32[B, 6, S, T]", "f32[6, 4, 2, 2]", "f32[4]"), stride=(2, 2)),
    _transposed_case("3x3", ("f32[B, 4, S, 5]", "f32[4, 3, 3, 3]", "f32[3]"), stride=(2, 2), padding=(1, 1),
                     output_padding=(1, 0)),
    _transposed_case("grouped", ("f32[B, 6, 4, S]", "f32[6, 2, 3, 2]"), groups=3, dilation=(2, 1), stride=(1, 3)),
    _transposed_case("1d", ("f32[B, 3, S]", "f32[3, 5, 4]", "f32[5]"), stride=(2,), padding=(1,)),
    _transposed_case("3d", ("f32[B, 2, 2, 3, S]", "f32[2, 3, 2, 2, 2]"), stride=(2, 1, 2)),
]


def _starts(size: int, kernel: int, stride: int, pair: Any, dilation: int, ceil: bool) -> list[int]:
    """Where windows start on the unpadded axis, counted one by one."""
    low, high = pair
    found, start = [], -low
    while True:
        end = start + dilation * (kernel - 1)
        if end >= size + high and not (ceil and start < size and start + low < size + low + high):
            return found
        if ceil and start >= size:
            return found
        found.append(start)
        start += stride


def _pool(x: np.ndarray, reduce: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> Any:
    axes = [_starts(n, k, s, p, d, ceil) for n, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation)]
    out = np.zeros((*x.shape[:2], *map(len, axes)))
    for place in product(*(range(len(a)) for a in axes)):
        starts = [axes[i][p] for i, p in enumerate(place)]
        inside = [[t for t in range(s, s + d * k, d) if 0 <= t < n]
                  for s, d, k, n in zip(starts, dilation, kernel, x.shape[2:])]
        padded = [len([t for t in range(s, s + k) if t < n + p[1]])
                  for s, k, n, p in zip(starts, kernel, x.shape[2:], padding)]
        taps = x[np.ix_(range(x.shape[0]), range(x.shape[1]), *inside)]
        taps = taps.reshape(*x.shape[:2], int(np.prod(taps.shape[2:])))
        out[(slice(None), slice(None), *place)] = reduce(taps, int(np.prod(padded)))
    return out


def _max_pool(x: np.ndarray, *, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> np.ndarray:
    return _pool(x, lambda taps, count: taps.max(axis=-1), kernel, stride, padding, dilation, ceil)


def _max_pool_with_index(x: np.ndarray, **attrs: Any) -> tuple[np.ndarray, np.ndarray]:
    values = _max_pool(x, **attrs)
    flat = x.reshape(*x.shape[:2], int(np.prod(x.shape[2:])))
    index = np.zeros(values.shape, np.int64)
    for place in np.ndindex(values.shape):
        index[place] = int(np.argmax(flat[place[:2]] == values[place]))
    return values, index


def _avg_pool(
    x: np.ndarray, *, kernel: Any, stride: Any, padding: Any, ceil: bool, count_padding: bool, divisor: int | None
) -> np.ndarray:
    def mean(taps: np.ndarray, padded: int) -> np.ndarray:
        return taps.sum(axis=-1) / (divisor or (padded if count_padding else taps.shape[-1]))

    return _pool(x, mean, kernel, stride, padding, (1,) * len(kernel), ceil)


def _adaptive(x: np.ndarray, size: Any, reduce: Any) -> np.ndarray:
    for axis, count in enumerate(size, 2):
        n = x.shape[axis]
        parts = [
            reduce(np.take(x, range(i * n // count, -(-(i + 1) * n // count)), axis=axis), axis=axis)
            for i in range(count)
        ]
        x = np.stack(parts, axis=axis)
    return x


def _unique(rng: np.random.Generator, shape: tuple[int, ...], sizes: Any) -> np.ndarray:
    return rng.permutation(int(np.prod(shape))).reshape(shape).astype(np.float64)


def _pool_case(op: str, label: str, operand: str, kernel: Any, stride: Any, padding: Any = None, **attrs: Any) -> Case:
    spatial = len(kernel)
    given: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding or ((0, 0),) * spatial}
    if op != "avg_pool":
        given["dilation"] = attrs.pop("dilation", (1,) * spatial)
    expect = {"max_pool": _max_pool, "max_pool_with_index": _max_pool_with_index, "avg_pool": _avg_pool}[op]
    fills = {0: _unique} if op == "max_pool_with_index" else {}
    return Case(op, (operand,), {**given, **attrs}, label=label, fills=fills, special=op == "max_pool", expect=expect)


_POOL = [
    _pool_case("max_pool", "2x2", "f32[B, C, 6, 8]", (2, 2), (2, 2)),
    _pool_case("max_pool", "3x3-padded", "f32[B, C, S + 3, 7]", (3, 3), (2, 2), ((1, 1), (1, 1))),
    _pool_case("max_pool", "ceil", "f32[B, 2, S + 2, 8]", (3, 3), (2, 3), ((1, 1), (0, 0)), ceil=True),
    _pool_case("max_pool", "asymmetric", "f32[B, 2, S + 2, 8]", (3, 4), (2, 3), ((0, 1), (2, 1))),
    _pool_case("max_pool", "asymmetric-ceil", "f32[B, 2, S + 2, 8]", (3, 4), (2, 3), ((0, 1), (2, 1)), ceil=True),
    _pool_case("max_pool", "dilated", "f32[B, 2, 9, 9]", (2, 3), (1, 2), dilation=(3, 2)),
    _pool_case("max_pool", "1d", "f32[B, C, S + 1]", (2,), (2,), ceil=True),
    _pool_case("max_pool", "3d", "f32[B, 2, 4, 5, 6]", (2, 2, 2), (2, 2, 2)),
    _pool_case("max_pool", "bf16", "bf16[B, 2, 6, 6]", (2, 2), (2, 2)),
    _pool_case("max_pool_with_index", "2d", "f32[B, 2, S + 3, 7]", (3, 3), (2, 2), ((1, 1), (1, 1))),
    _pool_case("max_pool_with_index", "1d", "f32[B, 3, S + 2]", (3,), (1,)),
    _pool_case("avg_pool", "2x2", "f32[B, C, 6, 8]", (2, 2), (2, 2)),
    _pool_case("avg_pool", "padded", "f32[B, C, S + 2, 7]", (3, 3), (1, 2), ((1, 1), (1, 1))),
    _pool_case("avg_pool", "uncounted", "f32[B, 2, S + 2, 7]", (3, 3), (1, 2), ((1, 1), (1, 1)), count_padding=False),
    _pool_case("avg_pool", "ceil", "f32[B, 2, S + 2, 8]", (3, 3), (2, 3), ((1, 1), (0, 0)), ceil=True),
    _pool_case("avg_pool", "ceil-uncounted", "f32[B, 2, 9, 8]", (2, 3), (2, 3), ((1, 1), (1, 1)), ceil=True,
               count_padding=False),
    _pool_case("avg_pool", "divisor", "f32[B, 2, 7, 7]", (3, 3), (2, 2), ((1, 1), (0, 0)), divisor=5),
    _pool_case("avg_pool", "1d-divisor", "f32[B, 2, S + 2]", (3,), (2,), ((1, 1),), divisor=2),
    _pool_case("avg_pool", "asymmetric", "f32[B, 2, S + 2, 8]", (3, 4), (2, 3), ((0, 1), (2, 1))),
    _pool_case("avg_pool", "asymmetric-uncounted", "f32[B, 2, S + 2, 8]", (3, 4), (2, 3), ((0, 1), (2, 1)),
               count_padding=False),
    _pool_case("avg_pool", "asymmetric-end", "f32[B, 2, S + 2, 8]", (2, 3), (1, 1), ((0, 1), (0, 1))),
    _pool_case("avg_pool", "1d", "f32[B, C, 2*S]", (2,), (2,)),
    _pool_case("avg_pool", "3d", "f32[B, 2, 4, 5, 6]", (2, 2, 2), (2, 2, 2)),
    Case("adaptive_avg_pool", ("f32[B, C, 7, 9]",), {"size": (3, 4)}, special=False,
         expect=lambda x, size: _adaptive(x, size, np.mean)),
    Case("adaptive_avg_pool", ("f32[B, C, S]",), {"size": (1,)}, label="global", special=False,
         sizes=({"B": 3, "C": 4, "S": 5}, {"B": 1, "C": 1, "S": 1}, {"B": 0, "C": 4, "S": 5}),
         expect=lambda x, size: _adaptive(x, size, np.mean)),
    Case("adaptive_avg_pool", ("f32[B, 2, 5, 4, 6]",), {"size": (2, 4, 3)}, label="3d", special=False,
         expect=lambda x, size: _adaptive(x, size, np.mean)),
    Case("adaptive_max_pool", ("f32[B, C, 7, 9]",), {"size": (3, 4)}, special=False,
         expect=lambda x, size: _adaptive(x, size, np.max)),
    Case("adaptive_max_pool", ("f32[B, 3, 8]",), {"size": (3,)}, label="1d", special=False,
         expect=lambda x, size: _adaptive(x, size, np.max)),
]


def _centres(size: int, wanted: int, corners: bool, scale: float | None) -> np.ndarray:
    places = np.arange(wanted)
    if corners:
        return places * ((size - 1) / (wanted - 1) if wanted > 1 else 0.0)
    return (places + 0.5) * (size / wanted if scale is None else 1 / scale) - 0.5


def _cubic_weight(t: np.ndarray) -> np.ndarray:
    a, t = -0.75, np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def _axis_matrix(size: int, wanted: int, mode: str, corners: bool, scale: float | None) -> np.ndarray:
    """[wanted, size] weights of each source element."""
    matrix = np.zeros((wanted, size))
    if mode.startswith("nearest"):
        step = size / wanted if scale is None else 1 / scale
        half = 0.5 if mode == "nearest-exact" else 0.0
        chosen = np.minimum(np.floor((np.arange(wanted) + half) * step).astype(int), size - 1)
        matrix[np.arange(wanted), chosen] = 1
        return matrix
    centres = _centres(size, wanted, corners, scale)
    if mode == "linear":
        centres = np.maximum(centres, 0)
        taps = range(2)
    else:
        taps = range(-1, 3)
    base = np.floor(centres).astype(int)
    for tap in taps:
        t = centres - (base + tap)
        weights = np.maximum(0, 1 - np.abs(t)) if mode == "linear" else _cubic_weight(t)
        np.add.at(matrix, (np.arange(wanted), np.clip(base + tap, 0, size - 1)), weights)
    return matrix


def _resize(
    x: np.ndarray, *, size: Any, mode: str, align_corners: bool, scales: Any, antialias: bool
) -> np.ndarray:
    for i, wanted in enumerate(size):
        matrix = _axis_matrix(x.shape[2 + i], wanted, mode, align_corners, scales[i] if scales else None)
        x = np.moveaxis(np.tensordot(matrix, x, axes=(1, 2 + i)), 0, 2 + i)
    return x


def _resize_case(label: str, operand: str, **attrs: Any) -> Case:
    return Case("resize", (operand,), attrs, label=label, special=False, expect=_resize)


_RESIZE = [
    _resize_case("nearest", "f32[B, 2, 5, 7]", size=(10, 9), mode="nearest"),
    _resize_case("nearest-1d", "f32[B, 2, 5]", size=(13,), mode="nearest"),
    _resize_case("nearest-3d", "f32[B, 2, 2, 3, 4]", size=(4, 3, 6), mode="nearest"),
    _resize_case("nearest-scales", "f32[B, 2, 5, 5]", size=(11, 11), mode="nearest", scales=(2.3, 2.3)),
    _resize_case("nearest-exact", "f32[B, 2, 5, 7]", size=(8, 3), mode="nearest-exact"),
    _resize_case("linear-1d", "f32[B, 2, 5]", size=(8,), mode="linear"),
    _resize_case("linear", "f32[B, C, 5, 7]", size=(9, 4), mode="linear"),
    _resize_case("linear-corners", "f32[B, 2, 5, 7]", size=(10, 14), mode="linear", align_corners=True),
    _resize_case("linear-scales", "f32[B, 2, 5, 6]", size=(12, 15), mode="linear", scales=(2.5, 2.5)),
    _resize_case("linear-3d", "f32[B, 2, 3, 4, 5]", size=(5, 4, 7), mode="linear"),
    _resize_case("cubic", "f32[B, 2, 6, 7]", size=(9, 11), mode="cubic"),
    _resize_case("cubic-corners", "f32[B, 2, 6, 7]", size=(9, 3), mode="cubic", align_corners=True),
    Case("resize", ("f32[B, 2, 12, 14]",), {"size": (5, 6), "mode": "linear", "antialias": True}, label="antialias",
         special=False),
]


def _grid_sample(x: np.ndarray, grid: np.ndarray, *, mode: str, padding: str, align_corners: bool) -> np.ndarray:
    """Bilinear and nearest with zeros or border padding, over two spatial axes."""
    height, width = x.shape[2:]
    out = np.zeros((*x.shape[:2], *grid.shape[1:-1]))
    for n, i, j in np.ndindex(*grid.shape[:-1]):
        u, v = grid[n, i, j]
        if align_corners:
            u, v = (u + 1) / 2 * (width - 1), (v + 1) / 2 * (height - 1)
        else:
            u, v = ((u + 1) * width - 1) / 2, ((v + 1) * height - 1) / 2
        if padding == "border":
            u, v = np.clip(u, 0, width - 1), np.clip(v, 0, height - 1)
        left, top = int(np.floor(u)), int(np.floor(v))
        corners = [(top + a, left + b, (1 - abs(v - top - a)) * (1 - abs(u - left - b))) for a in (0, 1) for b in (0,
                                                                                                                   1)]
        if mode == "nearest":
            corners = [(int(np.rint(v)), int(np.rint(u)), 1.0)]
        for row, column, weight in corners:
            if 0 <= row < height and 0 <= column < width:
                out[n, :, i, j] += weight * x[n, :, row, column]
    return out


_SAMPLE = [
    Case("grid_sample", ("f32[B, 3, 5, 6]", "f32[B, 4, 3, 2]"),
         {"mode": mode, "padding": padding, "align_corners": corners},
         label=f"{mode}-{padding}-{corners}", fills={1: between(-1.3, 1.3)}, special=False,
         expect=_grid_sample if padding != "reflection" and mode != "bicubic" else None)
    for mode, padding, corners in (
        ("bilinear", "zeros", False), ("bilinear", "border", True), ("nearest", "zeros", True),
        ("nearest", "border", False), ("bilinear", "reflection", False), ("bicubic", "zeros", False),
    )
]

CASES = [*_CONV, *_POOL, *_RESIZE, *_SAMPLE]
