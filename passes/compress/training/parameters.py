"""Constants as parameters: what is trained of a constant, the dense tensor it means, and how it is stored again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcomp.ir import dtypes
from mcomp.ir.encoding import DENSE, NM, Affine, BlockSparse, Encoding, quantize_array
from mcomp.ir.graph import Node
from mcomp.ir.types import TensorType
from mcomp.ops.encoded import array_of, tensor_of
from mcomp.passes.compress.training.rounding import round_weight

Parts = Mapping[str, np.ndarray]
_CELL = 0.49
"""How far, in steps, a value may be from the integer that it rounds to."""
HELD_ZEROS = 0.02
"""From this share on, the zeros of a dense matrix are a pattern that training keeps."""


class Trained(ABC):
    """A constant in training. `master` is the tensor that is optimized (float32, or float64 for f64), `scales` the steps
    that it is rounded to (None: it is not rounded), `growth` the logarithm of what they are multiplied by while learned."""

    def __init__(self, node: Node, master: Tensor, scales: Tensor | None, learn_scales: bool) -> None:
        self.node = node
        self.type: TensorType = node.type
        self.master = master.clone(memory_format=torch.contiguous_format).requires_grad_()
        self.scales = scales
        self.growth = torch.zeros_like(scales).requires_grad_() if learn_scales and scales is not None else None

    @property
    def name(self) -> str:
        return str(self.node.attrs["name"])

    def tensors(self) -> dict[str, Tensor]:
        """What is optimized, by what it is: `values`, and `scales` where they are learned."""
        return {"values": self.master} if self.growth is None else {"values": self.master, "scales": self.growth}

    @abstractmethod
    def value(self) -> Tensor:
        """The dense tensor that the constant means now, in its logical element type; differentiable."""

    @abstractmethod
    def parts(self) -> Parts:
        """The arrays to store, of the type that the constant had."""

    def scales_now(self) -> Tensor:
        """The scales that values are rounded to."""
        assert self.scales is not None
        return self.scales if self.growth is None else self.scales * self.growth.exp()


class DenseParameter(Trained):
    """A dense constant. Exact zeros of a matrix that has a share of them of at least `HELD_ZEROS` stay zero."""

    def __init__(self, node: Node, value: Tensor) -> None:
        super().__init__(node, value if value.dtype is torch.float64 else value.float(), None, False)
        self.dtype = value.dtype
        self.mask = _pattern(value)

    def value(self) -> Tensor:
        held = self.master if self.mask is None else self.master * self.mask
        return held.to(self.dtype)

    def parts(self) -> Parts:
        with torch.no_grad():
            return {"values": array_of(self.value().contiguous().clone())}


class AffineParameter(Trained):
    """A constant in integers: trained in float, rounded to the scales that it has (or learns) whenever it is used.

    With `original`, the constant before it was rounded, training starts from that, moved as little as needed to round to
    the integers that are stored: which of them are near to the next one is what rounding leaves to learn. Elements that are
    more than a step away from it were not only rounded (but scaled, or moved to make up for others), and start as stored.
    Zeros that it had and still has stay, where they are a pattern.
    """

    def __init__(
        self, node: Node, parts: Mapping[str, Tensor], encoding: Affine, learn_scales: bool, original: Tensor | None
    ) -> None:
        self.encoding = encoding
        scales, self.zeros = _scales_of(parts, encoding)
        start = _decode_affine(parts["values"], scales, self.zeros, encoding)
        self.mask: Tensor | None = None
        if original is not None and original.shape == start.shape:
            self.mask = _pattern(original, original == start)
            start = _toward(start, original.float(), _spread(scales, start.shape, encoding))
        super().__init__(node, start, scales, learn_scales)

    def value(self) -> Tensor:
        found = round_weight(self._held(), self.scales_now(), self.zeros, self.encoding)
        return found.to(_torch_dtype(self.type))

    def parts(self) -> Parts:
        return _affine_parts(self._held(), self.scales_now(), self.zeros, self.encoding)

    def _held(self) -> Tensor:
        return self.master if self.mask is None else self.master * self.mask


class NMParameter(Trained):
    """A constant of which n of every m elements are stored: only those are trained; which they are is held."""

    def __init__(self, node: Node, parts: Mapping[str, Tensor], encoding: NM, learn_scales: bool) -> None:
        self.encoding = encoding
        self.indices = parts["indices"]
        inner = encoding.inner
        scales: Tensor | None = None
        self.zeros: Tensor | float = 0.0
        kept = parts["values"].float()
        if isinstance(inner, Affine):
            scales, self.zeros = _scales_of(parts, inner)
            kept = _decode_affine(parts["values"], scales, self.zeros, inner)
        super().__init__(node, kept, scales, learn_scales)
        shape = (*self.indices.shape[:-1], -1, encoding.n)
        self._places = self.indices.long().reshape(shape)

    def value(self) -> Tensor:
        inner = self.encoding.inner
        kept = self.master
        if isinstance(inner, Affine):
            kept = round_weight(kept, self.scales_now(), self.zeros, inner)
        groups = kept.reshape(self._places.shape)
        empty = groups.new_zeros(*groups.shape[:-1], self.encoding.m)
        dense = empty.scatter(-1, self._places, groups)
        return dense.reshape(self.type.static_shape).to(_torch_dtype(self.type))

    def parts(self) -> Parts:
        inner = self.encoding.inner
        indices = array_of(self.indices)
        if isinstance(inner, Affine):
            return {**_affine_parts(self.master, self.scales_now(), self.zeros, inner), "indices": indices}
        kept = self.master.detach().to(_torch_dtype(self.type)).contiguous().clone()
        return {"values": array_of(kept), "indices": indices}


class BlockParameter(Trained):
    """A block-sparse matrix, or pointwise convolution: only the stored blocks are trained; where they are is held."""

    def __init__(self, node: Node, parts: Mapping[str, Tensor], encoding: BlockSparse, learn_scales: bool) -> None:
        self.encoding = encoding
        self.rows, self.columns = parts["rows"], parts["columns"]
        height, width = encoding.block
        rows, columns = node.type.static_shape[:2]
        self._tiles = (rows // height, columns // width)
        owner = torch.repeat_interleave(torch.arange(self._tiles[0]), self.rows.long().diff())
        self._owner = owner
        self._place = owner * self._tiles[1] + self.columns.long()
        inner = encoding.inner
        scales: Tensor | None = None
        self.zeros: Tensor | float = 0.0
        kept = parts["values"].float()
        if isinstance(inner, Affine):
            scales, self.zeros = _scales_of(parts, inner)
            kept = (kept - self._by_block(self.zeros)) * self._by_block(scales)
        super().__init__(node, kept, scales, learn_scales)

    def value(self) -> Tensor:
        inner = self.encoding.inner
        kept = self.master
        if isinstance(inner, Affine):
            zeros = self._by_block(self.zeros)
            kept = round_weight(kept, self._by_block(self.scales_now()), zeros, Affine(inner.dtype))
        height, width = self.encoding.block
        tiles_down, tiles_across = self._tiles
        flat = kept.new_zeros(tiles_down * tiles_across, height * width)
        flat = flat.index_copy(0, self._place, kept.reshape(-1, height * width))
        tiles = flat.reshape(tiles_down, tiles_across, height, width)
        return tiles.transpose(1, 2).reshape(self.type.static_shape).to(_torch_dtype(self.type))

    def parts(self) -> Parts:
        places = {"rows": array_of(self.rows), "columns": array_of(self.columns)}
        inner = self.encoding.inner
        if not isinstance(inner, Affine):
            kept = self.master.detach().to(_torch_dtype(self.type)).contiguous().clone()
            return {"values": array_of(kept), **places}
        scales = self.scales_now().detach()
        low, high = inner.range
        integers = torch.round(self.master.detach() / self._by_block(scales)) + self._by_block(self.zeros)
        stored: Any = dtypes.to_torch(inner.dtype)
        found = {"values": array_of(integers.clamp(low, high).to(stored)), **places}
        if inner.scale is None:
            found["scales"] = array_of(scales.clone())
            if isinstance(self.zeros, Tensor):
                found["zeros"] = array_of(self.zeros.to(torch.int32))
        return found

    def _by_block(self, rows: Tensor | float) -> Tensor:
        """What belongs to the matrix's rows ([rows, 1], or one for all) for the rows of each block."""
        if not isinstance(rows, Tensor) or rows.numel() == 1:
            return torch.as_tensor(rows).float().reshape(1, 1, 1)
        return rows.float().reshape(self._tiles[0], self.encoding.block[0], 1)[self._owner]


