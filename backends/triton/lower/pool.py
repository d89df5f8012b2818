"""Pooling: one flat index for each element of the result."""

from __future__ import annotations

from mcomp.backend import Declined, lowers
from mcomp.backends.triton import configs
from mcomp.backends.triton.access import View
from mcomp.backends.triton.builder import TARGET, Builder
from mcomp.backends.triton.lower.elementwise import flat, flat_grid, order_of
from mcomp.backends.triton.lower.reduce import reduction
from mcomp.backends.triton.text import KNOWN, KernelText, computed_type
from mcomp.ir import dims
from mcomp.ir.graph import Node


@lowers("max_pool", "avg_pool", target=TARGET)
def lower_pool(node: Node, b: Builder) -> Declined | None:
    """Windows of a known size."""
    x, shape, a, dtype = b.read(node.operand(0)), node.type.shape, node.attrs, node.type.dtype
    if dtype.name not in KNOWN or dtype.kind == "bool":
        return Declined(f"pools of {dtype} have no Triton kernel")
    most = node.op.name == "max_pool"
    spatial = len(shape) - 2
    lead = 3 - spatial
    order = None if b.is_output(node.result) else order_of([x], len(shape))
    out = b.write(node.result, order)
    text = KernelText()
    at = flat(text, shape, order)
    rest = View(x.buffer, x.dtype, shape, (*x.strides[:2], *(0,) * spatial), x.offset)
    text.line(f"base = {text.index(rest, [at])[0]}")
    for axis in range(3):
        where = View(x.buffer, x.dtype, shape, tuple(int(i == 2 + axis - lead and axis >= lead) for i in range(len(shape))))
        text.line(f"o{axis} = {text.row_terms(where, at)}")
    steps = ["0"] * lead + [text.number(s) for s in x.strides[2:]]
    sizes = ["1"] * lead + [text.number(s) for s in x.shape[2:]]
    kernel, stride = (1,) * lead + tuple(a["kernel"]), (1,) * lead + tuple(a["stride"])
    low, high = ((0,) * lead + tuple(p[i] for p in a["padding"]) for i in range(2))
    dilation = (1,) * lead + tuple(a.get("dilation", (1,) * spatial))
    numbers = ", ".join(str(v) for values in (kernel, stride, low, dilation) for v in values)
    kind = computed_type(dtype)
    least = "float('-inf')" if dtype.is_float else str(-(2 ** (dtype.bits - 1)) if dtype.kind == "int" else 0)
    start = least if most else "0"
    text.line(f"acc = pools.window({text.pointer(x)}, base, o0, o1, o2, {', '.join([*steps, *sizes])}, inside, "
              f"tl.full((BLOCK,), {start}, {kind}), {most}, {numbers})")
    if not most and a["divisor"] is not None:
        text.line(f"acc = acc / {float(a['divisor'])!r}")
    elif not most:
        counts = [
            f"pools.covered(o{i}, {sizes[i]}, {kernel[i]}, {stride[i]}, {low[i]}, {high[i]}, {a['count_padding']})"
            for i in range(lead, 3)
        ]
        text.line(f"acc = acc / ({' * '.join(counts)})")
    text.store(out, [at], "acc")
    b.emit(b.launch(node.op.name, text, flat_grid, configs.pointwise, sizes={"count": dims.product(shape)}, kind="pool",
                    dtypes=(dtype.name,)))
    return None


@lowers("adaptive_avg_pool", "adaptive_max_pool", target=TARGET)
def lower_adaptive_pool(node: Node, b: Builder) -> Declined | None:
    """One result for each channel is a reduction; other sizes are left to torch."""
    if any(d != 1 for d in node.attrs["size"]):
        return Declined("it has several results for a channel")
    name = "mean" if node.op.name == "adaptive_avg_pool" else "amax"
    return reduction(node, (), b, name=name, axes=tuple(range(2, node.type.rank)))
