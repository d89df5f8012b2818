"""Planning one layer's quantization: parameters, smoothing, bias, and the error they make on calibration data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mcomp.ir import dtypes
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import DENSE, Affine, Encoding
from mcomp.ir.graph import Node
from mcomp.ir.types import TensorType
from mcomp.manager.context import Context
from mcomp.passes.compress.encode import INTEGERS, affine_of, encoded_shape, levels_of
from mcomp.passes.compress.feedback import round_weight
from mcomp.passes.compress.readers import sharers
from mcomp.passes.compress.rounding import Coded, Rounder
from mcomp.passes.compress.samples import (
    Method,
    Sample,
    activation_range,
    error_by_row,
    scale_and_zero,
    smoothing,
)

if TYPE_CHECKING:
    from torch import Tensor

    from mcomp.passes.compress.quantize import Quantize

SMOOTH_GAIN = 0.85
"""Without an alpha from the user, smoothing is kept where it brings the error of the output below this share."""
_WAYS = {"feedback": "error feedback", "learned": "learned integers and scales"}
METHODS: tuple[Method, ...] = ("mse", "percentile", "minmax")
"""Ranges tried for `auto`."""


@dataclass(frozen=True)
class Layer:
    """A node to quantize, how its activations are (static, dynamic, none), and the bits of its weight."""

    node: Node
    mode: str
    bits: int


@dataclass(frozen=True)
class Plan:
    """How one layer is quantized: the weight's encoding and buffers, the attributes of the activation's `quantize` (None:
    stays float), smoothing factors, a corrected bias f64[N], and the relative L2 error of the layer's output."""

    layer: Layer
    encoding: Encoding
    parts: dict[str, np.ndarray]
    activation: Mapping[str, Any] | None
    factors: np.ndarray | None
    bias: np.ndarray | None
    error: float
    detail: str


@dataclass(frozen=True)
class Bias:
    """A bias that makes up for a mean error: `data` f64[N], rounded as it is stored, and what the output gains by it, shaped
    to be added to it."""

    data: np.ndarray
    shift: Tensor


@dataclass(frozen=True)
class _Trial:
    activation: Mapping[str, Any] | None
    factors: Any
    errors: tuple[float, ...]
    biases: tuple[Bias | None, ...]
    coded: tuple[Coded, ...]


def plan_layer(
    options: Quantize, members: list[Layer], sample: Sample, context: Context, rounder: Rounder
) -> list[Plan]:
    """Plans for layers that read the same value; they share its quantization."""
    import torch

    with torch.no_grad():
        plans: list[Plan] = []
        by_mode: dict[tuple[str, int], list[Layer]] = {}
        for layer in members:
            by_mode.setdefault((layer.mode, layer.bits), []).append(layer)
        for (mode, _bits), group in by_mode.items():
            trial = _best(options, group, mode, sample, None, context, rounder)
            alpha = options.smooth
            shared = alpha is None and any(sharers(m.node) for m in group)
            if mode != "none" and all(m.node.op.name == "linear" for m in group) and alpha != 0 and not shared:
                smooth = _best(options, group, mode, sample, 0.5 if alpha is None else alpha, context, rounder)
                if alpha is not None or sum(smooth.errors) < SMOOTH_GAIN * sum(trial.errors):
                    trial = smooth
            plans += [_plan(layer, i, trial) for i, layer in enumerate(group)]
        return plans


def _best(
    options: Quantize, group: list[Layer], mode: str, sample: Sample, alpha: float | None, context: Context,
    rounder: Rounder,
) -> _Trial:
    """The trial with the least error of the layers' outputs, over the ways to choose a range."""
    methods = METHODS if options.ranges == "auto" else (options.ranges,)
    if mode != "static":
        methods = methods[:1]
    trials = [_try(options, group, mode, sample, alpha, context, rounder, method) for method in methods]
    return min(trials, key=lambda trial: sum(trial.errors))


def _try(
    options: Quantize, group: list[Layer], mode: str, sample: Sample, alpha: float | None, context: Context,
    rounder: Rounder, method: Method,
) -> _Trial:
    import torch

    factors = None
    weights = [weight_of(layer.node) for layer in group]
    if alpha is not None:
        magnitude = torch.stack([w.abs().amax(0) for w in weights]).amax(0)
        assert sample.magnitude is not None
        factors = _representable(smoothing(sample.magnitude, magnitude, alpha), group[0].node.operand(0).tensor.dtype)
    activation = _activation(options, mode, sample, factors, method)
    rows = sample.rows()
    seen = rows / factors if factors is not None else rows
    quantized = round_trip(seen, activation)
    errors, biases, weights_coded = [], [], []
    for layer, weight in zip(group, weights):
        scaled = weight * factors if factors is not None else weight
        coded = rounder(layer.node, scaled, encoding_of(options, layer, context), seen, factors)
        exact = output_of(layer.node, rows, weight)
        rough = output_of(layer.node, quantized, coded.weight)
        bias = corrected_bias(layer.node, shift_of(exact, rough, layer.node)) if options.correct else None
        errors.append(error_by_row(rough if bias is None else rough + bias.shift, exact))
        biases.append(bias)
        weights_coded.append(coded)
    return _Trial(activation, factors, tuple(errors), tuple(biases), tuple(weights_coded))


def _representable(factors: Tensor, dtype: DType) -> Tensor:
    """Smoothing factors whose inverses, which activations are multiplied by, are floats of `dtype`."""
    if dtype in (dtypes.f32, dtypes.f64):
        return factors
    return 1.0 / (1.0 / factors).to(dtypes.to_torch(dtype)).float()


