"""Operators, a file per family. Importing this package registers them all."""

from mcomp.ops import (
    activation,
    attention,
    control,
    conv,
    creation,
    elementwise,
    index,
    linear,
    norm,
    pool,
    quant,
    recurrent,
    reduce,
    resize,
    shape,
    signal,
    sort,
    structure,
    view,
)
from mcomp.ops.base import Attr, Cost, Effect, Op, Tolerance, all_ops, op_named, operands, register

FAMILIES = (
    activation, attention, control, conv, creation, elementwise, index, linear, norm, pool, quant, recurrent, reduce,
    resize, shape, signal, sort, structure, view,
)
"""The modules that define operators."""

__all__ = ["FAMILIES", "Attr", "Cost", "Effect", "Op", "Tolerance", "all_ops", "op_named", "operands", "register"]
