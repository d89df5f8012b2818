"""Convolutions, channels-last: plain, grouped, depthwise, transposed; in floats and in int8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcomp.backend import Declined, lowers
from mcomp.backends.cpu.access import Buffer, whole_buffer
from mcomp.backends.cpu.builder import TARGET, Builder, pointer
from mcomp.backends.cpu.cxx import Computed
from mcomp.backends.cpu.epilogue import HEADERS, Functor, Tail, functor, plain
from mcomp.backends.cpu.kernel import EncodedAccess, Kernel, Pointer
from mcomp.backends.cpu.loops import channels_last
from mcomp.backends.cpu.lower.bf16 import convolution_bf16
from mcomp.backends.cpu.lower.depthwise import bytes_call, floats_call
from mcomp.backends.cpu.lower.products import ANCHORS, byte_weight, scales_of
from mcomp.backends.cpu.lower.sparse import sparse_conv
from mcomp.backends.cpu.lower.winograd import winograd
from mcomp.backends.cpu.tiles import suits_matrix, tile
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import Affine, BlockSparse
from mcomp.ir.graph import Node, Value

_DTYPES = (dtypes.f32, dtypes.bf16, dtypes.f16)
_NAMES = ("batch", "channels", "outputs", "groups", *(f"{n}{i}" for n in ("in", "out", "kernel", "stride", "pad", "dilation")
                                                      for i in range(3)))


@dataclass(frozen=True)
class ConvSizes:
    """The numbers of a ConvShape, in the order of its fields."""

    values: tuple[Dim, ...]

    @property
    def numbers(self) -> tuple[tuple[str, Dim], ...]:
        return tuple(zip(_NAMES, self.values))

    @property
    def columns(self) -> Dim:
        """Output channels of one group."""
        return dims.floordiv(self.values[2], self.values[3])

    @property
    def weights(self) -> ConvSizes:
        """What the packed form of the weights depends on: the same without the sizes of batches and images."""
        return ConvSizes((1, *self.values[1:4], *((1,) * 6), *self.values[10:]))

    @property
    def text(self) -> str:
        """C++ that declares the shape `s`."""
        parts = [", ".join(_NAMES[:4]), *("{" + ", ".join(_NAMES[i : i + 3]) + "}" for i in range(4, 22, 3))]
        return f"const ConvShape s{{{', '.join(parts)}}};"

    def computed(self, call: str) -> Computed:
        """A size that C++ computes; `{shape}` in the call stands for the ConvShape."""
        marks = [f"{{{i}}}" for i in range(22)]
        groups = [", ".join(marks[:4]), *("{{" + ", ".join(marks[i : i + 3]) + "}}" for i in range(4, 22, 3))]
        return Computed(call.replace("SHAPE", "ConvShape{{" + ", ".join(groups) + "}}"), self.values)


def sizes_of(x: Sequence[Dim], out: Sequence[Dim], kernel: Sequence[Dim], node: Node, pads: Sequence[int]) -> ConvSizes:
    """Sizes of a convolution of up to three axes; the leading axes that it lacks have size 1."""
    missing = 3 - (len(x) - 2)
    ones: tuple[Dim, ...] = (1,) * missing

    def three(values: Sequence[Dim], fill: Dim = 1) -> tuple[Dim, ...]:
        return (*((fill,) * missing), *values)

    return ConvSizes((
        x[0], x[1], out[1], node.attrs["groups"], *ones, *x[2:], *ones, *out[2:], *ones, *kernel,
        *three(node.attrs["stride"]), *three(pads, 0), *three(node.attrs["dilation"]),
    ))


@lowers("conv", target=TARGET)
def lower_conv(node: Node, b: Builder) -> Declined | None:
    return conv(node, plain(node), b)


@lowers("conv_transpose", target=TARGET)
def lower_conv_transpose(node: Node, b: Builder) -> Declined | None:
    return conv(node, plain(node), b)


def conv(node: Node, tail: Tail, b: Builder) -> Declined | None:
    """A convolution or a transposed one, then the tail. Results are channels-last."""
    x, weight = node.operand(0), node.operand(1)
    transposed = node.op.name == "conv_transpose"
    if x.tensor.dtype not in _DTYPES:
        return Declined(f"{x.tensor.dtype} has no kernel")
    shape, out = x.tensor.shape, node.type.shape
    pads = list(node.attrs["padding"]) if transposed else [low for low, _ in node.attrs["padding"]]
    sizes = sizes_of(shape, out, weight.tensor.shape[2:], node, pads)
    order = channels_last(len(shape))
    assert order is not None
    ep = functor(tail, b, order, node.maybe(2))
    if isinstance(ep, Declined):
        return ep
    depthwise = not transposed and node.attrs["groups"] == shape[1] == out[1] and shape[1] != 1
    given, coded = b.place(x), b.place(weight)
    if isinstance(given, EncodedAccess) and isinstance(coded, EncodedAccess) and _bytes_fit(given, weight) \
            and not transposed:
        _conv_i8(channels_last_bytes(given, order, b), weight, coded, sizes, ep, depthwise, b)
        return None
    if not transposed and isinstance(weight.tensor.encoding, BlockSparse):
        bytes_ = channels_last_bytes(given, order, b) if isinstance(given, EncodedAccess) and one_scale(given) else None
        if sparse_conv(node, weight, ep, b, bytes_):
            return None
    if winograd(node, sizes, ep, b):
        return None
    source = b.contiguous(x, order)
    if x.tensor.dtype is dtypes.bf16 and not depthwise and not transposed:
        convolution_bf16(source, weight, sizes, ep, b)
        return None
    if depthwise:
        call, packed, scratch = floats_call(sizes, weight, b)
        header = "depthwise_square.hpp"
    else:
        stored = "bf16" if x.tensor.dtype is dtypes.bf16 else "float"
        name = "conv_transposed" if transposed else "conv"
        packed = Pointer("packed", stored, whole_buffer(_packed_float(weight, sizes.weights, b, name, stored)))
        call = f"{name}_f32<{tile(sizes.columns, weight=weight)}>(w, x, packed, s, ep, scratch);"
        scratch = sizes.computed(f"{name}_f32_scratch_bytes(SHAPE, workers)")
        header = "conv.hpp"
    b.emit(Kernel(
        node.op.name, f"{sizes.text}\n{ep.text}\n{call}",
        (*ep.pointers, pointer("x", source), packed, b.scratch(scratch)),
        (*ep.numbers, *sizes.numbers), (*HEADERS, header, "tiles.hpp"),
    ))
    return None


def _packed_float(weight: Value, sizes: ConvSizes, b: Builder, name: str, stored: str) -> Buffer:
    chosen = tile(sizes.columns, weight=weight)
    size = sizes.computed(f"packed_{name}_elements<{chosen}, {stored}>(SHAPE) * {2 if stored == 'bf16' else 4}")

    def pack(buffer: Buffer) -> Kernel:
        return Kernel(
            f"pack_{name}", f"{sizes.text}\npack_{name}<{chosen}, {stored}>(w, packed, from, s);",
            (Pointer("packed", stored, whole_buffer(buffer), write=True), pointer("from", b.contiguous(weight))),
            sizes.numbers, ("conv.hpp", "tiles.hpp"),
        )

    return b.prepare(weight, (name, stored, chosen, *sizes.values), size, pack)


def _bytes_fit(place: EncodedAccess, weight: Value) -> bool:
    return byte_weight(weight) is None and one_scale(place)


def one_scale(place: EncodedAccess) -> bool:
    """Whether activations are bytes with one scale for all."""
    encoding = place.type.encoding
    return isinstance(encoding, Affine) and encoding.dtype.bits == 8 and (encoding.scale is not None or not encoding.axis)


def channels_last_bytes(place: EncodedAccess, order: Sequence[int], b: Builder) -> EncodedAccess:
    """Quantized activations with their bytes channels-last, copied when they are not."""
    values = place.part("values")
    assert values is not None
    if values.is_dense(order):
        return place
    copy = b.temp(values.dtype, values.shape, order)
    b.copy(values, copy)
    return EncodedAccess(place.type, tuple((n, copy if n == "values" else a) for n, a in place.parts))


def _conv_i8(
    place: EncodedAccess, weight: Value, coded: EncodedAccess, sizes: ConvSizes, ep: Functor, depthwise: bool, b: Builder
) -> None:
    values, source = place.part("values"), coded.part("values")
    assert values is not None and source is not None
    outputs = sizes.values[2]
    sums = ""
    if depthwise:
        call, packed, scratch = bytes_call(sizes, weight, source, b)
        scales, header = scales_of(place, weight, coded, outputs, "nullptr", b), "depthwise_i8.hpp"
    else:
        weights, matrix = sizes.weights, suits_matrix(weight.tensor.shape, sizes.values[3])
        chosen = tile(sizes.columns, int8=True, weight=weight, matrix=matrix)
        size = weights.computed(
            f"round_up(packed_conv_i8_bytes<{chosen}>(SHAPE), 64) + round_up({{2}}, {chosen}::NR) * 4"
        )
        at = f"round_up(packed_conv_i8_bytes<{chosen}>(s), 64)"

        def pack(buffer: Buffer) -> Kernel:
            return Kernel(
                "pack_conv_i8",
                f"{weights.text}\nint32_t* sums = reinterpret_cast<int32_t*>(packed + {at});\n"
                f"pack_conv_i8<{chosen}>(w, packed, sums, from, s);",
                (Pointer("packed", "int8_t", whole_buffer(buffer), write=True), pointer("from", source)),
                weights.numbers, ("conv_i8.hpp", "tiles.hpp"),
            )

        buffer = b.prepare(weight, ("conv_i8", chosen, *weights.values), size, pack)
        packed = Pointer("packed", "int8_t", whole_buffer(buffer))
        sums = f"const int32_t* sums = reinterpret_cast<const int32_t*>(packed + {at});\n"
        call = f"conv_i8<{chosen}>(w, x, packed, s, scales, ep, scratch);"
        scratch = sizes.computed("conv_i8_scratch_bytes(SHAPE, workers)")
        scales, header = scales_of(place, weight, coded, outputs, "sums", b), "conv_i8.hpp"
    b.emit(Kernel(
        "conv_i8", f"{sizes.text}\n{ep.text}\n{sums}{scales.text}\n{call}",
        (*ep.pointers, *scales.pointers, pointer("x", values), packed, b.scratch(scratch)),
        (*ep.numbers, *scales.numbers, *sizes.numbers), (*HEADERS, header, "tiles.hpp"),
    ))


ANCHORS["conv"] = conv
ANCHORS["conv_transpose"] = conv
