"""Pooling over windows and to a given size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.errors import IRError
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Attr, Cost, Op, Tolerance, operands, register, total_bytes
from mcomp.ops.checks import need_float, need_rank, padding_pairs, per_axis, present
from mcomp.ops.conv import window_size

Types = Sequence[TensorType | None]
Attrs = Mapping[str, Any]


def pooled_size(size: Dim, kernel: int, stride: int, padding: tuple[int, int], dilation: int, ceil: bool) -> Dim:
    """Windows along an axis. `ceil` also counts a window that sticks out at the end, if it starts inside of the axis or
    of its low padding."""
    low, high = padding
    if not ceil:
        return window_size(size, kernel, stride, low, high, dilation)
    count = window_size(size, kernel, stride, low, high + stride - 1, dilation)
    return dims.minimum(count, dims.add(dims.floordiv(dims.add(size, low - 1), stride), 1))


def _pooled_shape(x: TensorType, attrs: Attrs) -> tuple[Dim, ...]:
    need_rank(x, "x", 3, 5)
    spatial = x.rank - 2
    kernel = per_axis(attrs["kernel"], spatial, "kernel", 1)
    stride = per_axis(attrs["stride"], spatial, "stride", 1)
    dilation = per_axis(attrs.get("dilation", (1,) * spatial), spatial, "dilation", 1)
    pairs = padding_pairs(attrs["padding"], spatial)
    for k, d, pair in zip(kernel, dilation, pairs):
        if max(pair) > (d * (k - 1) + 1) // 2:
            raise IRError(f"padding {list(pair)} is more than half of a window that spans {d * (k - 1) + 1}")
    sizes = [
        pooled_size(x.shape[2 + i], kernel[i], stride[i], pairs[i], dilation[i], attrs["ceil"])
        for i in range(spatial)
    ]
    return (x.shape[0], x.shape[1], *sizes)


def _window_cost(types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
    flops = dims.mul(results[0].numel, dims.product(attrs["kernel"]))
    return Cost(flops, total_bytes(types), total_bytes(results))


def _padded(x: Any, attrs: Attrs, value: float | int) -> Any:
    """x with its padding, and with what windows that stick out need, written out."""
    import torch.nn.functional as F

    pads: list[int] = []
    dilation = attrs.get("dilation", (1,) * len(attrs["kernel"]))
    for i, (kernel, stride, (low, high)) in enumerate(zip(attrs["kernel"], attrs["stride"], attrs["padding"])):
        count = pooled_size(x.shape[2 + i], kernel, stride, (low, high), dilation[i], attrs["ceil"])
        needed = dims.evaluate(count, {}) - 1
        end = needed * stride + dilation[i] * (kernel - 1) + 1
        pads = [low, max(high, end - x.shape[2 + i] - low), *pads]
    return F.pad(x, pads, value=value)


def _symmetric(attrs: Attrs) -> bool:
    return all(low == high for low, high in attrs["padding"])


@register
class MaxPool(Op):
    """The largest element of each window of x[N, C, *S]; padding never wins. NaN does."""

    name = "max_pool"
    operands = operands("x")
    attrs = (
        Attr("kernel", "int[]"), Attr("stride", "int[]"), Attr("padding", "any[]"), Attr("dilation", "int[]"),
        Attr("ceil", "bool", False),
    )
    tolerance = Tolerance.EXACT

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x = present(types, 0, "x")
        return (TensorType(_pooled_shape(x, attrs), x.dtype),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        return _window_cost(types, results, attrs)

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        import torch
        import torch.nn.functional as F

        x = inputs[0]
        function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[x.dim() - 3]
        kernel, stride, dilation = list(attrs["kernel"]), list(attrs["stride"]), list(attrs["dilation"])
        if _symmetric(attrs):
            return function(x, kernel, stride, [low for low, _ in attrs["padding"]], dilation, attrs["ceil"])
        lowest = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
        padded = _padded(x, attrs, lowest)
        shape = [
            dims.evaluate(pooled_size(s, k, t, pair, d, attrs["ceil"]), {})
            for s, k, t, pair, d in zip(x.shape[2:], kernel, stride, attrs["padding"], dilation)
        ]
        out = function(padded, kernel, stride, 0, dilation)
        return out[(slice(None), slice(None), *(slice(0, s) for s in shape))]


@register
class MaxPoolWithIndex(Op):
    """Like max_pool with symmetric padding, and the place of each winner: (values, indices i64), an index counting
    elements of the unpadded spatial axes, flattened."""

    name = "max_pool_with_index"
    operands = operands("x")
    attrs = MaxPool.attrs
    tolerance = Tolerance.EXACT

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x = present(types, 0, "x")
        shape = _pooled_shape(x, attrs)
        if not _symmetric(attrs):
            raise IRError("indices need the same padding at both ends of an axis", help="pad x first")
        return (TensorType(shape, x.dtype), TensorType(shape, dtypes.i64))

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        return _window_cost(types, results, attrs)

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        import torch.nn.functional as F

        x = inputs[0]
        function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[x.dim() - 3]
        return function(
            x, list(attrs["kernel"]), list(attrs["stride"]), [low for low, _ in attrs["padding"]],
            list(attrs["dilation"]), attrs["ceil"], return_indices=True,
        )


@register
class AvgPool(Op):
    """The mean of each window of x[N, C, *S].

    A window's sum is divided by `divisor` if given, else by how many elements it has inside of the padded axes
    (`count_padding`) or of the unpadded ones.
    """

    name = "avg_pool"
    operands = operands("x")
    attrs = (
        Attr("kernel", "int[]"), Attr("stride", "int[]"), Attr("padding", "any[]"), Attr("ceil", "bool", False),
        Attr("count_padding", "bool", True), Attr("divisor", "int?", None),
    )

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x = present(types, 0, "x")
        shape = _pooled_shape(x, attrs)
        need_float(x, "x")
        if attrs["divisor"] == 0:
            raise IRError("divisor is 0")
        return (TensorType(shape, x.dtype),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        return _window_cost(types, results, attrs)

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        import torch
        import torch.nn.functional as F

        x = inputs[0]
        spatial = x.dim() - 2
        kernel, stride, divisor = list(attrs["kernel"]), list(attrs["stride"]), attrs["divisor"]
        if _symmetric(attrs) and (divisor is None or spatial > 1):
            function: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[spatial - 1]
            args = [x, kernel, stride, [low for low, _ in attrs["padding"]], attrs["ceil"], attrs["count_padding"]]
            return function(*args) if divisor is None else function(*args, divisor)
        windows = _padded(x, attrs, 0.0)
        for i in range(spatial):
            windows = windows.unfold(2 + i, kernel[i], stride[i])
        windows = windows.sum(tuple(range(2 + spatial, 2 + 2 * spatial)))
        count = torch.ones((), dtype=x.dtype)
        for i, (low, high) in enumerate(attrs["padding"]):
            size = x.shape[2 + i]
            wanted = dims.evaluate(pooled_size(size, kernel[i], stride[i], (low, high), 1, attrs["ceil"]), {})
            windows = windows.narrow(2 + i, 0, wanted)
            start = torch.arange(wanted) * stride[i] - low
            if attrs["count_padding"]:
                inside = (start + kernel[i]).clamp(max=size + high) - start
            else:
                inside = (start + kernel[i]).clamp(max=size) - start.clamp(min=0)
            count = count * inside.to(x.dtype).reshape([-1 if a == i else 1 for a in range(spatial)])
        return windows / (count if divisor is None else divisor)


class _AdaptivePool(Op):
    operands = operands("x")
    attrs = (Attr("size", "dim[]"),)

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x = present(types, 0, "x")
        need_rank(x, "x", 3, 5)
        if len(attrs["size"]) != x.rank - 2:
            raise IRError(f"size has {len(attrs['size'])} entries for {x.rank - 2} spatial axes")
        return (TensorType((*x.shape[:2], *attrs["size"]), x.dtype),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        return Cost(present(types, 0, "x").numel, total_bytes(types), total_bytes(results))


@register
class AdaptiveAvgPool(_AdaptivePool):
    """Means of x[N, C, *S] over windows that divide each axis into `size` parts; window i covers
    floor(i * S / size) up to ceil((i + 1) * S / size)."""

    name = "adaptive_avg_pool"

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        need_float(present(types, 0, "x"), "x")
        return super().infer(types, attrs)

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        import torch.nn.functional as F

        x = inputs[0]
        return (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[x.dim() - 3](x, attrs["size"])


@register
class AdaptiveMaxPool(_AdaptivePool):
    """Maxima over the windows of adaptive_avg_pool; one result, no indices."""

    name = "adaptive_max_pool"
    tolerance = Tolerance.EXACT

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        import torch.nn.functional as F

        x = inputs[0]
        return (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[x.dim() - 3](x, attrs["size"])
