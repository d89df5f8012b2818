"""What an operator is: specification, type inference, cost, meaning. One class per operator; see the family files."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from mcomp.errors import IRError
from mcomp.ir import dims
from mcomp.ir.dims import Dim, Expr
from mcomp.ir.dtypes import DType
from mcomp.ir.types import TensorType, Type

if TYPE_CHECKING:
    from mcomp.ir.graph import Node, Value


class Effect(Enum):
    """pure: may be merged, folded, dropped. random: draws numbers; may be dropped, never merged or folded.
    effectful: does something outside of its results; stays."""

    PURE = "pure"
    RANDOM = "random"
    EFFECTFUL = "effectful"


class Tolerance(Enum):
    """How close a backend must come to the reference. exact: bit for bit. rounding: a few units in the last place of
    the accumulated magnitude. approximate: transcendental functions and long reductions."""

    EXACT = "exact"
    ROUNDING = "rounding"
    APPROXIMATE = "approximate"


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand: its name, and whether it may be absent (`?`) or repeats (`*`, last only)."""

    name: str
    optional: bool = False
    variadic: bool = False


class Required:
    """Default of an attribute that must be given."""

    def __repr__(self) -> str:
        return "required"


REQUIRED = Required()


@dataclass(frozen=True, slots=True)
class Attr:
    """An attribute: name, kind and default.

    kind is one of int, float, bool, str, dtype, dim (int or symbolic), number (int, float, bool or dim), any; with `[]`
    appended, a tuple of those (which may nest for any); `graph` for a nested graph. A trailing `?` admits None.
    """

    name: str
    kind: str
    default: Any = REQUIRED


@dataclass(frozen=True, slots=True)
class Cost:
    """Work of one execution: floating-point (or integer) operations, bytes read, bytes written; symbolic."""

    flops: Dim = 0
    read: Dim = 0
    write: Dim = 0


def operands(*texts: str) -> tuple[Operand, ...]:
    """Operand specifications from names: `x`, `bias?` (optional), `tensors*` (any number, last)."""
    return tuple(Operand(t.rstrip("?*"), optional=t.endswith("?"), variadic=t.endswith("*")) for t in texts)


class Op(ABC):
    """Base of operators.

    A subclass states `name`, `operands`, `attrs`, and defines `infer`, `reference` and, where the default (one
    operation per result element) is wrong, `cost`. It is registered with `@register`.
    """

    name: ClassVar[str]
    operands: ClassVar[tuple[Operand, ...]] = ()
    attrs: ClassVar[tuple[Attr, ...]] = ()
    effect: ClassVar[Effect] = Effect.PURE
    tolerance: ClassVar[Tolerance] = Tolerance.ROUNDING
    accepts_encoded: ClassVar[bool] = False
    """Whether `reference` takes encoded operands as they are; otherwise they are decoded first."""
    view: ClassVar[bool] = False
    """Whether the result holds the same elements as the first operand, so that a backend may avoid a copy."""

    @abstractmethod
    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        """Result types from operand types (None: absent). Raises IRError when they do not fit."""

    @abstractmethod
    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        """The meaning: a torch tensor, or a tuple of them, from torch tensors (None: absent). Dims are ints here."""

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        """Work of one execution. Default: one operation per result element; every operand read once, results written
        once."""
        flops: Dim = 0
        for r in results:
            flops = dims.add(flops, r.numel)
        return Cost(flops, total_bytes(types), total_bytes(results))

    def infer_node(self, node: Node) -> tuple[Type, ...]:
        """Result types of a node. Errors carry the node's layer and line of IR."""
        types = [None if v is None else v.tensor for v in node.operands]
        try:
            return self.infer(types, node.attrs)
        except IRError as e:
            if e.where is not None:
                raise
            signature = ", ".join("_" if t is None else str(t) for t in types)
            raise IRError(
                f"{self.name}: {e.message}", where=str(node.loc) or None, ir=f"{self.name}({signature})", help=e.help
            ) from e

    def node_cost(self, node: Node) -> Cost:
        """Work of one execution of a node."""
        types = [v.type if v is not None and isinstance(v.type, TensorType) else None for v in node.operands]
        return self.cost(types, [v.tensor for v in node.results if isinstance(v.type, TensorType)], node.attrs)

    def check_operands(self, given: Sequence[Value | None]) -> None:
        """Raise IRError when the number of operands or their absence does not fit."""
        spec = self.operands
        if spec and spec[-1].variadic:
            fixed = len(spec) - 1
            if len(given) < fixed:
                raise IRError(f"{self.name} takes at least {fixed} operands, not {len(given)}")
        elif len(given) > len(spec):
            raise IRError(f"{self.name} takes {len(spec)} operands, not {len(given)}")
        for i, o in enumerate(spec):
            present = i < len(given) and given[i] is not None
            if not present and not o.optional and not o.variadic:
                raise IRError(f"{self.name} lacks its operand `{o.name}`")

    def __repr__(self) -> str:
        return f"<op {self.name}>"