def parameter(node: Node, *, learn_scales: bool = False, original: Tensor | None = None) -> Trained | None:
    """A floating-point `const` node as a parameter (a copy); None for constants that cannot be trained: integers, and
    encodings other than dense, affine, n:m and block sparse. `original`: what an affine constant was before rounding."""
    weight = node.graph.store.get(node.attrs["digest"])
    type = weight.type
    if not type.dtype.is_float or type.dtype.bits < 16:
        return None
    buffers = type.encoding.buffers(type)
    tensors = {name: tensor_of(array, buffers[name].dtype) for name, array in weight.parts.items()}
    encoding: Encoding = type.encoding
    stored = encoding.inner if isinstance(encoding, (NM, BlockSparse)) else encoding
    learn_scales = learn_scales and isinstance(stored, Affine) and stored.scale is None
    if encoding == DENSE:
        return DenseParameter(node, tensors["values"])
    if isinstance(encoding, Affine):
        return AffineParameter(node, tensors, encoding, learn_scales, original)
    if isinstance(encoding, NM):
        return NMParameter(node, tensors, encoding, learn_scales)
    if isinstance(encoding, BlockSparse):
        return BlockParameter(node, tensors, encoding, learn_scales)
    return None


def _scales_of(parts: Mapping[str, Tensor], encoding: Affine) -> tuple[Tensor, Tensor | float]:
    if encoding.scale is not None:
        return torch.tensor(encoding.scale, dtype=torch.float32), float(encoding.zero)
    zeros: Tensor | float = parts["zeros"].float() if encoding.zero_point else float(encoding.zero)
    return parts["scales"].float(), zeros


