"""Attention as one kernel, and rotary positions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mcomp.backend import Declined, lowers
from mcomp.backends.cpu.access import Access
from mcomp.backends.cpu.builder import TARGET, Builder, computed, pointer
from mcomp.backends.cpu.cxx import Real, Size, c_type
from mcomp.backends.cpu.epilogue import HEADERS, Tail, functor, plain
from mcomp.backends.cpu.expressions import store
from mcomp.backends.cpu.kernel import EncodedAccess, Kernel, Pointer
from mcomp.backends.cpu.loops import collapse
from mcomp.backends.cpu.lower.elementwise import loop_kernel
from mcomp.backends.cpu.lower.products import ANCHORS
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import Affine
from mcomp.ir.graph import Node, Value

_DTYPES = (dtypes.f32, dtypes.bf16, dtypes.f16)


@lowers("attention", target=TARGET)
def lower_attention(node: Node, b: Builder) -> Declined | None:
    return attention(node, plain(node), b)


def rotary_at(nodes: Sequence[Node]) -> tuple[list[Node], Node] | None:
    """The ropes that some nodes begin with, and the attention behind them that alone reads them, as queries and keys."""
    count = next((i for i, n in enumerate(nodes) if n.op.name != "rope"), 0)
    if count == 0 or nodes[count].op.name != "attention":
        return None
    node, ropes = nodes[count], list(nodes[:count])
    read = all(any(r.result is v for v in node.operands[:2]) and r.result.users == (node,) for r in ropes)
    return (ropes, node) if read and all(r.result is not node.operand(2) for r in ropes) else None


def attention(node: Node, tail: Tail, b: Builder, ropes: Sequence[Node] = ()) -> Declined | None:
    """softmax(scale q k^T + mask) v, head by head, then the tail; operands may be strided views, the result is laid out
    [batch, position, head, dim] when nobody asks otherwise, as the projection that follows wants it. `ropes` before
    queries and keys are computed as these are read."""
    rotated = {r.result: r for r in ropes}
    query, key, value, mask = (
        rotated[v].operand(0) if v is not None and v in rotated else v for v in (*node.operands, None)[:4]
    )
    assert query is not None and key is not None and value is not None
    if node.type.dtype not in _DTYPES:
        return Declined(f"{node.type.dtype} has no kernel")
    out_shape = node.type.shape
    turned = len(out_shape) == 4 and not any(b.is_output(result) for _, result in tail.outputs)
    ep = functor(tail, b, (0, 2, 1, 3) if turned else tuple(range(len(out_shape))), None)
    if isinstance(ep, Declined):
        return ep
    coded = [None if ropes else _bytes(x, b) for x in (query, key, value)]
    kind = c_type(node.type.dtype)
    numbers: dict[str, Size | Real] = {}
    lines = [f"Attention<{kind}> a{{}};"]
    if all(c is not None for c in coded) and len({c.dtype for c in coded if c is not None}) == 1:
        found = [c for c in coded if c is not None]
        kind = c_type(found[0].dtype)
        lines = [f"Attention<{kind}> a{{}};"]
        operands = []
        for name, x, values in zip("qkv", (query, key, value), found):
            operands.append(_heads(values, out_shape[:-2], node.attrs["grouped"], b))
            encoding = x.tensor.encoding
            assert isinstance(encoding, Affine) and encoding.scale is not None
            numbers[f"{name}_scale"], numbers[f"{name}_zero"] = Real(encoding.scale), encoding.zero
            lines.append(f"a.{name}_code = {{float({name}_scale), int32_t({name}_zero)}};")
    else:
        operands = [_heads(b.read(x), out_shape[:-2], node.attrs["grouped"], b) for x in (query, key, value)]
    q, k, v = operands
    lines.append("a.q = q; a.k = k; a.v = v;")
    sizes = {
        "batch": q.shape[0], "heads": q.shape[1], "kv_heads": k.shape[1],
        "queries": q.shape[2], "keys": k.shape[2], "dim": q.shape[3], "value_dim": v.shape[3],
    }
    for name, size in sizes.items():
        numbers[name] = size
        lines.append(f"a.{name} = {name};")
    for name, access in zip("qkv", operands):
        for axis, field in enumerate(("batch", "head", "position")):
            numbers[f"{name}_{field}"] = access.strides[axis]
        lines.append(f"a.{name}_stride = {{{name}_batch, {name}_head, {name}_position}};")
    lines.append(f"a.row_stride = {{heads * queries, {'1, heads' if turned else 'queries, 1'}}};")
    scale = node.attrs["scale"]
    if scale is None:
        head = sizes["dim"]
        if not isinstance(head, int):
            return Declined("the size of a head is symbolic, and no scale is given")
        scale = 1.0 / math.sqrt(head) if head else 1.0
    numbers["scale"] = Real(scale)
    lines.append(f"a.scale = float(scale); a.causal = {'true' if node.attrs['causal'] else 'false'};")
    pointers: list[Pointer] = [*ep.pointers, pointer("q", q), pointer("k", k), pointer("v", v)]
    for name, rope in zip("qk", (rotated.get(node.operand(0)), rotated.get(node.operand(1)))):
        if rope is not None:
            pointers += _rotary(name, rope, out_shape[:-2], node.attrs["grouped"], b, numbers, lines)
    if mask is not None:
        spread = _mask(mask, out_shape[:-2], sizes["queries"], sizes["keys"], b)
        if isinstance(spread, Declined):
            return spread
        field = "keep" if spread.dtype is dtypes.bool_ else "bias"
        pointers.append(pointer("mask", spread))
        for axis, name in enumerate(("batch", "head", "query", "key")):
            numbers[f"mask_{name}"] = spread.strides[axis]
        lines.append(f"a.{field} = mask; a.mask_stride = {{mask_batch, mask_head, mask_query, mask_key}};")
    pointers.append(b.scratch(computed(f"attention_scratch_bytes<{kind}>({{0}}, {{1}}, {{2}}, workers)",
                                       sizes["keys"], sizes["dim"], sizes["value_dim"])))
    body = "\n".join((ep.text, *lines, "attention(w, a, ep, scratch);"))
    b.emit(Kernel("attention", body, tuple(pointers), (*ep.numbers, *numbers.items()), (*HEADERS, "attention.hpp")))
    return None


ANCHORS["attention"] = attention


def _rotary(
    name: str, rope: Node, lead: tuple[Dim, ...], grouped: bool, b: Builder, numbers: dict[str, Size | Real],
    lines: list[str],
) -> list[Pointer]:
    """The cosines and sines that turn queries (q) or keys (k)."""
    pointers, steps = [], []
    for part, value in zip(("cos", "sin"), rope.operands[1:]):
        assert value is not None
        access = _heads(b.read(value).expand(rope.type.shape), lead, grouped, b)
        pointers.append(pointer(f"{name}_{part}", access))
        for axis, field in enumerate(("batch", "head", "position")):
            numbers[f"{name}_{part}_{field}"] = access.strides[axis]
        steps.append(f"{{{name}_{part}_batch, {name}_{part}_head, {name}_{part}_position}}")
    interleaved = "true" if rope.attrs["interleaved"] else "false"
    lines.append(f"a.{name}_rotary = {{{name}_cos, {name}_sin, {', '.join(steps)}, {interleaved}}};")
    return pointers


def _bytes(value: Value, b: Builder) -> Access | None:
    """The bytes of an operand with one scale for all of it; None when it is no such thing."""
    place = b.place(value)
    if not isinstance(place, EncodedAccess):
        return None
    encoding = value.tensor.encoding
    if not isinstance(encoding, Affine) or encoding.scale is None or encoding.dtype not in (dtypes.i8, dtypes.u8):
        return None
    return place.part("values")


def _heads(access: Access, lead: tuple[Dim, ...], grouped: bool, b: Builder) -> Access:
    """[batch, head, position, dim] with the last axis side by side; batch axes broadcast to those of the result."""
    if access.strides[-1] != 1 and access.shape[-1] != 1:
        access = _dense(access, b)
    wanted = (*lead[:-1], access.shape[-3]) if grouped else lead
    spread = access.expand((*wanted, *access.shape[-2:]))
    found = _four(spread) or _four(_dense(spread, b))
    assert found is not None
    return found


def _dense(access: Access, b: Builder) -> Access:
    copy = b.temp(access.dtype, access.shape)
    b.copy(access, copy)
    return copy


def _four(access: Access) -> Access | None:
    """Four axes: leading ones merged, missing ones of size 1."""
    if access.rank <= 4:
        return access.insert(range(4 - access.rank))
    lead = collapse(access.shape[:-3], [access.without(range(access.rank - 3, access.rank))])
    if lead.rank > 1:
        return None
    step: Dim = lead.strides[0][0] if lead.rank else 0
    return Access(access.buffer, access.dtype, (dims.product(access.shape[:-3]), *access.shape[-3:]),
                  (step, *access.strides[-3:]), access.offset)


def _mask(value: Value, lead: tuple[Dim, ...], queries: Dim, keys: Dim, b: Builder) -> Access | Declined:
    access = b.read(value)
    if access.dtype not in (dtypes.bool_, dtypes.f32):
        if not access.dtype.is_float:
            return Declined(f"a mask of {access.dtype} has no kernel")
        wide = b.temp(dtypes.f32, access.shape)
        b.copy(access, wide)
        access = wide
    spread = access.expand((*lead, queries, keys))
    found = _four(spread)
    if found is None:
        dense = b.temp(spread.dtype, spread.shape)
        b.copy(spread, dense)
        found = _four(dense)
    assert found is not None
    return found


@lowers("rope", target=TARGET)
def lower_rope(node: Node, b: Builder) -> Declined | None:
    """x * cos + rotated(x) * sin: the two halves of the last axis (or neighbours in it) turn together."""
    x = b.read(node.operand(0))
    size = x.shape[-1]
    if x.dtype not in (*_DTYPES, dtypes.f64) or dims.mod(size, 2) != 0:
        return Declined(f"{x.dtype} rows of {size} have no kernel")
    half = dims.floordiv(size, 2)
    interleaved = node.attrs["interleaved"]
    out = b.write(node.result, b.result_order(node.result, [x]))

    def parts(access: Access) -> tuple[Access, Access]:
        if interleaved:
            return access.slice(access.rank - 1, 0, half, 2), access.slice(access.rank - 1, 1, half, 2)
        return access.slice(access.rank - 1, 0, half, 1), access.slice(access.rank - 1, half, half, 1)

    cos, sin = (b.read(node.operand(i)).expand(x.shape) for i in (1, 2))
    sources = [*parts(x), *parts(cos), *parts(sin)]
    lines = ["const auto t0 = v0 * v2 - v1 * v4;", "const auto t1 = v1 * v3 + v0 * v5;"]
    first, second = parts(out)
    outs = [(first, store("t0", x.dtype)), (second, store("t1", x.dtype))]
    b.emit(loop_kernel("rope", lines, sources, outs, first.shape))
    return None
