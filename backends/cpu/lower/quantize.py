"""Quantizing and decoding activations."""

from __future__ import annotations

from mcomp.backend import Declined, lowers
from mcomp.backends.cpu.access import Access
from mcomp.backends.cpu.builder import TARGET, Builder, pointer
from mcomp.backends.cpu.cxx import Real, Size, c_type
from mcomp.backends.cpu.expressions import store
from mcomp.backends.cpu.kernel import EncodedAccess, Kernel, arguments
from mcomp.backends.cpu.loops import channels_last, order_of
from mcomp.backends.cpu.lower.elementwise import loop_kernel
from mcomp.ir import dims
from mcomp.ir.dtypes import f64
from mcomp.ir.encoding import Affine
from mcomp.ir.graph import Node, Value


@lowers("quantize", target=TARGET)
def lower_quantize(node: Node, b: Builder) -> Declined | None:
    """Floats to integers: with a static scale element by element, else one scale per row, or one for the tensor. What has
    such a scale already stays as it is."""
    encoding = node.type.encoding
    assert isinstance(encoding, Affine)
    place = b.place(node.operand(0))
    if isinstance(place, EncodedAccess) and encoding.scale is not None and place.type.encoding == encoding:
        values = place.part("values")
        if values is not None:
            b.bind(node.result, place if values.dense_order() is not None else _without_gaps(node, place, values, b))
            return None
    x = b.read(node.operand(0))
    if x.dtype is f64 or encoding.dtype.bits != 8:
        return Declined(f"{x.dtype} to {encoding.dtype} has no kernel")
    if encoding.scale is not None:
        _static(node, b, x, encoding)
        return None
    if encoding.axis == tuple(range(x.rank - 1)) and x.rank > 0:
        _per_row(node, b, encoding)
        return None
    if not encoding.axis:
        _per_tensor(node, b, encoding)
        return None
    return Declined(f"scales along axes {list(encoding.axis)} have no kernel")


def _without_gaps(node: Node, place: EncodedAccess, values: Access, b: Builder) -> EncodedAccess:
    """A copy of bytes that lie dense."""
    copy = b.temp(values.dtype, values.shape, order_of(values))
    b.copy(values, copy)
    return place.moved(node.result, copy)


def _static(node: Node, b: Builder, x: Access, encoding: Affine) -> None:
    if _is_image(node, b, x):
        _image(node, b, x, encoding)
        return
    order = b.result_order(node.result, [x])
    place = b.write_encoded(node.result, order)
    values = place.part("values")
    assert values is not None and encoding.scale is not None
    low, high = encoding.range
    text = f"quantize_byte<{c_type(values.dtype)}>(v0, float(inverse), int32_t(zero), {low}, {high})"
    kernel = loop_kernel("quantize", [], [x], [(values, text)], x.shape, order)
    numbers: tuple[tuple[str, Size | Real], ...] = (
        *kernel.numbers, ("inverse", Real(1.0 / encoding.scale)), ("zero", encoding.zero)
    )
    b.emit(Kernel(kernel.name, kernel.body, kernel.pointers, numbers, (*kernel.headers, "quantize_byte.hpp")))


def _is_image(node: Node, b: Builder, x: Access) -> bool:
    """Whether the operand is planes of few channels in row-major order: convolutions want their pixels together. Heads of
    an attention are no channels, and rows of a linear lie in order."""
    if x.rank != 4 or x.shape[1] not in (2, 3, 4) or not x.is_dense() or b.is_output(node.result):
        return False
    return not _feeds(node.result, "attention") and not _feeds(node.result, "linear")


def _feeds(value: Value, name: str) -> bool:
    """Whether an operator reads a value, perhaps in the body of a fused node."""
    for user in value.users:
        if user.op.name == name:
            return True
        if user.op.name == "fused":
            inside = (x for x, operand in zip(user.attrs["body"].inputs, user.operands) if operand is value)
            if any(_feeds(x, name) for x in inside):
                return True
    return False


