"""Encoded tensors in torch, and the way between numpy and torch arrays. The only place that knows both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mcomp.errors import IRError
from mcomp.ir import dims, dtypes
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import DENSE, NM, Affine, BlockSparse, Dense, Encoding, Scaled
from mcomp.ir.store import Weight
from mcomp.ir.types import TensorType

if TYPE_CHECKING:
    from torch import Tensor

_REINTERPRETED = {"bf16": "int16", "f8e4m3": "uint8", "f8e5m2": "uint8"}


class _Shared:
    """An array by numpy's array interface, marked writeable, so that torch takes it without copy or warning."""

    def __init__(self, array: np.ndarray) -> None:
        self._keep = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.__array_interface__["data"][0], False)}


def tensor_of(array: np.ndarray, dtype: DType) -> Tensor:
    """The torch tensor of an array in the storage of `dtype` (bf16 and fp8 as their bits). Shares the memory, even of
    read-only arrays: nobody may write to it. Copies arrays with negative strides or foreign byte order."""
    import torch

    given = array.astype(array.dtype.newbyteorder("="), copy=False)
    if any(s < 0 for s in given.strides):
        given = np.ascontiguousarray(given)
    if dtype.name in _REINTERPRETED:
        given = given.view(_REINTERPRETED[dtype.name])
    if not given.flags.writeable:
        given = np.asarray(_Shared(given))
    found = torch.from_numpy(given)
    wanted: Any = dtypes.to_torch(dtype)
    return found.view(wanted) if dtype.name in _REINTERPRETED else found.to(wanted)


def array_of(tensor: Tensor) -> np.ndarray:
    """The numpy array of a tensor; bf16 and fp8 as their bits. Shares the memory where it can."""
    import torch

    given = tensor.detach().cpu().resolve_conj().resolve_neg()
    name = dtypes.from_torch(given.dtype).name
    if name in _REINTERPRETED:
        bits = given.view(getattr(torch, _REINTERPRETED[name])).numpy()
        return bits.view(np.uint16) if name == "bf16" else bits
    return given.numpy()