def total_bytes(types: Sequence[TensorType | None]) -> Dim:
    """Sum of the bytes of some tensors."""
    total: Dim = 0
    for t in types:
        if t is not None:
            total = dims.add(total, t.nbytes)
    return total


_OPS: dict[str, Op] = {}
_OpClass = TypeVar("_OpClass", bound=type[Op])


def register(cls: _OpClass) -> _OpClass:
    """Class decorator: make an operator known by its name. Raises ValueError when the name is taken by another."""
    known = _OPS.get(cls.name)
    if known is not None and type(known).__qualname__ != cls.__qualname__:
        raise ValueError(f"there is an operator {cls.name} already: {type(known).__qualname__}")
    _OPS[cls.name] = cls()
    return cls


def op_named(name: str) -> Op:
    """The operator of this name. A dotted name without a class of ours (`aten.x.default`) is an opaque operator.

    Raises IRError with suggestions when the name is unknown.
    """
    _load_families()
    found = _OPS.get(name)
    if found is not None:
        return found
    if "." in name:
        from mcomp.ops.opaque import opaque_op

        return opaque_op(name)
    close = difflib.get_close_matches(name, _OPS, n=3)
    raise IRError(f"no operator is called {name}", help=f"did you mean {' or '.join(close)}?" if close else None)


def all_ops() -> dict[str, Op]:
    """Every registered operator by name (no opaque ones)."""
    _load_families()
    return dict(_OPS)


_loaded = False


def _load_families() -> None:
    global _loaded
    if not _loaded:
        _loaded = True
        import mcomp.ops  # noqa: F401


_SCALARS: dict[str, Callable[[Any], bool]] = {
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "float": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "bool": lambda v: isinstance(v, bool),
    "str": lambda v: isinstance(v, str),
    "dtype": lambda v: isinstance(v, DType),
    "dim": lambda v: isinstance(v, (int, Expr)) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, (int, float, bool, complex, Expr)),
    "any": lambda v: True,
}


def freeze(value: Any) -> Any:
    """An attribute value as it is kept: lists become tuples, dicts sorted tuples of pairs. Raises IRError for others."""
    from mcomp.ir.graph import Graph

    if value is None or isinstance(value, (bool, int, float, complex, str, DType, Expr, TensorType, Graph)):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(freeze(v) for v in value)
    raise IRError(f"{value!r} of type {type(value).__name__} cannot be an attribute")


def normalize(op: Op, given: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes in the op's order with defaults filled in, frozen and checked. Raises IRError."""
    if op.attrs is ANY_ATTRS:
        return {k: freeze(v) for k, v in given.items()}
    unknown = given.keys() - {a.name for a in op.attrs}
    if unknown:
        known = ", ".join(a.name for a in op.attrs) or "none"
        raise IRError(f"{op.name} has no attribute {sorted(unknown)[0]}", help=f"it has: {known}")
    out: dict[str, Any] = {}
    for a in op.attrs:
        value = freeze(given[a.name]) if a.name in given else a.default
        if value is REQUIRED:
            raise IRError(f"{op.name} lacks its attribute `{a.name}`")
        if not _fits(value, a.kind):
            raise IRError(f"{op.name}: attribute {a.name} is {value!r}, not {a.kind}")
        if a.kind.startswith("float") and isinstance(value, int):
            value = float(value)
        out[a.name] = value
    return out


def _fits(value: Any, kind: str) -> bool:
    if kind.endswith("?"):
        return value is None or _fits(value, kind[:-1])
    if kind.endswith("[]"):
        return isinstance(value, tuple) and all(_fits(v, kind[:-2]) for v in value)
    if kind == "graph":
        from mcomp.ir.graph import Graph

        return isinstance(value, Graph)
    return _SCALARS[kind](value)


ANY_ATTRS: tuple[Attr, ...] = (Attr("*", "any"),)
"""Marks an op whose attributes are not specified (opaque operators)."""
