"""Importers of normalizations and softmax."""

from __future__ import annotations

import torch

from mcomp.capture.importing import Call, Decline, axis_of, imports, torch_dtype
from mcomp.ir.dims import Dim
from mcomp.ir.graph import Value


@imports("aten.layer_norm.default", "aten.native_layer_norm.default")
def layer_norm(call: Call) -> Value | list[Value | None]:
    operands = [call.value("input"), call.maybe("weight"), call.maybe("bias")]
    made = call.emit("layer_norm", operands, axes_count=len(call["normalized_shape"]), eps=float(call["eps"]))
    return made if "native" not in call.name else [made, None, None]


@imports("aten.rms_norm.default", "aten._fused_rms_norm.default")
def rms_norm(call: Call) -> Value | list[Value | None]:
    x, weight = call.value("input"), call.maybe("weight")
    eps = torch.finfo(torch_dtype(x)).eps if call["eps"] is None else float(call["eps"])
    made = call.emit("rms_norm", [x, weight], axes_count=len(call["normalized_shape"]), eps=eps)
    return made if "fused" not in call.name else [made, None]


@imports("aten.group_norm.default", "aten.native_group_norm.default")
def group_norm(call: Call) -> Value | list[Value | None]:
    operands = [call.value("input"), call.maybe("weight"), call.maybe("bias")]
    groups = call["group"] if "group" in call.arguments else call["num_groups"]
    made = call.emit("group_norm", operands, groups=groups, eps=float(call["eps"]))
    return made if "native" not in call.name else [made, None, None]


@imports("aten._native_batch_norm_legit_no_training.default", "aten.batch_norm.default",
         "aten.native_batch_norm.default", "aten.cudnn_batch_norm.default")
def batch_norm(call: Call) -> Value | list[Value | None]:
    if call.get("training", False) or call.get("running_mean") is None:
        raise Decline("it takes its statistics from the batch")
    x = call.value("input")
    eps = float(call.get("eps", call.get("epsilon", 1e-5)))
    made = _normalized(call, x, eps)
    return made if call.name == "aten.batch_norm.default" else [made, None, None]


def _normalized(call: Call, x: Value, eps: float) -> Value:
    operands = [x, *(call.maybe(name) for name in ("running_mean", "running_var", "weight", "bias"))]
    return call.emit("batch_norm", operands, eps=eps)


@imports("aten.instance_norm.default")
def instance_norm(call: Call) -> Value:
    x = call.value("input")
    if not call["use_input_stats"]:
        return _normalized(call, x, float(call["eps"]))
    channels: Dim = x.tensor.shape[1]
    if not isinstance(channels, int):
        raise Decline("its channels are symbolic")
    operands = [x, call.maybe("weight"), call.maybe("bias")]
    return call.emit("group_norm", operands, groups=channels, eps=float(call["eps"]))


@imports("aten.softmax.int", "aten._softmax.default", "aten.log_softmax.int", "aten._log_softmax.default",
         "aten._safe_softmax.default", "aten.special_softmax.int", "aten.special_log_softmax.int")
def softmax(call: Call) -> Value:
    x = call.cast(call.value("self"), call.result.dtype)
    if x.tensor.rank == 0:
        raise Decline("its tensor has no dimensions")
    axis = axis_of(call["dim"], x.tensor.rank)
    made = call.emit("log_softmax" if "log_softmax" in call.name else "softmax", [x], axis=axis)
    if "_safe_" not in call.name:
        return made
    lowest = call.emit("amax", [x], axes=(axis,), keepdim=True)
    empty = call.emit("eq", [lowest, call.full(float("-inf"), x.tensor.dtype)])
    return call.emit("where", [empty, call.full(0.0, x.tensor.dtype), made])
