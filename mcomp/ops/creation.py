"""Operators that make tensors out of nothing: constants, ranges, random numbers. And dropout, which does nothing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mcomp.errors import IRError
from mcomp.ir import dims, dtypes
from mcomp.ir.dtypes import DType
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Attr, Cost, Effect, Op, Tolerance, operands, register, total_bytes
from mcomp.ops.rules import ALL, FLOATS, NUMBERS, present, require_rank, require_sizes


def _check_dtype(dtype: DType, allowed: frozenset[DType]) -> None:
    if dtype not in allowed:
        raise IRError(f"cannot make elements of type {dtype}")


class _Creation(Op):
    """Results are written, nothing is computed."""

    tolerance = Tolerance.EXACT

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        return Cost(0, 0, total_bytes(results))


@register
class Full(_Creation):
    """A tensor of `shape` filled with one number, which may be a symbolic size (then for integers and floats)."""

    name = "full"
    attrs = (Attr("value", "number"), Attr("shape", "dim[]", ()), Attr("dtype", "dtype", dtypes.f32))

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        value, dtype = attrs["value"], attrs["dtype"]
        _check_dtype(dtype, ALL)
        if isinstance(value, complex) and not dtype.is_complex:
            raise IRError(f"{value} does not fit {dtype}")
        if isinstance(value, float) and not dtype.is_float and not dtype.is_complex:
            raise IRError(f"{value} does not fit {dtype}", help="write a whole number")
        require_sizes(attrs["shape"])
        return (TensorType(attrs["shape"], dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.full(attrs["shape"], attrs["value"], dtype=dtypes.to_torch(attrs["dtype"]))


@register
class Arange(_Creation):
    """[length]: start + i * step, computed in i64 or f64 and then rounded to the element type."""

    name = "arange"
    attrs = (
        Attr("start", "number", 0), Attr("step", "number", 1), Attr("length", "dim"),
        Attr("dtype", "dtype", dtypes.i64),
    )
    tolerance = Tolerance.ROUNDING

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        _check_dtype(attrs["dtype"], NUMBERS)
        for name in ("start", "step"):
            if isinstance(attrs[name], float) and attrs["dtype"].is_int:
                raise IRError(f"{name} {attrs[name]} does not fit {attrs['dtype']}")
        require_sizes((attrs["length"],))
        return (TensorType((attrs["length"],), attrs["dtype"]),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        wide = torch.int64 if attrs["dtype"].is_int else torch.float64
        steps = torch.arange(attrs["length"], dtype=wide)
        return (steps * attrs["step"] + attrs["start"]).to(dtypes.to_torch(attrs["dtype"]))


@register
class Eye(_Creation):
    """[rows, columns]: ones on the diagonal, zeros elsewhere."""

    name = "eye"
    attrs = (Attr("rows", "dim"), Attr("columns", "dim"), Attr("dtype", "dtype", dtypes.f32))

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        _check_dtype(attrs["dtype"], ALL)
        shape = (attrs["rows"], attrs["columns"])
        require_sizes(shape)
        return (TensorType(shape, attrs["dtype"]),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.eye(attrs["rows"], attrs["columns"], dtype=dtypes.to_torch(attrs["dtype"]))


class _Random(Op):
    """Draws numbers anew in every execution, from torch's default generator where torch runs."""

    effect = Effect.RANDOM
    allowed: ClassVar[frozenset[DType]] = FLOATS

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        _check_dtype(attrs["dtype"], self.allowed)
        require_sizes(attrs["shape"])
        return (TensorType(attrs["shape"], attrs["dtype"]),)

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        return Cost(dims.mul(results[0].numel, 10), total_bytes(types), total_bytes(results))

    @abstractmethod
    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any: ...


@register
class Rand(_Random):
    """Uniform random numbers in [0, 1)."""

    name = "rand"
    attrs = (Attr("shape", "dim[]"), Attr("dtype", "dtype", dtypes.f32))

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.rand(attrs["shape"], dtype=dtypes.to_torch(attrs["dtype"]))


@register
class Randn(_Random):
    """Normal random numbers with mean 0 and variance 1."""

    name = "randn"
    attrs = (Attr("shape", "dim[]"), Attr("dtype", "dtype", dtypes.f32))

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.randn(attrs["shape"], dtype=dtypes.to_torch(attrs["dtype"]))


@register
class Randint(_Random):
    """Uniform random whole numbers in [low, high)."""

    name = "randint"
    attrs = (
        Attr("low", "dim", 0), Attr("high", "dim"), Attr("shape", "dim[]"), Attr("dtype", "dtype", dtypes.i64),
    )
    allowed = NUMBERS

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        low, high = attrs["low"], attrs["high"]
        if isinstance(low, int) and isinstance(high, int) and low >= high:
            raise IRError(f"no whole number is in [{low}, {high})")
        return super().infer(types, attrs)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.randint(attrs["low"], attrs["high"], attrs["shape"], dtype=dtypes.to_torch(attrs["dtype"]))


@register
class Bernoulli(_Random):
    """1 with probability p, else 0, in the shape and element type of p."""

    name = "bernoulli"
    operands = operands("p")

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        p = present(types)
        _check_dtype(p.dtype, FLOATS)
        return (p.dense(),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.bernoulli(inputs[0])


@register
class Multinomial(_Random):
    """p[..., K] -> i64[..., samples]: indices drawn with probabilities proportional to p; p has rank 1 or 2."""

    name = "multinomial"
    operands = operands("p")
    attrs = (Attr("samples", "int"), Attr("replacement", "bool", False))

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        p = present(types)
        _check_dtype(p.dtype, FLOATS)
        require_rank(p, (1, 2), "p")
        samples, count = attrs["samples"], p.shape[-1]
        if samples < 1 or (not attrs["replacement"] and isinstance(count, int) and samples > count):
            raise IRError(f"cannot draw {samples} of {count} without replacement")
        return (TensorType((*p.shape[:-1], samples), dtypes.i64),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.multinomial(inputs[0], attrs["samples"], attrs["replacement"])


@register
class Dropout(Op):
    """x: dropout does nothing when a model is not trained."""

    name = "dropout"
    operands = operands("x")
    attrs = (Attr("p", "float", 0.5),)
    tolerance = Tolerance.EXACT
    view = True

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        return (present(types).dense(),)

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        return Cost()

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return inputs[0]