@dataclass(frozen=True)
class Encoded:
    """An encoded tensor: its type and the torch tensors of its encoding, by part name.

    `source`, if set, is the tensor it was made from: `decode` then lets gradients through to it unchanged.
    """

    type: TensorType
    parts: Mapping[str, Tensor]
    source: Tensor | None = None

    def decode(self) -> Tensor:
        """The dense tensor, in the logical element type."""
        shape = _decoded_shape(self.type.encoding, self.parts, self.type)
        decoded = _decode(self.type.encoding, self.parts, shape)
        if self.type.encoding != DENSE:
            wanted: Any = dtypes.to_torch(self.type.dtype)
            decoded = decoded.to(wanted)
        if self.source is None:
            return decoded
        return self.source + (decoded - self.source).detach()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the dense tensor."""
        return _decoded_shape(self.type.encoding, self.parts, self.type)


def weight_tensor(weight: Weight) -> Tensor | Encoded:
    """A constant as torch has it: a tensor when dense, else an Encoded. Shares memory with the store."""
    buffers = weight.type.encoding.buffers(weight.type)
    parts = {name: tensor_of(array, buffers[name].dtype) for name, array in weight.parts.items()}
    return parts["values"] if weight.type.encoding == DENSE else Encoded(weight.type, parts)


def to_torch_tensor(weight: Weight) -> Tensor:
    """A constant as a dense torch tensor of its logical element type. Shares memory with the store when dense."""
    found: Tensor = decoded(weight_tensor(weight))
    return found


def decoded(value: Any) -> Any:
    """The dense tensor of an Encoded; anything else as it is."""
    return value.decode() if isinstance(value, Encoded) else value


def _decoded_shape(encoding: Encoding, parts: Mapping[str, Tensor], type: TensorType) -> tuple[int, ...]:
    if isinstance(encoding, NM):
        stored = parts["indices"].shape
        return (*stored[:-1], stored[-1] // encoding.n * encoding.m)
    if isinstance(encoding, BlockSparse):
        return type.static_shape
    return tuple(parts["values"].shape)


def _decode(encoding: Encoding, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    if isinstance(encoding, Dense):
        return parts["values"]
    if isinstance(encoding, Affine):
        return _decode_affine(encoding, parts)
    if isinstance(encoding, Scaled):
        return parts["values"].float() * (parts["scales"] if encoding.scale is None else np.float32(encoding.scale).item())
    if isinstance(encoding, NM):
        kept = _decode(encoding.inner, parts, tuple(parts["indices"].shape))
        groups = kept.reshape(*kept.shape[:-1], -1, encoding.n)
        empty = groups.new_zeros(*groups.shape[:-1], encoding.m)
        return empty.scatter(-1, parts["indices"].long().reshape(groups.shape), groups).reshape(shape)
    if isinstance(encoding, BlockSparse):
        return _decode_blocks(encoding, parts, shape)
    raise IRError(f"no way to decode {encoding}")


def _decode_affine(encoding: Affine, parts: Mapping[str, Tensor]) -> Tensor:
    values = parts["values"].float()
    if encoding.scale is not None:
        return (values - encoding.zero) * np.float32(encoding.scale).item()
    scales = parts["scales"]
    zeros: Any = parts["zeros"].float() if encoding.zero_point else encoding.zero
    if encoding.group is None:
        return (values - zeros) * scales
    grouped = values.reshape(*values.shape[:-1], -1, encoding.group)
    zeros = zeros.unsqueeze(-1) if encoding.zero_point else zeros
    return ((grouped - zeros) * scales.unsqueeze(-1)).reshape(values.shape)


def _decode_blocks(encoding: BlockSparse, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    import torch

    (rows, columns), (height, width) = shape[:2], encoding.block
    values, starts = parts["values"], parts["rows"].long()
    owner = torch.repeat_interleave(torch.arange(rows // height, device=values.device), starts.diff())
    place = owner * (columns // width) + parts["columns"].long()
    flat = values.new_zeros(rows // height * (columns // width), height * width)
    flat = flat.index_copy(0, place, values.reshape(-1, height * width))
    matrix = flat.reshape(rows // height, columns // width, height, width).transpose(1, 2).reshape(shape)
    return _decode(encoding.inner, {**parts, "values": matrix}, shape)


def quantize_tensor(x: Tensor, encoding: Affine) -> Encoded:
    """Encode a float tensor; scales that the encoding does not fix come from the data (see `quantize`).

    Scales and rounding are computed in float32. A row of zeros gets scale 1; a row with NaN or infinity decodes to NaN.
    Gradients, when x wants them, pass straight through.
    """
    import torch

    low, high = encoding.range
    data = x.detach().float()
    shape = data.shape
    if encoding.group is not None:
        data = data.reshape(*shape[:-1], -1, encoding.group)
    parts: dict[str, Tensor] = {}
    if encoding.scale is not None:
        scales, zeros = torch.tensor(encoding.scale, dtype=torch.float32), torch.tensor(float(encoding.zero))
    else:
        scales, zeros = _ranges(data, encoding)
        kept = tuple(dims.evaluate(s, {}) for s in encoding.scale_shape(tuple(shape)))
        parts["scales"] = scales.reshape(kept)
        if encoding.zero_point:
            parts["zeros"] = zeros.to(torch.int32).reshape(kept)
    q = (torch.round(data / scales) + zeros).clamp(low, high)
    storage: Any = dtypes.to_torch(encoding.dtype)
    parts["values"] = torch.nan_to_num(q, nan=0.0).reshape(shape).to(storage)
    logical = TensorType(tuple(shape), dtypes.from_torch(x.dtype), encoding)
    return Encoded(logical, parts, x if x.requires_grad and torch.is_grad_enabled() else None)


def scale_tensor(x: Tensor, encoding: Scaled) -> Encoded:
    """Encode a float tensor in floats of 8 bits; scales that the encoding does not fix come from the data: the largest
    magnitude maps to the largest number. Rounds to nearest even and saturates; NaN becomes 0. Gradients, when x wants them,
    pass straight through."""
    import torch

    data = x.detach().float()
    parts: dict[str, Tensor] = {}
    if encoding.scale is not None:
        scales = torch.tensor(encoding.scale, dtype=torch.float32)
    else:
        over = [i for i in range(data.dim()) if i not in encoding.axis]
        magnitude = data.abs().amax(over, keepdim=True) if over and data.numel() else data.abs()
        if not data.numel():
            magnitude = torch.zeros([1 if i in over else s for i, s in enumerate(data.shape)])
        scales = parts["scales"] = torch.where(magnitude == 0, 1.0, magnitude / encoding.largest)
    storage: Any = dtypes.to_torch(encoding.dtype)
    limited = torch.nan_to_num(data / scales, nan=0.0).clamp(-encoding.largest, encoding.largest)
    parts["values"] = limited.to(storage)
    logical = TensorType(tuple(data.shape), dtypes.from_torch(x.dtype), encoding)
    return Encoded(logical, parts, x if x.requires_grad and torch.is_grad_enabled() else None)


def _ranges(data: Tensor, encoding: Affine) -> tuple[Tensor, Tensor]:
    """Scales and zero points from the data, broadcastable against it."""
    import torch

    low, high = encoding.range
    over = [i for i in range(data.dim()) if i not in encoding.axis]
    if encoding.group is not None:
        over = [i for i in range(data.dim() - 2) if i not in encoding.axis] + [data.dim() - 1]
    if data.numel() == 0:
        ones = torch.ones([1 if i in over else s for i, s in enumerate(data.shape)])
        return ones, torch.zeros_like(ones)
    if not encoding.zero_point:
        magnitude = data.abs().amax(over, keepdim=True) if over else data.abs()
        scales = torch.where(magnitude == 0, 1.0, magnitude / high)
        return scales, torch.full_like(scales, float(encoding.zero))
    top = data.amax(over, keepdim=True).clamp(min=0) if over else data.clamp(min=0)
    bottom = data.amin(over, keepdim=True).clamp(max=0) if over else data.clamp(max=0)
    scales = torch.where(top == bottom, 1.0, (top - bottom) / (high - low))
    zeros = (low - torch.round(bottom / scales)).clamp(low, high)
    return scales, torch.nan_to_num(zeros, nan=0.0)