def _image(node: Node, b: Builder, x: Access, encoding: Affine) -> None:
    place = b.write_encoded(node.result, channels_last(x.rank))
    values = place.part("values")
    assert values is not None and encoding.scale is not None
    low, high = encoding.range
    body = f"quantize_interleaved<{x.shape[1]}>(w, x, q, batch, pixels, float(inverse), int32_t(zero), {low}, {high});"
    b.emit(Kernel("quantize", body, (pointer("q", values, write=True), pointer("x", x)), (
        ("batch", x.shape[0]), ("pixels", dims.mul(x.shape[2], x.shape[3])), ("inverse", Real(1.0 / encoding.scale)),
        ("zero", encoding.zero),
    ), ("interleave.hpp",)))


def _per_row(node: Node, b: Builder, encoding: Affine) -> None:
    x = b.contiguous(node.operand(0))
    place = b.write_encoded(node.result)
    values, scales, zeros = place.part("values"), place.part("scales"), place.part("zeros")
    assert values is not None and scales is not None
    body = (
        f"quantize_rows_dynamic(w, x, k, m, k, q, k, scale, {'zero' if zeros else '(int32_t*)nullptr'}, "
        f"{'false' if encoding.zero_point else 'true'});"
    )
    b.emit(Kernel("quantize_rows", body, arguments(
        pointer("q", values, write=True), pointer("scale", scales, write=True),
        None if zeros is None else pointer("zero", zeros, write=True), pointer("x", x),
    ), (("m", dims.product(x.shape[:-1])), ("k", x.shape[-1])), ("quantize_rows.hpp",)))

def _per_tensor(node: Node, b: Builder, encoding: Affine) -> None:
    x = b.read(node.operand(0))
    order = b.result_order(node.result, [x])
    x = b.contiguous(node.operand(0), order)
    place = b.write_encoded(node.result, order)
    values, scales, zeros = place.part("values"), place.part("scales"), place.part("zeros")
    assert values is not None and scales is not None
    kind = c_type(values.dtype)
    body = f"quantize_tensor<{c_type(x.dtype)}, {kind}>(w, x, n, q, scale, {'zero' if zeros else 'nullptr'}, " \
           f"{'false' if encoding.zero_point else 'true'}, reinterpret_cast<float*>(scratch));"
    b.emit(Kernel("quantize_tensor", body, arguments(
        pointer("q", values, write=True), pointer("scale", scales, write=True),
        None if zeros is None else pointer("zero", zeros, write=True), pointer("x", x),
        b.scratch(8 * 1024),
    ), (("n", x.numel),), ("quantize_tensor.hpp",)))


def decode_kernel(place: EncodedAccess, target: Access) -> Kernel:
    """scale * (q - zero) for an affine encoding without groups."""
    encoding = place.type.encoding
    values, scales, zeros = place.part("values"), place.part("scales"), place.part("zeros")
    assert isinstance(encoding, Affine) and values is not None
    sources, numbers = [values], []
    if scales is None:
        assert encoding.scale is not None
        scale = "float(scale)"
        numbers.append(("scale", Real(encoding.scale)))
    else:
        scale = f"v{len(sources)}"
        sources.append(scales)
    zero = f"float({encoding.zero})"
    if zeros is not None:
        zero = f"float(v{len(sources)})"
        sources.append(zeros)
    line = f"const float t0 = (float(v0) - {zero}) * {scale};"
    kernel = loop_kernel("decode", [line], sources, [(target, store("t0", target.dtype))], target.shape,
                         order_of(target))
    return Kernel(kernel.name, kernel.body, kernel.pointers, (*kernel.numbers, *numbers), kernel.headers)


@lowers("decode", target=TARGET)
def lower_decode(node: Node, b: Builder) -> Declined | None:
    """What is encoded is decoded when it is read."""
    b.alias(node.result, node.operand(0))
    return None
