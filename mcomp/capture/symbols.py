"""Symbolic sizes of torch (sympy) as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy

from mcomp.errors import CaptureError
from mcomp.ir import dims
from mcomp.ir.dims import Bounds, Dim


class Unsupported(CaptureError):
    """Something in an exported program that the IR cannot say; capture goes on with static sizes or by submodule."""


class SymbolTable:
    """Names of symbols: sympy symbol -> our name, and their bounds."""

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self.names = dict(names or {})
        self.bounds: dict[str, Bounds] = {}

    def name(self, symbol: Any) -> str:
        """Our name of a sympy symbol; torch's own name when none was chosen."""
        return self.names.setdefault(str(symbol), str(symbol))

    def dim(self, size: Any) -> Dim:
        """An int, a torch.SymInt or a sympy expression as a dim. Raises Unsupported for anything not in the IR."""
        if isinstance(size, int):
            return int(size)
        expression = size.node.expr if hasattr(size, "node") else size
        return self.expression(sympy.sympify(expression))

    def expression(self, e: Any) -> Dim:
        """See `dim`."""
        if e.is_Integer:
            return int(e)
        if e.is_Symbol:
            return dims.sym(self.name(e))
        if e.is_Add:
            return sum((self.expression(a) for a in e.args[1:]), self.expression(e.args[0]))
        if e.is_Mul:
            return self._product(e)
        if e.is_Pow and e.exp.is_Integer and e.exp >= 0:
            return dims.product([self.expression(e.base)] * int(e.exp))
        return self._function(e)

    def _product(self, e: Any) -> Dim:
        numerator, denominator = sympy.fraction(e)
        if denominator == 1:
            return dims.product([self.expression(a) for a in e.args])
        whole, by = self.expression(numerator), self.expression(denominator)
        if dims.mod(whole, by) != 0:
            raise Unsupported(f"the size {e} is a fraction")
        return dims.floordiv(whole, by)

    def _function(self, e: Any) -> Dim:
        name = type(e).__name__
        args = e.args
        if name in ("FloorDiv", "CleanDiv", "IntDiv", "FloorToInt_Div"):
            return dims.floordiv(self.expression(args[0]), self.expression(args[1]))
        if name == "CeilDiv":
            return dims.ceildiv(self.expression(args[0]), self.expression(args[1]))
        if name in ("Mod", "PythonMod"):
            return dims.mod(self.expression(args[0]), self.expression(args[1]))
        if name == "ModularIndexing":
            return dims.mod(dims.floordiv(self.expression(args[0]), self.expression(args[1])), self.expression(args[2]))
        if name in ("Max", "Min"):
            combine = dims.maximum if name == "Max" else dims.minimum
            total = self.expression(args[0])
            for one in args[1:]:
                total = combine(total, self.expression(one))
            return total
        if name in ("TruncToInt", "FloorToInt", "CeilToInt", "floor", "ceiling"):
            return self._rounded(name, args[0])
        if name in ("Identity", "ToFloat"):
            return self.expression(args[0])
        raise Unsupported(f"the size {e} uses {name}, which sizes of the IR lack")

    def _rounded(self, name: str, e: Any) -> Dim:
        if type(e).__name__ in ("IntTrueDiv", "FloatTrueDiv"):
            numerator, denominator = e.args
        elif e.is_Mul and len(e.args) == 2 and e.args[0].is_Rational:
            numerator, denominator = e.args[0].p * e.args[1], sympy.Integer(e.args[0].q)
        elif e.is_Mul and len(e.args) == 2 and e.args[0].is_Float and (1 / e.args[0]) == int(1 / e.args[0]):
            numerator, denominator = e.args[1], sympy.Integer(int(1 / e.args[0]))
        elif e.is_Mul and len(e.args) == 2 and e.args[0].is_Float and e.args[0] == int(e.args[0]):
            numerator, denominator = sympy.Integer(int(e.args[0])) * e.args[1], sympy.Integer(1)
        else:
            raise Unsupported(f"the size {name}({e}) is rounded from a fraction that sizes of the IR lack")
        divide = dims.ceildiv if name in ("CeilToInt", "ceiling") else dims.floordiv
        return divide(self.expression(numerator), self.expression(denominator))


def bounds_of(ranges: Any, oblivious: bool) -> Bounds:
    """Bounds from torch's value range. Unless tracing was oblivious, it took every symbolic size to be two or more."""
    low, high = ranges.lower, ranges.upper
    lowest = int(low) if getattr(low, "is_Integer", False) else 0
    highest = int(high) if getattr(high, "is_Integer", False) and int(high) < 2**62 else None
    return Bounds(max(lowest, 0 if oblivious else 2), highest)
