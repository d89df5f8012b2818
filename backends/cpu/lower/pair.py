"""Two products in a row as one kernel: the factors of a low-rank linear or 1 x 1 convolution. What lies between them never
leaves the cache of the worker that makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from mcomp.backend import Declined
from mcomp.backends.cpu.access import Access
from mcomp.backends.cpu.builder import Builder, computed, pointer
from mcomp.backends.cpu.cxx import Real, Size, c_type
from mcomp.backends.cpu.epilogue import HEADERS, Functor, Tail, functor
from mcomp.backends.cpu.kernel import EncodedAccess, Kernel, Pointer
from mcomp.backends.cpu.loops import channels_last
from mcomp.backends.cpu.lower.conv import channels_last_bytes, one_scale
from mcomp.backends.cpu.lower.products import (
    byte_rows,
    byte_weight,
    column_scales,
    packed_bytes,
    packed_floats,
    packed_sums,
    scales_of,
)
from mcomp.backends.cpu.rows import Rows, rows_of
from mcomp.ir import dims, dtypes
from mcomp.ir.encoding import DENSE, Affine
from mcomp.ir.graph import Node
from mcomp.ops.linear import multiplies_rows

LEAST_RANK = 24
"""Narrower middles are left to two kernels, which measured 1 to 3 % faster there on one thread (12,544 rows, rank 16)."""


@dataclass(frozen=True)
class Pair:
    """`second` reads what `first` makes, as bytes where there is a `quantize`; nobody else does."""

    first: Node
    quantize: Node | None
    second: Node

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(n for n in (self.first, self.quantize, self.second) if n is not None)

    @property
    def order(self) -> tuple[int, ...]:
        """The axes of operand and result from slowest to fastest."""
        rank = self.first.type.rank
        last = channels_last(rank) if self.first.op.name == "conv" else None
        return last or tuple(range(rank))


def pair_at(nodes: Sequence[Node], b: Builder) -> Pair | None:
    """The pair that some nodes begin with, if there is a kernel for it; a remark says why there is none."""
    coded = len(nodes) > 2 and nodes[1].op.name == "quantize"
    if len(nodes) < 2 or not multiplies_rows(nodes[0]):
        return None
    pair = Pair(nodes[0], nodes[1] if coded else None, nodes[2] if coded else nodes[1])
    chain = pair.nodes
    if pair.second.op is not pair.first.op or not multiplies_rows(pair.second):
        return None
    if any(set(a.result.users) != {c} or c.operand(0) is not a.result for a, c in pairwise(chain)):
        return None
    reason = _refused(pair, b)
    if reason is not None:
        b.context.missed("lower", pair.first, f"{pair.first.op.name} with the one behind it: {reason}",
                         "give both constant weights of f32, or quantize both alike")
        return None
    return pair


def _refused(pair: Pair, b: Builder) -> str | None:
    x, weights = pair.first.operand(0), (pair.first.operand(1), pair.second.operand(1))
    if any(v.tensor.dtype is not dtypes.f32 for v in (x, pair.first.result, pair.second.result)):
        return f"{x.tensor.dtype} has no kernel for pairs"
    if any(b.weight(v) is None for v in weights):
        return "a weight is computed"
    rank = weights[0].tensor.shape[0]
    if isinstance(rank, int) and rank < LEAST_RANK:
        return f"two kernels are faster for a rank of {rank}"
    if pair.quantize is None:
        return None if all(v.tensor.encoding == DENSE for v in (x, *weights)) else "what it multiplies is encoded"
    given, middle = b.place(x), pair.quantize.type.encoding
    reason = byte_weight(weights[0]) or byte_weight(weights[1])
    if reason is not None:
        return reason
    if not isinstance(given, EncodedAccess) or not isinstance(middle, Affine) or middle.dtype.bits != 8:
        return "bytes are needed before and between the products"
    if pair.first.op.name == "linear":
        rows = tuple(range(pair.first.type.rank - 1))
        return byte_rows(given) or (None if middle.scale is not None or middle.axis == rows else "it has other scales")
    return None if one_scale(given) and middle.scale is not None else "scales of places have no kernel"


def lower_pair(pair: Pair, tail: Tail, b: Builder) -> Declined | None:
    """Both products of a pair, then the tail."""
    ep = functor(tail, b, pair.order, pair.second.maybe(2))
    if isinstance(ep, Declined):
        return ep
    if pair.quantize is None:
        _floats(pair, ep, b)
    else:
        _bytes(pair, pair.quantize, ep, b)
    return None


def _bias(pair: Pair, b: Builder) -> tuple[str, tuple[Pointer, ...]]:
    """C++ text of the first product's bias, and its pointer."""
    bias = pair.first.maybe(2)
    return ("nullptr", ()) if bias is None else ("shift", (pointer("shift", b.contiguous(bias)),))


