"""Numbers that a program computes: sizes become dims, other numbers tensors without dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from mcomp.capture.symbols import Unsupported
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim, Expr
from mcomp.ir.dtypes import DType
from mcomp.ir.graph import Value

if TYPE_CHECKING:
    from mcomp.capture.convert import Builder

BINARY = {"FloatTrueDiv": "div", "IntTrueDiv": "div", "FloatPow": "pow", "PowByNatural": "pow"}
UNARY = {"sqrt": "sqrt", "cos": "cos", "sin": "sin", "exp": "exp", "log": "log", "tanh": "tanh", "log2": "log2"}


def number(builder: Builder, node: fx.Node) -> Any:
    """What a call that yields a number is: a constant, a dim, or a value of no dimensions."""
    fake = node.meta["val"]
    if isinstance(fake, bool | int | float):
        return fake
    if str(node.target) in ("aten.item.default", "aten._local_scalar_dense.default"):
        return item(builder, node)
    if isinstance(fake, torch.SymInt):
        return builder.symbols.dim(fake)
    if isinstance(fake, torch.SymFloat):
        return real(builder, fake.node.expr)
    raise Unsupported(f"the truth of {fake.node.expr} is computed at run time")


def item(builder: Builder, node: fx.Node) -> Any:
    """The value of a tensor as a size (a new symbol) or, for real numbers, the tensor itself."""
    source = builder.lookup(node.args[0])
    fake = node.meta["val"]
    if isinstance(fake, torch.SymFloat):
        return source
    if not isinstance(fake, torch.SymInt) or not fake.node.expr.is_Symbol:
        raise Unsupported(f"the value {fake.node.expr} of a tensor decides what happens next")
    symbol = builder.symbols.name(fake.node.expr)
    builder.editor.add("item", [source], {"symbol": symbol}, name=node.name, loc=builder.loc)
    return builder.symbols.dim(fake)


def real(builder: Builder, e: Any) -> Value:
    """A real number computed from sizes, as an f64 tensor of no dimensions. Raises Unsupported."""

    def emit(op: str, *operands: Value) -> Value:
        return builder.editor.add(op, operands, loc=builder.loc).result

    if e.is_Number:
        return full(builder, float(e), dtypes.f64)
    name = type(e).__name__
    if name == "ToFloat" or (e.is_integer and e.is_Symbol):
        return full(builder, builder.symbols.expression(e), dtypes.f64)
    if name in BINARY:
        return emit(BINARY[name], real(builder, e.args[0]), real(builder, e.args[1]))
    if name.removeprefix("OpaqueUnaryFn_") in UNARY:
        return emit(UNARY[name.removeprefix("OpaqueUnaryFn_")], real(builder, e.args[0]))
    if e.is_Add or e.is_Mul:
        total = real(builder, e.args[0])
        for one in e.args[1:]:
            total = emit("add" if e.is_Add else "mul", total, real(builder, one))
        return total
    if e.is_Pow:
        return emit("pow", real(builder, e.base), real(builder, e.exp))
    return full(builder, builder.symbols.expression(e), dtypes.f64)


def full(builder: Builder, value: Any, dtype: DType) -> Value:
    """A tensor of no dimensions."""
    return builder.editor.add("full", [], {"value": value, "shape": (), "dtype": dtype}, loc=builder.loc).result


def tensor(builder: Builder, value: Any) -> Value:
    """A constant or a dim that the program returns, as a tensor of no dimensions. Raises Unsupported for others."""
    if isinstance(value, bool):
        return full(builder, value, dtypes.bool_)
    if isinstance(value, int | Expr):
        return full(builder, value, dtypes.i64)
    if isinstance(value, float):
        return full(builder, value, dtypes.f64)
    raise Unsupported(f"the program returns {value!r}")


def is_size(value: Any) -> bool:
    """Whether an argument is an int or a symbolic size."""
    return isinstance(value, int | Expr) and not isinstance(value, bool)


def clamp_index(index: Dim, size: Dim) -> Dim:
    """A Python slice bound as an index between 0 and `size`. Symbolic bounds that are never positive count from the end;
    others are kept where they provably fit."""
    if _is_negative(index):
        counted = dims.add(size, index)
        counted = max(counted, 0) if isinstance(counted, int) else dims.maximum(counted, 0)
        return counted if isinstance(index, int) or _is_polynomial(index) else _unless_zero(index, counted)
    return dims.minimum(index, size)


def from_end(index: Dim, size: Dim) -> Dim:
    """A Python index as one from the start: negative numbers, and symbolic ones that are never positive, count from the
    end."""
    if not _is_negative(index):
        return index
    return dims.add(size, index) if isinstance(index, int) or _is_polynomial(index) else dims.mod(index, size)


def _is_negative(index: Dim) -> bool:
    """Whether an index counts from the end: a negative number, or a symbolic one that is never positive."""
    return index < 0 if isinstance(index, int) else dims.nonnegative(dims.mul(index, -1))


def _is_polynomial(index: Expr) -> bool:
    """Whether there are only sizes in an expression, which are 1 at least, and nothing that may be 0."""
    return all(monomial and all(isinstance(atom, dims.Symbol) for atom, _ in monomial) for monomial, _ in index.terms)


def _unless_zero(index: Dim, otherwise: Dim) -> Dim:
    """`otherwise`, but 0 where the index, which is never positive, is 0."""
    return dims.mul(otherwise, dims.minimum(dims.mul(index, -1), 1))


def asserts_values(node: fx.Node) -> bool:
    """Whether a call is an assertion about elements of tensors, or about sizes that they tell, that neither tracing has
    settled nor bounds of sizes say."""
    if str(node.target) == "aten._assert_async.msg":
        return True
    condition = node.args[0] if str(node.target) == "aten._assert_scalar.default" else None
    fake = condition.meta.get("val") if isinstance(condition, fx.Node) else None
    if not isinstance(fake, torch.SymBool) or not free_unbacked_symbols(fake):
        return False
    e = fake.node.expr
    bound = isinstance(e, (sympy.Ge, sympy.Gt, sympy.Le, sympy.Lt)) and any(a.is_number for a in e.args)
    return not (bound and any(a.is_Symbol for a in e.args))
