"""Resampling of spatial axes: resize and grid_sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.errors import IRError
from mcomp.ir import dims
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Attr, Cost, Op, Tolerance, operands, register, total_bytes
from mcomp.ops.checks import need_dim, need_float, need_rank, present, same_dtype

Types = Sequence[TensorType | None]
Attrs = Mapping[str, Any]

_RANKS = {"nearest": (1, 2, 3), "nearest-exact": (1, 2, 3), "linear": (1, 2, 3), "cubic": (2,)}
_TAPS = {"nearest": 1, "nearest-exact": 1, "linear": 2, "cubic": 4}


@register
class Resize(Op):
    """x[N, C, *S] resampled to `size`: [N, C, *size].

    mode: nearest (source index floor(i * S / size)), nearest-exact (pixel centres), linear (over all spatial axes),
    cubic (two axes, a = -0.75). `align_corners` maps corner centres to corner centres (linear, cubic). `scales`, one
    number or none per axis, replaces size / S in the coordinates. `antialias` widens the kernel when shrinking (linear
    and cubic over two axes).
    """

    name = "resize"
    operands = operands("x")
    attrs = (
        Attr("size", "dim[]"), Attr("mode", "str", "nearest"), Attr("align_corners", "bool", False),
        Attr("scales", "any", None), Attr("antialias", "bool", False),
    )
    tolerance = Tolerance.APPROXIMATE

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x, mode = present(types, 0, "x"), attrs["mode"]
        need_rank(x, "x", 3, 5)
        spatial = x.rank - 2
        if mode not in _RANKS:
            raise IRError(f"there is no mode {mode}", help=f"modes: {', '.join(_RANKS)}")
        if spatial not in _RANKS[mode]:
            raise IRError(f"mode {mode} works on {_RANKS[mode][0]} spatial axes, not {spatial}")
        if not mode.startswith("nearest"):
            need_float(x, "x")
        elif attrs["align_corners"]:
            raise IRError(f"align_corners has no meaning for mode {mode}")
        if attrs["antialias"] and (spatial != 2 or mode.startswith("nearest")):
            raise IRError("antialias works for linear and cubic over two spatial axes")
        scales = attrs["scales"]
        for name in ("size", "scales"):
            if attrs[name] is not None and len(attrs[name]) != spatial:
                raise IRError(f"{name} has {len(attrs[name])} entries for {spatial} spatial axes")
        if scales is not None and any(s is not None and not s > 0 for s in scales):
            raise IRError(f"scales {list(scales)} are not all positive")
        return (TensorType((*x.shape[:2], *attrs["size"]), x.dtype),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        taps = _TAPS[attrs["mode"]] ** len(attrs["size"])
        return Cost(dims.mul(2 * taps, results[0].numel), total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        import torch

        x, mode = inputs[0], attrs["mode"]
        spatial = x.dim() - 2
        scales = attrs["scales"] if attrs["scales"] is not None else (None,) * spatial
        name = {
            "nearest": f"upsample_nearest{spatial}d",
            "nearest-exact": f"_upsample_nearest_exact{spatial}d",
            "linear": ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")[spatial - 1],
            "cubic": "upsample_bicubic2d",
        }[mode]
        if attrs["antialias"]:
            name = f"_{name}_aa"
        corners = () if mode.startswith("nearest") else (attrs["align_corners"],)
        return getattr(torch.ops.aten, name).default(x, list(attrs["size"]), *corners, *scales)


@register
class GridSample(Op):
    """x[N, C, *S] sampled at grid[N, *P, axes], coordinates from -1 to 1, last spatial axis first: [N, C, *P].

    mode: bilinear, nearest, or bicubic (two spatial axes); padding: zeros, border or reflection.
    """

    name = "grid_sample"
    operands = operands("x", "grid")
    attrs = (Attr("mode", "str", "bilinear"), Attr("padding", "str", "zeros"), Attr("align_corners", "bool", False))
    tolerance = Tolerance.APPROXIMATE

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x, grid = present(types, 0, "x"), present(types, 1, "grid")
        need_rank(x, "x", 4, 5)
        need_rank(grid, "grid", x.rank)
        need_float(x, "x")
        same_dtype({"x": x, "grid": grid})
        need_dim(grid, "grid", 0, x.shape[0], "the batch size of x")
        need_dim(grid, "grid", -1, x.rank - 2, "the number of spatial axes")
        for name, known in (("mode", _SAMPLE_MODES), ("padding", _SAMPLE_PADDING)):
            if attrs[name] not in known:
                raise IRError(f"there is no {name} {attrs[name]}", help=f"there is: {', '.join(known)}")
        if attrs["mode"] == "bicubic" and x.rank != 4:
            raise IRError("mode bicubic works on two spatial axes")
        return (TensorType((*x.shape[:2], *grid.shape[1:-1]), x.dtype),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        taps = {"nearest": 1, "bilinear": 2, "bicubic": 4}[attrs["mode"]] ** (len(results[0].shape) - 2)
        return Cost(dims.mul(2 * taps + 6, results[0].numel), total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        from torch.nn.functional import grid_sample

        return grid_sample(inputs[0], inputs[1], attrs["mode"], attrs["padding"], attrs["align_corners"])


_SAMPLE_MODES = ("bilinear", "nearest", "bicubic")
_SAMPLE_PADDING = ("zeros", "border", "reflection")
