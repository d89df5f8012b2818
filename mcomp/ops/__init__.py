"""Operators, a file per family. Importing this package registers them all."""

from mcomp.ops import structure
from mcomp.ops.base import Attr, Cost, Effect, Op, Tolerance, all_ops, op_named, operands, register

__all__ = ["Attr", "Cost", "Effect", "Op", "Tolerance", "all_ops", "op_named", "operands", "register", "structure"]
