"""Importers of operators that make tensors out of numbers."""

from __future__ import annotations

from typing import Any

import torch

from mcomp.capture.importing import Call, Decline, imports
from mcomp.ir import dtypes
from mcomp.ir.dims import Expr
from mcomp.ir.graph import Value


def fill(call: Call, number: Any) -> Value:
    """The result's shape and element type, filled with a number."""
    return call.full(number, call.result.dtype, call.result.shape)


FILLS = {"zeros": 0, "ones": 1, "zeros_like": 0, "ones_like": 1, "new_zeros": 0, "new_ones": 1}


def _filled(call: Call) -> Value:
    return fill(call, FILLS[call.name.split(".")[1]])


for _name in FILLS:
    imports(f"aten.{_name}.default")(_filled)


@imports("aten.full.default", "aten.full_like.default", "aten.new_full.default", "aten.fill.Scalar")
def full(call: Call) -> Value:
    value = call["value"] if ".fill." in call.name else call["fill_value"]
    return _spread(call, value) if isinstance(value, Value) else fill(call, value)


@imports("aten.fill.Tensor")
def fill_tensor(call: Call) -> Value:
    return _spread(call, call.value("value"))


def _spread(call: Call, value: Value) -> Value:
    return call.expand(call.cast(value, call.result.dtype), call.result.shape)


@imports("aten.scalar_tensor.default")
def scalar_tensor(call: Call) -> Value:
    value = call["s"]
    return call.cast(value, call.result.dtype) if isinstance(value, Value) else fill(call, value)


@imports("aten.empty.memory_format", "aten.empty_like.default", "aten.new_empty.default", "aten.empty_permuted.default",
         "aten.empty_strided.default", "aten.new_empty_strided.default")
def empty(call: Call) -> Value:
    return fill(call, 0)


@imports("aten.arange.default", "aten.arange.start", "aten.arange.start_step")
def arange(call: Call) -> Value:
    start, step = call.get("start", 0), call.get("step", 1)
    dtype = call.result.dtype
    if isinstance(start, Value) or isinstance(step, Value):
        raise Decline("its start or step is computed at run time")
    if dtype.is_float and not isinstance(start, Expr):
        start, step = float(start), float(step)
    if dtype.is_int and isinstance(step, float):
        start, step = (int(start) if isinstance(start, float) else start), int(step)
    return call.emit("arange", [], start=start, step=step, length=call.result.shape[0], dtype=dtype)


@imports("aten.linspace.default")
def linspace(call: Call) -> Value:
    start, end, count = call["start"], call["end"], call.result.shape[0]
    if isinstance(start, Value) or isinstance(end, Value) or not isinstance(count, int):
        raise Decline("its bounds are computed at run time")
    dtype = dtypes.to_torch(call.result.dtype)
    assert isinstance(dtype, torch.dtype)
    values = torch.linspace(start, end, count, dtype=dtype)
    if not call.result.dtype.is_numpy_native:
        raise Decline(f"numpy lacks {call.result.dtype}")
    return call.editor.const(values.numpy(), name=call.node.name, loc=call.loc)


@imports("aten.eye.default", "aten.eye.m")
def eye(call: Call) -> Value:
    rows, columns = call.result.shape
    return call.emit("eye", [], rows=rows, columns=columns, dtype=call.result.dtype)


@imports("aten.tril_indices.default", "aten.triu_indices.default")
def triangle_indices(call: Call) -> Value:
    function = torch.tril_indices if "tril" in call.name else torch.triu_indices
    if isinstance(call["row"], Expr) or isinstance(call["col"], Expr):
        raise Decline("its size is symbolic")
    indices = function(call["row"], call["col"], call["offset"])
    return call.cast(call.editor.const(indices.numpy(), name=call.node.name, loc=call.loc), call.result.dtype)


# random


@imports("aten.rand.default", "aten.rand_like.default", "aten.randn.default", "aten.randn_like.default")
def random(call: Call) -> Value:
    op = "randn" if "randn" in call.name else "rand"
    return call.emit(op, [], shape=call.result.shape, dtype=call.result.dtype)


@imports("aten.randint.default", "aten.randint.low", "aten.randint_like.default", "aten.randint_like.low_dtype")
def randint(call: Call) -> Value:
    low, high = call.get("low", 0), call["high"]
    return call.emit("randint", [], low=low, high=high, shape=call.result.shape, dtype=call.result.dtype)


@imports("aten.bernoulli.default", "aten.multinomial.default")
def draw(call: Call) -> Value:
    if "bernoulli" in call.name:
        return call.emit("bernoulli", [call.value("self")])
    return call.emit(
        "multinomial", [call.value("self")], samples=call["num_samples"], replacement=call["replacement"]
    )


@imports("aten.one_hot.default")
def one_hot(call: Call) -> Value:
    value, classes = call.value("self"), call.result.shape[-1]
    dtype = value.tensor.dtype
    steps = call.emit("arange", [], start=0, step=1, length=classes, dtype=dtype)
    same = call.emit("eq", [call.unsqueeze(value, [value.tensor.rank]), steps])
    return call.cast(same, call.result.dtype)