def _rows(pair: Pair, b: Builder) -> Rows:
    x = pair.first.operand(0)
    return rows_of(x, b) if pair.first.op.name == "linear" else _places(b.contiguous(x, pair.order))


def _places(access: Access) -> Rows:
    """The places of a channels-last tensor as rows."""
    return Rows(access, dims.product((access.shape[0], *access.shape[2:])), access.shape[1])


def _floats(pair: Pair, ep: Functor, b: Builder) -> None:
    rows, (shift, pointers) = _rows(pair, b), _bias(pair, b)
    (v, first), (u, second) = (packed_floats(n.operand(1), b) for n in (pair.first, pair.second))
    call = f"gemm_pair_f32<{first}, {second}>(w, a, step, v, {shift}, u, s, ep, scratch);"
    _emit(pair, call, rows, (*pointers, replace(v, name="v"), replace(u, name="u")), (), "gemm_pair_f32", ep, b)


def _bytes(pair: Pair, quantize: Node, ep: Functor, b: Builder) -> None:
    linear = pair.first.op.name == "linear"
    given, encoding = b.place(pair.first.operand(0)), quantize.type.encoding
    assert isinstance(given, EncodedAccess) and isinstance(encoding, Affine)
    given = given if linear else channels_last_bytes(given, pair.order, b)
    values = given.part("values")
    assert values is not None
    rows = Rows(values, dims.product(values.shape[:-1]), values.shape[-1]) if linear else _places(values)
    weights = [n.operand(1) for n in (pair.first, pair.second)]
    coded = [b.place(w) for w in weights]
    assert isinstance(coded[0], EncodedAccess) and isinstance(coded[1], EncodedAccess)
    (v, first), (u, second) = packed_bytes(weights[0], coded[0], b), packed_bytes(weights[1], coded[1], b)
    scales = scales_of(given, weights[0], coded[0], weights[0].tensor.shape[0], "inner_sums", b)
    outer = column_scales(weights[1], coded[1], weights[1].tensor.shape[0], b)
    shift, pointers = _bias(pair, b)
    kind = c_type(encoding.dtype)
    numbers: tuple[tuple[str, Size | Real], ...] = ()
    if encoding.scale is None:
        symmetric = "false" if encoding.zero_point else "true"
        middle, size = f"RowMiddle<{kind}> middle{{{shift}, {symmetric}}}", "_rows"
    else:
        low, high = encoding.range
        text = "float(middle_scale), float(middle_inverse), int32_t(middle_zero), float(middle_low), float(middle_high)"
        middle, size = f"StaticMiddle<{kind}> middle{{{shift}, {text}}}", ""
        numbers = (
            ("middle_scale", Real(encoding.scale)), ("middle_inverse", Real(1.0 / encoding.scale)),
            ("middle_zero", encoding.zero), ("middle_low", Real(float(low - encoding.zero))),
            ("middle_high", Real(float(high - encoding.zero))),
        )
    call = (
        f"const int32_t* inner_sums = {packed_sums('v', first, 'rank', 'length')};\n"
        f"const int32_t* outer_sums = {packed_sums('u', second, 'columns', 'rank')};\n{scales.text}\nconst {middle};\n"
        f"gemm_pair_i8<{first}, {second}>(w, a, step, v, u, s, scales, middle, outer_scale, outer_sums, ep, scratch);"
    )
    pointers = (
        *pointers, *scales.pointers, pointer("outer_scale", outer), replace(v, name="v"), replace(u, name="u"),
    )
    _emit(pair, call, rows, pointers, (*scales.numbers, *numbers), f"gemm_pair{size}_i8", ep, b)


def _emit(
    pair: Pair, call: str, rows: Rows, pointers: tuple[Pointer, ...], numbers: tuple[tuple[str, Size | Real], ...],
    scratch: str, ep: Functor, b: Builder,
) -> None:
    rank, length = pair.first.operand(1).tensor.shape[:2]
    columns = pair.second.operand(1).tensor.shape[0]
    name = f"{pair.first.op.name}_pair{'' if pair.quantize is None else '_i8'}"
    b.emit(Kernel(
        name, f"{ep.text}\nconst PairShape s{{rows, length, rank, columns}};\n{call}",
        (*ep.pointers, pointer("a", rows.access), *pointers,
         b.scratch(computed(f"{scratch}_scratch_bytes({{0}}, {{1}}, {{2}}, workers)", rows.count, length, rank))),
        (*ep.numbers, *numbers, ("step", rows.step), ("rows", rows.count), ("length", length), ("rank", rank),
         ("columns", columns)),
        (*HEADERS, "gemm_pair.hpp", "tiles.hpp"),
    ))
