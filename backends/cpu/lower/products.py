"""Matrix products: linear and matmul in floats, linear in int8."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mcomp.backend import Declined, lowers
from mcomp.backends.cpu.access import Access, Buffer, dense, whole_buffer
from mcomp.backends.cpu.builder import TARGET, Builder, computed, pointer
from mcomp.backends.cpu.cxx import SIGNED_BYTES, Real, Size, c_type
from mcomp.backends.cpu.epilogue import HEADERS, Functor, Tail, functor, plain
from mcomp.backends.cpu.kernel import EncodedAccess, Kernel, Pointer
from mcomp.backends.cpu.loops import collapse
from mcomp.backends.cpu.lower.bf16 import product_bf16
from mcomp.backends.cpu.lower.shape import copy_kernel
from mcomp.backends.cpu.lower.weight_only import fits, weight_only
from mcomp.backends.cpu.rows import Rows, rows_of
from mcomp.backends.cpu.tiles import suits_matrix, tile
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import Affine, BlockSparse
from mcomp.ir.graph import Node, Value

FLOATS = (dtypes.f32, dtypes.f64, dtypes.bf16, dtypes.f16)


@lowers("linear", target=TARGET)
def lower_linear(node: Node, b: Builder) -> Declined | None:
    return linear(node, plain(node), b)


@lowers("matmul", target=TARGET)
def lower_matmul(node: Node, b: Builder) -> Declined | None:
    return matmul(node, plain(node), b)


def linear(node: Node, tail: Tail, b: Builder) -> Declined | None:
    """x times the transposed weight, then the tail."""
    x, weight = node.operand(0), node.operand(1)
    dtype = x.tensor.dtype
    if dtype not in FLOATS:
        return Declined(f"{dtype} has no kernel")
    ep = functor(tail, b, tuple(range(x.tensor.rank)), node.maybe(2))
    if isinstance(ep, Declined):
        return ep
    if isinstance(weight.tensor.encoding, BlockSparse):
        from mcomp.backends.cpu.lower.sparse import sparse_linear

        if sparse_linear(node, weight, ep, b):
            return None
    columns, length = weight.tensor.shape
    given = b.place(x)
    if isinstance(given, EncodedAccess) and dtype is not dtypes.f64:
        bytes_ = b.place(weight)
        if isinstance(bytes_, EncodedAccess) and byte_weight(weight) is None and byte_rows(given) is None:
            _linear_i8(given, weight, bytes_, ep, columns, length, b)
            return None
    rows = rows_of(x, b)
    coded = b.place(weight) if b.number(weight) is None else None
    if isinstance(coded, EncodedAccess) and dtype is not dtypes.f64 and fits(weight, b):
        weight_only(rows, weight, coded, ep, b)
        return None
    _gemm("linear", rows, weight, ep, b)
    return None


def project(rows: Rows, weight: Value, bias: Value | None, out: Access, b: Builder,
            coded_rows: EncodedAccess | None = None) -> None:
    """Rows times the transposed weight plus bias, stored as rows of `out`: rows of floats, or their int8 form
    `coded_rows` where the weight is int8 too."""
    columns, length = weight.tensor.shape
    pointers = [pointer("out", out, write=True)]
    if bias is not None:
        pointers.append(pointer("bias", b.contiguous(bias)))
    text = f"const StoreF32 ep{{out, columns, {'nullptr' if bias is None else 'bias'}}};"
    ep = Functor(text, tuple(pointers), ())
    coded = b.place(weight)
    if isinstance(coded, EncodedAccess) and coded_rows is not None:
        _linear_i8(coded_rows, weight, coded, ep, columns, length, b)
    elif isinstance(coded, EncodedAccess) and fits(weight, b):
        weight_only(rows, weight, coded, ep, b)
    else:
        _gemm("project", rows, weight, ep, b)


def _gemm(name: str, rows: Rows, weight: Value, ep: Functor, b: Builder) -> None:
    dtype = rows.access.dtype
    if dtype is dtypes.bf16:
        product_bf16(name, rows, weight, ep, b)
        return
    columns, length = weight.tensor.shape
    packed, chosen = packed_floats(weight, b, wide=dtype is dtypes.f64)
    call = "gemm_f64" if dtype is dtypes.f64 else "gemm_f32"
    body = f"{ep.text}\n{call}<{chosen}>(w, a, step, packed, rows, columns, length, ep, scratch);"
    b.emit(Kernel(
        name, body,
        (*ep.pointers, pointer("a", rows.access), packed,
         b.scratch(computed(f"{call}_scratch_bytes({{0}}, {{1}}, workers)", rows.count, length))),
        (*ep.numbers, ("step", rows.step), ("rows", rows.count), ("columns", columns), ("length", length)),
        (*HEADERS, "gemm_f32.hpp", "tiles.hpp"),
    ))


def packed_floats(weight: Value, b: Builder, *, wide: bool = False) -> tuple[Pointer, str]:
    """The packed form of a weight [N, K], perhaps with further axes of size 1, and its tile. wide: as doubles."""
    columns, length = weight.tensor.shape[:2]
    stored = "double" if wide else "float"
    size = 8 if wide else 4
    chosen = "DefaultTile" if wide else tile(columns, weight=weight)

    def pack(buffer: Buffer) -> Kernel:
        source = b.read(weight)
        return Kernel(
            "pack_linear", f"pack_linear<{chosen}, {stored}>(w, packed, from, columns, length, step_n, step_k);",
            (Pointer("packed", stored, whole_buffer(buffer), write=True), pointer("from", source)),
            (("columns", columns), ("length", length), ("step_n", source.strides[0]), ("step_k", source.strides[1])),
            ("pack.hpp", "tiles.hpp"),
        )

    packed = b.prepare(
        weight, ("linear", stored, chosen),
        computed(f"packed_elements<{chosen}, {stored}>({{0}}, {{1}}) * {size}", columns, length), pack,
    )
    return Pointer("packed", stored, whole_buffer(packed)), chosen


def byte_weight(value: Value) -> str | None:
    """Why a weight does not fit the int8 kernels; None when it does."""
    encoding = value.tensor.encoding
    if not isinstance(encoding, Affine) or encoding.dtype.name not in SIGNED_BYTES:
        return f"the weight is {encoding}"
    if encoding.zero_point or encoding.zero or encoding.group is not None:
        return "the weight has zero points or groups"
    return None if encoding.axis in ((), (0,)) else "the weight's scales do not lie along its outputs"


def byte_rows(place: EncodedAccess) -> str | None:
    """Why quantized activations do not fit the int8 products; None when they do."""
    type = place.type
    encoding = type.encoding
    if not isinstance(encoding, Affine) or encoding.dtype.bits != 8:
        return f"the activations are {encoding}"
    if encoding.scale is None and encoding.axis not in ((), tuple(range(type.rank - 1))):
        return "the activations' scales do not lie along their rows"
    values = place.part("values")
    return None if values is not None and values.is_dense() else "the activations are not row-major"


@dataclass(frozen=True)
class Scales:
    """C++ text that declares the `Scales8 scales` of an int8 product, its pointers and numbers."""

    text: str
    pointers: tuple[Pointer, ...]
    numbers: tuple[tuple[str, Size | Real], ...]


def scales_of(
    place: EncodedAccess, weight: Value, coded: EncodedAccess, columns: Dim, sums: str, b: Builder
) -> Scales:
    """How the bytes of a product stand for numbers; one weight scale per output column."""
    encoding = place.type.encoding
    assert isinstance(encoding, Affine)
    found = [pointer("column_scale", column_scales(weight, coded, columns, b))]
    if encoding.scale is not None:
        text = (
            "const float row_scale = float(row_scale_);\nconst int32_t row_zero = int32_t(row_zero_);\n"
            f"const Scales8 scales{{&row_scale, &row_zero, column_scale, {sums}}};"
        )
        return Scales(text, tuple(found), (("row_scale_", Real(encoding.scale)), ("row_zero_", encoding.zero)))
    scales, zeros = place.part("scales"), place.part("zeros")
    assert scales is not None
    found.append(pointer("row_scale", scales))
    if zeros is not None:
        found.append(pointer("row_zero", zeros))
    kind = "RowScales8" if encoding.axis else "Scales8"
    text = f"const {kind} scales{{row_scale, {'nullptr' if zeros is None else 'row_zero'}, column_scale, {sums}}};"
    return Scales(text, tuple(found), ())


def column_scales(weight: Value, coded: EncodedAccess, columns: Dim, b: Builder) -> Access:
    """The scales of an int8 weight, one per output column."""
    weight_scales = coded.part("scales")
    weight_encoding = weight.tensor.encoding
    if isinstance(weight_encoding, BlockSparse):
        weight_encoding = weight_encoding.inner
    assert isinstance(weight_encoding, Affine)
    if weight_scales is None:
        assert weight_encoding.scale is not None
        from mcomp.backends.cpu.lower.creation import fill_kernel

        scale = weight_encoding.scale
        buffer = b.prepare(weight, ("scales",), dims.mul(columns, 4),
                           lambda buffer: fill_kernel(dense(buffer, dtypes.f32, (columns,)), scale))
        return dense(buffer, dtypes.f32, (columns,))
    if weight_encoding.axis == (0,):
        return weight_scales
    one = weight_scales.reshape((1,))
    assert one is not None
    spread = one.expand((columns,))
    buffer = b.prepare(weight, ("scales",), dims.mul(columns, 4),
                       lambda buffer: copy_kernel(spread, dense(buffer, dtypes.f32, (columns,))))
    return dense(buffer, dtypes.f32, (columns,))


def _linear_i8(
    place: EncodedAccess, weight: Value, coded: EncodedAccess, ep: Functor, columns: Dim, length: Dim, b: Builder
) -> None:
    values = place.part("values")
    assert values is not None
    packed, chosen = packed_bytes(weight, coded, b)
    scales = scales_of(place, weight, coded, columns, "sums", b)
    rows = dims.product(values.shape[:-1])
    body = (
        f"{ep.text}\nconst int32_t* sums = {packed_sums('packed', chosen, 'columns', 'length')};\n{scales.text}\n"
        f"gemm_i8<{chosen}>(w, a, length, packed, rows, columns, length, scales, ep, scratch);"
    )
    b.emit(Kernel(
        "linear_i8", body,
        (*ep.pointers, *scales.pointers, pointer("a", values), packed,
         b.scratch(computed("gemm_i8_scratch_bytes({0}, {1}, workers)", rows, length))),
        (*ep.numbers, *scales.numbers, ("rows", rows), ("columns", columns), ("length", length)),
        (*HEADERS, "gemm_i8.hpp", "tiles.hpp"),
    ))


def packed_sums(packed: str, tile: str, columns: str, length: str) -> str:
    """C++ text of the sums of columns that lie behind packed bytes."""
    return f"reinterpret_cast<const int32_t*>({packed} + packed_bytes_i8<{tile}>({columns}, {length}))"


def packed_bytes(weight: Value, coded: EncodedAccess, b: Builder) -> tuple[Pointer, str]:
    """The packed form of an int8 weight [N, K], perhaps with further axes of size 1, with its columns' sums behind it, and
    its tile."""
    columns, length = weight.tensor.shape[:2]
    source = coded.part("values")
    assert source is not None
    chosen = tile(columns, int8=True, weight=weight, matrix=suits_matrix(weight.tensor.shape))
    size = computed(f"packed_bytes_i8<{chosen}>({{0}}, {{1}}) + round_up({{0}}, {chosen}::NR) * 4", columns, length)

    def pack(buffer: Buffer) -> Kernel:
        return Kernel(
            "pack_linear_i8",
            f"int32_t* sums = reinterpret_cast<int32_t*>(packed + packed_bytes_i8<{chosen}>(columns, length));\n"
            f"pack_linear_i8<{chosen}>(w, packed, sums, from, columns, length, length, 1);",
            (Pointer("packed", "int8_t", whole_buffer(buffer), write=True), pointer("from", source)),
            (("columns", columns), ("length", length)), ("pack.hpp", "gemm_i8.hpp", "tiles.hpp"),
        )

    return Pointer("packed", "int8_t", whole_buffer(b.prepare(weight, ("linear_i8", chosen), size, pack))), chosen


def matmul(node: Node, tail: Tail, b: Builder) -> Declined | None:
    """a times b over broadcast batches, then the tail."""
    left, right = node.operand(0), node.operand(1)
    dtype = left.tensor.dtype
    whole = dtype in (dtypes.i64, dtypes.i32, dtypes.i16, dtypes.i8, dtypes.u8)
    if dtype not in FLOATS and not whole:
        return Declined(f"{dtype} has no kernel")
    if tail.nodes and (left.tensor.rank < 2 or right.tensor.rank < 2):
        return Declined("a product with a vector has no epilogue")
    a, c = b.read(left), b.read(right)
    if a.rank == 1:
        a = a.insert((0,))
    if c.rank == 1:
        c = c.insert((1,))
    lead: tuple[Dim, ...] = _batch_shape(a.shape[:-2], c.shape[:-2])
    m, n, k = a.shape[-2], c.shape[-1], a.shape[-1]
    ep = functor(tail, b, tuple(range(tail.anchor.tensor.rank)), None) if node.type.rank == len(lead) + 2 \
        else _vector_store(node, b, n)
    if isinstance(ep, Declined):
        return ep
    batch = collapse(lead, [_batch(a), _batch(c)])
    if batch.rank > 6:
        return Declined("it has more than six batch axes")
    arrays = [b.array(name, values) for name, values in (
        ("batch", batch.sizes), ("ab", batch.strides[0]), ("bb", batch.strides[1]),
    )]
    shape = (
        f"const MatmulShape s{{m, n, k, a_row, a_col, b_row, b_col, {batch.rank}, "
        f"{arrays[0][0]}, {arrays[1][0]}, {arrays[2][0]}}};"
    )
    sizes: list[tuple[str, Dim]] = [
        ("m", m), ("n", n), ("k", k), ("a_row", a.strides[-2]), ("a_col", a.strides[-1]),
        ("b_row", c.strides[-2]), ("b_col", c.strides[-1]), *(x for _, values in arrays for x in values),
    ]
    pointers = (*ep.pointers, pointer("a", a), pointer("b", c))
    if whole:
        call = "matmul_int(w, a, b, s, ep);"
    else:
        name = "matmul_f64" if dtype is dtypes.f64 else "matmul_f32"
        call = f"{name}<DefaultTile>(w, a, b, s, ep, scratch);"
        shape_text = "MatmulShape{{{0}, {1}, {2}, {3}, {4}, {5}, {6}, 0, {{1}}, {{0}}, {{0}}}}"
        pointers = (*pointers, b.scratch(computed(
            f"{name}_scratch_bytes<DefaultTile>({shape_text}, workers)",
            m, n, k, a.strides[-2], a.strides[-1], c.strides[-2], c.strides[-1],
        )))
    b.emit(Kernel("matmul", f"{ep.text}\n{shape}\n{call}", pointers, (*ep.numbers, *sizes), (*HEADERS, "matmul.hpp")))
    return None


def _batch_shape(a: tuple[Dim, ...], c: tuple[Dim, ...]) -> tuple[Dim, ...]:
    rank = max(len(a), len(c))
    wide_a, wide_c = (1,) * (rank - len(a)) + a, (1,) * (rank - len(c)) + c
    return tuple(y if x == 1 else x for x, y in zip(wide_a, wide_c))


def _batch(access: Access) -> Access:
    return access.without((access.rank - 2, access.rank - 1))


def _vector_store(node: Node, b: Builder, columns: Dim) -> Functor:
    out = b.write(node.result)
    kind = c_type(out.dtype)
    acc = "double" if out.dtype is dtypes.f64 else "float" if out.dtype.is_float else kind
    return Functor(f"const StoreAs<{kind}, {acc}> ep{{out, columns_}};", (pointer("out", out, write=True),),
                   (("columns_", columns),))


ANCHORS: dict[str, Callable[[Node, Tail, Builder], Declined | None]] = {"linear": linear, "matmul": matmul}
"""Products that an epilogue can follow."""
