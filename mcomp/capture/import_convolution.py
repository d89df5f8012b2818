"""Importers of convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from mcomp.capture.importing import Call, Decline, imports, pair
from mcomp.ir.graph import Value


@imports("aten.convolution.default")
def convolution(call: Call) -> Value:
    return _transposed(call) if call["transposed"] else _conv(call)


@imports("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default", "aten.conv1d.padding",
         "aten.conv2d.padding", "aten.conv3d.padding")
def conv(call: Call) -> Value:
    return _conv(call)


def _conv(call: Call) -> Value:
    x, weight = call.value("input"), call.value("weight")
    spatial = weight.tensor.rank - 2
    dilation = pair(call["dilation"], spatial)
    padding = call["padding"]
    if isinstance(padding, str):
        pairs = _named_padding(padding, weight, dilation)
    else:
        pairs = [(amount, amount) for amount in pair(padding, spatial)]
    return batched(call, "conv", x, [weight, call.maybe("bias")], spatial, stride=pair(call["stride"], spatial),
                   padding=tuple(pairs), dilation=dilation, groups=call["groups"])


def _named_padding(word: str, weight: Value, dilation: Sequence[int]) -> list[tuple[int, int]]:
    if word == "valid":
        return [(0, 0)] * len(dilation)
    pairs = []
    for kernel, step in zip(weight.tensor.shape[2:], dilation, strict=True):
        if not isinstance(kernel, int):
            raise Decline("its kernel has a symbolic size")
        whole = step * (kernel - 1)
        pairs.append((whole // 2, whole - whole // 2))
    return pairs


@imports("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
def conv_transpose(call: Call) -> Value:
    return _transposed(call)


def _transposed(call: Call) -> Value:
    x, weight = call.value("input"), call.value("weight")
    spatial = weight.tensor.rank - 2
    return batched(
        call, "conv_transpose", x, [weight, call.maybe("bias")], spatial, stride=pair(call["stride"], spatial),
        padding=pair(call["padding"], spatial), output_padding=pair(call["output_padding"], spatial),
        dilation=pair(call["dilation"], spatial), groups=call["groups"],
    )


def batched(call: Call, op: str, x: Value, rest: Sequence[Value | None], spatial: int, **attrs: object) -> Value:
    """An operator over x[N, C, *S]; an input without a batch axis gets one for the while."""
    if x.tensor.rank == spatial + 2:
        return call.emit(op, [x, *rest], **attrs)
    return call.squeeze(call.emit(op, [call.unsqueeze(x, [0]), *rest], **attrs), [0])
