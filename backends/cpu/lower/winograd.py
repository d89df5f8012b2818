"""Winograd convolutions: which 3x3 convolutions gain from fewer multiplications, and their kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mcomp.backends.cpu.access import Buffer, whole_buffer
from mcomp.backends.cpu.builder import Builder, pointer, work_of
from mcomp.backends.cpu.epilogue import HEADERS, Functor
from mcomp.backends.cpu.kernel import Kernel, Pointer, Work
from mcomp.backends.cpu.tiles import tile
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import DENSE
from mcomp.ir.graph import Node
from mcomp.ir.store import Weight

if TYPE_CHECKING:
    from mcomp.backends.cpu.lower.conv import ConvSizes

_LANES = 16
_LEAST_CHANNELS = 16
"""Channels, in and out, below which too much of a vector would be empty."""

# Cycles of one core with one multiply-add of 16 lanes a cycle, measured on AMD Zen 4 with AVX-512 over the 3x3
# convolutions of ResNet-18 and of ResNets for 32x32 images.
_INPUT_CYCLES = {2: 80, 4: 270}
_OUTPUT_CYCLES = {2: 65, 4: 225}
"""To transform one tile of 16 channels."""
_WEIGHT_CYCLES = 0.09
"""To bring in a byte of weights that lies in the outer caches or in memory."""
_WORTH = 0.9
"""What a Winograd convolution may cost at most, in parts of the direct one."""

_USUAL_SIDE = 28
"""Assumed for heights and widths that only the call knows."""


@dataclass(frozen=True)
class Layer:
    """A 3x3 convolution of stride 1 as the cost model sees it: output pixels, channels in and out."""

    batch: int
    height: int
    width: int
    channels: int
    outputs: int

    def direct_cycles(self) -> float:
        """Cycles of the direct convolution."""
        products = self.batch * self.height * self.width * 9 * self.channels * self._vectors(self.outputs)
        return products + _WEIGHT_CYCLES * 36 * self.channels * self.outputs

    def cycles(self, m: int) -> float:
        """Cycles of F(m x m, 3 x 3)."""
        tiles = self.batch * -(-self.height // m) * -(-self.width // m)
        points = (m + 2) ** 2
        products = tiles * points * self.channels * self._vectors(self.outputs)
        transforms = tiles * (
            _INPUT_CYCLES[m] * self._vectors(self.channels) + _OUTPUT_CYCLES[m] * self._vectors(self.outputs)
        )
        return products + transforms + _WEIGHT_CYCLES * 4 * points * self.channels * self.outputs

    def best(self) -> int | None:
        """Side of the output tiles, 2 or 4; None when the direct convolution is not slower."""
        if min(self.channels, self.outputs) < _LEAST_CHANNELS:
            return None
        m = min((2, 4), key=self.cycles)
        return m if self.cycles(m) < _WORTH * self.direct_cycles() else None

    @staticmethod
    def _vectors(channels: int) -> int:
        return -(-channels // _LANES)


def layer_of(node: Node, b: Builder) -> Layer | None:
    """The convolution in the terms of the cost model; None when it has no Winograd form here: F(2 x 2, 3 x 3) and
    F(4 x 4, 3 x 3) take constant 3x3 weights in f32, stride 1, dilation 1, one group and channel counts that are known.

    Weights that are whole numbers have none either: sums of whole numbers (masks that are counted, say) are exact in the
    direct convolution, and zero where nothing is added."""
    x, weight = node.operand(0), node.operand(1)
    constant = b.weight(weight)
    if node.op.name != "conv" or x.tensor.dtype is not dtypes.f32 or constant is None:
        return None
    outputs, channels, *kernel = weight.tensor.shape
    attrs = node.attrs
    if kernel != [3, 3] or any(v != 1 for v in (*attrs["stride"], *attrs["dilation"], attrs["groups"])):
        return None
    if weight.tensor.dtype is not dtypes.f32 or not isinstance(channels, int) or not isinstance(outputs, int):
        return None
    if _whole(constant):
        return None
    batch, _, height, width = node.type.shape
    return Layer(_batch(batch, b), _side(height), _side(width), channels, outputs)


def winograd(node: Node, sizes: ConvSizes, ep: Functor, b: Builder) -> bool:
    """Emit the convolution in its Winograd form if that is faster; whether it was."""
    layer = layer_of(node, b)
    m = None if layer is None else layer.best()
    if layer is None or m is None:
        return False
    x, weight = node.operand(0), node.operand(1)
    source, original = b.contiguous(x, (0, 2, 3, 1)), b.contiguous(weight)
    chosen, weights = f"{tile(layer.outputs)}, {m}", sizes.weights

    def pack(buffer: Buffer) -> Kernel:
        return Kernel(
            "pack_winograd", f"{weights.text}\npack_winograd<{chosen}>(w, packed, from, s);",
            (Pointer("packed", "float", whole_buffer(buffer), write=True), pointer("from", original)),
            weights.numbers, ("winograd.hpp", "tiles.hpp"),
        )

    size = weights.computed(f"packed_winograd_elements<{chosen}>(SHAPE) * 4")
    packed = b.prepare(weight, ("winograd", m, *weights.values), size, pack)
    b.emit(Kernel(
        "conv_winograd", f"{sizes.text}\n{ep.text}\nconv_winograd<{chosen}>(w, x, packed, weight, s, ep, scratch);",
        (*ep.pointers, pointer("x", source), Pointer("packed", "float", whole_buffer(packed)),
         pointer("weight", original), b.scratch(sizes.computed(f"winograd_scratch_bytes<{chosen}>(SHAPE, workers)"))),
        (*ep.numbers, *sizes.numbers), (*HEADERS, "winograd.hpp", "tiles.hpp"),
    ), _work(node, layer, m))
    return True


def _work(node: Node, layer: Layer, m: int) -> Work:
    """Operations in parts of the direct convolution's; the weights read are the transformed ones."""
    work, points = work_of(node), (m + 2) ** 2
    tiles = -(-layer.height // m) * -(-layer.width // m)
    share = round(1024 * tiles * points / (9 * layer.height * layer.width))
    extra = 4 * (points - 9) * layer.channels * layer.outputs
    return Work(dims.floordiv(dims.mul(work.flops, share), 1024), dims.add(work.read, extra), work.write)


def _whole(weight: Weight) -> bool:
    """Whether all elements are whole numbers; encoded weights, which have scales, count as none."""
    if weight.type.encoding != DENSE:
        return False
    values = weight.parts["values"].reshape(-1)
    return all(bool(np.all(v == np.rint(v))) for v in (values[:64], values))


def _batch(size: Dim, b: Builder) -> int:
    """The smallest batch: larger ones only gain more."""
    return max(1, dims.evaluate(size, {s: max(1, bounds.low) for s, bounds in b.graph.symbols.items()}))


def _side(size: Dim) -> int:
    return max(1, size) if isinstance(size, int) else _USUAL_SIDE
