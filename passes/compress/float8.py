"""Weights and activations of linear layers in floats of 8 bits (e4m3) with scales, which tensor cores from sm_89 on
multiply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mcomp.ir import dtypes
from mcomp.ir.encoding import Scaled
from mcomp.passes.compress.layer import Layer, Plan, corrected_bias, output_of, shift_of, weight_of
from mcomp.passes.compress.samples import Key, Sample, error_by_row, sample_key

if TYPE_CHECKING:
    from torch import Tensor

ROWS = Scaled(dtypes.f8e4m3, axis=(0,))
"""A scale for each output of a weight."""


def float8_plans(layers: list[Layer], samples: Mapping[Key, Sample], correct: bool) -> list[Plan]:
    """How each layer is stored and what that does to its output."""
    import torch

    with torch.no_grad():
        return [_plan(layer, samples[sample_key(layer.node)], correct) for layer in layers]


def _plan(layer: Layer, sample: Sample, correct: bool) -> Plan:
    from mcomp.ops.encoded import array_of, scale_tensor

    node, weight, rows = layer.node, weight_of(layer.node), sample.rows()
    activation = _activation(layer.mode, sample)
    coded = scale_tensor(weight, ROWS)
    exact, rough = output_of(node, rows, weight), output_of(node, _seen(rows, activation), coded.decode())
    bias = corrected_bias(node, shift_of(exact, rough, node)) if correct else None
    rough = rough if bias is None else rough + bias.shift
    kinds = {"none": "float activations", "static": "activations f8e4m3 static", "dynamic": "activations f8e4m3 dynamic"}
    parts = {name: array_of(part) for name, part in coded.parts.items()}
    detail = f"weights f8e4m3, {kinds[layer.mode]}"
    data = None if bias is None else bias.data
    return Plan(layer, ROWS, parts, activation, None, data, error_by_row(rough, exact), detail)


def _activation(mode: str, sample: Sample) -> Mapping[str, Any] | None:
    """Attributes of the `quantize` in front of a layer."""
    if mode == "none":
        return None
    if mode == "dynamic":
        return {"dtype": dtypes.f8e4m3}
    most = max(abs(sample.low), abs(sample.high))
    return {"dtype": dtypes.f8e4m3, "scale": most / ROWS.largest if most > 0 else 1.0}


def _seen(rows: Tensor, activation: Mapping[str, Any] | None) -> Tensor:
    """What is left of activations."""
    from mcomp.ops.encoded import scale_tensor

    if activation is None:
        return rows
    scale = activation.get("scale")
    axis = tuple(range(rows.dim() - 1)) if scale is None else ()
    return scale_tensor(rows, Scaled(dtypes.f8e4m3, axis=axis, scale=scale)).decode()