def _plan(layer: Layer, index: int, trial: _Trial) -> Plan:
    import torch

    coded = trial.coded[index]
    encoding = coded.encoding
    kind = "float activations" if trial.activation is None else f"activations {_words(trial.activation)}"
    detail = f"weights {affine_of(encoding).dtype}, {kind}" + (", smoothed" if trial.factors is not None else "")
    detail += f", rounded with {_WAYS[coded.way]}" if coded.way in _WAYS else ""
    bias = trial.biases[index]
    factors = trial.factors.numpy() if isinstance(trial.factors, torch.Tensor) else None
    data = None if bias is None else bias.data
    return Plan(layer, encoding, coded.parts, trial.activation, factors, data, trial.errors[index], detail)


def _words(activation: Mapping[str, Any]) -> str:
    how = "dynamic" if "scale" not in activation else f"static, scale {activation['scale']:.3g}"
    return f"{activation['dtype']} {how}"


def corrected_bias(node: Node, shift: Tensor) -> Bias | None:
    """The bias plus the mean error that it makes up for, as it is stored; None where it is computed, not constant."""
    import torch

    bias = node.maybe(2)
    if bias is not None and bias.weight is None:
        return None
    dtype = dtypes.to_torch(node.type.dtype if bias is None else bias.tensor.dtype)
    held = torch.zeros((), dtype=torch.float64)
    if bias is not None and bias.weight is not None:
        held = torch.from_numpy(np.array(bias.weight.decode(), np.float64))
    data = (held + shift.reshape(-1).double()).to(dtype).double()
    return Bias(data.numpy(), (data - held).float().reshape(shift.shape))


def shift_of(exact: Tensor, rough: Tensor, node: Node) -> Tensor:
    """The mean error per output channel, shaped to be added to the output."""
    axis = 1 if node.op.name == "conv" else exact.dim() - 1
    over = [i for i in range(exact.dim()) if i != axis]
    return (exact - rough).mean(over, keepdim=True)


def _activation(
    options: Quantize, mode: str, sample: Sample, factors: Tensor | None, method: Method
) -> Mapping[str, Any] | None:
    scaled = sample
    if factors is not None and mode == "static":
        rows = sample.rows() / factors
        assert sample.magnitude is not None
        scaled = Sample(sample.channel, float(rows.min()), float(rows.max()), sample.magnitude / factors, [rows.flatten()])
    return activation_of(scaled, mode, method, options.percentile)


def activation_of(
    sample: Sample, mode: str, method: Method = "mse", percentile: float = 99.99
) -> Mapping[str, Any] | None:
    """Attributes of the `quantize` in front of a layer whose input was sampled; None for activations `none`."""
    if mode == "none":
        return None
    if mode == "dynamic":
        return {"dtype": dtypes.i8}
    low, high = activation_range(sample, method, percentile, 256)
    scale, zero = scale_and_zero(low, high, unsigned=True)
    return {"dtype": dtypes.u8, "scale": scale, "zero": zero}


def round_trip(x: Tensor, activation: Mapping[str, Any] | None) -> Tensor:
    """What is left of activations after they were integers."""
    import torch

    if activation is None:
        return x
    if "scale" in activation:
        scale, zero = activation["scale"], activation["zero"]
        low, high = Affine(activation["dtype"]).range
        return (torch.clamp(torch.round(x / scale) + zero, low, high) - zero) * scale
    magnitude = x.abs().amax(-1, keepdim=True)
    scales = torch.where(magnitude == 0, 1.0, magnitude / 127)
    return torch.clamp(torch.round(x / scales), -128, 127) * scales


def encoding_of(options: Quantize, layer: Layer, context: Context) -> Affine:
    """How the options store a layer's weight."""
    weight, group = layer.node.operand(1).tensor, context.option(layer.node, "group", options.group)
    return integers_for(layer.bits, layer.mode, layer.node.op.name, weight, group)


def integers_for(bits: int, mode: str, op: str, weight: TensorType, group: int | None = None) -> Affine:
    """How a weight is stored in so many bits: a scale for each output; for dense linear layers one for each `group` of
    inputs, which weights of fewer bits than 8 with float activations (mode none) have by themselves."""
    dtype = INTEGERS[bits]
    if op != "linear" or weight.encoding != DENSE:
        return Affine(dtype, axis=(0,))
    if bits < 8 and mode == "none" and group is None:
        width = weight.static_shape[-1]
        group = next((g for g in (128, 64, 32) if width % g == 0), None)
    return Affine(dtype, axis=(0,), group=group)


def encode_weight(weight: Tensor, encoding: Affine) -> dict[str, np.ndarray]:
    """The buffers of a weight [N, ...] rounded to the nearest, one scale for each of its rows or their groups."""
    flat = weight.double().reshape(1, weight.shape[0], -1)
    rounded = round_weight(flat, None, levels_of(encoding))
    return {
        "values": rounded.integers.reshape(weight.shape).numpy().astype(encoding.dtype.numpy),
        "scales": rounded.scales.float().reshape(encoded_shape(encoding, tuple(weight.shape))).numpy(),
    }


def weight_of(node: Node) -> Tensor:
    """The constant weight of a layer as f32."""
    import torch

    stored = node.operand(1).weight
    assert stored is not None
    return torch.from_numpy(np.array(stored.decode(), dtype=np.float32))


def output_of(node: Node, x: Tensor, weight: Tensor) -> Tensor:
    """The layer without its bias."""
    return node.op.reference([x, weight, None], node.attrs)
