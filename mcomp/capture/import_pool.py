"""Importers of pooling and resizing."""

from __future__ import annotations

from typing import Any

from mcomp.capture.import_convolution import batched
from mcomp.capture.importing import Call, Decline, imports, pair
from mcomp.ir.graph import Value


def _spatial(call: Call) -> int:
    return next(n for n in (1, 2, 3) if f"{n}d" in call.name)


def _padding(amounts: Any, spatial: int) -> tuple[tuple[int, int], ...]:
    return tuple((amount, amount) for amount in pair(amounts, spatial))


def only_first(call: Call) -> bool:
    """Whether nothing uses more than the first result."""
    return all(user.args[1] == 0 for user in call.node.users if len(user.args) > 1 and isinstance(user.args[1], int))


@imports("aten.max_pool1d.default", "aten.max_pool2d.default", "aten.max_pool3d.default",
         "aten.max_pool2d_with_indices.default", "aten.max_pool3d_with_indices.default",
         "aten.max_pool1d_with_indices.default")
def max_pool(call: Call) -> Value | tuple[Value | None, ...]:
    n = _spatial(call)
    x = call.value("self")
    kernel = pair(call["kernel_size"], n)
    stride = pair(call["stride"], n) if call["stride"] not in ([], None) else kernel
    attrs = {"kernel": kernel, "stride": stride, "padding": _padding(call["padding"], n),
             "dilation": pair(call["dilation"], n), "ceil": bool(call["ceil_mode"])}
    if "indices" in call.name and not only_first(call):
        if x.tensor.rank != n + 2:
            raise Decline("its input has no batch axis")
        return call.emit_many("max_pool_with_index", [x], **attrs)
    made = batched(call, "max_pool", x, [], n, **attrs)
    return (made, None) if "indices" in call.name else made


@imports("aten.avg_pool1d.default", "aten.avg_pool2d.default", "aten.avg_pool3d.default")
def avg_pool(call: Call) -> Value:
    n = _spatial(call)
    kernel = pair(call["kernel_size"], n)
    stride = pair(call["stride"], n) if call["stride"] not in ([], None) else kernel
    return batched(
        call, "avg_pool", call.value("self"), [], n, kernel=kernel, stride=stride, padding=_padding(call["padding"], n),
        ceil=bool(call["ceil_mode"]), count_padding=bool(call["count_include_pad"]), divisor=call.get("divisor_override"),
    )


@imports("aten.adaptive_avg_pool1d.default", "aten.adaptive_avg_pool2d.default", "aten.adaptive_avg_pool3d.default",
         "aten._adaptive_avg_pool2d.default", "aten._adaptive_avg_pool3d.default")
def adaptive_avg_pool(call: Call) -> Value:
    n = _spatial(call)
    x, size = call.value("self"), tuple(call["output_size"])
    if all(one == 1 for one in size):
        rank = x.tensor.rank
        return call.emit("mean", [x], axes=tuple(range(rank - n, rank)), keepdim=True)
    return batched(call, "adaptive_avg_pool", x, [], n, size=size)


@imports("aten.adaptive_max_pool1d.default", "aten.adaptive_max_pool2d.default", "aten.adaptive_max_pool3d.default")
def adaptive_max_pool(call: Call) -> tuple[Value, None]:
    if not only_first(call):
        raise Decline("its indices are used")
    n = _spatial(call)
    return batched(call, "adaptive_max_pool", call.value("self"), [], n, size=tuple(call["output_size"])), None


MODES = {
    "upsample_nearest": "nearest", "_upsample_nearest_exact": "nearest-exact", "upsample_linear": "linear",
    "upsample_bilinear": "linear", "upsample_trilinear": "linear", "upsample_bicubic": "cubic",
    "_upsample_bilinear": "linear", "_upsample_bicubic": "cubic",
}


def _resize(call: Call) -> Value:
    name = call.name.split(".")[1]
    family = name.removesuffix("_aa").rstrip("d").rstrip("123")
    x = call.value("input" if "input" in call.arguments else "self")
    factors = call.get("scale_factors")
    if factors is None:
        given = [call.get(key) for key in ("scales_d", "scales_h", "scales_w", "scales") if key in call.arguments]
        factors = given if given and all(one is not None for one in given) else None
    scales = None if factors is None else tuple(float(one) for one in factors)
    return call.emit(
        "resize", [x], size=call.result.shape[2:], mode=MODES[family], align_corners=bool(call.get("align_corners", False)),
        scales=scales, antialias=name.endswith("_aa"),
    )


for _name in ("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
              "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d",
              "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"):
    imports(f"aten.{_name}.vec", f"aten.{_name}.default")(_resize)


@imports("aten.grid_sampler.default", "aten.grid_sampler_2d.default", "aten.grid_sampler_3d.default")
def grid_sample(call: Call) -> Value:
    modes, paddings = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")
    return call.emit(
        "grid_sample", [call.value("input"), call.value("grid")], mode=modes[call["interpolation_mode"]],
        padding=paddings[call["padding_mode"]], align_corners=bool(call["align_corners"]),
    )
