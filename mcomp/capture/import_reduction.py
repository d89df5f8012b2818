"""Importers of reductions and scans."""

from __future__ import annotations

from collections.abc import Sequence

from mcomp.capture.import_elementwise import truth
from mcomp.capture.importing import Call, Decline, axes_of, axis_of, imports
from mcomp.ir import dims
from mcomp.ir.graph import Value


def reduced(call: Call, op: str, value: Value, **attrs: object) -> Value:
    """A reduction over the axes that the call names; itself when there are none."""
    axes = axes_of(call.get("dim"), value.tensor.rank)
    if not axes:
        return value
    return call.emit(op, [value], axes=axes, keepdim=bool(call.get("keepdim", False)), **attrs)


@imports("aten.sum.default", "aten.sum.dim_IntList", "aten.mean.default", "aten.mean.dim", "aten.prod.default",
         "aten.prod.dim_int")
def total(call: Call) -> Value:
    return reduced(call, call.name.split(".")[1], call.cast(call.value("self"), call.result.dtype))


@imports("aten.amax.default", "aten.amin.default", "aten.max.default", "aten.min.default")
def extreme(call: Call) -> Value:
    op = "amax" if "max" in call.name else "amin"
    value = call.value("self")
    if value.tensor.dtype.kind == "bool":
        return reduced(call, "any" if op == "amax" else "all", value)
    return reduced(call, op, value)


@imports("aten.any.default", "aten.any.dim", "aten.any.dims", "aten.all.default", "aten.all.dim", "aten.all.dims")
def logical(call: Call) -> Value:
    made = reduced(call, call.name.split(".")[1], truth(call, call.value("self")))
    return call.cast(made, call.result.dtype)


@imports("aten.logsumexp.default")
def logsumexp(call: Call) -> Value:
    return reduced(call, "logsumexp", call.cast(call.value("self"), call.result.dtype))


@imports("aten.var.correction", "aten.std.correction", "aten.var.dim", "aten.std.dim", "aten.var.default",
         "aten.std.default")
def spread(call: Call) -> Value:
    return reduced(call, call.name.split(".")[1], call.value("self"), correction=_correction(call))


def _correction(call: Call) -> float:
    if call.get("unbiased") is not None:
        return float(call["unbiased"])
    return float(call.get("correction", 1.0))


@imports("aten.var_mean.correction", "aten.std_mean.correction", "aten.var_mean.dim", "aten.std_mean.dim")
def spread_and_mean(call: Call) -> list[Value]:
    op = call.name.split(".")[1].removesuffix("_mean")
    value = call.value("self")
    return [reduced(call, op, value, correction=_correction(call)), reduced(call, "mean", value)]


@imports("aten.linalg_vector_norm.default", "aten.norm.ScalarOpt_dim", "aten.norm.Scalar", "aten.norm.ScalarOpt_dtype",
         "aten.norm.ScalarOpt_dim_dtype")
def norm(call: Call) -> Value:
    value = call.value("self")
    if value.tensor.dtype.kind == "complex":
        value = call.emit("abs", [value])
    value = call.cast(value, call.result.dtype)
    order = call.get("ord", call.get("p", 2))
    if value.tensor.rank == 0:
        return call.emit("abs", [value])
    return reduced(call, "norm", value, p=float(order))


@imports("aten.count_nonzero.default", "aten.count_nonzero.dim_IntList")
def count_nonzero(call: Call) -> Value:
    return reduced(call, "sum", call.cast(truth(call, call.value("self")), call.result.dtype))


@imports("aten.argmax.default", "aten.argmin.default")
def arg(call: Call) -> Value:
    value = call.value("self")
    axis = None if call["dim"] is None else axis_of(call["dim"], value.tensor.rank)
    if value.tensor.rank == 0:
        raise Decline("its tensor has no dimensions")
    return call.emit(call.name.split(".")[1], [value], axis=axis, keepdim=call["keepdim"])


@imports("aten.max.dim", "aten.min.dim", "aten.median.dim", "aten.cummax.default", "aten.cummin.default")
def with_index(call: Call) -> Sequence[Value]:
    value = call.value("self")
    name = call.name.split(".")[1]
    if value.tensor.rank == 0:
        raise Decline("its tensor has no dimensions")
    axis = axis_of(call["dim"], value.tensor.rank)
    if name.startswith("cum"):
        return call.emit_many(name, [value], axis=axis)
    return call.emit_many(f"{name}_with_index", [value], axis=axis, keepdim=call["keepdim"])


@imports("aten.cumsum.default", "aten.cumprod.default", "aten.logcumsumexp.default")
def scan(call: Call) -> Value:
    value = call.cast(call.value("self"), call.result.dtype)
    if value.tensor.rank == 0:
        return value
    return call.emit(call.name.split(".")[1], [value], axis=axis_of(call["dim"], value.tensor.rank))


@imports("aten.diff.default")
def diff(call: Call) -> Value:
    value = call.value("self")
    axis = axis_of(call["dim"], value.tensor.rank)
    extra = [call.maybe("prepend"), call.maybe("append")]
    parts = [part for part in (extra[0], value, extra[1]) if part is not None]
    if len(parts) > 1:
        value = call.emit("cat", [call.cast(part, call.result.dtype) for part in parts], axis=axis)
    op = "logical_xor" if value.tensor.dtype.kind == "bool" else "sub"
    for _ in range(call["n"]):
        size = value.tensor.shape[axis]
        high = call.emit("slice", [value], axis=axis, start=dims.minimum(1, size), stop=size)
        low = call.emit("slice", [value], axis=axis, start=0, stop=dims.maximum(dims.add(size, -1), 0))
        value = call.emit(op, [high, low])
    return value


@imports("aten.histc.default")
def histc(call: Call) -> Value:
    value, bins, low, high = call.value("self"), call["bins"], call["min"], call["max"]
    dtype = value.tensor.dtype
    if not isinstance(low, int | float) or not isinstance(high, int | float) or low >= high or bins > 4096:
        raise Decline("its range comes from the data")
    flat = call.reshape(value, (value.tensor.numel,))
    scaled = call.emit("mul", [call.emit("sub", [flat, call.full(low, dtype)]), call.full(bins, dtype)])
    place = call.emit("floor", [call.emit("div", [scaled, call.full(high - low, dtype)])])
    place = call.emit("minimum", [place, call.full(bins - 1, dtype)])
    inside = call.emit("logical_and", [
        call.emit("ge", [flat, call.full(low, dtype)]), call.emit("le", [flat, call.full(high, dtype)]),
    ])
    column = call.emit("where", [inside, place, call.full(-1, dtype)])
    numbers = call.emit("arange", [], start=0.0 if dtype.is_float else 0, step=1.0 if dtype.is_float else 1, length=bins,
                        dtype=dtype)
    hits = call.emit("eq", [call.unsqueeze(column, [1]), numbers])
    return call.emit("sum", [call.cast(hits, call.result.dtype)], axes=(0,))
