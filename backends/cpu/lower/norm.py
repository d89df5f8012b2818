"""Normalizations and softmax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mcomp.backend import Declined, lowers
from mcomp.backends.cpu.access import Access
from mcomp.backends.cpu.builder import TARGET, Builder, pointer
from mcomp.backends.cpu.cxx import Real, Size, c_type
from mcomp.backends.cpu.epilogue import HEADERS, Tail, functor, plain
from mcomp.backends.cpu.kernel import Kernel
from mcomp.backends.cpu.loops import channels_last
from mcomp.backends.cpu.lower.products import ANCHORS, FLOATS
from mcomp.ir import dims
from mcomp.ir.graph import Node, Value


def optional(value: Value | None, b: Builder) -> Access | None:
    """A dense access to an operand that may be absent."""
    return None if value is None else b.contiguous(value)


def _or_null(name: str, access: Access | None, x: Access) -> str:
    return name if access is not None else f"(const {c_type(x.dtype)}*)nullptr"


def _float(node: Node) -> Declined | None:
    dtype = node.operand(0).tensor.dtype
    return None if dtype in FLOATS else Declined(f"{dtype} has no kernel")


@lowers("layer_norm", "rms_norm", target=TARGET)
def lower_row_norm(node: Node, b: Builder) -> Declined | None:
    """Normalizes rows: the last `axes_count` axes together."""
    if (refused := _float(node)) is not None:
        return refused
    x = b.contiguous(node.operand(0))
    split = x.rank - node.attrs["axes_count"]
    weight, bias = optional(node.maybe(1), b), optional(node.maybe(2), b)
    out = b.write(node.result)
    numbers: dict[str, Size | Real] = {
        "rows": dims.product(x.shape[:split]), "n": dims.product(x.shape[split:]), "eps": Real(node.attrs["eps"])
    }
    if node.op.name == "layer_norm":
        text = f"layer_norm(w, x, y, {_or_null('weight', weight, x)}, {_or_null('bias', bias, x)}, rows, n, float(eps));"
    else:
        numbers["offset"] = Real(node.attrs["offset"])
        text = f"rms_norm(w, x, y, {_or_null('weight', weight, x)}, rows, n, float(eps), float(offset));"
    b.call(node.op.name, text, outs={"y": out}, ins={"x": x, "weight": weight, "bias": bias}, numbers=numbers,
           headers=("norm.hpp",))
    return None


@lowers("group_norm", target=TARGET)
def lower_group_norm(node: Node, b: Builder) -> Declined | None:
    """Normalizes groups of channels, channels first or last as the operand is."""
    if (refused := _float(node)) is not None:
        return refused
    if b.follow(node.result, node.operand(0)) is not None:
        return group_norm(node, plain(node), b)
    x = b.contiguous(node.operand(0))
    weight, bias = optional(node.maybe(1), b), optional(node.maybe(2), b)
    out = b.write(node.result)
    text = (
        f"group_norm(w, x, y, {_or_null('weight', weight, x)}, {_or_null('bias', bias, x)}, batch, channels, inner, groups, "
        "float(eps));"
    )
    numbers: dict[str, Size | Real] = {
        "batch": x.shape[0], "channels": x.shape[1], "inner": dims.product(x.shape[2:]), "groups": node.attrs["groups"],
        "eps": Real(node.attrs["eps"]),
    }
    b.call("group_norm", text, outs={"y": out}, ins={"x": x, "weight": weight, "bias": bias}, numbers=numbers,
           headers=("norm.hpp",))
    return None


@lowers("batch_norm", target=TARGET)
def lower_batch_norm(node: Node, b: Builder) -> Declined | None:
    """A scale and a shift per channel."""
    if (refused := _float(node)) is not None:
        return refused
    order = b.follow(node.result, node.operand(0))
    x = b.contiguous(node.operand(0), order)
    mean, variance = b.contiguous(node.operand(1)), b.contiguous(node.operand(2))
    weight, bias = optional(node.maybe(3), b), optional(node.maybe(4), b)
    out = b.write(node.result, order)
    outer, inner = x.shape[0], dims.product(x.shape[2:])
    if order is not None:
        outer, inner = dims.mul(outer, inner), 1
    text = (
        f"batch_norm(w, x, y, mean, variance, {_or_null('weight', weight, mean)}, {_or_null('bias', bias, mean)}, "
        "outer, channels, inner, float(eps));"
    )
    b.call("batch_norm", text, outs={"y": out}, headers=("norm.hpp",),
           ins={"x": x, "mean": mean, "variance": variance, "weight": weight, "bias": bias},
           numbers={"outer": outer, "channels": x.shape[1], "inner": inner, "eps": Real(node.attrs["eps"])})
    return None


def around(x: Access, axis: int) -> Mapping[str, Size]:
    """[outer, n, inner] of a dense tensor about an axis."""
    return {
        "outer": dims.product(x.shape[:axis]), "n": x.shape[axis] if x.rank else 1,
        "inner": dims.product(x.shape[axis + 1 :]),
    }


@lowers("softmax", "log_softmax", target=TARGET)
def lower_softmax(node: Node, b: Builder) -> Declined | None:
    if (refused := _float(node)) is not None:
        return refused
    order = None
    if node.attrs["axis"] == 1 and b.follow(node.result, node.operand(0)) is not None:
        order = channels_last(node.type.rank)
    x = b.contiguous(node.operand(0), order)
    out = b.write(node.result, order)
    axis = node.attrs["axis"]
    numbers = around(x, axis) if order is None else around(x.permute(order), x.rank - 1)
    b.call(node.op.name, f"{node.op.name}(w, x, y, outer, n, inner);", outs={"y": out}, ins={"x": x}, numbers=numbers,
           headers=("softmax.hpp",))
    return None


_SHORT = 64
"""Lines shorter than this are no rows for an epilogue: what is left of vectors at their ends costs more than it saves."""


def _with_epilogue(
    node: Node, tail: Tail, b: Builder, x: Access, order: Sequence[int], along: int, call: str,
    others: Mapping[str, Access | None], numbers: Mapping[str, Size | Real],
) -> Declined | None:
    """A kernel of norm_epilogue.hpp. Its rows: see `functor`."""
    ep = functor(tail, b, order, None, along)
    if isinstance(ep, Declined):
        return ep
    pointers = (*ep.pointers, pointer("x", x), *(pointer(n, a) for n, a in others.items() if a is not None))
    b.emit(Kernel(node.op.name, f"{ep.text}\n{call}", pointers, (*ep.numbers, *numbers.items()),
                  (*HEADERS, "norm_epilogue.hpp")))
    return None


def _in_lines(
    node: Node, tail: Tail, b: Builder, x: Access, axes: int, call: str, others: Mapping[str, Access | None],
    numbers: Mapping[str, Size | Real],
) -> Declined | None:
    """A kernel of norm_epilogue.hpp over lines: the last axes together, or the last one where that is long and what follows
    reads something else along the others."""
    order, shape = tuple(range(x.rank)), x.shape[x.rank - axes :]
    whole = {**numbers, "lines": 1, "line": dims.product(shape)}
    refused = b.attempt(lambda: _with_epilogue(node, tail, b, x, order, axes, call, others, whole))
    if refused is None or axes == 1:
        return refused
    if isinstance(shape[-1], int) and shape[-1] < _SHORT:
        return Declined(f"{refused.reason}, and lines of {shape[-1]} elements are too short")
    single = {**numbers, "lines": dims.product(shape[:-1]), "line": shape[-1]}
    return _with_epilogue(node, tail, b, x, order, 1, call, others, single)


def _channels(node: Node, tail: Tail, b: Builder) -> tuple[Access, tuple[int, ...] | None]:
    """The operand, and the order of its axes where channels are last in it; None where they are not."""
    x = node.operand(0)
    if x.tensor.rank == 2:
        return b.contiguous(x), (0, 1)
    order = b.follow(node.result, x)
    if any(b.is_output(result) for _, result in tail.outputs):
        order = None
    return b.contiguous(x, order), order


def batch_norm(node: Node, tail: Tail, b: Builder) -> Declined | None:
    """A scale and a shift per channel, then the tail."""
    if (refused := _float(node)) is not None:
        return refused
    x, order = _channels(node, tail, b)
    mean, variance = b.contiguous(node.operand(1)), b.contiguous(node.operand(2))
    weight, bias = optional(node.maybe(3), b), optional(node.maybe(4), b)
    given = f"mean, variance, {_or_null('weight', weight, mean)}, {_or_null('bias', bias, mean)}, outer, channels"
    numbers: dict[str, Size | Real] = {"outer": x.shape[0], "channels": x.shape[1], "eps": Real(node.attrs["eps"])}
    others = {"mean": mean, "variance": variance, "weight": weight, "bias": bias}
    if order is None:
        call = f"batch_norm_lines(w, x, {given}, lines, line, float(eps), ep);"
        return _in_lines(node, tail, b, x, x.rank - 2, call, others, numbers)
    numbers["outer"] = dims.mul(x.shape[0], dims.product(x.shape[2:]))
    call = f"batch_norm_channels(w, x, {given}, float(eps), ep);"
    return _with_epilogue(node, tail, b, x, order, 1, call, others, numbers)


def group_norm(node: Node, tail: Tail, b: Builder) -> Declined | None:
    """Normalized groups of channels, then the tail."""
    if (refused := _float(node)) is not None:
        return refused
    x, order = _channels(node, tail, b)
    weight, bias = optional(node.maybe(1), b), optional(node.maybe(2), b)
    given = f"{_or_null('weight', weight, x)}, {_or_null('bias', bias, x)}, batch, channels"
    numbers: dict[str, Size | Real] = {
        "batch": x.shape[0], "channels": x.shape[1], "groups": node.attrs["groups"], "eps": Real(node.attrs["eps"]),
    }
    others = {"weight": weight, "bias": bias}
    if order is None:
        call = f"group_norm_lines(w, x, {given}, lines, line, groups, float(eps), ep);"
        return _in_lines(node, tail, b, x, x.rank - 2, call, others, numbers)
    numbers["inner"] = dims.product(x.shape[2:])
    call = f"group_norm_channels(w, x, {given}, inner, groups, float(eps), ep);"
    return _with_epilogue(node, tail, b, x, order, 1, call, others, numbers)


def softmax(node: Node, tail: Tail, b: Builder) -> Declined | None:
    """A softmax along an axis that is not the last, then the tail."""
    if (refused := _float(node)) is not None:
        return refused
    axis = node.attrs["axis"]
    if axis == 1 and b.follow(node.result, node.operand(0)) is not None:
        return Declined("along channels that lie side by side it has none")
    x = b.contiguous(node.operand(0))
    numbers: dict[str, Size | Real] = {"outer": dims.product(x.shape[:axis]), "n": x.shape[axis]}
    log = "true" if node.op.name == "log_softmax" else "false"
    call = f"softmax_lines<{log}>(w, x, outer, n, lines, line, ep);"
    return _in_lines(node, tail, b, x, x.rank - 1 - axis, call, {}, numbers)


ANCHORS |= {"batch_norm": batch_norm, "group_norm": group_norm, "softmax": softmax, "log_softmax": softmax}