def _decode_affine(values: Tensor, scales: Tensor, zeros: Tensor | float, encoding: Affine) -> Tensor:
    integers = values.float()
    if encoding.group is None:
        return (integers - zeros) * scales
    grouped = integers.reshape(*integers.shape[:-1], -1, encoding.group)
    offset = zeros.unsqueeze(-1) if isinstance(zeros, Tensor) and zeros.dim() else zeros
    return ((grouped - offset) * scales.unsqueeze(-1)).reshape(integers.shape)


def _pattern(value: Tensor, still: Tensor | None = None) -> Tensor | None:
    """0 at the zeros of a matrix that has a share of them of at least `HELD_ZEROS`, `still` so if that is given, and 1
    elsewhere; None for others."""
    zeros = value == 0
    share = float(zeros.float().mean()) if value.dim() >= 2 and value.numel() else 0.0
    if not HELD_ZEROS <= share < 1.0:
        return None
    return (~zeros if still is None else ~(zeros & still)).float()


def _toward(start: Tensor, original: Tensor, step: Tensor) -> Tensor:
    """What is stored, moved towards what it was within the cell that rounds to it, where that is at most a step away."""
    reach = _CELL * step
    moved = torch.minimum(torch.maximum(original, start - reach), start + reach)
    return torch.where((original - start).abs() <= step, moved, start)


def _spread(scales: Tensor, shape: torch.Size, encoding: Affine) -> Tensor:
    """The scale of every element."""
    if encoding.group is None:
        return scales.expand(shape)
    return scales.repeat_interleave(encoding.group, -1).expand(shape)


def _affine_parts(master: Tensor, scales: Tensor, zeros: Tensor | float, encoding: Affine) -> dict[str, np.ndarray]:
    values = master.detach().numpy()
    chosen = None if encoding.scale is not None else scales.detach().numpy().copy()
    offsets = zeros.numpy() if isinstance(zeros, Tensor) else None
    return quantize_array(values, encoding, scales=chosen, zeros=offsets)


def _torch_dtype(type: TensorType) -> Any:
    return dtypes.to_torch(type.dtype)
