"""Linear layers with float activations and integer weights of 8 bits, or 4 and less, which are packed as 4: decoded in
registers."""

from __future__ import annotations

from mcomp.backends.cpu.access import Buffer, dense, whole_buffer
from mcomp.backends.cpu.builder import Builder, computed, pointer
from mcomp.backends.cpu.cxx import SIGNED_BYTES
from mcomp.backends.cpu.epilogue import HEADERS, Functor
from mcomp.backends.cpu.kernel import EncodedAccess, Kernel, Pointer, arguments
from mcomp.backends.cpu.lower.elementwise import loop_kernel
from mcomp.backends.cpu.rows import Rows
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import Affine
from mcomp.ir.graph import Value


def fits(weight: Value, b: Builder) -> bool:
    """Whether a weight can stay as it is stored: a constant of signed bytes or nibbles, scaled along its outputs."""
    encoding = weight.tensor.encoding
    if b.weight(weight) is None or not isinstance(encoding, Affine) or encoding.scale is not None:
        return False
    return encoding.dtype.name in SIGNED_BYTES and encoding.axis in ((), (0,))


def weight_only(rows: Rows, weight: Value, coded: EncodedAccess, ep: Functor, b: Builder) -> None:
    """Rows of floats times the weight, then the epilogue."""
    encoding = weight.tensor.encoding
    assert isinstance(encoding, Affine)
    columns, length = weight.tensor.shape
    group: Dim = length if encoding.group is None else encoding.group
    bits = 8 if encoding.dtype.bits == 8 else 4
    source = coded.part("values")
    assert source is not None

    def pack(buffer: Buffer) -> Kernel:
        return Kernel(
            "pack_weight_only",
            f"pack_weight_only<DefaultTile, {bits}>(w, packed, from, columns, length, length, 1, group);",
            (Pointer("packed", "int8_t", whole_buffer(buffer), write=True), pointer("from", source)),
            (("columns", columns), ("length", length), ("group", group)), ("gemm_weight_only.hpp",),
        )

    size = computed(f"packed_weight_only_bytes<DefaultTile, {bits}>({{0}}, {{1}}, {{2}})", columns, length, group)
    packed = b.prepare(weight, ("weight_only",), size, pack)
    scale, offset = _scales(weight, coded, encoding, columns, dims.ceildiv(length, group), b)
    scratch = computed("gemm_weight_only_scratch_bytes<DefaultTile>({0}, {1}, workers)", rows.count, length)
    body = (
        f"{ep.text}\nconst GroupScales scales{{scale, {'nullptr' if offset is None else 'offset'}, group}};\n"
        f"gemm_weight_only<DefaultTile, {bits}>(w, a, step, packed, rows, columns, length, scales, ep, scratch);"
    )
    b.emit(Kernel(
        "linear_weight_only", body,
        arguments(*ep.pointers, pointer("a", rows.access), Pointer("packed", "int8_t", whole_buffer(packed)),
                  _floats("scale", scale), None if offset is None else _floats("offset", offset), b.scratch(scratch)),
        (*ep.numbers, ("step", rows.step), ("rows", rows.count), ("columns", columns), ("length", length),
         ("group", group)),
        (*HEADERS, "gemm_weight_only.hpp"),
    ))


def _floats(name: str, buffer: Buffer) -> Pointer:
    return Pointer(name, "float", whole_buffer(buffer))


def _scales(
    weight: Value, coded: EncodedAccess, encoding: Affine, columns: Dim, groups: Dim, b: Builder
) -> tuple[Buffer, Buffer | None]:
    """Scales, and offsets where there are zero points, as [groups, columns]."""
    scales, zeros = coded.part("scales"), coded.part("zeros")
    assert scales is not None
    shape = (groups, columns)
    spread = scales.permute((1, 0)).expand(shape)
    size = dims.mul(4, dims.mul(groups, columns))

    def make(text: str, buffer: Buffer) -> Kernel:
        sources = [spread] if zeros is None else [spread, zeros.permute((1, 0)).expand(shape)]
        return loop_kernel("spread_scales", [], sources, [(dense(buffer, dtypes.f32, shape), text)], shape)

    scale = b.prepare(weight, ("group_scales",), size, lambda buffer: make("v0", buffer))
    if zeros is None and not encoding.zero:
        return scale, None
    zero = f"float({encoding.zero})" if zeros is None else "float(v1)"
    return scale, b.prepare(weight, ("group_offsets",), size, lambda buffer: make(f"-v0 * {zero}", buffer))


