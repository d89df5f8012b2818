"""Importers of matrix products. Products with a weight become `linear`."""

from __future__ import annotations

from mcomp.capture.import_elementwise import binary
from mcomp.capture.import_shape import swapped
from mcomp.capture.importing import Call, Decline, imports
from mcomp.capture.reaching import is_weight
from mcomp.ir.graph import Value
from mcomp.ops.rules import broadcast


@imports("aten.linear.default")
def linear(call: Call) -> Value:
    return call.emit("linear", [call.value("input"), call.value("weight"), call.maybe("bias")])


def product(call: Call, a: Value, b: Value) -> Value:
    """a @ b by torch's rules: vectors get an axis that goes afterwards."""
    if is_weight(b) and b.tensor.rank == 2:
        return call.emit("linear", [a, swapped(call, b, 0, 1)])
    left, right = a.tensor.rank == 1, b.tensor.rank == 1
    wide = call.emit(
        "matmul", [call.unsqueeze(a, [0]) if left else a, call.unsqueeze(b, [1]) if right else b]
    )
    rank = wide.tensor.rank
    return call.squeeze(wide, [axis for axis, gone in ((rank - 2, left), (rank - 1, right)) if gone])


@imports("aten.mm.default", "aten.bmm.default", "aten.matmul.default", "aten.mv.default", "aten.dot.default",
         "aten.vdot.default", "aten.linalg_matmul.default")
def matmul(call: Call) -> Value:
    for second in ("mat2", "other", "vec", "tensor"):
        if second in call.arguments:
            return product(call, call.value("self"), call.value(second))
    raise Decline("its operands have unknown names")


@imports("aten.ger.default", "aten.outer.default")
def outer(call: Call) -> Value:
    a, b = call.value("self"), call.value("vec2")
    return binary(call, "mul", call.unsqueeze(a, [1]), call.unsqueeze(b, [0]))


@imports("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default", "aten.addbmm.default")
def addmm(call: Call) -> Value:
    beta, alpha, bias = call["beta"], call["alpha"], call.value("self")
    first, second = [name for name in call.arguments if name not in ("self", "beta", "alpha")][:2]
    a, b = call.value(first), call.value(second)
    plain = beta == 1 and alpha == 1
    if plain and is_weight(b) and b.tensor.rank == 2 and bias.tensor.shape == (b.tensor.shape[1],):
        return call.emit("linear", [a, swapped(call, b, 0, 1), bias])
    made = product(call, a, b)
    if ".addbmm." in call.name:
        made = call.emit("sum", [made], axes=(0,))
    dtype = call.result.dtype
    if alpha != 1:
        made = binary(call, "mul", made, alpha, dtype)
    if beta == 0:
        return made
    return binary(call, "add", bias if beta == 1 else binary(call, "mul", bias, beta, dtype), made, dtype)


@imports("aten.bilinear.default")
def bilinear(call: Call) -> Value:
    operands = [call.value("input1"), call.value("input2"), call.value("weight"), call.maybe("bias")]
    return call.emit("bilinear", operands)


@imports("aten._grouped_mm.default", "transformers.grouped_mm_fallback.default")
def grouped_mm(call: Call) -> Value:
    names = list(call.arguments)
    x, weight, offsets = call.value(names[0]), call.value(names[1]), call.maybe("offs")
    if offsets is None or weight.tensor.rank != 3 or x.tensor.rank != 2 or call.get("bias") is not None:
        raise Decline("it groups other axes")
    if call.result.dtype != x.tensor.dtype:
        raise Decline("its result has another element type")
    return call.emit("grouped_matmul", [x, weight, offsets])


@imports("aten._weight_norm.default", "aten._weight_norm_interface.default")
def weight_norm(call: Call) -> Value | list[Value]:
    v, g, axis = call.value("v"), call.value("g"), call["dim"]
    others = tuple(i for i in range(v.tensor.rank) if axis == -1 or i != axis % v.tensor.rank)  # -1: of everything
    length = call.emit("norm", [v], axes=others, keepdim=True)
    scaled = call.emit("mul", [v, call.emit("div", [g, length])])
    return scaled if "interface" not in call.name else [scaled, length]


@imports("aten.cosine_similarity.default")
def cosine_similarity(call: Call) -> Value:
    dtype = call.result.dtype
    a, b = call.cast(call.value("x1"), dtype), call.cast(call.value("x2"), dtype)
    eps = call.full(float(call["eps"]), dtype)
    whole = broadcast(a.tensor.shape, b.tensor.shape)
    axes = (call["dim"] % len(whole),)

    def unit(value: Value) -> Value:
        value = value if value.tensor.shape == whole else call.expand(value, whole)
        length = call.emit("norm", [value], axes=axes, keepdim=True)
        return call.emit("div", [value, call.emit("maximum", [length, eps])])

    return call.emit("sum", [call.emit("mul", [unit(a), unit(b)])], axes=axes)


@imports("aten.cdist.default", "aten._cdist_forward.default")
def cdist(call: Call) -> Value:
    dtype = call.result.dtype
    a, b = call.cast(call.value("x1"), dtype), call.cast(call.value("x2"), dtype)
    gaps = call.emit("sub", [call.unsqueeze(a, [a.tensor.rank - 1]), call.unsqueeze(b, [b.tensor.rank - 2])])
    return call.emit("norm", [gaps], axes=(gaps.tensor.rank - 1,), p=float(call["p"]))
