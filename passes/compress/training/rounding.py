"""Rounding to integers inside of training: values are those that the encoding gives, gradients pass straight through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mcomp.ir import dtypes
from mcomp.ir.encoding import Affine, Scaled
from mcomp.ir.graph import Node
from mcomp.ops.quant import encoding_of


class _Round(torch.autograd.Function):
    """(clamp(round(x / scale) + zero, low, high) - zero) * scale.

    The gradient passes to x where nothing was clamped, and to the scale as in learned step size quantization (Esser et al.
    2020, equation 3), with their factor 1 / sqrt(elements per scale * high).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        steps = x / scale
        rounded = torch.round(steps) + zero
        integers = rounded.clamp(low, high)
        inside = rounded == integers
        integers -= zero
        learned = ctx.needs_input_grad[1]
        ctx.factor = (max(1, x.numel() // max(1, scale.numel())) * max(1, high)) ** -0.5
        ctx.scale_shape = tuple(scale.shape)
        ctx.save_for_backward(inside, torch.where(inside, integers - steps, integers) if learned else None)
        return integers * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inside, slope = ctx.saved_tensors
        grad = grads[0]
        for_scale = None
        if slope is not None:
            for_scale = (grad * slope).sum_to_size(ctx.scale_shape) * ctx.factor
        return grad * inside if ctx.needs_input_grad[0] else None, for_scale, None, None, None


class _RoundFixed(torch.autograd.Function):
    """clamp(round(x / scale), low, high) * scale, of scales that are not learned. The gradient passes where nothing was
    clamped. Passes that vectorize: torch's own operators take several times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        steps = x / scale
        single = scale.numel() == 1
        unit = float(scale) if single else 1.0
        ctx.range = (low - 0.5) * unit, (high + 0.5) * unit
        ctx.save_for_backward(x if single else steps)  # x is there anyway
        return (steps.round_() if single else steps.round()).clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        before, = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grads[0], before, *ctx.range), None, None, None


def round_to(x: Tensor, scale: Tensor, zero: Tensor, encoding: Affine) -> Tensor:
    """x after it was integers of this encoding, in x's element type; `scale` and `zero` broadcast against x."""
    low, high = encoding.range
    found = _Round.apply(x.float(), scale, zero, low, high)
    return found.to(x.dtype)


def round_weight(x: Tensor, scales: Tensor, zeros: Tensor | float, encoding: Affine) -> Tensor:
    """A weight after it was integers; `scales` (and `zeros`) in the shape that the encoding stores them in."""
    grouped, steps = x, scales
    if encoding.group is not None:
        grouped, steps = x.reshape(*x.shape[:-1], -1, encoding.group), scales.unsqueeze(-1)
    if scales.requires_grad or isinstance(zeros, Tensor) or x.dtype is not torch.float32:
        offset = zeros if isinstance(zeros, Tensor) else torch.tensor(float(zeros))
        if encoding.group is not None and offset.dim():
            offset = offset.unsqueeze(-1)
        return round_to(grouped, steps, offset, encoding).reshape(x.shape)
    low, high = (int(end - zeros) for end in encoding.range)
    found: Tensor = _RoundFixed.apply(grouped, steps, low, high)
    return found.reshape(x.shape)


def round_activation(node: Node, growth: Tensor | None = None) -> Any:
    """What a `quantize` node does while training: a function from a float tensor to a float tensor, for a fixed scale in the
    element type that the graph states (autocast may give another). With `growth`, the node's scale grows by its
    exponential; those of floats of 8 bits stay."""
    attrs = node.attrs
    rank = len(node.operand(0).tensor.shape)
    encoding = encoding_of(attrs, rank)
    if isinstance(encoding, Scaled):
        from mcomp.ops.encoded import scale_tensor

        return lambda x: scale_tensor(x, encoding).decode()
    low, high = encoding.range
    if growth is not None and encoding.scale is not None:
        start, offset = float(encoding.scale), torch.tensor(float(encoding.zero))
        return lambda x: round_to(x, start * growth.exp(), offset, encoding)
    if encoding.scale is not None:
        fixed, zero, dtype = float(encoding.scale), encoding.zero, dtypes.to_torch(node.operand(0).tensor.dtype)

        def static(x: Tensor) -> Tensor:
            found: Tensor
            if x.dtype is torch.float64:
                found = round_to(x, torch.tensor(fixed), torch.tensor(float(zero)), encoding)
            else:
                found = _RoundFixed.apply(x.float(), torch.tensor(fixed), low - zero, high - zero)
            return found.to(dtype)

        return static
    if encoding.zero_point:
        from mcomp.ops.encoded import quantize_tensor

        return lambda x: quantize_tensor(x, encoding).decode()
    over = [i for i in range(rank) if i not in encoding.axis]

    def dynamic(x: Tensor) -> Tensor:
        with torch.no_grad():
            magnitude = x.abs().amax(over, keepdim=True).float()
            scales = torch.where(magnitude == 0, 1.0, magnitude / high)
            rounded = (torch.round(x / scales).clamp_(low, high) * scales).to(x.dtype)
        return x + (rounded - x).detach() if x.requires_grad else rounded

    return dynamic
