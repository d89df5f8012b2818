"""Activation functions: element-wise operators of floating-point tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from mcomp.errors import IRError
from mcomp.ir import dtypes
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Attr, Op, Tolerance, operands, register
from mcomp.ops.elementwise import ElementWise
from mcomp.ops.elementwise import define as define_elementwise
from mcomp.ops.rules import COMPLEX, FLOATS, NUMBERS, one_of, present, require_dtype, require_equal, require_same_dtype

define = partial(define_elementwise, module=__name__)
_SIGNED = NUMBERS - {dtypes.u8}


def _attr(name: str, default: float) -> Attr:
    return Attr(name, "float", default)


define("relu", "max(x, 0); NaN stays.", accepts=NUMBERS, exact=True)
define("relu6", "min(max(x, 0), 6); NaN stays.", accepts=NUMBERS, exact=True, flops=2, torch="nn.functional.relu6")
define("hardtanh", "x limited to [min, max]; NaN stays.", accepts=_SIGNED, exact=True, flops=2,
       attrs=(_attr("min", -1.0), _attr("max", 1.0)),
       meaning=lambda torch, a, x: torch.clamp(x, a["min"], a["max"]).to(x.dtype))
define("threshold", "x above `threshold`, else `value`; NaN stays.", accepts=NUMBERS, exact=True,
       attrs=(Attr("threshold", "float"), Attr("value", "float")),
       meaning=lambda torch, a, x: torch.nn.functional.threshold(x, a["threshold"], a["value"]))
define("silu", "x * sigmoid(x), also called swish.", accepts=FLOATS | COMPLEX, flops=12, torch="nn.functional.silu")
define("mish", "x * tanh(log(1 + exp(x))).", flops=32, torch="nn.functional.mish")
define("softplus", "log(1 + exp(beta * x)) / beta; x itself where beta * x exceeds `threshold`.", flops=22,
       attrs=(_attr("beta", 1.0), _attr("threshold", 20.0)),
       meaning=lambda torch, a, x: torch.nn.functional.softplus(x, a["beta"], a["threshold"]))
define("hardswish", "x * min(max(x + 3, 0), 6) / 6.", flops=4, torch="nn.functional.hardswish")
define("hardsigmoid", "min(max(x + 3, 0), 6) / 6.", flops=3, torch="nn.functional.hardsigmoid")
define("leaky_relu", "x above zero, else slope * x.", flops=2, attrs=(_attr("slope", 0.01),),
       meaning=lambda torch, a, x: torch.nn.functional.leaky_relu(x, a["slope"]))
define("elu", "scale * x above zero, else scale * alpha * (exp(input_scale * x) - 1).", flops=12,
       attrs=(_attr("alpha", 1.0), _attr("scale", 1.0), _attr("input_scale", 1.0)),
       meaning=lambda torch, a, x: torch.ops.aten.elu(x, a["alpha"], a["scale"], a["input_scale"]))
define("selu", "elu with the fixed alpha and scale that keep mean 0 and variance 1 (arXiv 1706.02515).", flops=12,
       torch="nn.functional.selu")
define("celu", "max(0, x) + min(0, alpha * (exp(x / alpha) - 1)).", flops=13, attrs=(_attr("alpha", 1.0),),
       meaning=lambda torch, a, x: torch.nn.functional.celu(x, a["alpha"]))
define("log_sigmoid", "log(sigmoid(x)) without overflow.", flops=22, torch="nn.functional.logsigmoid")
define("tanhshrink", "x - tanh(x).", accepts=FLOATS | COMPLEX, flops=11, torch="nn.functional.tanhshrink")
define("softsign", "x / (1 + |x|).", flops=3, torch="nn.functional.softsign")
define("softshrink", "x moved by `lambd` towards zero, 0 within it; NaN stays.", flops=2, attrs=(_attr("lambd", 0.5),),
       meaning=lambda torch, a, x: torch.nn.functional.softshrink(x, a["lambd"]))
define("hardshrink", "x, but 0 where |x| <= lambd.", exact=True, flops=2, attrs=(_attr("lambd", 0.5),),
       meaning=lambda torch, a, x: torch.nn.functional.hardshrink(x, a["lambd"]))


@register
class Gelu(ElementWise):
    """x * Phi(x), Phi the normal distribution function; `approximate` "tanh" uses the formula with tanh
    (arXiv 1606.08415). Infinity at infinity, NaN at minus infinity."""

    name = "gelu"
    operands = operands("x")
    attrs = (Attr("approximate", "str", "none"),)
    flops = 14
    tolerance = Tolerance.APPROXIMATE

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        one_of(attrs["approximate"], ("none", "tanh"), "approximate")
        return super().infer(types, attrs)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        (x,) = inputs
        return torch.where(x == torch.inf, x, torch.nn.functional.gelu(x, approximate=attrs["approximate"]))


@register
class Prelu(Op):
    """x above zero, else weight * x. The weight is [1], or [C] with C the size of axis 1 of x."""

    name = "prelu"
    operands = operands("x", "weight")

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, weight = present(types), present(types, 1)
        require_same_dtype(x, weight)
        require_dtype(x, FLOATS)
        if weight.rank != 1:
            raise IRError(f"the weight {weight} must have rank 1")
        if weight.shape[0] != 1:
            if x.rank < 2:
                raise IRError(f"a weight per channel needs an axis 1, which {x} lacks")
            require_equal(weight.shape[0], x.shape[1], "weight and axis 1 of x")
        return (x.dense(),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.nn.functional.prelu(*inputs)
