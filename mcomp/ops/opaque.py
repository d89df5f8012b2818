"""Opaque operators: nodes that torch runs under their full name (`aten.x.overload`, `torchvision.nms.default`)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from mcomp.errors import IRError
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import ANY_ATTRS, Effect, Op, Tolerance, operands

if TYPE_CHECKING:
    from mcomp.ir.graph import Node


class OpaqueOp(Op):
    """An operator of torch without a class of ours.

    Attributes: `args` and `kwargs` (pairs) are the call's arguments with operands written as the string `$i`;
    `types` holds the result types, so that nothing of torch is needed to read the graph.
    """

    operands = operands("inputs*")
    attrs = ANY_ATTRS
    tolerance = Tolerance.APPROXIMATE

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]

    @property
    def effect(self) -> Effect:  # type: ignore[override]
        random = any(word in self.name for word in _RANDOM) or _is_seeded(self.name)
        return Effect.RANDOM if random else Effect.PURE

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        if "types" not in attrs:
            raise IRError("an opaque operator needs its result types in the attribute `types`")
        return tuple(attrs["types"])

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        function = resolve(self.name)
        args = [_fill(a, inputs) for a in attrs.get("args", ())]
        kwargs = {k: _fill(v, inputs) for k, v in attrs.get("kwargs", ())}
        out = function(*args, **kwargs)
        return tuple(out) if isinstance(out, (list, tuple)) else out


_RANDOM = (
    "rand", "bernoulli", "multinomial", "dropout", "normal", "exponential", "poisson", "uniform", "binomial",
    "_standard_gamma", "_sample_dirichlet", "cauchy", "geometric", "rrelu",
)
"""Parts of names of operators that draw random numbers, for where torch, which tags them, has not been imported."""


def _is_seeded(name: str) -> bool:
    """Whether torch, if it has been imported, says that an operator draws random numbers."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return False
    try:
        return torch.Tag.nondeterministic_seeded in resolve(name).tags
    except IRError:
        return False


@cache
def opaque_op(name: str) -> OpaqueOp:
    """The opaque operator of this dotted name."""
    return OpaqueOp(name)


def is_opaque(node: Node) -> bool:
    """Whether a node runs in torch for want of an operator of ours."""
    return isinstance(node.op, OpaqueOp)


def resolve(name: str) -> Any:
    """The torch function of an opaque operator, if its schema is functional and on the allow-list.

    Raises IRError for operators that are unknown, write to their arguments, or reach outside of the process (files).
    """
    import torch

    parts = name.split(".")
    if len(parts) not in (2, 3):
        raise IRError(f"{name} is no operator name; expected namespace.name.overload")
    namespace, op = parts[0], parts[1]
    overload = parts[2] if len(parts) == 3 else "default"
    if op in _FORBIDDEN or (op.startswith("_") and op not in _ALLOWED_PRIVATE and namespace != "aten"):
        raise IRError(f"{name} may not be called from a graph: it reaches outside of its arguments")
    try:
        function = getattr(getattr(getattr(torch.ops, namespace), op), overload)
    except (AttributeError, RuntimeError) as e:
        raise IRError(
            f"torch has no operator {name}", help="import the package that defines it before running the graph"
        ) from e
    if not isinstance(function, torch._ops.OpOverload):
        raise IRError(f"torch has no operator {name}", help="give the whole name, namespace.name.overload")
    if function._schema.is_mutable:
        raise IRError(f"{name} writes to its arguments; only functional operators may be called from a graph")
    return function


_FORBIDDEN = frozenset({
    "from_file", "save", "load", "print", "warn", "_print", "_assert_async", "copy_", "set_", "_shared_memory",
})
_ALLOWED_PRIVATE = frozenset[str]()


def _fill(template: Any, inputs: Sequence[Any]) -> Any:
    from mcomp.ir.dtypes import DType, to_torch

    if isinstance(template, str) and template.startswith("$") and template[1:].isdigit():
        return inputs[int(template[1:])]
    if isinstance(template, tuple):
        return [_fill(t, inputs) for t in template]
    if isinstance(template, DType):
        return to_torch(template)
    return template
