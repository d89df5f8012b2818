"""Operators, a file per family. Importing this package registers them all."""

from mcomp.ops import (
    activation,
    control,
    creation,
    elementwise,
    index,
    reduce,
    shape,
    signal,
    sort,
    structure,
    view,
)
from mcomp.ops.base import Attr, Cost, Effect, Op, Tolerance, all_ops, op_named, operands, register

FAMILIES = (activation, control, creation, elementwise, index, reduce, shape, signal, sort, structure, view)
"""The modules that define operators."""

__all__ = ["FAMILIES", "Attr", "Cost", "Effect", "Op", "Tolerance", "all_ops", "op_named", "operands", "register"]
